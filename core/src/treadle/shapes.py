"""Integer arithmetic on shapes, axes and strides: pure functions, no tensors. Strides count elements.

Sizes and strides may be symbolic (`treadle.ir.dim.Dim`, known here by its attribute `symbolic`). What is decided with
== takes a symbolic size to be neither 0 nor 1; an order that its range leaves open raises DimError.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from treadle.errors import ArgumentError, DimError, IndexRangeError, ShapeError

Shape = tuple[int, ...]
MAX_DIMS = 16
MAX_ELEMENTS = 1 << 56


class Size(tuple[int, ...]):
    """A shape: a tuple that knows how many elements it stands for."""

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of elements.

        >>> import treadle as td
        >>> td.zeros(2, 3).shape.numel()
        6
        """
        return math.prod(self)


def numel(shape: Sequence[int]) -> int:
    return math.prod(shape)


def dense_strides(shape: Sequence[int]) -> Shape:
    """Row-major strides; a size of 0 counts as 1, so that empty tensors have strides too."""
    strides, step = [0] * len(shape), 1
    for i in range(len(shape) - 1, -1, -1):
        strides[i] = step
        n = shape[i]
        if n != 0:
            step *= n
    return tuple(strides)


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements lie in row-major order without gaps (strides of size-1 axes do not matter)."""
    step = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 0:
            return True
        if n != 1:
            if s != step:
                return 0 in shape
            step *= n
    return True


def extent(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """Lowest and one past the highest element offset that a layout reaches, relative to its first element."""
    if 0 in shape:
        return 0, 0
    low = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    return low, 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s >= 0)


def overlaps(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two indices may share memory: sorted strides must clear the extent below them (exact for every view we
    make)."""
    reach = 0
    steps = [(abs(s), n) for n, s in zip(shape, strides, strict=True) if n != 1]
    try:
        steps.sort()
    except DimError:  # any order will do that shows them clear
        steps.sort(key=_magnitude)
    for s, n in steps:
        if s <= reach:
            return 0 not in shape
        reach += s * (n - 1)
    return False


def _magnitude(step: tuple[Any, Any]) -> tuple[int, int]:
    """Sorts strides that are multiples of one another, symbolic ones too."""
    s = step[0]
    return (s, 0) if isinstance(s, int) else (s.low, s.degree)


def broadcast(op: str, *shapes: Shape) -> Shape:
    """Return the common shape under NumPy's rules; ShapeError naming the axis otherwise."""
    first = shapes[0]
    if all(s == first for s in shapes):
        return first
    rank = max(map(len, shapes))
    out = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        if len(sizes) > 1:
            text, differ = " and ".join(map(str, shapes)), sorted(sizes, key=lambda n: (len(str(n)), str(n)))
            raise ShapeError(f"{op}: shapes {text} do not broadcast: sizes {differ} differ at axis {axis - rank}")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def equal(op: str, *shapes: Shape) -> Shape:
    """Return the one shape that all have; ShapeError otherwise."""
    if any(s != shapes[0] for s in shapes):
        raise ShapeError(f"{op}: shapes must be equal: {', '.join(map(str, shapes))}")
    return shapes[0]


def expand_strides(shape: Shape, strides: Shape, target: Shape) -> Shape:
    """Strides that read a tensor of `shape` as `target` (already checked to broadcast): 0 where an axis is repeated."""
    lead = len(target) - len(shape)
    return (0,) * lead + tuple(0 if n == 1 != t else s for n, s, t in zip(shape, strides, target[lead:], strict=True))


def axis(op: str, a: SupportsIndex, rank: int) -> int:
    """Return a as a non-negative axis; IndexRangeError outside [-rank, rank).

    A 0-d tensor accepts 0 and -1, as PyTorch.
    """
    try:
        i = a.__index__()
    except AttributeError:
        raise ArgumentError(f"{op}: an axis must be an integer: {a!r}") from None
    limit = max(rank, 1)
    if not -limit <= i < limit:
        raise IndexRangeError(
            f"{op}: axis {i} is out of range for {rank} dimensions (expected [{-limit}, {limit - 1}])"
        )
    return i % limit


