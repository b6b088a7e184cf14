"""Activation layers."""

from treadle import ops
from treadle._tensor import Tensor
from treadle.nn import functional as F
from treadle.nn.module import Module

_relu = ops.relu.fn  # spares small models the frame of Op.__call__


def _flag(inplace: bool, lead: str = "") -> str:
    return f"{lead}inplace=True" if inplace else ""


class _InPlace(Module):
    """An activation whose only argument is inplace."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return _flag(self.inplace)


class ReLU(_InPlace):
    """Return max(x, 0).

    >>> import treadle as td
    >>> td.nn.ReLU()(td.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, True) if self.inplace else _relu(input)


class SiLU(_InPlace):
    """Return x·sigmoid(x).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.SiLU()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.2689, 1.7616]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """Return x·tanh(softplus(x)).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Mish()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.3034, 1.944]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace)


class SELU(_InPlace):
    """Return the self-normalising ELU.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.SELU()(td.tensor([-1.0, 2.0])).tolist()]
    [-1.1113, 2.1014]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace)


class Hardswish(_InPlace):
    """Return x·relu6(x + 3) / 6.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Hardswish()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.3333, 1.6667]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        return ""


class Hardsigmoid(Hardswish):
    """Return relu6(x + 3) / 6.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Hardsigmoid()(td.tensor([-1.0, 2.0])).tolist()]
    [0.3333, 0.8333]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace)


class LeakyReLU(Module):
    """Return x where positive, negative_slope·x elsewhere.

    >>> import treadle as td
    >>> td.nn.LeakyReLU(0.5)(td.tensor([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}{_flag(self.inplace, ', ')}"


class ELU(Module):
    """Return x where positive, alpha·(exp(x) - 1) elsewhere.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.ELU()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.6321, 2.0]
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{_flag(self.inplace, ', ')}"


class Hardtanh(Module):
    """Return x limited to [min_val, max_val].

    >>> import treadle as td
    >>> td.nn.Hardtanh()(td.tensor([-3.0, 0.5])).tolist()
    [-1.0, 0.5]
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        if max_val <= min_val:
            raise ValueError("max_val must be larger than min_val")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}{_flag(self.inplace, ', ')}"


class ReLU6(Hardtanh):
    """Return min(max(x, 0), 6).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.ReLU6()(td.tensor([-1.0, 7.0])).tolist()]
    [0.0, 6.0]
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return _flag(self.inplace)


class GELU(Module):
    """Return x·Φ(x), or the tanh formula with approximate="tanh".

    >>> import treadle as td
    >>> td.nn.GELU("tanh")
    GELU(approximate='tanh')
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """Return 1 / (1 + exp(-x)).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Sigmoid()(td.tensor([0.0, 2.0])).tolist()]
    [0.5, 0.8808]
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.sigmoid(input)


class Tanh(Module):
    """Return tanh(x).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Tanh()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.7616, 0.964]
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.tanh(input)


class LogSigmoid(Module):
    """Return log(sigmoid(x)).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.LogSigmoid()(td.tensor([-1.0, 2.0])).tolist()]
    [-1.3133, -0.1269]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Softsign(Module):
    """Return x / (1 + |x|).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Softsign()(td.tensor([-1.0, 2.0])).tolist()]
    [-0.5, 0.6667]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Softplus(Module):
    """Return log(1 + exp(beta·x)) / beta.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Softplus()(td.tensor([-1.0, 2.0])).tolist()]
    [0.3133, 2.1269]
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softmax(Module):
    """Return exp(x) / sum(exp(x)) along dim.

    >>> import treadle as td
    >>> td.nn.Softmax(dim=-1)(td.zeros(2)).tolist()
    [0.5, 0.5]
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Return log(softmax(x)) along dim.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.LogSoftmax(dim=0)(td.zeros(2)).tolist()]
    [-0.6931, -0.6931]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim)


class Softmin(Softmax):
    """Return softmax(-x) along dim.

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.Softmin(dim=0)(td.zeros(2)).tolist()]
    [0.5, 0.5]
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softmin(input, self.dim)


class GLU(Module):
    """Split dim in halves a and b and return a·sigmoid(b).

    >>> import treadle as td
    >>> [round(v, 4) for v in td.nn.GLU()(td.tensor([4.0, 0.0])).tolist()]
    [2.0]
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
