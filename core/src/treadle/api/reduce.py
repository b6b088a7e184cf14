"""Reductions under PyTorch's names: `dim`/`keepdim` (also `axis`/`keepdims`), integer sums in int64, max and min with
indices."""

from typing import Any, NamedTuple

from treadle import dtypes
from treadle._tensor import Tensor
from treadle.errors import ArgumentError, UnsupportedError
from treadle.op import FN
from treadle.shapes import MAX_DIMS
from treadle.shapes import axes as axes_of
from treadle.shapes import axis as axis_of
from treadle.tape import grad_enabled


class MinMax(NamedTuple):
    """Values and their indices along one dimension."""

    values: Tensor
    indices: Tensor


ALL = tuple(tuple(range(rank)) for rank in range(MAX_DIMS + 1))  # every axis, by rank
_KNOWN: dict[Any, tuple[int, ...]] = {}  # (dim or dims, rank) -> axes


def _dims(op: str, x: Tensor, dim: Any, axis: Any) -> tuple[int, ...]:
    given, rank = dim if axis is None else axis, x.sig.ndim
    if given is None or (given.__class__ is not int and isinstance(given, (tuple, list)) and not given):
        return ALL[rank]
    if given.__class__ is not int and given.__class__ is not tuple:
        return axes_of(op, given, rank)
    found = _KNOWN.get((given, rank))
    if found is None:
        found = _KNOWN[given, rank] = axes_of(op, given, rank)
    return found


def _keep(keepdim: bool, keepdims: Any) -> bool:
    return bool(keepdim if keepdims is None else keepdims)


def sum(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None, keepdims: Any = None
) -> Tensor:
    """Return the sum over all or some dimensions; integers and bools add up in int64.

    >>> import treadle as td
    >>> td.sum(td.ones(2, 3), 1)
    tensor([3., 3.])
    """
    if dtype is not None:
        input = input.to(dtype)
    elif input.dtype.kind != "f":
        input = input.to(dtypes.int64) if input.dtype is not dtypes.uint64 else input
    return FN["sum"](input, _dims("sum", input, dim, axis), _keep(keepdim, keepdims))


def prod(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None, keepdims: Any = None
) -> Tensor:
    """Return the product over all or some dimensions; integers multiply in int64."""
    if dtype is not None:
        input = input.to(dtype)
        if input.dtype is dtypes.bool_:
            return all(input, dim, keepdim, axis=axis, keepdims=keepdims)
    elif input.dtype.kind != "f":
        input = input.to(dtypes.int64) if input.dtype is not dtypes.uint64 else input
    return FN["prod"](input, _dims("prod", input, dim, axis), _keep(keepdim, keepdims))


