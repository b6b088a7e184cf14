"""Two-dimensional convolution (cross-correlation) over NCHW images and OIHW weights, and pooling.

conv2d, conv2d_input_grad and conv2d_weight_grad are the three faces of one trilinear form: each one's gradients are the
other two, so every order of derivative stays native.
"""

from typing import Any

import numpy as np

from treadle.dtypes import int32, int64
from treadle.errors import ArgumentError, ShapeError
from treadle.op import EXACT, MIXED, STEPWISE, Op, composite
from treadle.ops.contraction import dot_general
from treadle.ops.manipulation import flip, pad, permute, reshape, subscript, windows
from treadle.ops.reduction import argmax, max_, sum_
from treadle.ops.samples import Arg, ints, raises, s
from treadle.shapes import equal, numel
from treadle.spec import Spec

Pair = tuple[int, int]
ONE: Pair = (1, 1)
NIL: Pair = (0, 0)


def _extent(op: str, n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    out = (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
    if out < 1 or n + 2 * padding < dilation * (k - 1) + 1:
        raise ShapeError(f"{op}: kernel of {k} (dilation {dilation}) does not fit a size of {n} with padding {padding}")
    return out


def _conv_spec(
    x: Spec,
    w: Spec,
    b: Spec | None = None,
    stride: Pair = ONE,
    padding: Pair = NIL,
    dilation: Pair = ONE,
    groups: int = 1,
) -> Spec:
    if x.ndim != 4 or w.ndim != 4:
        raise ShapeError(f"conv2d: input (N, C, H, W) and weight (O, C/groups, kH, kW) expected: {x.shape}, {w.shape}")
    if min(*stride, *dilation) < 1 or min(padding) < 0 or groups < 1:
        raise ArgumentError(
            f"conv2d: stride {stride}, dilation {dilation}, groups {groups} must be positive and padding "
            f"{padding} not negative"
        )
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ShapeError(
            f"conv2d: input {x.shape} with {groups} groups needs weight ({groups}*n, "
            f"{x.shape[1] // groups}, kH, kW): {w.shape}"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"conv2d: bias {b.shape} must be (out_channels,) = {w.shape[:1]}")
    size = (
        _extent("conv2d", n, k, st, p, d)
        for n, k, st, p, d in zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    )
    return Spec((x.shape[0], w.shape[0], *size), x.dtype)


def _belongs(op: str, g: Spec, y: Spec) -> None:
    if g.shape != y.shape:
        raise ShapeError(f"{op}: a gradient of shape {g.shape} does not belong to a result of shape {y.shape}")


def _input_grad_spec(g: Spec, w: Spec, input_size: Any, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Spec:
    x = Spec(tuple(input_size), g.dtype)
    _belongs("conv2d_input_grad", g, _conv_spec(x, w, None, stride, padding, dilation, groups))
    return x


def _weight_grad_spec(g: Spec, x: Spec, weight_size: Any, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Spec:
    w = Spec(tuple(weight_size), g.dtype)
    _belongs("conv2d_weight_grad", g, _conv_spec(x, w, None, stride, padding, dilation, groups))
    return w


def fit(x: Any, widths: Any, value: float = 0.0) -> Any:
    """Pad the last two axes by widths, a negative width crops."""
    crop = tuple((max(0, -lo), n - max(0, -lo) - max(0, -hi), 1) for n,
        (lo, hi) in zip(x.shape[2:], widths, strict=True))
    if any(lo < 0 or hi < 0 for lo, hi in widths):
        x = subscript(x, ((0, x.shape[0], 1), (0, x.shape[1], 1), *crop))
    if any(lo > 0 or hi > 0 for lo, hi in widths):
        x = pad(x, value, (NIL, NIL, *((max(0, lo), max(0, hi)) for lo, hi in widths)))
    return x


def patches(x: Any, kernel: Pair, stride: Pair, dilation: Pair) -> Any:
    """(N, C, H, W), already padded -> windows (N, C, OH, OW, kH, kW)."""
    x = windows(x, 2, kernel[0], stride[0], dilation[0])
    return windows(x, 3, kernel[1], stride[1], dilation[1])


def _columns(x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    """(N, C, H, W) -> (G, N*OH*OW, C/G*kH*kW)."""
    x = patches(fit(x, tuple((p, p) for p in padding)), kernel, stride, dilation)
    n, c, oh, ow, kh, kw = x.shape
    x = permute(reshape(x, (n, groups, c // groups, oh, ow, kh, kw)), (1, 0, 3, 4, 2, 5, 6))
    return reshape(x, (groups, n * oh * ow, c // groups * kh * kw))


def _conv(x: Any, w: Any, b: Any = None, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Any:
    n, _, oh, ow = _conv_spec(x, w, None, stride, padding, dilation, groups).shape
    out = w.shape[0]
    columns = _columns(x, w.shape[2:], stride, padding, dilation, groups)
    kernel = permute(reshape(w, (groups, out // groups, columns.shape[2])), (0, 2, 1))
    y = reshape(dot_general(columns, kernel), (groups, n, oh, ow, out // groups))  # (G, P, K) @ (G, K, O/G)
    y = reshape(permute(y, (1, 0, 4, 2, 3)), (n, out, oh, ow))
    return y if b is None else y + reshape(b, (1, out, 1, 1))


def _spread(g: Any, stride: Pair) -> Any:
    """Insert stride - 1 zeros between neighbours: (N, C, H, W) -> (N, C, (H-1)*s+1, (W-1)*s+1)."""
    if stride == ONE:
        return g
    n, c, h, w = g.shape
    g = pad(reshape(g, (n, c, h, 1, w, 1)), 0.0, (NIL, NIL, NIL, (0, stride[0] - 1), NIL, (0, stride[1] - 1)))
    return fit(reshape(g, (n, c, h * stride[0], w * stride[1])), ((0, 1 - stride[0]), (0, 1 - stride[1])))


def _conv_input_grad(g: Any, w: Any, input_size: Any, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Any:
    out, inner, kh, kw = w.shape
    wide = _spread(g, stride)
    reach = (dilation[0] * (kh - 1), dilation[1] * (kw - 1))
    widths = tuple((r - p, n + p - have) for r, p, n,
        have in zip(reach, padding, input_size[2:], wide.shape[2:], strict=True))
    turned = permute(reshape(flip(w, (2, 3)), (groups, out // groups, inner, kh, kw)), (0, 2, 1, 3, 4))
    return _conv(fit(wide, widths), reshape(turned, (groups * inner, out // groups, kh, kw)), None, ONE, NIL, dilation,
        groups)


def _conv_weight_grad(g: Any, x: Any, weight_size: Any, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Any:
    columns = _columns(x, weight_size[2:], stride, padding, dilation, groups)
    n, out, oh, ow = g.shape
    rows = permute(reshape(g, (n, groups, out // groups, oh, ow)), (1, 2, 0, 3, 4))
    return reshape(dot_general(reshape(rows, (groups, out // groups, n * oh * ow)), columns),
        weight_size)  # (G, O/G, P) @ (G, P, K)


def _conv_reference(x: Any, w: Any, b: Any = None, stride: Pair = ONE, padding: Pair = NIL, dilation: Pair = ONE,
        groups: int = 1) -> Any:
    x = np.pad(x, (NIL, NIL, *((p, p) for p in padding)))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True))
    v = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))[:, :, :: stride[0], :: stride[1], :: dilation[0],
        :: dilation[1]]
    n, c, oh, ow, kh, kw = v.shape
    v = v.reshape(n, groups, c // groups, oh, ow, kh, kw)
    y = np.einsum("ngchwij,gocij->ngohw", v, w.reshape(groups, -1, c // groups, kh, kw), optimize=True).reshape(n,
        w.shape[0], oh, ow)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


CONV = [
    s((2, 3, 7, 8), (4, 3, 3, 3), (4,), padding=(1, 1)), s((1, 2, 5, 5), (3, 2, 1, 1), None),
    s((2, 4, 9, 7), (6, 2, 3, 2), (6,), stride=(2, 1), groups=2),
    s((1, 3, 8, 8), (3, 1, 3, 3), None, padding=(2, 1), dilation=(2, 1), groups=3),
    s((2, 3, 12, 12), (5, 3, 7, 7), None, stride=(2, 2), padding=(3, 3)),
    s((0, 2, 4, 4), (3, 2, 3, 3), (3,)),
    s((2, 16, 14, 13), (18, 16, 3, 3), (18,), padding=(1, 1)),  # large enough for methods that work in tiles
]  # fmt: skip


def _grad_samples(second: str) -> list[Any]:
    out = []
    for x in CONV:
        image, weight = (Arg(a.shape) for a in x.args[:2])
        y = _conv_spec(Spec(image.shape, int64), Spec(weight.shape, int64), None, **x.attrs)
        size = {"input_size": image.shape} if second == "w" else {"weight_size": weight.shape}
        out.append(s(y.shape, weight if second == "w" else image, **size, **x.attrs))
    return out


conv2d_input_grad: Op = composite("conv2d_input_grad", "g w -> gx", _conv_input_grad, spec=_input_grad_spec,
    cost=lambda gx, g, w, **attrs: 2 * g.size * numel(w.shape[1:]),
    batch="g:0 -> 0; input_size[0]* | g:1 w:0 -> 1; input_size[1]* groups*",
    samples=_grad_samples("w"),
    vjp={"g": lambda g_gx, w, stride, padding, dilation, groups: conv2d(g_gx, w, None, stride, padding, dilation,
            groups),
        "w": lambda g_gx, g, shape_w, stride, padding, dilation, groups: conv2d_weight_grad(g, g_gx, shape_w, stride,
            padding, dilation, groups)},
    doc="Return the gradient of conv2d for its input.",
    errors=[raises(ShapeError, "does not belong", (1, 3, 4, 4), (3, 2, 3, 3), input_size=(1, 2, 5, 5))])
conv2d_weight_grad: Op = composite("conv2d_weight_grad", "g x -> gw", _conv_weight_grad, spec=_weight_grad_spec,
    cost=lambda gw, g, x, **attrs: 2 * g.size * numel(gw.shape[1:]),
    batch="g:1 -> 0; groups=1 weight_size[0]* | x:1 -> 1; groups=1 weight_size[1]* | "
        "g:1 x:1 -> 0; weight_size[0]* groups*",
    samples=_grad_samples("x"),
    vjp={"g": lambda g_gw, x, stride, padding, dilation, groups: conv2d(x, g_gw, None, stride, padding, dilation,
            groups),
        "x": lambda g_gw, g, shape_x, stride, padding, dilation, groups: conv2d_input_grad(g, g_gw, shape_x, stride,
            padding, dilation, groups)},
    doc="Return the gradient of conv2d for its weight.",
    errors=[raises(ShapeError, "does not belong", (1, 3, 4, 4), (1, 2, 5, 5), weight_size=(3, 2, 3, 3))])
conv2d: Op = composite("conv2d", "x w b? -> y", _conv, spec=_conv_spec, reference=_conv_reference, samples=CONV,
    cost=lambda y, x, w, b=None, **attrs: 2 * y.size * numel(w.shape[1:]),
    batch="x:0 -> 0 | w:0 b:0 -> 1; groups=1 | x:1 w:0 b:0 -> 1; groups*",
    promote="dtype",
    vjp={"x": lambda g, w, shape_x, stride, padding, dilation, groups: conv2d_input_grad(g, w, shape_x, stride, padding,
            dilation, groups),
        "w": lambda g, x, shape_w, stride, padding, dilation, groups: conv2d_weight_grad(g, x, shape_w, stride, padding,
            dilation, groups),
        "b": lambda g: sum_(g, (0, 2, 3))},
    doc="Convolve (cross-correlate) images (N, C, H, W) with kernels (O, C/groups, kH, kW).",
    errors=[raises(ShapeError, "expected", (3, 4, 4), (2, 3, 3, 3), None),
        raises(ShapeError, "groups needs weight", (1, 3, 4, 4), (2, 2, 3, 3), None),
        raises(ShapeError, "does not fit", (1, 3, 2, 2), (2, 3, 3, 3), None)])


# ---- pooling -------------------------------------------------------------------------------------------------------
def pool_extent(n: int, k: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Number of windows; with ceil_mode a last one may hang over, if it starts inside the input or the left padding."""
    span = n + 2 * padding - dilation * (k - 1) - 1
    if span < 0 and not (ceil_mode and span > -stride):
        raise ShapeError(f"pool: kernel of {k} (dilation {dilation}) does not fit a size of {n} with padding {padding}")
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= n + padding else out


def _pool_spec(
    x: Spec, kernel_size: Pair, stride: Pair, padding: Pair = NIL, dilation: Pair = ONE, ceil_mode: bool = False
) -> Spec:
    if x.ndim != 4:
        raise ShapeError(f"pool: input (N, C, H, W) expected: {x.shape}")
    if min(*kernel_size, *stride, *dilation) < 1 or min(padding) < 0:
        raise ArgumentError(
            f"pool: kernel {kernel_size}, stride {stride}, dilation {dilation} must be positive, padding "
            f"{padding} not negative"
        )
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        raise ArgumentError(f"pool: padding {padding} must be at most half of the kernel {kernel_size}")
    geometry = zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True)
    return Spec((*x.shape[:2], *(pool_extent(n, k, st, p, d, ceil_mode) for n, k, st, p, d in geometry)), x.dtype)


def _pool_patches(x: Any, value: float, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair,
        ceil_mode: bool) -> Any:
    out = _pool_spec(x, kernel_size, stride, padding, dilation, ceil_mode).shape[2:]
    geometry = zip(x.shape[2:], out, kernel_size, stride, padding, dilation, strict=True)
    widths = tuple((p, (o - 1) * st + d * (k - 1) + 1 - n - p) for n, o, k, st, p, d in geometry)
    return patches(fit(x, widths, value), kernel_size, stride, dilation)


def _max_pool(x: Any, indices: Any, kernel_size: Pair, stride: Pair, padding: Pair = NIL, dilation: Pair = ONE,
        ceil_mode: bool = False) -> Any:
    return max_(_pool_patches(x, -np.inf, kernel_size, stride, padding, dilation, ceil_mode), (4, 5))


def _max_pool_indices(x: Any, kernel_size: Pair, stride: Pair, padding: Pair = NIL, dilation: Pair = ONE,
        ceil_mode: bool = False) -> Any:
    p = _pool_patches(x, -np.inf, kernel_size, stride, padding, dilation, ceil_mode)
    n, c, oh, ow, kh, kw = p.shape
    best = argmax(reshape(p, (n, c, oh, ow, kh * kw)), 4).to(int32)
    column = best % kw
    row = (best - column).div(kw, rounding_mode="trunc")
    top = best.new_arange(oh, dtype=int32).reshape(oh, 1) * stride[0] - padding[0]
    left = best.new_arange(ow, dtype=int32) * stride[1] - padding[1]
    return ((row * dilation[0] + top) * x.shape[3] + column * dilation[1] + left).to(int64)


def _indices_spec(x: Spec, kernel_size: Pair, stride: Pair, padding: Pair = NIL, dilation: Pair = ONE,
        ceil_mode: bool = False) -> Spec:
    return Spec(_pool_spec(x, kernel_size, stride, padding, dilation, ceil_mode).shape, int64)


def _max_pool_grad(g: Any, indices: Any, input_size: Any) -> Any:
    n, c, h, w = input_size
    return g.new_zeros((n, c, h * w)).scatter_add(2, reshape(indices, (n, c, g.shape[2] * g.shape[3])),
        reshape(g, (n, c, g.shape[2] * g.shape[3]))).reshape(input_size)


def _max_grad_spec(g: Spec, indices: Spec, input_size: Any) -> Spec:
    equal("max_pool2d_grad", g.shape, indices.shape)
    equal("max_pool2d_grad: images and channels", g.shape[:2], tuple(input_size)[:2])
    return Spec(tuple(input_size), g.dtype)


def _max_pool_grad_grad(g_gx: Any, indices: Any, shape_g: Any) -> Any:
    n, c, oh, ow = shape_g
    return reshape(reshape(g_gx, (n, c, g_gx.shape[2] * g_gx.shape[3])).gather(2, reshape(indices, (n, c, oh * ow))),
        shape_g)


MAX_POOL = [s((2, 3, 6, 8), kernel_size=(2, 2), stride=(2, 2)),
    s((1, 2, 7, 7), kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)),
    s((1, 2, 7, 6), kernel_size=(2, 3), stride=(2, 2), ceil_mode=True),
    s((1, 1, 9, 9), kernel_size=(2, 2), stride=(1, 2), dilation=(2, 3)),
    s((0, 2, 4, 4), kernel_size=(2, 2), stride=(2, 2))]
max_pool2d_indices: Op = composite("max_pool2d_indices", "x -> indices", _max_pool_indices, {}, spec=_indices_spec,
    batch="x:0 -> 0",
    samples=MAX_POOL, num=EXACT,
    doc="Return where in its plane (row * width + column) each window's maximum lies.",
    errors=[raises(ShapeError, "does not fit", (1, 1, 2, 2), kernel_size=(3, 3), stride=(1, 1))])
max_pool2d_grad: Op = composite("max_pool2d_grad", "g indices -> gx", _max_pool_grad, {"g": _max_pool_grad_grad},
    batch="g:0 indices:0 -> 0; input_size[0]*",
    num=STEPWISE, spec=_max_grad_spec,
    samples=[s((2, 3, 2, 2), Arg((2, 3, 2, 2), "int64", 0, 16), input_size=(2, 3, 4, 4))],
    doc="Return the gradient of max_pool2d from the indices of its maxima.",
    errors=[raises(ShapeError, "must be equal", (1, 1, 2, 2), ints(1, 1, 2, 3), input_size=(1, 1, 4, 4)),
        raises(IndexError, "out of range|outside", (1, 1, 2, 2), ints(1, 1, 2, 2, low=16, high=17),
            input_size=(1, 1, 4, 4))])
max_pool2d: Op = composite("max_pool2d", "x -> y", _max_pool,
    {"x": lambda g, indices, shape_x: max_pool2d_grad(g, indices, shape_x)}, aux=(max_pool2d_indices, "indices"),
    batch="x:0 -> 0",
    spec=_pool_spec, samples=MAX_POOL, num=EXACT,
    doc="Return the maximum of every window; NaN wins, the first of equals.",
    errors=[raises(ShapeError, "does not fit", (1, 1, 2, 2), kernel_size=(3, 3), stride=(1, 1)),
        raises(ArgumentError, "at most half", (1, 1, 4, 4), kernel_size=(2, 2), stride=(1, 1), padding=(2, 0))])


def _counts(n: int, out: int, k: int, stride: int, padding: int, include: bool) -> list[int]:
    """How many elements each window averages along one axis; include counts padding, but not what hangs over it."""
    spans = []
    for o in range(out):
        start = o * stride - padding
        end = min(start + k, n + padding)
        spans.append(end - start if include else max(0, min(end, n) - max(start, 0)))
    return spans


def _scale(x: Any, size: Any, out: Any, kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool) -> Any:
    """1 / count for every window: a number, or a tensor (OH, OW) where windows differ."""
    rows, columns = (_counts(*a, count_include_pad) for a in zip(size, out, kernel_size, stride, padding, strict=True))
    if len(set(rows)) == 1 and len(set(columns)) == 1:
        return 1.0 / (rows[0] * columns[0])
    return x.new_tensor([[1.0 / (r * c) if r * c else np.nan for c in columns] for r in rows])


def _avg_pool(x: Any, kernel_size: Pair, stride: Pair, padding: Pair = NIL, ceil_mode: bool = False,
        count_include_pad: bool = True) -> Any:
    total = sum_(_pool_patches(x, 0.0, kernel_size, stride, padding, ONE, ceil_mode), (4, 5))
    return total * _scale(x, x.shape[2:], total.shape[2:], kernel_size, stride, padding, count_include_pad)


def _avg_spec(x: Spec, kernel_size: Pair, stride: Pair, padding: Pair = NIL, ceil_mode: bool = False,
        count_include_pad: bool = True) -> Spec:
    return _pool_spec(x, kernel_size, stride, padding, ONE, ceil_mode)


def _avg_grad_spec(g: Spec, input_size: Any, kernel_size: Pair, stride: Pair, padding: Pair = NIL,
        ceil_mode: bool = False, count_include_pad: bool = True) -> Spec:
    x = Spec(tuple(input_size), g.dtype)
    _belongs("avg_pool2d_grad", g, _avg_spec(x, kernel_size, stride, padding, ceil_mode))
    return x


def _avg_pool_grad(g: Any, input_size: Any, kernel_size: Pair, stride: Pair, padding: Pair = NIL,
        ceil_mode: bool = False, count_include_pad: bool = True) -> Any:
    g = g * _scale(g, input_size[2:], g.shape[2:], kernel_size, stride, padding, count_include_pad)
    wide, total = _spread(g, stride), None
    for i in range(kernel_size[0]):  # the k x k shifted copies that the windows read
        for j in range(kernel_size[1]):
            low = (i - padding[0], j - padding[1])
            part = fit(wide, tuple((lo, n - lo - have) for lo, n,
                have in zip(low, input_size[2:], wide.shape[2:], strict=True)))
            total = part if total is None else total + part
    return total


AVG_POOL = [s((2, 3, 6, 8), kernel_size=(2, 2), stride=(2, 2)),
    s((1, 2, 7, 7), kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), count_include_pad=False),
    s((1, 2, 7, 6), kernel_size=(2, 3), stride=(2, 2), ceil_mode=True),
    s((1, 2, 5, 5), kernel_size=(3, 2), stride=(1, 1), padding=(1, 1))]
avg_pool2d_grad: Op = composite("avg_pool2d_grad", "g -> gx", _avg_pool_grad, num=MIXED, spec=_avg_grad_spec,
    batch="g:0 -> 0; input_size[0]*",
    vjp={"g": lambda g_gx, kernel_size, stride, padding, ceil_mode, count_include_pad: avg_pool2d(g_gx, kernel_size,
            stride, padding, ceil_mode, count_include_pad)},
    samples=[s(_avg_spec(Spec(x.args[0].shape, int64), **x.attrs).shape, input_size=x.args[0].shape,
            **x.attrs) for x in AVG_POOL],
    doc="Return the gradient of avg_pool2d.",
    errors=[raises(ShapeError, "does not belong", (1, 1, 3, 3), input_size=(1, 1, 4, 4), kernel_size=(2, 2),
            stride=(2, 2))])
avg_pool2d: Op = composite("avg_pool2d", "x -> y", _avg_pool, spec=_avg_spec, num=MIXED, samples=AVG_POOL,
    batch="x:0 -> 0",
    vjp={"x": lambda g, shape_x, kernel_size, stride, padding, ceil_mode, count_include_pad: avg_pool2d_grad(g, shape_x,
            kernel_size, stride, padding, ceil_mode, count_include_pad)},
    doc="Return the average of every window.",
    errors=[raises(ShapeError, "expected", (4, 4), kernel_size=(2, 2), stride=(2, 2))])
