"""conv2d and its two gradients: one C kernel per pass and dtype, any stride, padding, dilation and number of groups."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, STORAGE, numel, out_bytes

FLOPS_PER_NS = 50  # arithmetic of one thread in a convolution


def plan(x_shape, w_shape, y_shape, attrs):
    """Return what csrc/conv.c reads: sizes of one group, then each pair (vertical, horizontal)."""
    groups = attrs["groups"]
    pairs = (x_shape[2:], y_shape[2:], w_shape[2:], attrs["stride"], attrs["padding"], attrs["dilation"])
    flat = (size for pair in pairs for size in pair)
    return (x_shape[0], groups, x_shape[1] // groups, w_shape[0] // groups, *flat)


def _bind(call, name, x_shape, w_shape, y_shape, *rest):
    """Bind a pass; declined for operands of several dtypes and for empty ones."""
    operands = [x for x in call.ins if x is not None]
    dtype = operands[0].dtype
    if any(x.dtype != dtype for x in operands) or 0 in (*x_shape, *w_shape, *y_shape):
        return None
    flops = 2 * numel(y_shape) * numel(w_shape[1:])
    return native.bind(
        f"{name}_{dtype.short}",
        len(operands),
        out_bytes(call),
        (*plan(x_shape, w_shape, y_shape, call.attrs), *rest),
        (),
        bytes([STORAGE] * len(operands)),
        flops // FLOPS_PER_NS,
    )


@kernel("conv2d", dtypes=FLOATS, layouts="dense")
def conv2d(backend, call):
    """Bind x (N, C, H, W), w (O, C/groups, kH, kW) and perhaps b (O,) -> y (N, O, OH, OW)."""
    return _bind(call, "conv2d", call.ins[0].shape, call.ins[1].shape, call.outs[0].shape)


@kernel("fused_conv2d", dtypes=FLOATS, layouts="dense")
def fused_conv2d(backend, call):
    """Bind conv2d with perhaps a scale (O,), which needs a bias, and what comes last."""
    x, w, b, scale = call.ins
    if scale is not None and b is None:
        return None
    relu = call.attrs["activation"] == "relu"
    return _bind(call, "conv2d", x.shape, w.shape, call.outs[0].shape, int(relu))


@kernel("conv2d_input_grad", dtypes=FLOATS, layouts="dense")
def conv2d_input_grad(backend, call):
    """Bind g (N, O, OH, OW) and w -> gx, shaped like x."""
    return _bind(call, "conv2d_input_grad", call.outs[0].shape, call.ins[1].shape, call.ins[0].shape)


@kernel("conv2d_weight_grad", dtypes=FLOATS, layouts="dense")
def conv2d_weight_grad(backend, call):
    """Bind g (N, O, OH, OW) and x -> gw, shaped like w."""
    return _bind(call, "conv2d_weight_grad", call.ins[1].shape, call.outs[0].shape, call.ins[0].shape)
