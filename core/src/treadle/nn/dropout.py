"""Dropout layers: active in training only."""

from treadle._tensor import Tensor
from treadle.nn import functional as F
from treadle.nn.module import Module


class Dropout(Module):
    """Set elements to zero with probability p while training and scale the rest by 1/(1-p).

    >>> import treadle as td
    >>> td.nn.Dropout(0.5).eval()(td.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        return F.dropout(input, self.p, True, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout1d(Dropout):
    """Drop whole channels of (N, C, L) or (C, L).

    >>> import treadle as td
    >>> td.nn.Dropout1d(0.5).eval()(td.ones(1, 2, 1)).tolist()
    [[[1.0], [1.0]]]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(Dropout):
    """Drop whole channels of (N, C, H, W) or (C, H, W).

    >>> import treadle as td
    >>> td.nn.Dropout2d(1.0)(td.ones(1, 1, 1, 2)).tolist()
    [[[[0.0, 0.0]]]]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)
