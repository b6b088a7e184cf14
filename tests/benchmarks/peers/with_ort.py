"""ONNX Runtime: forward only, the PyTorch graphs exported."""

import io
import warnings

import onnxruntime
import programs
import torch


class Ort:
    """A session of a program's exported graph. The first call includes the export."""

    version = onnxruntime.__version__

    def __init__(self):
        self.programs = programs.Programs("torch")

    def warm(self):
        self.session(torch.nn.ReLU(), [torch.ones(4)])()

    def sync(self, out):
        """Results are there when the call returns."""

    def array(self, out):
        return out

    def export(self, module, args, names):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter by tracing is deprecated; the other needs one more package
            torch.onnx.export(module, tuple(args), file, dynamo=False, opset_version=20, input_names=names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = programs.THREADS
        return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def session(self, module, args):
        feed = {f"x{i}": a.numpy() for i, a in enumerate(args)}
        session = None

        def step():
            nonlocal session
            if session is None:
                session = self.export(module, args, list(feed))
            return session.run(None, feed)[0]

        return step

    def gelu_chain(self):
        class Chain(torch.nn.Module):
            def forward(self, x):
                return torch.nn.functional.gelu(x * 1.1 + 0.3, approximate="tanh")

        return self.session(Chain(), self.programs.get("gelu_chain"))

    def resnet18_fwd(self):
        return self.session(self.programs.resnet18(False).eval(), self.programs.get("resnet18_fwd"))

    def gpt_fwd(self):
        return self.session(self.programs.gpt().eval(), self.programs.get("gpt_fwd")[:1])
