"""Activations, dropout, linear and embedding as functions."""

import warnings
from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.api import math
from treadle.api.math import where
from treadle.api.select import one_hot as one_hot
from treadle.api.shape import broadcast_tensors
from treadle.dtypes import DType
from treadle.errors import ArgumentError, UnsupportedError
from treadle.random import next_state


def _result(input: Tensor, value: Tensor, inplace: bool) -> Tensor:
    return input.copy_(value) if inplace else value


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute input Wᵀ + b: (*, in) with (out, in) to (*, out).

    >>> import treadle as td
    >>> td.nn.functional.linear(td.ones(1, 2), td.ones(1, 2), td.ones(1)).tolist()
    [[3.0]]
    """
    return ops.linear(input, weight, bias)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look up rows of weight: indices (*) to (*, size); the row padding_idx gets no gradient.

    IndexError for an index outside the table.

    >>> import treadle as td
    >>> td.nn.functional.embedding(td.tensor([1, 0]), td.eye(2)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise UnsupportedError("embedding: max_norm, scale_grad_by_freq and sparse are not supported; leave them out")
    rows = weight.shape[0]
    if padding_idx is None:
        return ops.embedding(weight, input, padding_idx=-1)
    if not -rows <= padding_idx < rows:
        raise ArgumentError(f"embedding: padding_idx outside the table: {padding_idx}, {rows} rows")
    return ops.embedding(weight, input, padding_idx=padding_idx % rows)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability p and scale the rest by 1/(1-p), if training.

    >>> import treadle as td
    >>> td.nn.functional.dropout(td.ones(2), 0.5, training=False).tolist()
    [1.0, 1.0]
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    return _result(input, ops.dropout(input, next_state(input.device), p=float(p)), inplace)


def feature_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, ndim: int = 2
) -> Tensor:
    """Drop whole channels: one decision for the last ndim dimensions together."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    ones = input.new_ones((*input.shape[:-ndim], *(1,) * ndim))
    return _result(input, input * dropout(ones, p), inplace)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, L) or (C, L).

    >>> import treadle as td
    >>> td.nn.functional.dropout1d(td.ones(1, 1, 2), 1.0).tolist()
    [[[0.0, 0.0]]]
    """
    return feature_dropout(input, p, training, inplace, 1)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, H, W) or (C, H, W).

    >>> import treadle as td
    >>> td.nn.functional.dropout2d(td.ones(1, 1, 1, 2), 1.0).tolist()
    [[[[0.0, 0.0]]]]
    """
    return feature_dropout(input, p, training, inplace, 2)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return max(x, 0).

    >>> import treadle as td
    >>> td.nn.functional.relu(td.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return input.copy_(ops.relu(input)) if inplace else ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return x where positive, negative_slope·x elsewhere.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.leaky_relu(td.tensor([-1.0, 2.0])).tolist()]
    [-0.01, 2.0]
    """
    return _result(input, where(input > 0, input, input * negative_slope), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(x, 0), 6).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.relu6(td.tensor([-1.0, 7.0])).tolist()]
    [0.0, 6.0]
    """
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Return x limited to [min_val, max_val]; the gradient at the limits is 0.

    >>> import treadle as td
    >>> td.nn.functional.hardtanh(td.tensor([-3.0, 0.5, 3.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: min_val cannot be greater than max_val: {min_val}, {max_val}")
    kind = float if input.is_floating_point() else int
    low = where(input <= min_val, kind(min_val), input)
    return _result(input, where(low >= max_val, kind(max_val), low), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return x where positive, alpha·(exp(x) - 1) elsewhere.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.elu(td.tensor([-1.0, 2.0])).tolist()]
    [-0.6321, 2.0]
    """
    positive = input > 0
    # exp sees no large x, whose infinite slope times the zero of `where` would be NaN
    low = ops.expm1(where(positive, 0.0, input)) * alpha
    return _result(input, where(positive, input, low), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return scale·elu(x, alpha) with the constants that keep mean and variance.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.selu(td.tensor([-1.0, 2.0])).tolist()]
    [-1.1113, 2.1014]
    """
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _result(input, elu(input, alpha) * scale, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x·Φ(x); approximate="tanh" uses the tanh formula.

    >>> import treadle as td
    >>> round(td.nn.functional.gelu(td.tensor(1.0)).item(), 4)
    0.8413
    """
    if approximate == "none":
        return ops.gelu(input)
    if approximate == "tanh":
        return ops.gelu_tanh(input)
    raise ArgumentError(f"gelu: approximate must be 'none' or 'tanh': {approximate!r}")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x·sigmoid(x).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.silu(td.tensor([-1.0, 2.0])).tolist()]
    [-0.2689, 1.7616]
    """
    return _result(input, ops.silu(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x·tanh(softplus(x)).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.mish(td.tensor([-1.0, 2.0])).tolist()]
    [-0.3034, 1.944]
    """
    return _result(input, input * ops.tanh(ops.softplus(input)), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.sigmoid(td.tensor([0.0, 2.0])).tolist()]
    [0.5, 0.8808]
    """
    return ops.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """Return tanh(x).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.tanh(td.tensor([-1.0, 2.0])).tolist()]
    [-0.7616, 0.964]
    """
    return ops.tanh(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return relu6(x + 3) / 6.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.hardsigmoid(td.tensor([-1.0, 2.0])).tolist()]
    [0.3333, 0.8333]
    """
    return _result(input, relu6(input + 3.0) / 6.0, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return x·relu6(x + 3) / 6.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.hardswish(td.tensor([-1.0, 2.0])).tolist()]
    [-0.3333, 1.6667]
    """
    return _result(input, input * (relu6(input + 3.0) / 6.0), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta·x)) / beta; x itself where beta·x is above threshold.

    >>> import treadle as td
    >>> round(td.nn.functional.softplus(td.tensor(0.0)).item(), 4)
    0.6931
    """
    if beta == 1.0 and threshold == 20.0:
        return ops.softplus(input)  # differs from x by less than 3e-9 above the threshold
    scaled = input * beta
    return where(scaled > threshold, input, ops.softplus(scaled) / beta)


def softsign(input: Tensor) -> Tensor:
    """Return x / (1 + |x|).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.softsign(td.tensor([-1.0, 2.0])).tolist()]
    [-0.5, 0.6667]
    """
    return input / (input.abs() + 1.0)


def logsigmoid(input: Tensor) -> Tensor:
    """Return log(sigmoid(x)), exact for large negative x.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.logsigmoid(td.tensor([-1.0, 2.0])).tolist()]
    [-1.3133, -0.1269]
    """
    return -ops.softplus(-input)


def _implicit_dim(name: str, ndim: int, dim: int | None) -> int:
    if dim is not None:
        return dim
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=3,
    )
    return 0 if ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """Return exp(x) / sum(exp(x)) along dim, computed in dtype if one is given.

    >>> import treadle as td
    >>> td.nn.functional.softmax(td.zeros(1, 2), dim=1).tolist()
    [[0.5, 0.5]]
    """
    dim = _implicit_dim("softmax", input.dim(), dim)
    return math.softmax(input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """Return softmax(-x) along dim.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.softmin(td.zeros(2), dim=0).tolist()]
    [0.5, 0.5]
    """
    dim = _implicit_dim("softmin", input.dim(), dim)
    return softmax(-input, dim, dtype=dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """Return log(softmax(x)) along dim, exact for large differences.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.log_softmax(td.zeros(2), dim=0).tolist()]
    [-0.6931, -0.6931]
    """
    dim = _implicit_dim("log_softmax", input.dim(), dim)
    return math.log_softmax(input, dim, dtype)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Split dim in halves a and b and return a·sigmoid(b).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.functional.glu(td.tensor([4.0, 0.0])).tolist()]
    [2.0]
    """
    size = input.shape[dim]
    if size % 2:
        raise ArgumentError(f"glu: the size of dimension {dim} must be even: {size}")
    first, second = input.narrow(dim, 0, size // 2), input.narrow(dim, size // 2, size // 2)
    return first * ops.sigmoid(second)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along dim, or by eps where the norm is smaller.

    >>> import treadle as td
    >>> [round(v, 1) for v in td.nn.functional.normalize(td.tensor([3.0, 4.0]), dim=0).tolist()]
    [0.6, 0.8]
    """
    return input / input.norm(p, dim, keepdim=True).clamp(min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between x1 and x2 along dim.

    >>> import treadle as td
    >>> td.nn.functional.cosine_similarity(td.ones(1, 2), -td.ones(1, 2)).tolist()
    [-0.9999999403953552]
    """
    x1, x2 = broadcast_tensors(x1, x2)
    n1 = x1.norm(2, dim, keepdim=True).clamp(min=eps)
    n2 = x2.norm(2, dim, keepdim=True).clamp(min=eps)
    return ((x1 / n1) * (x2 / n2)).sum(dim)


# where the value of an element before, in or after the n given ones comes from, and how far padding may reach
_PLACES: dict[str, Any] = {
    "reflect": (lambda i, n: (n - 1) - ((n - 1) - i.abs()).abs(), lambda n: n - 1),
    "replicate": (lambda i, n: i.clamp(0, n - 1), lambda n: 1 << 60 if n else 0),
    "circular": (lambda i, n: i % n, lambda n: n),
}


def _continued(x: Tensor, dim: int, width: tuple[int, int], mode: str) -> Tensor:
    """Pad one dimension with values from inside."""
    (before, after), (place, reach) = width, _PLACES[mode]
    if mode == "circular" and min(width) < 0:  # what is cut off does not come back at the other end
        x = x.narrow(dim, max(0, -before), x.shape[dim] + min(before, 0) + min(after, 0))
        before, after = max(0, before), max(0, after)
    n = x.shape[dim]
    if max(before, after) > reach(n) or before + after + n < 0:
        raise ArgumentError(f"pad: {mode} padding {width} does not fit dimension {dim} of size {n}")
    return x.index_select(dim, place(creation.arange(-before, n + after, device=x.device), n))


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad with a constant, or with the input's own values ('reflect', 'replicate', 'circular').

    pad holds (before, after) pairs, the last dimension's pair first; negative numbers cut off.

    >>> import treadle as td
    >>> td.nn.functional.pad(td.ones(2), (1, 0)).tolist()
    [0.0, 1.0, 1.0]
    """
    if mode != "constant" and mode not in _PLACES:
        raise ArgumentError(f"pad: mode must be 'constant' or one of {', '.join(map(repr, _PLACES))}: {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.dim():
        raise ArgumentError(f"pad: needs (before, after) pairs for at most {input.dim()} dimensions: {tuple(pad)}")
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)]
    widths = ((0, 0),) * (input.dim() - len(pairs)) + tuple(reversed(pairs))
    if mode != "constant":
        for dim, width in enumerate(widths):
            input = _continued(input, dim, width, mode) if any(width) else input
        return input
    for dim, (before, after) in enumerate(widths):
        if before < 0 or after < 0:
            start, size = max(0, -before), input.shape[dim]
            input = input.narrow(dim, start, size - start - max(0, -after))
    widths = tuple((max(0, before), max(0, after)) for before, after in widths)
    return ops.pad(input, 0.0 if value is None else value, widths=widths)