def axes(op: str, given: Any, rank: int) -> Shape:
    """Return given (None for all, an int, or a sequence) as sorted non-negative axes without repeats."""
    if given is None:
        return tuple(range(rank))
    items = given if isinstance(given, Iterable) else (given,)
    out = [axis(op, a, rank) for a in items]
    if len(set(out)) != len(out):
        raise ArgumentError(f"{op}: an axis appears twice: {tuple(given)}")
    return tuple(sorted(out)) if rank else ()


def integers(op: str, given: tuple[Any, ...]) -> Shape:
    """Return sizes or axes that were given as one sequence or as separate integers; ArgumentError for anything else."""
    items = (
        given[0] if len(given) == 1 and not hasattr(given[0], "__index__") and hasattr(given[0], "__iter__") else given
    )
    try:
        return tuple([n if n.__class__ is int else _whole(n) for n in items])
    except (TypeError, AttributeError):
        raise ArgumentError(f"{op}: a shape must be integers: {given[0] if len(given) == 1 else given!r}") from None


def _whole(n: Any) -> Any:
    """What stands for an integer, as one; a symbolic size as it is."""
    return n if getattr(n, "symbolic", False) else n.__index__()


def sizes(op: str, given: Any) -> Shape:
    """Return given as a tuple of non-negative sizes whose product is a possible tensor; ShapeError otherwise."""
    try:
        out = tuple([n if n.__class__ is int else _whole(n) for n in given])
    except (TypeError, AttributeError):
        raise ArgumentError(f"{op}: a shape must be integers: {given!r}") from None
    if len(out) > MAX_DIMS:
        raise ShapeError(f"{op}: {len(out)} dimensions are more than the {MAX_DIMS} supported: {out}")
    for n in out:
        if n < 0:
            raise ShapeError(f"{op}: sizes must not be negative: {out}")
    check_count(op, out)
    return out


def check_count(op: str, shape: Sequence[int]) -> None:
    """ShapeError for shapes whose elements (or strides, where a size is 0) could not be counted in 64 bits.

    A symbolic size is taken at its lowest.
    """
    count = math.prod(shape)
    if count.__class__ is not int or not count:
        count = math.prod(getattr(n, "low", n) or 1 for n in shape)
    if count > MAX_ELEMENTS:
        raise ShapeError(f"{op}: shape {tuple(shape)} has {count} elements, more than any memory")


def reduced(shape: Shape, over: Shape, keepdims: bool) -> Shape:
    if keepdims:
        return tuple(1 if i in over else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in over)


def infer_size(op: str, shape: Shape, count: int) -> Shape:
    """Replace one -1 in shape so that it holds count elements; ShapeError when it cannot."""
    unknown = [i for i, n in enumerate(shape) if n == -1]
    known = math.prod(n for n in shape if n != -1)
    if len(unknown) > 1 or any(n < -1 for n in shape):
        raise ShapeError(f"{op}: at most one size may be -1 and none below it: {shape}")
    if unknown:
        if known == 0 or count % known != 0:
            symbolic = getattr(count, "symbolic", False)
            hint = '; declare a size that is a multiple as one: 4 * td.Dim("N")' if symbolic else ""
            raise ShapeError(f"{op}: {count} elements do not fit shape {shape}{hint}")
        i = unknown[0]
        shape = (*shape[:i], count // known, *shape[i + 1 :])
    elif known != count:
        raise ShapeError(f"{op}: {count} elements do not fit shape {shape} ({known} elements)")
    return shape


def reshape_strides(shape: Shape, strides: Shape, target: Shape) -> Shape | None:
    """Strides that read the same elements as `target` without a copy, or None: runs of axes that lie densely may be
    regrouped."""
    if 0 in shape:
        return dense_strides(target)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    out = [0] * len(target)
    j = len(target) - 1
    i = len(old) - 1
    while i >= 0:
        size, step = old[i]
        i -= 1
        while i >= 0 and old[i][1] == size * step:  # axis i continues the run
            size *= old[i][0]
            i -= 1
        while j >= 0:
            n = target[j]
            if n < 0 or (size == 1 and n != 1) or size % n != 0:
                break
            out[j] = step
            step *= n
            size //= n
            j -= 1
        if size != 1:
            return None
    if j >= 0 and math.prod(target[: j + 1]) != 1:
        return None
    return tuple(out)
