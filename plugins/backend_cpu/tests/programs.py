"""What the tests of programs share: steps by hand, probes, kernels of the core's ops, a small network."""

import gc
import os

import numpy as np
import pytest
from calls import array, normal, spec, storage

from treadle.dtypes import dtype
from treadle.ops import CATALOGUE
from treadle.runtime.backend import Call
from treadle.sig import sig_of
from treadle.spec import Spec
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.backend import CpuBackend
from treadle_backend_cpu.kernels.common import dense_strides

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
not_sanitized = pytest.mark.skipif(SANITIZED, reason="a sanitized build caches nothing")
ARENA, ARG, CONSTANT, NUMBER, OUT, NONE = range(6)


def program(steps, arena=0, args=(), outs=(), constants=(), numbers=0):
    return native.program(tuple(steps), arena, args, outs, constants, numbers)


def step(bound, *slots):
    return bound, tuple(n for slot in slots for n in slot)


def probe(name, n_in=1, out=(8,), ints=(), floats=(), scalars=None, work=100):
    return native.bind(name, n_in, out, ints, floats, scalars or b"\xff" * n_in, work)


def copier(n=8, work=100):
    return probe("probe_copy", 1, (n,), (n,), work=work)


def filler(code, size, n=1):
    """Bind a kernel that writes its input, a number of the dtype `code`, n times."""
    return probe("probe_fill", 1, (n * size,), (n, size), scalars=bytes([code]))


def spinner(millions, work):
    """Bind a kernel that computes for some milliseconds per million and writes 8 bytes."""
    return probe("probe_tasks", 0, (8,), (1, int(millions * 1e6)), work=work)


def failer(code, work=100, tasks=0):
    return probe("probe_fail", 0, (), (code, tasks, 0), (0.0,), work=work)


def kernel(name, *ins, **attrs):
    """Bind an op of the core; an operand is (shape, dtype), (shape, dtype, strides), or float or int for a number."""
    op = CATALOGUE[name]
    sigs = [
        x if isinstance(x, type) else sig_of(dtype(x[1]), x[0], *x[2:] or (dense_strides(x[0]),), None) for x in ins
    ]
    specs = [x if isinstance(x, type) else Spec(x.shape, x.dtype) for x in sigs]
    attrs = {**op.attrs, **attrs}
    out = Spec(sigs[0].shape, sigs[0].dtype) if op.c_expr else op.spec(*specs, **attrs)
    return CpuBackend().bind(Call(op, tuple(sigs), (out,), attrs, (True,))).run.run


def data(text):
    s = native.alloc(len(text))
    memoryview(s)[:] = text
    return s


def live():
    gc.collect()
    return native.memory_stats()["live"]


def values(made, name="float32", *shape):
    return array(made, spec(shape, name))


class Perceptron:
    """softmax(relu(x w1 + b1) w2) * scale, and its sum over rows: six kernels, every kind of place."""

    def __init__(self, rows=24, hidden=40, classes=10, inner=16):
        self.w1, self.b1 = normal((inner, hidden), "float32", 1), normal((hidden,), "float32", 2)
        self.w2 = normal((hidden, classes), "float32", 3)
        self.rows, self.inner, self.classes = rows, inner, classes
        x, h = np.empty((rows, inner), np.float32), np.empty((rows, hidden), np.float32)
        y = np.empty((rows, classes), np.float32)
        first = kernel("matmul", (x.shape, "float32"), (self.w1.shape, "float32"))
        add = kernel("add", (h.shape, "float32"), (h.shape, "float32", (0, 1)))
        relu = kernel("relu", (h.shape, "float32"))
        second = kernel("matmul", (h.shape, "float32"), (self.w2.shape, "float32"))
        soft = kernel("softmax", (y.shape, "float32"), axis=1)
        scale = kernel("mul", (y.shape, "float32"), float)
        total = kernel("sum", (y.shape, "float32"), axes=(0,), keepdims=False)
        other = (h.nbytes + 63) & ~63
        constants = (storage(np.concatenate([self.w1.reshape(-1), self.b1])), storage(self.w2))
        self.run = program(
            [
                step(first, (ARG, 0, 0), (CONSTANT, 0, 0), (ARENA, 0, other)),
                step(add, (ARENA, 0, other), (CONSTANT, 0, self.w1.nbytes), (ARENA, 0, 0)),
                step(relu, (ARENA, 0, 0), (ARENA, 0, 0)),
                step(second, (ARENA, 0, 0), (CONSTANT, 1, 0), (ARENA, 0, other)),
                step(soft, (ARENA, 0, other), (ARENA, 0, 0)),
                step(scale, (ARENA, 0, 0), (NUMBER, 0, 0), (OUT, 0, 0)),
                step(total, (OUT, 0, 0), (OUT, 1, 0)),
            ],
            arena=other + h.nbytes,
            args=(x.nbytes,),
            outs=(y.nbytes, classes * 4),
            constants=constants,
            numbers=1,
        )

    def sample(self, seed):
        return normal((self.rows, self.inner), "float32", seed)

    def expected(self, x, scale):
        y = np.maximum(x.astype(np.float64) @ self.w1 + self.b1, 0) @ self.w2
        y = np.exp(y - y.max(1, keepdims=True))
        y = y / y.sum(1, keepdims=True) * scale
        return y, y.sum(0)

    def check(self, made, x, scale):
        y, total = self.expected(x, scale)
        np.testing.assert_allclose(values(made[0], "float32", *y.shape), y, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(values(made[1], "float32", *total.shape), total, rtol=2e-5)
