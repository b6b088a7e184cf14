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


def size(x: Tensor, dim: int | None = None) -> Any:
    """Return the shape, or the size of one dimension.

    >>> import treadle as td
    >>> td.zeros(2, 3).size(0)
    2
    """
    shape = x.sig.shape
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
def reshape(x: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape (one size may be -1): a view where possible, else a copy.

    >>> import treadle as td
    >>> td.arange(6).reshape(2, -1).shape
    (2, 3)
    """
    return FN["reshape"](x, infer_size("reshape", integers("reshape", shape), x.sig.size))


@remembered
def view(x: Tensor, *shape: Any) -> Tensor:
    """Return a view in another shape; ShapeError where only a copy could do it. With a dtype, reinterpret the bits.

    >>> import treadle as td
    >>> td.zeros(4).view(2, 2).shape
    (2, 2)
    """
    if len(shape) == 1 and isinstance(shape[0], (dtypes.DType, str)):
        return FN["bitcast"](x, dtypes.dtype(shape[0]))
    target = infer_size("view", integers("view", shape), x.sig.size)
    if reshape_strides(x.shape, x.sig.strides, target) is None:
        raise ShapeError(
            f"view: a tensor of shape {x.shape} and strides {x.sig.strides} cannot be seen as {target} "
            "without a copy; use reshape"
        )
    return FN["reshape"](x, target)


def view_as(x: Tensor, other: Tensor) -> Tensor:
    """Return a view with the other tensor's shape."""
    return view(x, other.shape)


def reshape_as(x: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the other tensor's shape."""
    return reshape(x, other.shape)


@remembered
def permute(x: Tensor, *dims: Any) -> Tensor:
    """Return a view with dimensions reordered.

    >>> import treadle as td
    >>> td.zeros(2, 3, 4).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    given = integers("permute", dims)
    order = tuple(axis_of("permute", d, x.ndim) for d in given)
    if len(order) != x.ndim or len(set(order)) != x.ndim:
        raise ArgumentError(f"permute: dims must name each of {x.ndim} dimensions once: {given}")
    return FN["permute"](x, order)


@remembered
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two dimensions swapped."""
    a, b = axis_of("transpose", dim0, x.ndim), axis_of("transpose", dim1, x.ndim)
    if x.ndim == 0:
        return view(x, ())
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return FN["permute"](x, tuple(order))


swapaxes = swapdims = transpose


@remembered
def t(x: Tensor) -> Tensor:
    """Return the transpose of a matrix (vectors and scalars as they are).

    >>> import treadle as td
    >>> td.zeros(2, 3).t().shape
    (3, 2)
    """
    if x.ndim > 2:
        raise ShapeError(f"t: expected at most two dimensions: {x.shape}; use transpose")
    return FN["permute"](x, tuple(range(x.ndim))[::-1])


@remembered
def movedim(x: Tensor, source: Any, destination: Any) -> Tensor:
    """Return a view with dimensions moved to new places."""
    src = [axis_of("movedim", d, x.ndim) for d in ([source] if isinstance(source, int) else source)]
    dst = [axis_of("movedim", d, x.ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(src) != len(dst) or len(set(src)) != len(src) or len(set(dst)) != len(dst):
        raise ArgumentError(
            f"movedim: source and destination must be as many dimensions, each named once: {source}, {destination}"
        )
    rest = iter(d for d in range(x.ndim) if d not in src)
    order = [src[dst.index(d)] if d in dst else next(rest) for d in range(x.ndim)]
    return FN["permute"](x, tuple(order))


moveaxis = movedim


@remembered
def expand(x: Tensor, *sizes: Any) -> Tensor:
    """Return a view with dimensions of size 1 repeated; -1 keeps a size.

    >>> import treadle as td
    >>> td.zeros(3, 1).expand(3, 4).shape
    (3, 4)
    """
    want = integers("expand", sizes)
    lead = len(want) - x.ndim
    if lead < 0:
        raise ShapeError(f"expand: {want} has fewer dimensions than {x.shape}")
    to = tuple((x.shape[d - lead] if d >= lead else -1) if n == -1 else n for d, n in enumerate(want))
    return FN["expand"](x, to)


def broadcast_to(x: Tensor, size: Any) -> Tensor:
    """Return a view of a larger shape."""
    return expand(x, tuple(size))


def expand_as(x: Tensor, other: Tensor) -> Tensor:
    """Return a view expanded to the other tensor's shape."""
    return expand(x, other.shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return views of all tensors in their common shape."""
    shape = broadcast_of("broadcast_tensors", *(x.shape for x in tensors))
    return tuple(FN["expand"](x, shape) for x in tensors)


@remembered
def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    """Return a view without dimensions of size 1 (all, or the given ones that are).

    >>> import treadle as td
    >>> td.zeros(1, 3, 1).squeeze().shape
    (3,)
    """
    over = axes_of("squeeze", dim, x.ndim)
    return FN["reshape"](x, tuple(n for d, n in enumerate(x.shape) if not (d in over and n == 1)))


@remembered
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """Return a view with a dimension of size 1 inserted.

    >>> import treadle as td
    >>> td.zeros(3).unsqueeze(0).shape
    (1, 3)
    """
    d = axis_of("unsqueeze", dim, x.ndim + 1)
    return FN["reshape"](x, (*x.shape[:d], 1, *x.shape[d:]))


@remembered
def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the dimensions from start_dim to end_dim joined into one.

    >>> import treadle as td
    >>> td.zeros(2, 3, 4).flatten(1).shape
    (2, 12)
    """
    shape = x.shape
    if not shape:
        return reshape(x, 1)
    a, b = axis_of("flatten", start_dim, len(shape)), axis_of("flatten", end_dim, len(shape))
    if a > b:
        raise ArgumentError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    joined = 1
    for n in shape[a : b + 1]:
        joined *= n
    return FN["reshape"](x, (*shape[:a], joined, *shape[b + 1 :]))


@remembered
def unflatten(x: Tensor, dim: int, sizes: Any) -> Tensor:
    """Return one dimension split into several (one size may be -1)."""
    d = axis_of("unflatten", dim, x.ndim)
    return FN["reshape"](x, (*x.shape[:d], *infer_size("unflatten", tuple(sizes), x.shape[d]), *x.shape[d + 1 :]))


def ravel(x: Tensor) -> Tensor:
    """Return all elements in one dimension."""
    return FN["reshape"](x, (x.sig.size,))


@remembered
def narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Return the view of `length` indices from `start` along a dimension."""
    d = axis_of("narrow", dim, x.ndim)
    start = start + x.shape[d] if start < 0 else start
    if not 0 <= start <= x.shape[d] - length or length < 0:
        raise ArgumentError(f"narrow: start {start} and length {length} do not fit size {x.shape[d]}")
    return FN["subscript"](x, tuple((start, length, 1) if k == d else (0, n, 1) for k, n in enumerate(x.shape)))


@remembered
def select(x: Tensor, dim: int, index: int) -> Tensor:
    """Return the view at one index of a dimension."""
    d = axis_of("select", dim, x.ndim)
    return x[(slice(None),) * d + (index,)]


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the views at every index of a dimension."""
    return tuple(select(x, dim, i) for i in range(x.shape[axis_of("unbind", dim, x.ndim)]))


def split(x: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return consecutive views of a size (the last may be smaller), or of the listed sizes.

    >>> import treadle as td
    >>> [p.shape[0] for p in td.arange(5).split(2)]
    [2, 2, 1]
    """
    n = x.shape[axis_of("split", dim, x.ndim)]
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
        out.append(narrow(x, dim, start, p))
        start += p
    return tuple(out)


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return up to `chunks` views of equal size along a dimension (the last may be smaller)."""
    if chunks <= 0:
        raise ArgumentError(f"chunk: at least one chunk is needed: {chunks}")
    n = x.shape[axis_of("chunk", dim, x.ndim)]
    return split(x, max(1, -(-n // chunks)), dim)


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


def _all_tensors(op: str, given: list[Any]) -> None:
    for x in given:
        if not isinstance(x, Tensor):
            raise DTypeError(f"{op}: a sequence of tensors is needed, it holds a {type(x).__name__}")


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
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
    d = axis_of("stack", dim, tensors[0].ndim + 1)
    return FN["concat"](*[unsqueeze(x, d) for x in tensors], axis=d)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 1 (0 for vectors)."""
    return cat([reshape(x, 1) if x.ndim == 0 else x for x in tensors], 0 if tensors[0].ndim <= 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 0, vectors as rows."""
    return cat([reshape(x, 1, -1) if x.ndim < 2 else x for x in tensors], 0)


def flip(x: Tensor, *dims: Any) -> Tensor:
    """Return a view with dimensions reversed.

    >>> import treadle as td
    >>> td.arange(3).flip(0)
    tensor([2, 1, 0])
    """
    return FN["flip"](x, axes_of("flip", integers("flip", dims), x.ndim))


def roll(x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Return x with elements moved around along dimensions."""
    if dims is None:
        return reshape(roll(ravel(x), shifts, 0), x.shape)
    pairs = [(shifts, dims)] if isinstance(shifts, int) else list(zip(shifts, dims, strict=True))
    given = x
    for shift, dim in pairs:
        d = axis_of("roll", dim, x.ndim)
        n = x.shape[d]
        if n and shift % n:
            x = cat([narrow(x, d, n - shift % n, shift % n), narrow(x, d, 0, n - shift % n)], d)
    return FN["copy"](x) if x is given else x


def repeat(x: Tensor, *sizes: Any) -> Tensor:
    """Return x tiled: repeat(2, 3) of a vector has 2 rows of 3 copies."""
    counts = integers("repeat", sizes)
    lead = len(counts) - x.ndim
    if lead < 0:
        raise ShapeError(f"repeat: {counts} has fewer dimensions than {x.shape}")
    shape = (1,) * lead + x.shape
    apart = reshape(x, [n for s in shape for n in (1, s)])
    wide = FN["expand"](apart, tuple(n for c, s in zip(counts, shape, strict=True) for n in (c, s)))
    return reshape(FN["copy"](wide), [c * s for c, s in zip(counts, shape, strict=True)])


def tile(x: Tensor, *dims: Any) -> Tensor:
    """Return x tiled; missing leading counts are 1."""
    counts = integers("tile", dims)
    return repeat(x, (1,) * (x.ndim - len(counts)) + counts)


def repeat_interleave(x: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Return x with every element repeated in place."""
    if dim is None:
        x, dim = ravel(x), 0
    d = axis_of("repeat_interleave", dim, x.ndim)
    wide = unsqueeze(x, d + 1)
    wide = FN["expand"](wide, (*x.shape[: d + 1], repeats, *x.shape[d + 1 :]))
    return reshape(FN["copy"](wide), (*x.shape[:d], x.shape[d] * repeats, *x.shape[d + 1 :]))


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return the view of all windows of a size along a dimension, as a last dimension."""
    d = axis_of("unfold", dimension, x.ndim)
    if size < 0 or step < 1 or size > x.shape[d]:
        raise ArgumentError(f"unfold: size {size} and step {step} do not fit a dimension of {x.shape[d]}")
    return FN["windows"](x, d, size, step, 1)


def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return the elements of a diagonal as a last dimension."""
    a, b = axis_of("diagonal", dim1, x.ndim), axis_of("diagonal", dim2, x.ndim)
    if a == b:
        raise ArgumentError(f"diagonal: two different dimensions are needed: {dim1}, {dim2}")
    x = movedim(x, (a, b), (-2, -1))
    rows, columns = x.shape[-2:]
    n = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    i = x.new_arange(n) + max(-offset, 0)
    return x[..., i, i + offset]


def diag(x: Tensor, diagonal: int = 0) -> Tensor:
    """Return a matrix with the vector on a diagonal, or the diagonal of a matrix."""
    if x.ndim == 2:
        return globals()["diagonal"](x, diagonal)
    n = x.shape[0] + abs(diagonal)
    rows, columns = x.new_arange(n).reshape(n, 1), x.new_arange(n)
    placed = FN["pad"](x, 0.0, ((max(diagonal, 0), max(-diagonal, 0)),))
    return FN["where"](columns == rows + diagonal, placed, x.new_zeros(()))


def _triangle(x: Tensor, keep: Any) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"tril/triu: two dimensions or more expected: {x.shape}")
    rows, columns = x.shape[-2:]
    return FN["where"](
        keep(x.new_arange(columns) - x.new_arange(rows).reshape(rows, 1)), x, 0 if x.dtype.kind != "b" else False
    )


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """Return the lower triangle, zeros above.

    >>> import treadle as td
    >>> td.tril(td.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """
    return _triangle(x, lambda d: d <= diagonal)


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """Return the upper triangle, zeros below."""
    return _triangle(x, lambda d: d >= diagonal)


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the elements that an index tensor picks along a dimension."""
    return FN["take_along"](x, index, axis_of("gather", dim, x.ndim))


def take_along_dim(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """Return the elements that an index tensor picks along a dimension."""
    return gather(x, dim, indices)


def scatter(x: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """Return x with src written at the places an index tensor names along a dimension."""
    src = x.new_full(index.shape, src) if not isinstance(src, Tensor) else _fitted(src, index)
    return FN["put_along"](x, index, src, axis_of("scatter", dim, x.ndim), "set")


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return x with src added at the places an index tensor names along a dimension."""
    return FN["put_along"](x, index, _fitted(src, index), axis_of("scatter_add", dim, x.ndim), "add")


def _fitted(src: Tensor, index: Tensor) -> Tensor:
    """The part of a source that an index of a smaller shape uses."""
    if src.shape == index.shape or src.ndim != index.ndim:
        return src
    # type: ignore[no-any-return]
    return FN["subscript"](src, tuple((0, min(n, m), 1) for n, m in zip(index.shape, src.shape, strict=True)))


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the slices that a vector of indices names along a dimension."""
    d = axis_of("index_select", dim, x.ndim)
    if index.ndim > 1:
        raise ShapeError(f"index_select: the index must be a vector: {index.shape}")
    return x[(slice(None),) * d + (index,)]


def take(x: Tensor, index: Tensor, axis: int | None = None) -> Tensor:
    """Return elements of the flattened tensor, or slices along an axis."""
    return ravel(x)[index] if axis is None else index_select(x, axis, index)


def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """Return the elements where a mask holds, in one dimension."""
    shape = broadcast_of("masked_select", x.shape, mask.shape)
    return FN["expand"](x, shape)[FN["expand"](mask, shape)]


def nonzero(x: Tensor) -> Tensor:
    """Return the coordinates (count, ndim) of all nonzero elements.

    >>> import treadle as td
    >>> td.nonzero(td.tensor([0, 3, 4]))
    tensor([[1],
            [2]])
    """
    return FN["nonzero"](x)


def one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    """Return integers as rows with a single 1 (int64)."""
    n = num_classes if num_classes >= 0 else int(x.max().item()) + 1 if x.sig.size else 0
    if x.sig.size and (int(x.min().item()) < 0 or int(x.max().item()) >= n):
        raise ArgumentError(f"one_hot: values must lie in [0, {n})")
    return (unsqueeze(x, -1) == x.new_arange(n, dtype=x.dtype)).to(dtypes.int64)


def meshgrid(*tensors: Tensor, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Return coordinate grids of vectors."""
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f"meshgrid: indexing must be 'ij' or 'xy': {indexing!r}")
    n = len(tensors)
    shape = tuple(x.shape[0] for x in tensors)
    grids = tuple(
        FN["expand"](reshape(x, [x.shape[0] if d == k else 1 for d in range(n)]), shape) for k, x in enumerate(tensors)
    )
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and n > 1 else grids


FUNCTIONS = """reshape permute transpose swapaxes swapdims t movedim moveaxis broadcast_to broadcast_tensors squeeze
    unsqueeze flatten unflatten ravel narrow select unbind split chunk cat concat concatenate stack hstack vstack flip
    roll tile repeat_interleave diagonal diag tril triu gather take_along_dim scatter scatter_add index_select take
    masked_select nonzero meshgrid""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {
    n: globals()[n]
    for n in [*FUNCTIONS, "size", "view", "view_as", "reshape_as", "expand", "expand_as", "repeat", "unfold"]
}
for _name in ("cat", "concat", "concatenate", "hstack", "vstack", "meshgrid", "broadcast_tensors"):
    del METHODS[_name]
METHODS["stack"] = lambda x, tensors, dim=0: stack(tensors, dim)
