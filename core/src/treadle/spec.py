"""Spec: shape and dtype without data."""

from typing import NamedTuple

from treadle.dtypes import DType
from treadle.shapes import Shape, numel


class Spec(NamedTuple):
    """Shape and dtype of a tensor that need not exist.

    >>> import treadle as td
    >>> td.TensorSpec((2, 3), td.float32).size
    6
    """

    shape: Shape
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return numel(self.shape)

    @property
    def nbytes(self) -> int:
        return numel(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"
