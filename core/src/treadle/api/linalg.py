"""Matrix products under PyTorch's names."""

from typing import Any

from treadle._tensor import Tensor
from treadle.errors import ShapeError
from treadle.op import CATALOGUE as OPS
from treadle.op import FN

matmul_op = OPS["matmul"].fn


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product; vectors are rows on the left and columns on the right, leading dimensions broadcast.

    ShapeError when inner sizes differ.

    >>> import treadle as td
    >>> (td.ones(2, 3) @ td.ones(3, 4)).shape
    (2, 4)
    """
    if not isinstance(other, Tensor) or not isinstance(input, Tensor):
        return NotImplemented
    if input.sig.ndim >= 2 and other.sig.ndim >= 2:
        return matmul_op(input, other)
    if input.ndim == 0 or other.ndim == 0:
        raise ShapeError(f"matmul: operands need at least one dimension: {input.shape} @ {other.shape}")
    left = input if input.ndim > 1 else input.unsqueeze(0)
    right = other if other.ndim > 1 else other.unsqueeze(1)
    y = matmul_op(left, right)
    if input.ndim == 1:
        y = y.squeeze(-2)
    return y.squeeze(-1) if other.ndim == 1 else y


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices."""
    _rank("mm", input, mat2, 2)
    return matmul_op(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the products of two batches of matrices."""
    _rank("bmm", input, mat2, 3)
    return matmul_op(input, mat2)


def _rank(op: str, a: Tensor, b: Tensor, n: int) -> None:
    if a.ndim != n or b.ndim != n:
        raise ShapeError(f"{op}: operands of {n} dimensions expected: {a.shape}, {b.shape}")


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Return the inner product of two vectors."""
    _rank("dot", input, tensor, 1)
    return FN["sum"](input * tensor, (0,))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Return the outer product of two vectors."""
    _rank("outer", input, vec2, 1)
    return input.unsqueeze(1) * vec2


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * mat1 @ mat2."""
    y = mm(mat1, mat2)
    return (input if beta == 1 else input * beta) + (y if alpha == 1 else y * alpha)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Return the product of a matrix and a vector."""
    return matmul(input, vec)


FUNCTIONS = "matmul mm bmm dot outer addmm mv".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS}
