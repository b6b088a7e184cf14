"""Linear layers, and the layers that only change the shape."""

import math
from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.nn import init
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter

_linear = ops.linear.fn  # spares small models the frame of Op.__call__


class Identity(Module):
    """Return the input; arguments of the constructor are accepted and unused.

    >>> import treadle as td
    >>> td.nn.Identity(54, unused=True)(td.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """Compute x Wᵀ + b over the last dimension: (*, in_features) to (*, out_features).

    >>> import treadle as td
    >>> layer = td.nn.Linear(4, 3)
    >>> layer, tuple(layer(td.zeros(2, 4)).shape)
    (Linear(in_features=4, out_features=3, bias=True), (2, 3))
    """

    weight: Parameter  # (out_features, in_features)
    bias: Parameter | None  # (out_features,)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        make = {"device": device, "dtype": dtype}
        self.weight = Parameter(creation.empty((out_features, in_features), **make))
        if bias:
            self.bias = Parameter(creation.empty(out_features, **make))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, uniform in ±1/sqrt(in_features)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return _linear(input, self.weight, self.bias)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Module):
    """Flatten a range of dimensions, by default all but the first.

    >>> import treadle as td
    >>> tuple(td.nn.Flatten()(td.zeros(2, 3, 4)).shape)
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Unfold one dimension into several.

    >>> import treadle as td
    >>> tuple(td.nn.Unflatten(1, (3, 4))(td.zeros(2, 12)).shape)
    (2, 3, 4)
    """

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        if not isinstance(dim, int):
            raise TypeError(f"Unflatten: dim must be an int: {type(dim).__name__}")
        sizes = tuple(unflattened_size)
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError(f"Unflatten: unflattened_size must hold ints: {unflattened_size}")
        self.dim, self.unflattened_size = dim, sizes

    def forward(self, input: Tensor) -> Tensor:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
