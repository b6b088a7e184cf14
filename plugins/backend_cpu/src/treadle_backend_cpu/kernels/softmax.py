"""softmax, log_softmax, their gradients, and logsumexp."""

from math import prod

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, numel, out_bytes, scalar_codes, split_axis, work

FLOPS = 24  # of one element, the exponential included


def compute_name(name, dtype):
    """Return the name of the C kernel: float16 and bfloat16 are computed in float32."""
    return f"{name}_{'f64' if dtype.name == 'float64' else 'f32'}"


def codes(*operands):
    """Return how each operand is stored; an absent one has any code."""
    return tuple(x.dtype.code if x is not None else 0 for x in operands)


def bind_floats(call, ints, floats, nanoseconds):
    """Bind the C kernel named as the op, telling it by bits which operands are present.

    Declined where float64 meets narrower floats: a kernel computes in one type."""
    dtypes = {x.dtype.name for x in (*call.ins, *call.outs) if hasattr(x, "dtype") and x.dtype.kind == "f"}
    if "float64" in dtypes and len(dtypes) > 1:
        return None
    present = [k for k, x in enumerate(call.ins) if x is not None]
    slots = scalar_codes(call)
    return native.bind(
        compute_name(call.op.name, call.outs[0].dtype),
        len(present),
        out_bytes(call),
        (*ints, sum(1 << k for k in present)),
        floats,
        slots,
        nanoseconds,
    )


def _bind(call, sizes):
    x = call.ins[0]
    n = numel(x.shape)
    nanoseconds = work(n * x.dtype.itemsize * (1 + len(call.ins)), n * FLOPS)
    return bind_floats(call, (x.dtype.code, *sizes), (), nanoseconds)


def _along_axis(backend, call):
    shape = call.ins[0].shape
    return _bind(call, split_axis(shape, call.attrs["axis"]) if shape else (1, 1, 1))


for _name in ("softmax", "softmax_grad", "log_softmax", "log_softmax_grad"):
    kernel(_name, dtypes=FLOATS, layouts="dense")(_along_axis)


@kernel("logsumexp", dtypes=FLOATS, layouts="dense")
def logsumexp(backend, call):
    """Bind logsumexp over neighbouring axes; declined for others."""
    shape, axes = call.ins[0].shape, call.attrs["axes"]
    if not axes:
        return _bind(call, (numel(shape), 1, 1))
    first, last = axes[0], axes[-1] + 1
    if last - first != len(axes):
        return None
    return _bind(call, (prod(shape[:first]), prod(shape[first:last]), prod(shape[last:])))
