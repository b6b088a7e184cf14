"""Fifty steps of five models: losses, weights and buffers of the compiled step are those of eager, bit for bit.

The kernels are the same, so nothing may differ. Batches differ from step to step, and a schedule outside of the step
changes the learning rate.
"""

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn

BATCH = 16


class RMSprop(td.optim.Optimizer):
    """An optimizer of one's own, tensor by tensor with in-place ops (Tieleman and Hinton 2012).

    Its state exists before the first step, and its learning rate is a tensor: both are inputs of the trace.
    """

    def __init__(self, params, lr):
        super().__init__(params, {"lr": td.tensor(lr)})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["square"] = td.zeros_like(p)

    def _step_group(self, group):
        for p in group["params"]:
            square = self.state[p]["square"]
            square.mul_(0.9).add_(p.grad * p.grad, alpha=0.1)
            p.sub_(group["lr"] * p.grad / (square.sqrt() + 1e-8))


# ---- data: what a model of the right kind can learn -----------------------------------------------------------------
def vectors(rng):
    x = rng.standard_normal((BATCH, 20), dtype=np.float32)
    return x, (x[:, :5].argmax(1)).astype(np.int64)


def images(rng):
    """A bright square in one of four corners."""
    t = rng.integers(0, 4, BATCH)
    x = rng.standard_normal((BATCH, 1, 8, 8), dtype=np.float32)
    for k, corner in enumerate(t):
        i, j = divmod(int(corner), 2)
        x[k, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] += 1.5
    return x, t.astype(np.int64)


def text(rng):
    """Each number is the one before plus three, modulo 16: what comes next?"""
    ids = (rng.integers(0, 16, (BATCH, 1)) + 3 * np.arange(13)) % 16
    return ids[:, :-1].astype(np.int64), ids[:, 1:].reshape(-1).astype(np.int64)


def sequences(rng):
    """The mean of a sequence, and its last element."""
    x = rng.standard_normal((10, BATCH, 3), dtype=np.float32)
    return x, np.concatenate([x.mean(0), x[-1]], 1)


# ---- models ----------------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.m, self.n = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.n(self.b(F.relu(self.m(self.a(x))))))


class Attends(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.one, self.two = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.drop = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Dropout(0.1)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.one(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, d)
        x = x + self.drop(self.out(a))
        return x + self.drop(self.down(F.gelu(self.up(self.two(x)))))


class Language(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.token, self.place = nn.Embedding(16, width), nn.Parameter(0.02 * td.randn(12, width))
        self.blocks, self.norm = nn.Sequential(Attends(width, 2), Attends(width, 2)), nn.LayerNorm(width)
        self.head = nn.Linear(width, 16, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.blocks(self.token(ids) + self.place))).flatten(0, 1)


class Recurrent(nn.Module):
    """h becomes tanh(W x + U h); the last h is read."""

    def __init__(self, width=24):
        super().__init__()
        self.width = width
        self.into, self.inner, self.head = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 6)

    def forward(self, xs):
        def body(h, x):
            return (self.into(x) + self.inner(h)).tanh(), None

        return self.head(td.scan(body, td.zeros(xs.shape[1], self.width), xs)[0])


def perceptron():
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 12, 3, padding=1), nn.GELU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip


def residual():
    blocks = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Residual(8), Residual(8)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


MODELS = {
    "MLP, Adam": (perceptron, vectors, F.cross_entropy, lambda p: td.optim.Adam(p, lr=1e-2)),
    "CNN, SGD with momentum": (
        convolutional, images, F.cross_entropy, lambda p: td.optim.SGD(p, lr=0.05, momentum=0.9),
    ),
    "residual with BatchNorm, SGD": (
        residual, images, F.cross_entropy, lambda p: td.optim.SGD(p, lr=0.1, weight_decay=1e-4),
    ),
    "GPT with dropout, AdamW": (Language, text, F.cross_entropy, lambda p: td.optim.AdamW(p, lr=1e-2)),
    "RNN by td.scan, RMSprop": (Recurrent, sequences, F.mse_loss, lambda p: RMSprop(p, lr=5e-3)),
}  # fmt: skip


def trained(name, wrap, steps, seed=0):
    """(the loss of every step, parameters and buffers at the end, the step)."""
    build, batch, criterion, stepper = MODELS[name]
    td.manual_seed(seed)
    model = build()
    optimizer = stepper(model.parameters())
    schedule = td.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(x, t):
        optimizer.zero_grad()
        loss = criterion(model(x), t)
        loss.backward()
        optimizer.step()
        return loss

    step, rng, losses = wrap(step), np.random.default_rng(seed), []
    for _ in range(steps):
        losses.append(step(*map(td.from_numpy, batch(rng))).item())
        schedule.step()
    return losses, {k: v.detach().numpy() for k, v in model.state_dict().items()}, step


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("device", "steps"), [("cpu", 50), ("reference", 10)])
def test_compiled_curves_are_those_of_eager(name, device, steps):
    with td.device(device):
        want, weights, _ = trained(name, lambda f: f, steps)
        got, others, step = trained(name, td.compile, steps)
    assert steps < 50 or np.mean(want[-5:]) < 0.7 * np.mean(want[:5])
    assert got == want
    assert weights.keys() == others.keys() and all(v.tobytes() == others[k].tobytes() for k, v in weights.items())
    assert step.traces == (2 if "RMSprop" in name else 1)  # its gradients stay, and are there at the second step
