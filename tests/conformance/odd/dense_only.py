"""A device that knows no strides: kernels see dense operands only, and storages are opaque handles with an offset of
their own."""

import sys

import numpy as np

from odd.kernels import claim, operands, results
from treadle.errors import OutOfMemoryError
from treadle.runtime.backend import Backend, into, kernel
from treadle.sig import Sig

LIMIT = 1 << 40


class Block:
    """Memory that counts itself while it lives."""

    live = 0

    def __init__(self, nbytes):
        self.bytes = np.zeros(nbytes, np.uint8)
        Block.live += nbytes

    def __del__(self):
        Block.live -= self.bytes.nbytes


class Handle:
    """A block and where in it a tensor begins; nothing else is known of either."""

    __slots__ = ("block", "offset")

    def __init__(self, block, offset):
        self.block, self.offset = block, offset


def strided(handle, itemsize, shape, strides):
    """A view of a handle's memory; NumPy refuses one that leaves it."""
    if 0 in shape:
        return np.empty(shape, f"u{itemsize}")
    return np.ndarray(shape, f"u{itemsize}", handle.block.bytes, handle.offset, [s * itemsize for s in strides])


def dense(handle, sig):
    """The operand of a kernel: an operand in any other layout must never get here."""
    assert sig.layout == "dense", sig
    return np.ndarray(sig.shape, sig.dtype.np, handle.block.bytes, handle.offset)


def write(handle, array):
    """Put a result where it belongs."""
    handle.block.bytes[handle.offset : handle.offset + array.nbytes] = array.reshape(-1).view(np.uint8)


def bound(call, function):
    """A kernel that reads dense operands, calls function(*arrays) and writes its results."""
    assert all(x.layout == "dense" for x in call.ins if isinstance(x, Sig)), call

    def run(*given):
        arrays, outs = operands(call, given, dense)
        for spec, out, y in zip(call.outs, outs, function(*arrays), strict=True):
            if out is not None:
                write(out, np.ascontiguousarray(y).astype(spec.dtype.np))

    return into(run)


def reference(backend, call):
    """Bind the op's reference."""
    return bound(call, lambda *arrays: results(call, arrays))


claim(reference, "dense")


@kernel("softmax")
def softmax(backend, call):
    """A composite of its own."""
    return bound(call, lambda *arrays: results(call, arrays))


@kernel("softmax_grad", dtypes=("float32",))
def softmax_grad(backend, call):
    """Declined by its attributes: only along the last axis."""
    axis = call.attrs["axis"]

    def run(g, y):
        g, y = g.astype(np.float64), y.astype(np.float64)
        return (y * (g - (g * y).sum(axis, keepdims=True)),)

    return bound(call, run) if axis == len(call.outs[0].shape) - 1 else None


@kernel("layer_norm", dtypes=("float32", "float64"))
def layer_norm(backend, call):
    """A composite with optional operands that hands out its statistics when asked."""
    eps, ndim, wanted = call.attrs["eps"], call.attrs["ndim"], len(call.outs)

    def run(x, w, b):
        axes = tuple(range(x.ndim - ndim, x.ndim))
        x = x.astype(np.float64)
        mean = x.mean(axes, keepdims=True)
        rstd = 1 / np.sqrt(x.var(axes, keepdims=True) + eps)
        return ((x - mean) * rstd * (1 if w is None else w) + (0 if b is None else b), mean, rstd)[:wanted]

    return bound(call, run)


@kernel("layer_norm_grad", dtypes=("float32", "float64"))
def layer_norm_grad(backend, call):
    """Three results of which some may not be wanted."""
    ndim = call.attrs["ndim"]

    def run(g, x, w, mean, rstd):
        g, x = g.astype(np.float64), x.astype(np.float64)
        axes, lead = tuple(range(x.ndim - ndim, x.ndim)), tuple(range(x.ndim - ndim))
        hat, h = (x - mean) * rstd, g if w is None else g * w
        gx = rstd * (h - h.mean(axes, keepdims=True) - hat * (h * hat).mean(axes, keepdims=True))
        return gx, (g * hat).sum(lead), g.sum(lead)

    return bound(call, run)


class DenseOnly(Backend):
    """Every kernel takes dense operands; copy_strided is the only code with strides."""

    kernel_modules = (sys.modules[__name__],)

    def alloc(self, nbytes):
        if nbytes > LIMIT:
            raise OutOfMemoryError(f"{self.name}: cannot allocate {nbytes} bytes")
        return Handle(Block(nbytes), 0)

    def h2d(self, storage, data):
        storage.block.bytes[storage.offset : storage.offset + len(data)] = np.frombuffer(data, np.uint8)

    def d2h(self, storage, nbytes):
        return storage.block.bytes[storage.offset : storage.offset + nbytes].tobytes()

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        strided(dst, itemsize, shape, dst_strides)[...] = strided(src, itemsize, shape, src_strides)

    def view(self, storage, nbytes):
        return Handle(storage.block, storage.offset + nbytes)

    def memory_stats(self):
        """Bytes that are alive."""
        return {"live": Block.live}
