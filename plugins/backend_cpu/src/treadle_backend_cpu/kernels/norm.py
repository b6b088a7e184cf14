"""Layer normalisation and batch normalisation: forward, gradient and inference."""

from math import prod

from treadle.runtime.backend import kernel
from treadle_backend_cpu.kernels.common import FLOATS, numel, work
from treadle_backend_cpu.kernels.softmax import bind_floats, codes

FLOPS = 8  # of one element of one input


def _bind(call, ints, floats):
    tensors = sum(numel(s.shape) for s in (*call.ins, *call.outs) if s is not None)
    nanoseconds = work(tensors * call.outs[0].dtype.itemsize, tensors * FLOPS)
    return bind_floats(call, ints, floats, nanoseconds)


def _rows(shape, ndim):
    """Return (rows, elements of one) where the last ndim dimensions are normalised together."""
    split = len(shape) - ndim
    return prod(shape[:split]), prod(shape[split:])


@kernel("layer_norm", dtypes=FLOATS, layouts="dense")
def layer_norm(backend, call):
    """Bind layer_norm, which hands out the mean and the reciprocal deviation of each row."""
    x, w, b = call.ins
    return _bind(call, (*codes(x, w, b), *_rows(x.shape, call.attrs["ndim"])), (call.attrs["eps"],))


@kernel("layer_norm_grad", dtypes=FLOATS, layouts="dense")
def layer_norm_grad(backend, call):
    """Bind any of the gradients of x, w and b."""
    x = call.ins[1]
    stored = codes(*call.ins[1:], *call.outs[1:])
    return _bind(call, (*stored, *_rows(x.shape, call.attrs["ndim"])), ())


def _planes(shape):
    """Return (N, C, elements of a plane)."""
    return shape[0], shape[1], prod(shape[2:])


@kernel("batch_norm", dtypes=FLOATS, layouts="dense")
def batch_norm(backend, call):
    """Bind batch_norm with the statistics of the batch."""
    x, w, b = call.ins
    stored = codes(x, w, b, *call.outs[1:])
    return _bind(call, (*stored, *_planes(x.shape)), (call.attrs["eps"],))


@kernel("batch_norm_grad", dtypes=FLOATS, layouts="dense")
def batch_norm_grad(backend, call):
    """Bind any of the gradients of x, w and b."""
    x = call.ins[1]
    stored = codes(*call.ins[1:], *call.outs[1:])
    return _bind(call, (*stored, *_planes(x.shape)), (call.attrs["eps"],))


@kernel("batch_norm_inference", dtypes=FLOATS, layouts="dense")
def batch_norm_inference(backend, call):
    """Bind batch_norm with given statistics."""
    x = call.ins[0]
    return _bind(call, (*codes(*call.ins), *_planes(x.shape)), (call.attrs["eps"],))
