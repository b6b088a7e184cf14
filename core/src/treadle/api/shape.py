"""Shape functions under PyTorch's names: views where the layout allows, else copies."""

from collections.abc import Sequence
from typing import Any

from treadle import dtypes
from treadle._tensor import Tensor
from treadle.api.remember import remembered
from treadle.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from treadle.op import FN
from treadle.shapes import axes as axes_of
from treadle.shapes import axis as axis_of
from treadle.shapes import broadcast as broadcast_of
from treadle.shapes import infer_size, integers, reshape_strides


def listed(op: str, keyword: str, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...]:
    """Integers given one by one, as one sequence, or under their name."""
    if named:
        if given or set(named) != {keyword}:
            raise TypeError(f"{op}() takes {keyword} once, by position or by name; given {given} and {sorted(named)}")
        given = (named[keyword],)
    return integers(op, given)


def size(input: Tensor, dim: int | None = None) -> Any:
    """Return the shape, or the size of one dimension.

    >>> import treadle as td
    >>> td.zeros(2, 3).size(0)
    2
    """
    shape = input.sig.shape
    if dim is None:
        return shape
    if not shape:
        raise IndexRangeError("size: a 0-d tensor has no dimensions")
    return (
        shape[dim]
        if dim.__class__ is int and -len(shape) <= dim < len(shape)
        else shape[axis_of("size", dim, len(shape))]
    )


