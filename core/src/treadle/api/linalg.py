"""Matrix products under PyTorch's names."""

from typing import Any

from treadle._tensor import Tensor
from treadle.errors import ShapeError
from treadle.op import CATALOGUE as OPS
from treadle.op import FN

matmul_op = OPS["matmul"].fn


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product; vectors are rows on the left and columns on the right, leading dimensions broadcast.

    ShapeError when inner sizes differ.

    >>> import treadle as td
    >>> (td.ones(2, 3) @ td.ones(3, 4)).shape
    (2, 4)
    """
    if not isinstance(b, Tensor) or not isinstance(a, Tensor):
        return NotImplemented
    if a.sig.ndim >= 2 and b.sig.ndim >= 2:
        return matmul_op(a, b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: operands need at least one dimension: {a.shape} @ {b.shape}")
    left = a if a.ndim > 1 else a.unsqueeze(0)
    right = b if b.ndim > 1 else b.unsqueeze(1)
    y = matmul_op(left, right)
    if a.ndim == 1:
        y = y.squeeze(-2)
    return y.squeeze(-1) if b.ndim == 1 else y


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two matrices."""
    _rank("mm", a, b, 2)
    return matmul_op(a, b)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of two batches of matrices."""
    _rank("bmm", a, b, 3)
    return matmul_op(a, b)


def _rank(op: str, a: Tensor, b: Tensor, n: int) -> None:
    if a.ndim != n or b.ndim != n:
        raise ShapeError(f"{op}: operands of {n} dimensions expected: {a.shape}, {b.shape}")


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of two vectors."""
    _rank("dot", a, b, 1)
    return FN["sum"](a * b, (0,))


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Return the outer product of two vectors."""
    _rank("outer", a, b, 1)
    return a.unsqueeze(1) * b


def addmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * x + alpha * a @ b."""
    y = mm(a, b)
    return (x if beta == 1 else x * beta) + (y if alpha == 1 else y * alpha)


def mv(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of a matrix and a vector."""
    return matmul(a, b)


FUNCTIONS = "matmul mm bmm dot outer addmm mv".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS}
