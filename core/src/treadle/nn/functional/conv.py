"""Convolution and pooling as functions."""

from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.api.linalg import matmul
from treadle.errors import ArgumentError, ShapeError
from treadle.nn.functional.activation import pad


def pair(value: Any, name: str) -> tuple[int, int]:
    """Return one int twice, or a sequence of one or two ints as two."""
    if isinstance(value, int):
        return (value, value)
    values = tuple(value)
    if len(values) == 1:
        return (values[0], values[0])
    if len(values) != 2:
        raise ArgumentError(f"{name}: needs one or two ints: {values}")
    return values  # type: ignore[return-value]


def same_padding(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (before, after) per dimension for padding='same'."""
    if any(s != 1 for s in stride):
        raise ValueError("padding='same' is not supported for strided convolutions")
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(t // 2, t - t // 2) for t in totals]


def _resolve_padding(
    input: Tensor, kernel: tuple[int, ...], stride: tuple[int, int], padding: Any, dilation: Any
) -> tuple[Tensor, tuple[int, int]]:
    """Return the input, padded by hand where the sides differ, and what is left to the op."""
    if not isinstance(padding, str):
        return input, pair(padding, "conv2d padding")
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise ValueError(f"conv2d: padding must be numbers, 'valid' or 'same': {padding!r}")
    (top, bottom), (left, right) = same_padding(kernel, stride, dilation)
    # an even kernel needs one more element after than before
    extra = (0, right - left, 0, bottom - top)
    return (pad(input, extra) if any(extra) else input), (top, left)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve (N, C, H, W) or (C, H, W) with (out, C / groups, kh, kw).

    >>> import treadle as td
    >>> x, w = td.ones(1, 1, 3, 3), td.ones(2, 1, 3, 3)
    >>> tuple(td.nn.functional.conv2d(x, w, padding=1).shape)
    (1, 2, 3, 3)
    """
    stride, dilation = pair(stride, "conv2d stride"), pair(dilation, "conv2d dilation")
    if input.dim() == 3:
        x = input.unsqueeze(0)
        return conv2d(x, weight, bias, stride, padding, dilation, groups).squeeze(0)
    input, pads = _resolve_padding(input, tuple(weight.shape[2:]), stride, padding, dilation)
    return ops.conv2d(input, weight, bias, stride=stride, padding=pads, dilation=dilation, groups=groups)


def _single(value: Any, name: str) -> int:
    if isinstance(value, int):
        return value
    values = tuple(value)
    if len(values) != 1:
        raise ArgumentError(f"{name}: needs one int: {values}")
    return values[0]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve (N, C, L) or (C, L) with (out, C / groups, k): conv2d with a height of one.

    >>> import treadle as td
    >>> tuple(td.nn.functional.conv1d(td.ones(1, 2, 5), td.ones(3, 2, 2)).shape)
    (1, 3, 4)
    """
    if input.dim() not in (2, 3):
        raise ShapeError(f"conv1d: needs (N, C, L) or (C, L): {tuple(input.shape)}")
    stride = (1, _single(stride, "conv1d stride"))
    dilation = (1, _single(dilation, "conv1d dilation"))
    if not isinstance(padding, str):
        padding = (0, _single(padding, "conv1d padding"))
    wide = weight.unsqueeze(2)
    y = conv2d(input.unsqueeze(-2), wide, bias, stride, padding, dilation, groups)
    return y.squeeze(-2)


def _batched(input: Tensor, name: str) -> Tensor:
    if input.dim() not in (3, 4):
        raise ShapeError(f"{name}: needs (N, C, H, W) or (C, H, W): {tuple(input.shape)}")
    return input if input.dim() == 4 else input.unsqueeze(0)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maximum of each window of (N, C, H, W) or (C, H, W); with return_indices also where in its plane
    (row * width + column) it lies.

    >>> import treadle as td
    >>> x = td.arange(4.0).reshape(1, 1, 2, 2)
    >>> td.nn.functional.max_pool2d(x, 2).item()
    3.0
    """
    kernel = pair(kernel_size, "max_pool2d kernel_size")
    attrs = {
        "kernel_size": kernel,
        "stride": _stride(stride, kernel, "max_pool2d"),
        "padding": pair(padding, "max_pool2d padding"),
        "dilation": pair(dilation, "max_pool2d dilation"),
        "ceil_mode": ceil_mode,
    }
    x = _batched(input, "max_pool2d")
    y = ops.max_pool2d(x, **attrs)
    if not return_indices:
        return y if input.dim() == 4 else y.squeeze(0)
    indices = ops.max_pool2d_indices(x.detach(), **attrs)
    return (y, indices) if input.dim() == 4 else (y.squeeze(0), indices.squeeze(0))


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window of (N, C, H, W) or (C, H, W).

    >>> import treadle as td
    >>> td.nn.functional.avg_pool2d(td.ones(1, 1, 4, 4), 2).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    kernel = pair(kernel_size, "avg_pool2d kernel_size")
    attrs = {
        "kernel_size": kernel,
        "stride": _stride(stride, kernel, "avg_pool2d"),
        "padding": pair(padding, "avg_pool2d padding"),
        "ceil_mode": ceil_mode,
    }
    x = _batched(input, "avg_pool2d")
    if divisor_override is None:
        y = ops.avg_pool2d(x, count_include_pad=count_include_pad, **attrs)
    elif divisor_override == 0:
        raise ArgumentError("avg_pool2d: divisor_override must not be zero")
    else:
        y = ops.avg_pool2d(x, count_include_pad=True, **attrs)
        rows, columns = (_counts(x.shape[d], y.shape[d], d - 2, attrs) for d in (2, 3))
        counts = [[r * c / divisor_override for c in columns] for r in rows]
        y = y * creation.tensor(counts, dtype=y.dtype, device=y.device)
    return y if input.dim() == 4 else y.squeeze(0)


def _stride(stride: Any, kernel: tuple[int, int], name: str) -> tuple[int, int]:
    """The stride of a pooling: the size of a window unless given."""
    return kernel if stride is None or stride in ((), []) else pair(stride, f"{name} stride")


def _counts(size: int, out: int, axis: int, attrs: dict[str, Any]) -> list[int]:
    """How many elements each window holds along one axis: padding counts, what hangs over it does not."""
    kernel, stride, padding = (attrs[name][axis] for name in ("kernel_size", "stride", "padding"))
    return [min(kernel, size + 2 * padding - o * stride) for o in range(out)]


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Return means over windows chosen so that the result is output_size; None keeps a size.

    >>> import treadle as td
    >>> tuple(td.nn.functional.adaptive_avg_pool2d(td.ones(2, 3, 7, 5), 1).shape)
    (2, 3, 1, 1)
    """
    _batched(input, "adaptive_avg_pool2d")
    sizes = (output_size, output_size) if isinstance(output_size, int | None) else tuple(output_size)
    if len(sizes) != 2 or any(s is not None and s < 0 for s in sizes):
        raise ArgumentError(f"adaptive_avg_pool2d: output_size must be one or two sizes from 0: {output_size}")
    h, w = input.shape[-2:]
    out_h, out_w = (n if s is None else s for s, n in zip(sizes, (h, w), strict=True))
    if (out_h, out_w) == (1, 1):
        return input.mean((-2, -1), keepdim=True)
    if out_h and out_w and h % out_h == 0 and w % out_w == 0:
        return avg_pool2d(input, (h // out_h, w // out_w))
    rows, columns = _averaging(input, out_h, h), _averaging(input, out_w, w)
    return matmul(matmul(rows, input), columns.transpose(0, 1))  # (oh,h) (h,w) (w,ow)


def _averaging(like: Tensor, out: int, size: int) -> Tensor:
    """Return the (out, size) matrix whose rows average the windows of adaptive pooling."""
    rows = []
    for i in range(out):
        start, stop = i * size // out, -(-(i + 1) * size // out)
        rows.append([1.0 / (stop - start) if start <= j < stop else 0.0 for j in range(size)])
    matrix = creation.tensor(rows, dtype=like.dtype, device=like.device)
    return matrix.reshape(out, size)
