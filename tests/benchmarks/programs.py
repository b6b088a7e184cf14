"""The benchmark programs: PyTorch's text, run by PyTorch and by Treadle with only the import changed.

Each method prepares everything and returns `step`, a function of no arguments that does the work once and returns its
result.
"""

import importlib
import math
from typing import NamedTuple

import numpy as np

THREADS = 2
D, HEADS, LAYERS, SEQ, BATCH, VOCAB = 256, 8, 4, 128, 8, 512
BLOCKS = [
    (64, 64, 1),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    (512, 512, 1),
]
M16 = 1 << 24


class Workload(NamedTuple):
    inner: int = 1  # operations per step, so that a microsecond operation can be timed
    trains: bool = False  # its result is a loss, which must fall


WORKLOADS = {
    "add16": Workload(1000), "add16_grad": Workload(1000), "chain10_bwd": Workload(50), "gemm_64x784x256": Workload(10),
    "sgemm_1024": Workload(), "conv2d": Workload(), "softmax": Workload(), "layernorm": Workload(),
    "gelu_chain": Workload(), "sum16m": Workload(),
    "mlp_b64": Workload(trains=True), "mlp_b1024": Workload(trains=True), "cnn_b64": Workload(trains=True),
    "resnet18_fwd": Workload(), "resnet18_train": Workload(trains=True), "gpt_fwd": Workload(),
    "gpt_train": Workload(trains=True),
}  # fmt: skip


