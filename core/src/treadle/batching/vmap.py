"""td.vmap: a function of one example, called with a batch of them."""

import functools
from collections.abc import Callable
from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.batching.level import RANDOMNESS, Level
from treadle.batching.special import moved
from treadle.errors import ArgumentError, BatchError, IndexRangeError


def vmap(
    f: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0, randomness: str = "error", axis_size: int | None = None
) -> Callable[..., Any]:
    """Return a function that maps f over an axis of its arguments, as one call of every op and not in a loop.

    Inside of f a tensor has the shape of one example. in_dims says which axis of each argument is the batch: one number
    for all, or a structure like the arguments, None where all examples share a tensor. Keyword arguments are shared.
    out_dims says where the axis goes in the results; results that are the same for all examples are repeated.
    randomness: whether draws inside f are "different" for the examples (one draw with the batch axis in front), the
    "same", or an "error". axis_size is needed where no argument is mapped. ArgumentError for sizes that differ;
    BatchError where f needs one value of many (`.item()`, `if`).

    >>> import treadle as td
    >>> dot = td.vmap(lambda a, b: (a * b).sum())
    >>> dot(td.ones(3, 2), td.arange(6.0).reshape(3, 2))
    tensor([1., 5., 9.])
    """
    if randomness not in RANDOMNESS:
        raise ArgumentError(f"vmap: randomness must be one of {', '.join(map(repr, RANDOMNESS))}: {randomness!r}")

    @functools.wraps(f, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree.flatten(args)
        dims = spread(_like_arguments(in_dims, args), args, "in_dims")
        names = _names(args)
        axes = [_axis(x, d, name) for x, d, name in zip(leaves, dims, names, strict=True)]
        level = Level(_size(leaves, axes, names, axis_size), randomness)
        given = [_entered(level, x, d) for x, d in zip(leaves, axes, strict=True)]
        with level:
            out = f(*structure.build(iter(given)), **kwargs)
            results, shape = tree.flatten(out)
            places = spread(out_dims, out, "out_dims")
            left = [_left(level, y, d) for y, d in zip(results, places, strict=True)]
        return shape.build(iter(left))

    return mapped


def _like_arguments(in_dims: Any, args: tuple[Any, ...]) -> Any:
    """in_dims with one entry per argument."""
    if in_dims is None or isinstance(in_dims, int):
        return (in_dims,) * len(args)
    if not isinstance(in_dims, (tuple, list)):
        raise ArgumentError(f"vmap: in_dims must be an integer, None, or one entry per argument: {in_dims!r}")
    if len(in_dims) != len(args):
        raise ArgumentError(f"vmap: in_dims {in_dims!r} has {len(in_dims)} entries for {len(args)} arguments")
    return tuple(in_dims)


def spread(dims: Any, values: Any, what: str) -> list[Any]:
    """One entry per leaf of `values`: a number or None stands for all leaves below it."""
    if dims is None or dims.__class__ is int:
        return [dims] * len(tree.leaves(values))
    kind = tuple if isinstance(dims, tuple) else type(dims)
    if isinstance(dims, dict) and isinstance(values, dict) and dims.keys() == values.keys():
        return [d for k in sorted(values, key=repr) for d in spread(dims[k], values[k], what)]
    if isinstance(dims, (list, tuple)) and isinstance(values, kind) and len(dims) == len(values):
        return [d for each, v in zip(dims, values, strict=True) for d in spread(each, v, what)]
    described = type(values).__name__ if not isinstance(values, (list, tuple, dict)) else repr(tree.flatten(values)[1])
    raise ArgumentError(f"vmap: {what} {dims!r} does not fit the structure {described}")


def _names(args: Any, name: str = "argument ") -> list[str]:
    """How errors call the leaves: `argument 0['weight'][1]`."""
    out: list[str] = []
    for k, x in enumerate(args):
        _named(x, f"{name}{k}", out)
    return out


def _named(x: Any, name: str, out: list[str]) -> None:
    if isinstance(x, dict):
        for k in sorted(x, key=repr):
            _named(x[k], f"{name}[{k!r}]", out)
    elif x.__class__ is list or x.__class__ is tuple or (isinstance(x, tuple) and hasattr(x, "_fields")):
        for k, y in enumerate(x):
            _named(y, f"{name}[{k}]", out)
    else:
        out.append(name)


def _axis(x: Any, dim: Any, name: str) -> int | None:
    """The axis of a leaf that is mapped over, from the front."""
    if dim is None or x is None:
        return None
    if not isinstance(x, Tensor):
        raise ArgumentError(
            f"vmap: {name} is of type {type(x).__name__}, not a tensor: its entry of in_dims must be None"
        )
    if not -x.ndim <= dim < x.ndim:
        raise IndexRangeError(
            f"vmap: {name} ({x.dtype.name}{list(x.shape)}) has no axis {dim}, which in_dims names as its batch"
        )
    return dim % x.ndim  # type: ignore[no-any-return]


def _size(leaves: list[Any], axes: list[int | None], names: list[str], given: int | None) -> int:
    """The size of the batch, on which all mapped arguments must agree."""
    found = [(x.shape[d], f"{name} has {x.shape[d]} (axis {d} of {x.dtype.name}{list(x.shape)})")
             for x, d, name in zip(leaves, axes, names, strict=True) if d is not None]  # fmt: skip
    if given is not None:
        found.insert(0, (given, f"axis_size is {given}"))
    if not found:
        raise ArgumentError("vmap: no argument is mapped (in_dims is None for all of them): pass axis_size")
    odd = next((text for n, text in found if n != found[0][0]), None)
    if odd is not None:
        raise ArgumentError(f"vmap: the sizes of the mapped axes differ: {found[0][1]}, {odd}")
    return found[0][0]


def _entered(level: Level, x: Any, dim: int | None) -> Any:
    if not isinstance(x, Tensor):
        return x
    inner = x if level.before is None else level.before.lift(x)
    return level.enter(inner if dim is None else moved(inner, dim, 0), dim is not None)


def _left(level: Level, y: Any, dim: int | None) -> Any:
    if not isinstance(y, Tensor):
        if dim is None or y is None:
            return y
        raise ArgumentError(
            f"vmap: the function returned a {type(y).__name__} where a tensor is expected; make it one, or give it "
            "None in out_dims"
        )
    value, has_batch = level.unwrap(y)
    if dim is None:
        if has_batch:
            raise BatchError(
                f"vmap: out_dims is None for a result ({y.dtype.name}{list(y.shape)}) that differs between the examples"
            )
        return value
    rank = y.ndim + 1
    if not -rank <= dim < rank:
        raise IndexRangeError(
            f"vmap: out_dims {dim} is out of range for a result of shape {tuple(y.shape)} with the batch"
        )
    value = level.leave(y)
    with level.outside():
        return moved(value, 0, dim % rank)