def mean(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None, keepdims: Any = None
) -> Tensor:
    """Return the average over all or some dimensions.

    >>> import treadle as td
    >>> td.mean(td.tensor([1.0, 3.0]))
    tensor(2.)
    """
    input = input if dtype is None else input.to(dtype)
    return FN["mean"](input, _dims("mean", input, dim, axis), _keep(keepdim, keepdims))


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = None,
    axis: Any = None,
    keepdims: Any = None,
) -> Tensor:
    """Return the variance over all or some dimensions, divided by n - correction (1 unless said)."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    c = (1 if unbiased else 0) if correction is None else correction
    return FN["var"](input, _dims("var", input, dim, axis), c, _keep(keepdim, keepdims))


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = None,
    axis: Any = None,
    keepdims: Any = None,
) -> Tensor:
    """Return the standard deviation over all or some dimensions."""
    return FN["sqrt"](var(input, dim, unbiased, keepdim, correction=correction, axis=axis, keepdims=keepdims))


def _extremum(name: str) -> Any:
    arg = f"arg{name}"
    pair = f"{name}imum"

    def run(
        input: Tensor,
        dim: Any = None,
        keepdim: bool = False,
        *,
        other: Any = None,
        axis: Any = None,
        keepdims: Any = None,
    ) -> Any:
        if other is not None or isinstance(dim, Tensor):
            return FN[pair](input, dim if other is None else other)
        given = dim if axis is None else axis
        keep = _keep(keepdim, keepdims)
        if given is None:
            return FN[name](input, ALL[input.ndim], keep)
        if input.ndim == 0:
            return MinMax(FN["copy"](input), input.new_zeros((), dtype=dtypes.int64))
        d = axis_of(name, given, input.ndim)
        if input.node is None or not grad_enabled():
            return MinMax(FN[name](input, (d,), keep), FN[arg](input, d, keep))
        indices = FN[arg](input, d, True)
        values = FN["take_along"](input, indices, d)
        if not keep:
            shape = input.shape[:d] + input.shape[d + 1 :]
            values, indices = FN["reshape"](values, shape), FN["reshape"](indices, shape)
        return MinMax(values, indices)

    run.__name__ = name
    run.__doc__ = f"""Return the {name}imum of all elements.

    With a dimension: the values and their indices; with a tensor: elementwise.

    >>> import treadle as td
    >>> td.{name}(td.tensor([[1.0, 3.0], [4.0, 2.0]]), 1).indices
    tensor([{"1, 0" if name == "max" else "0, 1"}])
    """
    return run


max, min = _extremum("max"), _extremum("min")


def amax(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Tensor:
    """Return the maximum over all or some dimensions; ties share the gradient."""
    return FN["max"](input, _dims("amax", input, dim, axis), _keep(keepdim, keepdims))


def amin(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Tensor:
    """Return the minimum over all or some dimensions; ties share the gradient."""
    return FN["min"](input, _dims("amin", input, dim, axis), _keep(keepdim, keepdims))


def _arg(name: str) -> Any:
    def run(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Tensor:
        given = dim if axis is None else axis
        if given is None:
            flat = FN[name](FN["reshape"](input, (input.sig.size,)), 0, False)
            return FN["reshape"](flat, (1,) * input.ndim) if _keep(keepdim, keepdims) else flat
        return FN[name](input, axis_of(name, given, input.ndim), _keep(keepdim, keepdims))

    run.__name__ = name
    run.__doc__ = f"Return the index (int64) of the first {name[3:]}imum, of all elements or along a dimension."
    return run


argmax, argmin = _arg("argmax"), _arg("argmin")


def any(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Tensor:
    """Return whether any element is true, over all or some dimensions."""
    return _truth("max", "any", input, dim, keepdim, axis, keepdims)


def all(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Tensor:
    """Return whether all elements are true, over all or some dimensions.

    >>> import treadle as td
    >>> td.all(td.tensor([True, False]))
    tensor(False)
    """
    return _truth("min", "all", input, dim, keepdim, axis, keepdims)


def _truth(op: str, name: str, x: Tensor, dim: Any, keepdim: bool, axis: Any, keepdims: Any) -> Tensor:
    x = x.to(dtypes.bool_)
    over, keep = _dims(name, x, dim, axis), _keep(keepdim, keepdims)
    if 0 in (x.shape[d] for d in over):
        shape = (
            [1 if d in over else n for d, n in enumerate(x.shape)]
            if keep
            else [n for d, n in enumerate(x.shape) if d not in over]
        )
        return x.new_full(tuple(shape), name == "all")
    return FN[op](x, over, keep)


def logsumexp(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None
) -> Tensor:
    """Return log(sum(exp(x))) over dimensions, without overflow."""
    input = input if input.dtype.kind == "f" else input.to(dtypes.get_default_dtype())
    if dim is None and axis is None:
        raise ArgumentError("logsumexp: give dim: one dimension or several")
    return FN["logsumexp"](input, _dims("logsumexp", input, dim, axis), _keep(keepdim, keepdims))


def cumsum(input: Tensor, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Tensor:
    """Return running sums along a dimension.

    >>> import treadle as td
    >>> td.cumsum(td.tensor([1, 2, 3]), 0)
    tensor([1, 3, 6])
    """
    d = axis_of("cumsum", dim if axis is None else axis, input.ndim)
    input = input.to(dtype) if dtype is not None else input.to(dtypes.int64) if input.dtype.kind != "f" else input
    if input.ndim == 0:
        return input + 0
    return FN["cumsum"](input, d)


def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the p-norm of all elements or over dimensions (p: a number, inf, -inf or "fro")."""
    p = 2 if p in (None, "fro") else p
    if isinstance(p, str):
        raise UnsupportedError(f"norm: p must be a number or 'fro': {p!r}")
    input = input if dtype is None else input.to(dtype)
    over = _dims("norm", input, dim, None)
    if p in (float("inf"), float("-inf")):
        return FN["max" if p > 0 else "min"](FN["abs"](input), over, keepdim)
    if p == 2:
        return FN["sqrt"](FN["sum"](FN["square"](input), over, keepdim))
    if p == 1:
        return FN["sum"](FN["abs"](input), over, keepdim)
    if p == 0:
        return FN["sum"]((input != 0).to(input.dtype), over, keepdim)
    return FN["sum"](FN["pow"](FN["abs"](input), p), over, keepdim) ** (1.0 / p)


