"""Treadle, eager and compiled."""

import programs

import treadle as td


class Eager(programs.Programs):
    """The PyTorch programs with their import changed."""

    version = td.__version__

    def __init__(self):
        super().__init__("treadle")
        if td.ones(1).device.type != "cpu":
            raise RuntimeError(f"the CPU backend is not in use: tensors lie on {td.ones(1).device}")

    def warm(self):
        """Nothing is loaded later."""

    def sync(self, out):
        out.detach().numpy()

    def array(self, out):
        return out.detach().numpy()


class Compiled(Eager):
    """td.compile of the whole step: forward, backward and optimizer in one graph."""

    def warm(self):
        td.compile(lambda x: x + 1)(td.ones(4))

    def train(self, *args, **kw):
        return td.compile(super().train(*args, **kw))

    def forward(self, *args):
        return td.compile(super().forward(*args))

    def op(self, *args):
        return td.compile(super().op(*args))

    def chain10_bwd(self):
        a, b = self.get("chain10_bwd")

        def chain(x, a, b):
            for _ in range(5):
                x = x * a
                x = x + b
            return x.sum()

        gradient = td.compile(td.grad(chain))

        def step():
            for _ in range(programs.WORKLOADS["chain10_bwd"].inner):
                out = gradient(a, a, b)
            return out

        return step
