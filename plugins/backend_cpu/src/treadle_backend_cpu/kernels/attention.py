"""Scaled dot product attention and its gradient, on operands (batch, heads, positions, width)."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu.kernels.common import FLOATS, work
from treadle_backend_cpu.kernels.softmax import bind_floats, codes

ROWS = "dense_inner"  # heads may lie anywhere, as they do after a projection was split into them


def _bind(call, q, k, v, mask, lse, operands, products):
    if mask is not None and mask.dtype.kind not in "bf":
        return None
    batch, heads, m, d = q.shape
    n, e = k.shape[2], v.shape[3]
    sizes = (q.dtype.code, int(call.attrs["causal"]), batch, heads, m, n, d, e)
    strides = mask.strides if mask is not None else (0, 0, 0, 0)
    rows = (s for x in operands for s in x.strides[:3])
    ints = (*sizes, *codes(mask), *strides, *codes(lse), *rows)
    flops = 2 * batch * heads * m * n * (products * max(d, e) + 16)
    return bind_floats(call, ints, (call.attrs["scale"],), work(0, flops))


@kernel("attention", dtypes=FLOATS, layouts=(ROWS, ROWS, ROWS, "strided"))
def attention(backend, call):
    """Bind attention, which hands out the log of the sum of exponentials of each query's scores."""
    q, k, v, mask = call.ins
    lse = call.outs[1] if len(call.outs) > 1 else None
    return _bind(call, q, k, v, mask, lse, (q, k, v), 2)


@kernel("attention_grad", dtypes=FLOATS, layouts=(ROWS, ROWS, ROWS, ROWS, "strided", ROWS, "dense"))
def attention_grad(backend, call):
    """Bind any of the gradients of q, k and v."""
    g, q, k, v, mask, y, lse = call.ins
    return _bind(call, q, k, v, mask, lse, (g, q, k, v, y), 5)
