"""Matrix products: dot_general, matmul, linear. One C kernel per dtype takes them all, operands in any strides."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import ALL, FLOATS, STORAGE, collapse, numel, out_bytes

FLOPS_PER_NS = 50  # arithmetic of one thread in a matrix product
BYTES_PER_NS = 16


def plan(a_shape, a_strides, b_shape, b_strides):
    """Return what csrc/matmul.c reads for a (..., m, k) @ b (..., k, n) whose batch axes broadcast.

    Batch axes that walk through A like rows, past an unchanging B, become rows: one large product beats many
    small ones.
    """
    (m, k), n = a_shape[-2:], b_shape[-1]
    ndim = max(len(a_shape), len(b_shape)) - 2
    a_batch, a_steps = _padded(a_shape[:-2], a_strides[:-2], ndim)
    b_batch, b_steps = _padded(b_shape[:-2], b_strides[:-2], ndim)
    batch = tuple(y if x == 1 else x for x, y in zip(a_batch, b_batch, strict=True))
    a_steps = tuple(0 if x == 1 else step for x, step in zip(a_batch, a_steps, strict=True))
    b_steps = tuple(0 if x == 1 else step for x, step in zip(b_batch, b_steps, strict=True))
    sizes, a_steps, b_steps = collapse((*batch, m), (*a_steps, a_strides[-2]), (*b_steps, 0))
    rows, a_row = 1, 0
    if sizes and (b_steps[-1] == 0 or sizes == (0,)):
        rows, a_row = sizes[-1], a_steps[-1]
        sizes, a_steps, b_steps = sizes[:-1], a_steps[:-1], b_steps[:-1]
    return (rows, n, k, a_row, a_strides[-1], *b_strides[-2:], len(sizes), *sizes, *a_steps, *b_steps)


def _padded(shape, strides, ndim):
    missing = ndim - len(shape)
    return (1,) * missing + tuple(shape), (0,) * missing + tuple(strides)


def _bind(call, name, a_shape, a_strides, b_shape, b_strides, act=0):
    dtype, y = call.ins[0].dtype, call.outs[0]
    operands = [x for x in call.ins if x is not None]
    if any(x.dtype != dtype for x in (*operands, y)):
        return None
    flops = 2 * numel(y.shape) * a_shape[-1]
    nbytes = (numel(a_shape) + numel(b_shape) + numel(y.shape)) * dtype.itemsize
    return native.bind(
        f"{name}_{dtype.short}",
        len(operands),
        out_bytes(call),
        (*plan(a_shape, a_strides, b_shape, b_strides), act),
        (),
        bytes([STORAGE] * len(operands)),
        int(max(flops / FLOPS_PER_NS, nbytes / BYTES_PER_NS)),
    )


@kernel("dot_general", dtypes=ALL, layouts="strided")
@kernel("matmul", dtypes=ALL, layouts="strided")
def matmul(backend, call):
    """Bind (..., m, k) @ (..., k, n); batch axes broadcast."""
    a, b = call.ins
    return _bind(call, "matmul", a.shape, a.strides, b.shape, b.strides)


@kernel("linear", dtypes=FLOATS, layouts=("strided", "strided", "dense"))
def linear(backend, call):
    """Bind x (..., in) @ w (out, in) transposed, plus b (out,)."""
    return _linear(call, 0)


@kernel("fused_linear", dtypes=FLOATS, layouts=("strided", "strided", "dense"))
def fused_linear(backend, call):
    """Bind linear with what comes last."""
    return _linear(call, int(call.attrs["activation"] == "relu"))


def _linear(call, act):
    x, w = call.ins[:2]
    x_shape, x_strides = ((1, *x.shape), (0, *x.strides)) if len(x.shape) == 1 else (x.shape, x.strides)
    return _bind(call, "linear", x_shape, x_strides, w.shape[::-1], w.strides[::-1], act)
