"""PyTorch: eager, eager as its tuning guide advises, and torch.compile."""

import programs
import torch


class Eager(programs.Programs):
    """With its defaults."""

    fused = compiled = False
    version = torch.__version__

    def __init__(self):
        super().__init__("torch", self.fused, self.compiled)

    def warm(self):
        """Nothing is loaded later."""

    def sync(self, out):
        """Results are there when the call returns."""

    def array(self, out):
        return out.detach().numpy()


class Tuned(Eager):
    """Fused optimizers, and channels_last for convolutions. What neither touches is not timed again."""

    fused = True
    chain10_bwd = gelu_chain = gpt_fwd = None

    def get(self, workload):
        tensors = super().get(workload)
        return [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in tensors]

    def ready(self, model):
        return model.to(memory_format=torch.channels_last)


class Compiled(Eager):
    """torch.compile of the model, with the fused optimizers."""

    fused = compiled = True

    def warm(self):
        torch.compile(lambda x: x + 1)(torch.ones(4))

    def ready(self, model):
        return torch.compile(model)

    def chain10_bwd(self):
        a, b = self.get("chain10_bwd")
        x, ones = a.clone().requires_grad_(), torch.ones(16)

        @torch.compile
        def chain(y):
            for _ in range(5):
                y = y * a
                y = y + b
            return y

        def step():
            for _ in range(programs.WORKLOADS["chain10_bwd"].inner):
                x.grad = None
                chain(x).backward(ones)
            return x.grad

        return step