def arrays(workload):
    """The NumPy inputs of a workload, the same for every framework."""
    rng = np.random.default_rng(0)

    def f(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    def labels(n, classes):
        return rng.integers(0, classes, n).astype(np.int64)

    if workload in ("add16", "add16_grad", "chain10_bwd"):
        return f(16), f(16)
    if workload.startswith("mlp"):
        n = int(workload[5:])
        return f(n, 784), labels(n, 10)
    if workload.startswith("gpt"):
        return labels((BATCH, SEQ), VOCAB), labels(BATCH * SEQ, VOCAB)
    return {
        "cnn_b64": lambda: (f(64, 1, 28, 28), labels(64, 10)), "resnet18_fwd": lambda: (f(1, 3, 224, 224),),
        "resnet18_train": lambda: (f(8, 3, 32, 32), labels(8, 10)),
        "sgemm_1024": lambda: (f(1024, 1024), f(1024, 1024)),
        "gemm_64x784x256": lambda: (f(64, 784), f(784, 256)), "conv2d": lambda: (f(8, 64, 56, 56), f(64, 64, 3, 3)),
        "softmax": lambda: (f(4096, 1024),), "layernorm": lambda: (f(4096, 1024), f(1024), f(1024)),
        "gelu_chain": lambda: (f(M16),), "sum16m": lambda: (f(M16),),
    }[workload]()  # fmt: skip


class Programs:
    """All workloads over one package with PyTorch's names. compiled: each operation is a compiled function."""

    def __init__(self, package, fused=False, compiled=False):
        self.t = importlib.import_module(package)
        self.wrap = self.t.compile if compiled else lambda f: f
        self.nn, self.F, self.fused = self.t.nn, self.t.nn.functional, fused
        self.t.set_num_threads(THREADS)
        self.t.manual_seed(0)

    def get(self, workload):
        return [self.t.from_numpy(a) for a in arrays(workload)]

    def ready(self, model):
        """The model as it is run; subclasses change its memory layout or compile it."""
        return model

    # ---- single ops ------------------------------------------------------------------------------------------------
    def op(self, workload, f, n=1):
        args, t = self.get(workload), self.t
        f = self.wrap(f)

        def step():
            with t.inference_mode():
                for _ in range(n):
                    out = f(*args)
            return out

        return step

    def add16(self, grad=False):
        a, b = (x.requires_grad_() if grad else x for x in self.get("add16"))

        def step():
            for _ in range(1000):
                c = a + b
            return c

        return step

    def add16_grad(self):
        return self.add16(True)

    def chain10_bwd(self):
        a, b = self.get("chain10_bwd")
        x, ones = a.clone().requires_grad_(), self.t.ones(16)

        def once():
            x.grad = None
            y = x
            for _ in range(5):
                y = y * a
                y = y + b
            y.backward(ones)
            return x.grad

        once = self.wrap(once)

        def step():
            for _ in range(50):
                out = once()
            return out

        return step

    def sgemm_1024(self):
        return self.op("sgemm_1024", lambda a, b: a @ b)

    def gemm_64x784x256(self):
        return self.op("gemm_64x784x256", lambda a, b: a @ b, 10)

    def conv2d(self):
        return self.op("conv2d", lambda x, w: self.F.conv2d(x, w, padding=1))

    def softmax(self):
        return self.op("softmax", lambda x: x.softmax(1))

    def layernorm(self):
        return self.op("layernorm", lambda x, g, b: self.F.layer_norm(x, (1024,), g, b))

    def gelu_chain(self):
        return self.op("gelu_chain", lambda x: self.F.gelu(x * 1.1 + 0.3, approximate="tanh"))

    def sum16m(self):
        return self.op("sum16m", lambda x: x.sum())

    # ---- models ----------------------------------------------------------------------------------------------------
    def train(self, workload, model, opt, **kw):
        x, y = self.get(workload)
        model = self.ready(model)
        opt = opt(model.parameters(), **kw, **({"fused": True} if self.fused else {}))

        def step():
            opt.zero_grad()
            loss = self.F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        return step

    def forward(self, workload, model):
        x, model = self.get(workload)[0], self.ready(model.eval())

        def step():
            with self.t.inference_mode():
                return model(x)

        return step

    def mlp(self, workload):
        nn = self.nn
        return self.train(
            workload, nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), self.t.optim.Adam
        )

    def mlp_b64(self):
        return self.mlp("mlp_b64")

    def mlp_b1024(self):
        return self.mlp("mlp_b1024")

    def cnn_b64(self):
        nn = self.nn
        layers = [
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        ]
        return self.train("cnn_b64", nn.Sequential(*layers, nn.Linear(64 * 49, 10)), self.t.optim.Adam)

    def resnet18(self, small):
        nn, F = self.nn, self.F

        def conv(i, o, k, s):
            return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))

        class Block(nn.Module):
            def __init__(self, i, o, s):
                super().__init__()
                self.a, self.b = conv(i, o, 3, s), conv(o, o, 3, 1)
                self.skip = conv(i, o, 1, s) if i != o else nn.Identity()

            def forward(self, x):
                return F.relu(self.b(F.relu(self.a(x))) + self.skip(x))

        stem = [conv(3, 64, 3, 1), nn.ReLU()] if small else [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        return nn.Sequential(
            *stem,
            *[Block(*b) for b in BLOCKS],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, 10 if small else 1000),
        )

    def resnet18_fwd(self):
        return self.forward("resnet18_fwd", self.resnet18(False))

    def resnet18_train(self):
        return self.train("resnet18_train", self.resnet18(True), self.t.optim.SGD, lr=0.01, momentum=0.9)

    def gpt(self):
        nn, F, t = self.nn, self.F, self.t

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.ln1, self.qkv, self.proj = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
                self.ln2, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

            def forward(self, x):
                b, n, d = x.shape
                q, k, v = self.qkv(self.ln1(x)).view(b, n, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
                a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.proj(a.transpose(1, 2).reshape(b, n, d))
                return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))

        class GPT(nn.Module):
            def __init__(self):
                super().__init__()
                self.tok, self.pos = nn.Embedding(VOCAB, D), nn.Parameter(0.02 * t.randn(SEQ, D))
                self.blocks, self.ln, self.head = (
                    nn.Sequential(*[Block() for _ in range(LAYERS)]),
                    nn.LayerNorm(D),
                    nn.Linear(D, VOCAB, bias=False),
                )

            def forward(self, ids):
                return self.head(self.ln(self.blocks(self.tok(ids) + self.pos))).flatten(0, 1)

        return GPT()

    def gpt_fwd(self):
        return self.forward("gpt_fwd", self.gpt())

    def gpt_train(self):
        return self.train("gpt_train", self.gpt(), self.t.optim.AdamW)


def expected(workload):
    """What a program without weights must give, from NumPy, or None."""
    a = arrays(workload)
    if workload == "chain10_bwd":
        return a[0].astype(np.float64) ** 5
    if workload in ("sgemm_1024", "gemm_64x784x256"):
        return a[0].astype(np.float64) @ a[1]
    if workload == "softmax":
        e = np.exp(a[0] - a[0].max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)
    if workload == "sum16m":
        return a[0].sum(dtype=np.float64)
    if workload == "gelu_chain":
        x = a[0] * 1.1 + 0.3
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return None