@remembered
def reshape(input: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Return the elements in another shape (one size may be -1): a view where possible, else a copy.

    >>> import treadle as td
    >>> td.arange(6).reshape(2, -1).shape
    (2, 3)
    """
    return FN["reshape"](input, infer_size("reshape", listed("reshape", "shape", sizes, named), input.sig.size))


@remembered
def view(input: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Return a view in another shape; ShapeError where only a copy could do it. With a dtype, reinterpret the bits.

    >>> import treadle as td
    >>> td.zeros(4).view(2, 2).shape
    (2, 2)
    """
    if "dtype" in named or (len(sizes) == 1 and isinstance(sizes[0], (dtypes.DType, str))):
        return FN["bitcast"](input, dtypes.dtype(named.get("dtype", *sizes)))
    target = infer_size("view", listed("view", "size", sizes, named), input.sig.size)
    if reshape_strides(input.shape, input.sig.strides, target) is None:
        raise ShapeError(
            f"view: a tensor of shape {input.shape} and strides {input.sig.strides} cannot be seen as {target} "
            "without a copy; use reshape"
        )
    return FN["reshape"](input, target)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """Return a view with the other tensor's shape."""
    return view(input, other.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the other tensor's shape."""
    return reshape(input, other.shape)


@remembered
def permute(input: Tensor, *order: Any, **named: Any) -> Tensor:
    """Return a view with dimensions reordered.

    >>> import treadle as td
    >>> td.zeros(2, 3, 4).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    given = listed("permute", "dims", order, named)
    dims = tuple(axis_of("permute", d, input.ndim) for d in given)
    if len(dims) != input.ndim or len(set(dims)) != input.ndim:
        raise ArgumentError(f"permute: dims must name each of {input.ndim} dimensions once: {given}")
    return FN["permute"](input, dims)


@remembered
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two dimensions swapped."""
    a, b = axis_of("transpose", dim0, input.ndim), axis_of("transpose", dim1, input.ndim)
    if input.ndim == 0:
        return view(input, ())
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    return FN["permute"](input, tuple(order))


swapdims = transpose


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """Return a view with two dimensions swapped."""
    return transpose(input, axis0, axis1)


@remembered
def t(input: Tensor) -> Tensor:
    """Return the transpose of a matrix (vectors and scalars as they are).

    >>> import treadle as td
    >>> td.zeros(2, 3).t().shape
    (3, 2)
    """
    if input.ndim > 2:
        raise ShapeError(f"t: expected at most two dimensions: {input.shape}; use transpose")
    return FN["permute"](input, tuple(range(input.ndim))[::-1])


@remembered
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Return a view with dimensions moved to new places."""
    src = [axis_of("movedim", d, input.ndim) for d in ([source] if isinstance(source, int) else source)]
    dst = [axis_of("movedim", d, input.ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(src) != len(dst) or len(set(src)) != len(src) or len(set(dst)) != len(dst):
        raise ArgumentError(
            f"movedim: source and destination must be as many dimensions, each named once: {source}, {destination}"
        )
    rest = iter(d for d in range(input.ndim) if d not in src)
    order = [src[dst.index(d)] if d in dst else next(rest) for d in range(input.ndim)]
    return FN["permute"](input, tuple(order))


moveaxis = movedim


@remembered
def expand(input: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Return a view with dimensions of size 1 repeated; -1 keeps a size.

    >>> import treadle as td
    >>> td.zeros(3, 1).expand(3, 4).shape
    (3, 4)
    """
    want = listed("expand", "size", sizes, named)
    lead = len(want) - input.ndim
    if lead < 0:
        raise ShapeError(f"expand: {want} has fewer dimensions than {input.shape}")
    to = tuple((input.shape[d - lead] if d >= lead else -1) if n == -1 else n for d, n in enumerate(want))
    return FN["expand"](input, to)


def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """Return a view of a larger shape."""
    return expand(input, tuple(size))


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Return a view expanded to the other tensor's shape."""
    return expand(input, other.shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return views of all tensors in their common shape."""
    shape = broadcast_of("broadcast_tensors", *(x.shape for x in tensors))
    return tuple(FN["expand"](x, shape) for x in tensors)


@remembered
def squeeze(input: Tensor, dim: Any = None, *, axis: Any = None) -> Tensor:
    """Return a view without dimensions of size 1 (all, or the given ones that are).

    >>> import treadle as td
    >>> td.zeros(1, 3, 1).squeeze().shape
    (3,)
    """
    over = axes_of("squeeze", dim if axis is None else axis, input.ndim)
    return FN["reshape"](input, tuple(n for d, n in enumerate(input.shape) if not (d in over and n == 1)))


@remembered
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Return a view with a dimension of size 1 inserted.

    >>> import treadle as td
    >>> td.zeros(3).unsqueeze(0).shape
    (1, 3)
    """
    d = axis_of("unsqueeze", dim, input.ndim + 1)
    return FN["reshape"](input, (*input.shape[:d], 1, *input.shape[d:]))


@remembered
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the dimensions from start_dim to end_dim joined into one.

    >>> import treadle as td
    >>> td.zeros(2, 3, 4).flatten(1).shape
    (2, 12)
    """
    shape = input.shape
    if not shape:
        return reshape(input, 1)
    a, b = axis_of("flatten", start_dim, len(shape)), axis_of("flatten", end_dim, len(shape))
    if a > b:
        raise ArgumentError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    joined = 1
    for n in shape[a : b + 1]:
        joined *= n
    return FN["reshape"](input, (*shape[:a], joined, *shape[b + 1 :]))


@remembered
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Return one dimension split into several (one size may be -1)."""
    d = axis_of("unflatten", dim, input.ndim)
    return FN["reshape"](
        input, (*input.shape[:d], *infer_size("unflatten", tuple(sizes), input.shape[d]), *input.shape[d + 1 :])
    )


def ravel(input: Tensor) -> Tensor:
    """Return all elements in one dimension."""
    return FN["reshape"](input, (input.sig.size,))


@remembered
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """Return the view of `length` indices from `start` (a number, or an integer tensor of one) along a dimension."""
    if isinstance(start, Tensor):
        if start.ndim or start.dtype.kind not in "iu":
            raise ArgumentError(f"narrow: start must be an integer, or a 0-d tensor of one: {start.dtype.name}")
        start = start.item()
    if not input.ndim:
        raise ShapeError("narrow: a 0-d tensor has no dimension to narrow")
    d = axis_of("narrow", dim, input.ndim)
    first = start + input.shape[d] if start < 0 else start
    if not 0 <= first <= input.shape[d] - length or length < 0:
        raise ArgumentError(f"narrow: start {start} and length {length} do not fit size {input.shape[d]}")
    return FN["subscript"](input, tuple((first, length, 1) if k == d else (0, n, 1) for k, n in enumerate(input.shape)))


@remembered
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Return the view at one index of a dimension."""
    d = axis_of("select", dim, input.ndim)
    return input[(slice(None),) * d + (index,)]


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the views at every index of a dimension."""
    return tuple(select(input, dim, i) for i in range(input.shape[axis_of("unbind", dim, input.ndim)]))


def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return consecutive views of a size (the last may be smaller), or of the listed sizes.

    >>> import treadle as td
    >>> [p.shape[0] for p in td.arange(5).split(2)]
    [2, 2, 1]
    """
    n = input.shape[axis_of("split", dim, input.ndim)]
    if hasattr(split_size_or_sections, "__index__"):
        step = int(split_size_or_sections)
        if step <= 0:
            raise ArgumentError(f"split: the size of a part must be positive: {step}")
        parts = [min(step, n - s) for s in range(0, n, step)] or [0]
    else:
        parts = list(split_size_or_sections)
        if sum(parts) != n or any(p < 0 for p in parts):
            raise ArgumentError(f"split: sizes {parts} do not add up to {n}")
    out, start = [], 0
    for p in parts:
        out.append(narrow(input, dim, start, p))
        start += p
    return tuple(out)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return up to `chunks` views of equal size along a dimension (the last may be smaller)."""
    if chunks <= 0:
        raise ArgumentError(f"chunk: at least one chunk is needed: {chunks}")
    n = input.shape[axis_of("chunk", dim, input.ndim)]
    return split(input, max(1, -(-n // chunks)), dim)


def cat(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """Join tensors along an existing dimension.

    >>> import treadle as td
    >>> td.cat([td.zeros(2), td.ones(1)])
    tensor([0., 0., 1.])
    """
    tensors = list(tensors)
    if not tensors:
        raise ArgumentError("cat: at least one tensor is needed")
    _all_tensors("cat", tensors)
    kept = [x for x in tensors if x.shape != (0,)] or tensors[:1]  # PyTorch lets empty 1-d tensors join anything
    if kept[0].ndim == 0:
        raise ShapeError("cat: 0-d tensors cannot be joined; use stack")
    return FN["concat"](*kept, axis=axis_of("cat", dim if axis is None else axis, kept[0].ndim))


def _all_tensors(op: str, given: Sequence[Any]) -> None:
    for x in given:
        if not isinstance(x, Tensor):
            raise DTypeError(f"{op}: a sequence of tensors is needed, it holds a {type(x).__name__}")


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """Join tensors of one shape along a new dimension.

    >>> import treadle as td
    >>> td.stack([td.zeros(2), td.ones(2)]).shape
    (2, 2)
    """
    tensors = list(tensors)
    if not tensors:
        raise ArgumentError("stack: at least one tensor is needed")
    _all_tensors("stack", tensors)
    if any(x.shape != tensors[0].shape for x in tensors):
        raise ShapeError(f"stack: all tensors must have one shape: {[x.shape for x in tensors]}")
    d = axis_of("stack", dim if axis is None else axis, tensors[0].ndim + 1)
    return FN["concat"](*[unsqueeze(x, d) for x in tensors], axis=d)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 1 (0 for vectors)."""
    if not tensors:
        raise ArgumentError("hstack: at least one tensor is needed")
    return cat([reshape(x, 1) if x.ndim == 0 else x for x in tensors], 0 if tensors[0].ndim <= 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 0, vectors as rows."""
    return cat([reshape(x, 1, -1) if x.ndim < 2 else x for x in tensors], 0)


def flip(input: Tensor, *over: Any, **named: Any) -> Tensor:
    """Return a view with dimensions reversed.

    >>> import treadle as td
    >>> td.arange(3).flip(0)
    tensor([2, 1, 0])
    """
    return FN["flip"](input, axes_of("flip", listed("flip", "dims", over, named), input.ndim))


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Return input with elements moved around along dimensions."""
    if dims is None or dims in ((), []):
        return reshape(roll(ravel(input), shifts, 0), input.shape)
    moves, over = ([v] if hasattr(v, "__index__") else list(v) for v in (shifts, dims))
    if len(moves) != len(over):
        raise ArgumentError(f"roll: as many shifts as dims are needed: {shifts}, {dims}")
    given = input
    for shift, dim in zip(moves, over, strict=True):
        d = axis_of("roll", dim, input.ndim)
        n = input.shape[d]
        if n and shift % n:
            input = cat([narrow(input, d, n - shift % n, shift % n), narrow(input, d, 0, n - shift % n)], d)
    return FN["copy"](input) if input is given else input


def repeat(input: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Return input tiled: repeat(2, 3) of a vector has 2 rows of 3 copies."""
    counts = listed("repeat", "repeats", sizes, named)
    lead = len(counts) - input.ndim
    if lead < 0:
        raise ShapeError(f"repeat: {counts} has fewer dimensions than {input.shape}")
    shape = (1,) * lead + input.shape
    apart = reshape(input, [n for s in shape for n in (1, s)])
    wide = FN["expand"](apart, tuple(n for c, s in zip(counts, shape, strict=True) for n in (c, s)))
    return reshape(FN["copy"](wide), [c * s for c, s in zip(counts, shape, strict=True)])


def tile(input: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Return input tiled; missing leading counts are 1."""
    counts = listed("tile", "dims", sizes, named)
    return repeat(input, (1,) * (input.ndim - len(counts)) + counts)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return the view of all windows of a size along a dimension, as a last dimension."""
    if not input.ndim:
        return narrow(reshape(input, 1), axis_of("unfold", dimension, 0), 0, size)
    d = axis_of("unfold", dimension, input.ndim)
    if size < 0 or step < 1 or size > input.shape[d]:
        raise ArgumentError(f"unfold: size {size} and step {step} do not fit a dimension of {input.shape[d]}")
    return FN["windows"](input, d, size, step, 1)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return the elements of a diagonal as a last dimension: a view, or a copy where the matrices have gaps."""
    a, b = axis_of("diagonal", dim1, input.ndim), axis_of("diagonal", dim2, input.ndim)
    if a == b:
        raise ArgumentError(f"diagonal: two different dimensions are needed: {dim1}, {dim2}")
    x = movedim(input, (a, b), (-2, -1))
    if not _flat(x) and _flat(transpose(x, -1, -2)):
        x, offset = transpose(x, -1, -2), -offset
    rows, columns = x.shape[-2:]
    n = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    first = max(offset, 0) + max(-offset, 0) * columns if n else 0
    flat = reshape(x, (*x.shape[:-2], rows * columns))  # every (columns + 1)th element lies on a diagonal
    return FN["subscript"](flat, (*((0, size, 1) for size in x.shape[:-2]), (first, n, columns + 1)))


def _flat(x: Tensor) -> bool:
    """Whether the last two dimensions can be seen as one."""
    shape = (*x.shape[:-2], x.shape[-2] * x.shape[-1])
    return reshape_strides(x.shape, x.sig.strides, shape) is not None


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return a matrix with the vector on a diagonal, or the diagonal of a matrix as a new tensor."""
    if input.ndim not in (1, 2):
        raise ShapeError(f"diag: a vector or a matrix is needed: {input.shape}")
    if input.ndim == 2:
        return FN["copy"](globals()["diagonal"](input, diagonal))
    n = input.shape[0] + abs(diagonal)
    rows, columns = input.new_arange(n).reshape(n, 1), input.new_arange(n)
    placed = FN["pad"](input, 0.0, ((max(diagonal, 0), max(-diagonal, 0)),))
    return FN["where"](columns == rows + diagonal, placed, input.new_zeros(()))


def _triangle(x: Tensor, keep: Any) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"tril/triu: two dimensions or more expected: {x.shape}")
    rows, columns = x.shape[-2:]
    return FN["where"](
        keep(x.new_arange(columns) - x.new_arange(rows).reshape(rows, 1)), x, 0 if x.dtype.kind != "b" else False
    )


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return the lower triangle, zeros above.

    >>> import treadle as td
    >>> td.tril(td.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """
    return _triangle(input, lambda d: d <= diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return the upper triangle, zeros below."""
    return _triangle(input, lambda d: d >= diagonal)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Return coordinate grids of vectors (or single numbers), given one by one or as a list."""
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f"meshgrid: indexing must be 'ij' or 'xy': {indexing!r}")
    vectors = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    _all_tensors("meshgrid", vectors)
    if not vectors or any(x.ndim > 1 for x in vectors):
        raise ShapeError(f"meshgrid: vectors are needed: {[x.shape for x in vectors]}")
    n = len(vectors)
    shape = tuple(x.sig.size for x in vectors)
    grids = tuple(
        FN["expand"](reshape(x, [x.sig.size if d == k else 1 for d in range(n)]), shape) for k, x in enumerate(vectors)
    )
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and n > 1 else grids


FUNCTIONS = """reshape permute transpose swapaxes swapdims t movedim moveaxis broadcast_to broadcast_tensors squeeze
    unsqueeze flatten unflatten ravel narrow select unbind split chunk cat concat concatenate stack hstack vstack flip
    roll tile diagonal diag tril triu meshgrid""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {
    n: globals()[n]
    for n in [*FUNCTIONS, "size", "view", "view_as", "reshape_as", "expand", "expand_as", "repeat", "unfold"]
}
for _name in ("cat", "concat", "concatenate", "hstack", "vstack", "meshgrid", "broadcast_tensors"):
    del METHODS[_name]
METHODS["stack"] = lambda x, tensors, dim=0: stack(tensors, dim)