def sort(
    input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True, *, axis: int | None = None
) -> MinMax:
    """Sort along a dimension (always stably): values and the indices they came from.

    >>> import treadle as td
    >>> td.sort(td.tensor([3, 1, 2])).indices
    tensor([1, 2, 0])
    """
    d = axis_of("sort", dim if axis is None else axis, input.ndim)
    if input.ndim == 0:
        return MinMax(FN["copy"](input), input.new_zeros((), dtype=dtypes.int64))
    if input.dtype is dtypes.bool_:
        values, indices = sort(input.to(dtypes.uint8), d, descending)
        return MinMax(values.to(dtypes.bool_), indices)
    if d == input.ndim - 1:
        return MinMax(*FN["sort"](input, bool(descending)))
    order = tuple(k for k in range(input.ndim) if k != d) + (d,)
    back = tuple(order.index(k) for k in range(input.ndim))
    values, indices = FN["sort"](FN["permute"](input, order), bool(descending))
    return MinMax(FN["permute"](values, back), FN["permute"](indices, back))


def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True, *, axis: int | None = None
) -> Tensor:
    """Return the indices that sort along a dimension."""
    return sort(input, dim, descending, axis=axis).indices


def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, *, axis: int | None = None
) -> MinMax:
    """Return the k largest (or smallest) values along a dimension, in order, with their indices.

    >>> import treadle as td
    >>> td.topk(td.tensor([1, 5, 3]), 2).values
    tensor([5, 3])
    """
    d = axis_of("topk", dim if axis is None else axis, input.ndim)
    n = input.shape[d] if input.ndim else 1
    if not 0 <= k <= n:
        raise ArgumentError(f"topk: k = {k} is out of range for size {n}")
    values, indices = sort(input, d, largest)
    return MinMax(_narrow(values, d, 0, k), _narrow(indices, d, 0, k))


def _narrow(x: Tensor, d: int, start: int, count: int) -> Tensor:
    return (
        x
        if x.ndim == 0
        else FN["subscript"](x, tuple((start, count, 1) if k == d else (0, n, 1) for k, n in enumerate(x.shape)))
    )


def median(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: Any = None, keepdims: Any = None) -> Any:
    """Return the lower median of all elements, or values and indices along a dimension."""
    if not input.sig.size:
        raise ArgumentError(f"median: cannot be found without elements: shape {input.shape}")
    dim, keepdim = dim if axis is None else axis, _keep(keepdim, keepdims)
    if dim is None:
        flat = sort(FN["reshape"](input, (input.sig.size,))).values
        return flat[(input.sig.size - 1) // 2]
    d = axis_of("median", dim, input.ndim)
    values, indices = sort(input, d)
    if not input.ndim:
        return MinMax(values, indices)
    at = (input.shape[d] - 1) // 2
    pair = (_narrow(values, d, at, 1), _narrow(indices, d, at, 1))
    return MinMax(*pair) if keepdim else MinMax(*(p.squeeze(d) for p in pair))


FUNCTIONS = """sum prod mean var std max min amax amin argmax argmin any all logsumexp cumsum norm sort argsort topk
    median""".split()
__all__ = FUNCTIONS  # noqa: PLE0605
METHODS: dict[str, Any] = {n: globals()[n] for n in FUNCTIONS}
