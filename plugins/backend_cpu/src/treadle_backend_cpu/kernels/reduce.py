"""Reductions: sum, prod, max, min over any axes; argmax, argmin and cumsum along one."""

from treadle.runtime.backend import kernel

from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import ALL, NUMBERS, numel, out_bytes, split_axis, work

OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3}
FOLD_TO = 256  # narrow columns are laid side by side until they are about this wide


def _reach(dim):
    """Sort key, descending: a stride of 0 counts as the farthest, since nothing is near in memory."""
    return -dim[1] if dim[1] else float("-inf")


def _merge(dims):
    """Sort (size, input stride, output stride) from far to near and merge what can be walked in one stride."""
    merged = []
    for size, xs, ys in sorted(dims, key=_reach):
        outer = merged[-1] if merged else None
        if outer and outer[1:] == (xs * size, ys * size):
            merged[-1] = (outer[0] * size, xs, ys)
        else:
            merged.append((size, xs, ys))
    return merged or [(1, 0, 0)]


def _dims(shape, strides, axes):
    """Split the dimensions into kept and reduced ones, all with input strides >= 0; returns both and the two offsets."""
    kept, reduced, y_offset, x_offset, step = [], [], 0, 0, 1
    for axis in reversed(range(len(shape))):
        size, xs, ys = shape[axis], strides[axis], 0 if axis in axes else step
        step *= 1 if axis in axes else size
        if size == 1:
            continue
        if xs < 0:
            x_offset, y_offset, xs, ys = x_offset + (size - 1) * xs, y_offset + (size - 1) * ys, -xs, -ys
        (reduced if axis in axes else kept).append((size, xs, ys))
    return kept, reduced, x_offset, y_offset


def reduce_ints(op, dtype, shape, strides, axes):
    """Return the parameters of the C kernel `reduce` (see reduce.c) for a strided input."""
    kept, reduced, x_offset, y_offset = _dims(shape, strides, axes)
    kept, reduced = _merge(kept), _merge(reduced)
    (width, near, _), (rows, far, _) = kept[-1], reduced[-1]
    columns = near > 0 and (near < far or far == 0)
    fold = min(rows, FOLD_TO // width) if columns and near == 1 and far == width and width < FOLD_TO // 2 else 1
    flat = [number for dim in (*kept, *reduced) for number in dim]
    return (OPS[op], dtype.code, int(columns), fold, x_offset, y_offset, len(kept), len(reduced), *flat)


def _reduce(backend, call):
    x = call.ins[0]
    ints = reduce_ints(call.op.name, x.dtype, x.shape, x.strides, call.attrs["axes"])
    return native.bind("reduce", 1, out_bytes(call), ints, (), b"\xff", work(numel(x.shape) * x.dtype.itemsize))


for _name in ("sum", "prod"):
    kernel(_name, dtypes=NUMBERS, layouts="strided")(_reduce)
for _name in ("max", "min"):
    kernel(_name, dtypes=ALL, layouts="strided")(_reduce)


SHORT_AXIS = 32  # below this, rows are searched side by side however far apart their elements are


def argreduce_ints(op, dtype, shape, strides, axis):
    """Return the parameters of the C kernel `argreduce` (see argreduce.c) for a strided input."""
    axis %= len(shape)
    n, stride = shape[axis], strides[axis]
    kept = [(size, xs) for k, (size, xs) in enumerate(zip(shape, strides, strict=True)) if k != axis]
    dims, _, x_offset, y_offset = _dims([size for size, _ in kept], [xs for _, xs in kept], ())
    dims = _merge(dims)
    width, near, _ = dims[-1]
    columns = width > 1 and (0 < near < abs(stride) or (n < SHORT_AXIS and width >= SHORT_AXIS))
    flat = [number for dim in dims for number in dim]
    return (dtype.code, int(op == "argmin"), n, stride, x_offset, y_offset, int(columns), len(dims), *flat)


def _argreduce(backend, call):
    x = call.ins[0]
    shape, strides = x.shape or (1,), x.strides or (1,)
    ints = argreduce_ints(call.op.name, x.dtype, shape, strides, call.attrs["axis"])
    return native.bind("argreduce", 1, out_bytes(call), ints, (), b"\xff", work(numel(shape) * x.dtype.itemsize))


for _name in ("argmax", "argmin"):
    kernel(_name, dtypes=ALL, layouts="strided")(_argreduce)


@kernel("cumsum", dtypes=NUMBERS, layouts="dense")
def cumsum(backend, call):
    """Bind running sums along one axis."""
    x = call.ins[0]
    ints = (x.dtype.code, *split_axis(x.shape or (1,), call.attrs["axis"]))
    return native.bind("cumsum", 1, out_bytes(call), ints, (), b"\xff", work(0, numel(x.shape) * 16))
