"""Maximum and average pooling with their gradients."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, STORAGE, numel, out_bytes, work

ONE = (1, 1)
INDEX_LIMIT = 2**31  # a plane's indices are counted in 32 bits


def plan(x_shape, y_shape, attrs):
    """Return what csrc/pooling.c reads: planes, then pairs (vertical, horizontal), then whether padding counts."""
    pairs = (
        x_shape[2:],
        y_shape[2:],
        attrs["kernel_size"],
        attrs["stride"],
        attrs["padding"],
        attrs.get("dilation", ONE),
    )
    flat = (size for pair in pairs for size in pair)
    return (x_shape[0] * x_shape[1], *flat, int(attrs.get("count_include_pad", True)))


def _bind(call, x_shape, ints):
    """Bind the kernel named as the op; declined for empty planes."""
    x = call.ins[0]
    nbytes = sum(numel(spec.shape) * spec.dtype.itemsize for spec in (*call.ins, *call.outs))
    if 0 in x_shape[2:] or numel(x_shape[2:]) >= INDEX_LIMIT:
        return None
    slots = bytes([STORAGE] * len(call.ins))
    return native.bind(f"{call.op.name}_{x.dtype.short}", len(call.ins), out_bytes(call), ints, (), slots, work(nbytes))


def _forward(backend, call):
    """Bind x (N, C, H, W) -> results (N, C, OH, OW)."""
    x_shape = call.ins[0].shape
    return _bind(call, x_shape, plan(x_shape, call.outs[0].shape, call.attrs))


for _name in ("max_pool2d", "max_pool2d_indices", "avg_pool2d"):
    kernel(_name, dtypes=FLOATS, layouts="dense")(_forward)


@kernel("avg_pool2d_grad", dtypes=FLOATS, layouts="dense")
def avg_pool2d_grad(backend, call):
    """Bind g (N, C, OH, OW) -> gx (N, C, H, W)."""
    x_shape = call.outs[0].shape
    return _bind(call, x_shape, plan(x_shape, call.ins[0].shape, call.attrs))


@kernel("max_pool2d_grad", dtypes=FLOATS, layouts="dense")
def max_pool2d_grad(backend, call):
    """Bind g and int64 indices (N, C, OH, OW) -> gx (N, C, H, W); an index outside its plane raises IndexError."""
    x_shape, y_shape = call.outs[0].shape, call.ins[0].shape
    if call.ins[1].dtype.name != "int64":
        return None
    return _bind(call, x_shape, (x_shape[0] * x_shape[1], *x_shape[2:], *y_shape[2:]))
