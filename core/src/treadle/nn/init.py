"""Initialisers: functions that fill a tensor in place and return it, with PyTorch's formulas."""

import math
import warnings

from treadle import creation
from treadle._tensor import Tensor
from treadle.api.math import where
from treadle.autograd.grad_mode import no_grad
from treadle.random import Generator

_GAIN_ONE = frozenset(
    ["linear", "sigmoid"] + [f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)]
)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the gain that keeps variances through a nonlinearity.

    >>> import treadle as td
    >>> td.nn.init.calculate_gain("leaky_relu", 1.0)
    1.0
    """
    if nonlinearity in _GAIN_ONE:
        return 1.0
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    if nonlinearity not in gains:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with numbers uniform in [a, b).

    >>> import treadle as td
    >>> w = td.nn.init.uniform_(td.empty(100), -1.0, 1.0)
    >>> bool((w.abs() <= 1).all())
    True
    """
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers of the given mean and standard deviation.

    >>> import treadle as td
    >>> tuple(td.nn.init.normal_(td.empty(2, 3), std=0.02).shape)
    (2, 3)
    """
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers, those outside [a, b] drawn again.

    >>> import treadle as td
    >>> w = td.nn.init.trunc_normal_(td.empty(100), std=0.5, a=-0.5, b=0.5)
    >>> bool((w.abs() <= 0.5).all())
    True
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=2,
        )
    with no_grad():
        if _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std) > 0.3:
            return _redraw_normal(tensor, mean, std, a, b, generator)
        return _redraw_uniform(tensor, mean, std, a, b, generator)


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _redraw_normal(tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Generator | None) -> Tensor:
    tensor.normal_(mean, std, generator=generator)
    while True:
        outside = (tensor < a) | (tensor > b)
        if not outside.any():
            return tensor
        again = creation.empty_like(tensor).normal_(mean, std, generator=generator)
        tensor.copy_(where(outside, again, tensor))


def _redraw_uniform(tensor: Tensor, mean: float, std: float, a: float, b: float, generator: Generator | None) -> Tensor:
    """Draw from narrow or far intervals, where normal draws would hardly ever fall inside.

    A candidate uniform in [a, b] is kept with the probability density / highest density there.
    """
    peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
    pending = None
    while True:
        candidates = creation.empty_like(tensor).uniform_(a, b, generator=generator)
        tensor.copy_(candidates if pending is None else where(pending, candidates, tensor))
        density = ((tensor - mean) / std).square() * -0.5 - peak
        rejected = creation.empty_like(tensor).uniform_(generator=generator).log() > density
        pending = rejected if pending is None else pending & rejected
        if not pending.any():
            return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value.

    >>> import treadle as td
    >>> td.nn.init.constant_(td.empty(2), 3.0).tolist()
    [3.0, 3.0]
    """
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones.

    >>> import treadle as td
    >>> td.nn.init.ones_(td.empty(2)).tolist()
    [1.0, 1.0]
    """
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros.

    >>> import treadle as td
    >>> td.nn.init.zeros_(td.empty(2)).tolist()
    [0.0, 0.0]
    """
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity.

    >>> import treadle as td
    >>> td.nn.init.eye_(td.empty(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    with no_grad():
        rows, columns = tensor.shape
        return tensor.copy_(creation.eye(rows, columns, device=tensor.device))


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    if tensor.dim() < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _fan(tensor: Tensor, mode: str) -> int:
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return _calculate_fan_in_and_fan_out(tensor)[mode.lower() == "fan_out"]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill uniformly in ±gain·sqrt(6 / (fan_in + fan_out)).

    >>> import treadle as td
    >>> tuple(td.nn.init.xavier_uniform_(td.empty(3, 5)).shape)
    (3, 5)
    """
    bound = gain * math.sqrt(6.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill normally with standard deviation gain·sqrt(2 / (fan_in + fan_out)).

    >>> import treadle as td
    >>> tuple(td.nn.init.xavier_normal_(td.empty(3, 5)).shape)
    (3, 5)
    """
    std = gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return normal_(tensor, 0.0, std, generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill uniformly in ±gain·sqrt(3 / fan), where a is the slope of the leaky ReLU that follows.

    >>> import treadle as td
    >>> w = td.nn.init.kaiming_uniform_(td.empty(8, 6), nonlinearity="relu")
    >>> bool((w.abs() <= 1).all())  # sqrt(2) * sqrt(3 / 6) = 1
    True
    """
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    bound = math.sqrt(3.0) * calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill normally with standard deviation gain / sqrt(fan).

    >>> import treadle as td
    >>> tuple(td.nn.init.kaiming_normal_(td.empty(3, 5), nonlinearity="relu").shape)
    (3, 5)
    """
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    std = calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode))
    return normal_(tensor, 0.0, std, generator)
