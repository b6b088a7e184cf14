"""Cross entropy of logits with class numbers, and its gradient."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu.kernels.common import FLOATS, numel, work
from treadle_backend_cpu.kernels.softmax import FLOPS, bind_floats, codes

REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
TARGETS = ("int32", "int64")


def _bind(call, x, t, w, lse):
    if t.dtype.name not in TARGETS:
        return None
    attrs, n = call.attrs, numel(x.shape)
    wide = int(t.dtype.itemsize == 8)
    ints = (*codes(x, w, lse), wide, *x.shape, attrs["ignore_index"], REDUCTIONS[attrs["reduction"]])
    nanoseconds = work(2 * n * x.dtype.itemsize, n * FLOPS)
    return bind_floats(call, ints, (attrs["label_smoothing"],), nanoseconds)


@kernel("cross_entropy", dtypes=FLOATS, layouts="dense")
def cross_entropy(backend, call):
    """Bind cross_entropy, which hands out the log of the sum of exponentials of each row."""
    x, t, w = call.ins
    return _bind(call, x, t, w, call.outs[1] if len(call.outs) > 1 else None)


@kernel("cross_entropy_grad", dtypes=FLOATS, layouts="dense", inplace=True)
def cross_entropy_grad(backend, call):
    """Bind the gradient of the logits."""
    _, x, t, w, lse = call.ins
    return _bind(call, x, t, w, lse)
