"""Picking and placing elements by index tensors and masks, under PyTorch's names."""

from typing import Any

import numpy as np

from treadle import creation, dtypes
from treadle._tensor import Tensor
from treadle.api.shape import ravel, reshape, unsqueeze
from treadle.errors import ArgumentError, ShapeError
from treadle.op import FN
from treadle.shapes import axis as axis_of
from treadle.shapes import broadcast as broadcast_of

REDUCE = {None: "set", "add": "add", "multiply": "mul"}


def _vector(x: Tensor) -> Tensor:
    """A 0-d tensor as a vector of one element: it has a dimension to work along."""
    return x if x.ndim else reshape(x, 1)


def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Return the elements that an index tensor picks along a dimension.

    >>> import treadle as td
    >>> td.gather(td.tensor([[1, 2], [3, 4]]), 1, td.tensor([[1], [0]]))
    tensor([[2],
            [3]])
    """
    d = axis_of("gather", dim, input.ndim)
    if input.ndim and index.ndim:
        return FN["take_along"](input, index, d)
    return reshape(FN["take_along"](_vector(input), _vector(index), d), index.shape)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return the elements that an index tensor picks along a dimension, the others broadcast; without one, from the
    flattened input."""
    if dim is None:
        return gather(ravel(input), 0, ravel(indices))
    d = axis_of("take_along_dim", dim, input.ndim)
    if indices.ndim != input.ndim:
        raise ShapeError(f"take_along_dim: as many dimensions are needed: {input.shape}, {indices.shape}")
    here, there = ([*x.shape[:d], 1, *x.shape[d + 1 :]] for x in (input, indices))
    shape = list(broadcast_of("take_along_dim", tuple(here), tuple(there)))
    wide = (FN["expand"](x, (*shape[:d], x.shape[d], *shape[d + 1 :])) for x in (input, indices))
    return FN["take_along"](*wide, d)


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """Return input with src (a tensor or a number, also as `value`) at the places an index tensor names along a
    dimension; reduce="add" or "multiply" combines instead."""
    src = value if src is None else src
    if src is None or reduce not in REDUCE:
        raise ArgumentError(f"scatter: give src or value, and reduce as None, 'add' or 'multiply': {reduce!r}")
    return _put("scatter", input, dim, index, src, REDUCE[reduce])


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return input with src added at the places an index tensor names along a dimension."""
    return _put("scatter_add", input, dim, index, src, "add")


def _put(op: str, input: Tensor, dim: int, index: Tensor, src: Any, mode: str) -> Tensor:
    d, places = axis_of(op, dim, input.ndim), _vector(index)
    src = _fitted(_vector(src), places) if isinstance(src, Tensor) else input.new_full(places.shape, src)
    y = FN["put_along"](_vector(input), places, src, d, mode)
    return y if input.ndim else reshape(y, ())


def _fitted(src: Tensor, index: Tensor) -> Tensor:
    """The part of a source that an index of a smaller shape uses."""
    if src.shape == index.shape or src.ndim != index.ndim:
        return src
    return FN["subscript"](src, tuple((0, min(n, m), 1) for n, m in zip(index.shape, src.shape, strict=True)))


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the slices that a vector of indices names along a dimension."""
    d = axis_of("index_select", dim, input.ndim)
    if index.ndim > 1:
        raise ShapeError(f"index_select: the index must be a vector: {index.shape}")
    if not input.ndim:
        return reshape(_vector(input)[_vector(index)], ())
    return input[(slice(None),) * d + (_vector(index),)]


def take(input: Tensor, index: Tensor, axis: int | None = None) -> Tensor:
    """Return elements of the flattened tensor, or slices along an axis."""
    return ravel(input)[index] if axis is None else index_select(input, axis, index)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """Return the elements where a mask holds, in one dimension."""
    shape = broadcast_of("masked_select", input.shape, mask.shape)
    return FN["expand"](input, shape)[FN["expand"](mask, shape)]


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Return the coordinates (count, ndim) of all nonzero elements; as_tuple gives one vector per dimension.

    >>> import treadle as td
    >>> td.nonzero(td.tensor([0, 3, 4]))
    tensor([[1],
            [2]])
    """
    if not as_tuple:
        return FN["nonzero"](input)
    found = FN["nonzero"](_vector(input))
    return tuple(found[:, d] for d in range(found.shape[1]))


def repeat_interleave(
    input: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Return input with every element repeated in place: all as often, or each as a vector of counts says.

    With a vector of counts alone: every index as often as its count.

    >>> import treadle as td
    >>> td.repeat_interleave(td.tensor([5, 6]), td.tensor([1, 2]))
    tensor([5, 6, 6])
    """
    if repeats is None:
        return _spread(input, input.sig.size, output_size)
    if dim is None:
        input, dim = ravel(input), 0
    d = axis_of("repeat_interleave", dim, input.ndim)
    input = _vector(input)
    if isinstance(repeats, Tensor) and repeats.sig.size == 1:
        repeats = int(repeats.item())
    if isinstance(repeats, Tensor):
        return index_select(input, d, _spread(repeats, input.shape[d], output_size))
    if repeats < 0 or output_size not in (None, input.shape[d] * repeats):
        raise ArgumentError(f"repeat_interleave: repeats must not be negative, and fit output_size: {repeats}")
    wide = FN["expand"](unsqueeze(input, d + 1), (*input.shape[: d + 1], repeats, *input.shape[d + 1 :]))
    return reshape(FN["copy"](wide), (*input.shape[:d], input.shape[d] * repeats, *input.shape[d + 1 :]))


def _spread(counts: Tensor, n: int, total: int | None) -> Tensor:
    """0 ... n - 1, each as often as its count."""
    given = np.asarray(counts.tolist())
    if counts.dtype not in (dtypes.int32, dtypes.int64) or given.shape != (n,) or (given < 0).any():
        raise ArgumentError(f"repeat_interleave: repeats must be {n} int32 or int64 counts: {counts!r}")
    if total not in (None, given.sum()):
        raise ArgumentError(f"repeat_interleave: the counts make {given.sum()}, output_size is {total}")
    return creation.from_array(np.repeat(np.arange(n, dtype=np.int64), given), counts.device)


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """Return integers as rows with a single 1 (int64)."""
    n = num_classes if num_classes >= 0 else int(input.max().item()) + 1 if input.sig.size else 0
    if input.sig.size and (int(input.min().item()) < 0 or int(input.max().item()) >= n):
        raise ArgumentError(f"one_hot: values must lie in [0, {n})")
    return (unsqueeze(input, -1) == input.new_arange(n, dtype=input.dtype)).to(dtypes.int64)


FUNCTIONS = """gather take_along_dim scatter scatter_add index_select take masked_select nonzero
    repeat_interleave""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS}
