"""User functions with their own gradient, under vmap and a tape outside of it.

A tape outside would otherwise record what forward does, and never ask backward. So the call becomes one user function
of the level outside: its forward is forward under this level, its backward is backward under another level of the same
size.
"""

from typing import Any, NamedTuple

from treadle._tensor import Tensor
from treadle.autograd.function import Function, FunctionCtx
from treadle.autograd.grad_mode import recording
from treadle.op import FN, interpreting

_OWN = ("_saved", "_constant", "_node")  # of a context, beside what the user put there


class _Kept(NamedTuple):
    """A tensor that forward left for backward, as one of the level outside. call: which `apply` it belongs to."""

    call: Any
    value: Any
    has_batch: bool


class _Result(NamedTuple):
    """The same, where it is a result: that comes with its place on the tape outside."""

    call: Any
    number: int


def apply(level: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply a user function to tensors of a level."""
    spots = [k for k, x in enumerate(args) if isinstance(x, Tensor)]
    values, flags = zip(*[level.unwrap(args[k]) for k in spots], strict=True)
    found: list[Any] = []  # what forward returned
    call = object()

    class Batched(Function):
        @staticmethod
        def forward(ctx: Any, *values: Any) -> Any:
            given, needs = list(args), [False] * len(args)
            for k, value, has_batch, need in zip(spots, values, flags, ctx.needs_input_grad, strict=True):
                given[k], needs[k] = level.wrap(value, has_batch), need
            inner = FunctionCtx(tuple(needs))
            with level.unrecorded(), interpreting(level), recording(False):
                out = function.forward(inner, *given, **kwargs)
                found.append(out)
                outs = [y for y in _several(out) if isinstance(y, Tensor)]
                ctx.left = _left(level, inner, outs, call)
                made = tuple(level.leave(y) for y in outs)
            made = tuple(FN["copy"](y) for y in made)
            ctx.size, ctx.randomness = level.size, level.randomness
            ctx.save_for_backward(*made)
            ctx.mark_non_differentiable(*[m for m, y in zip(made, outs, strict=True) if id(y) in inner._constant])
            return made

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            with type(level)(ctx.size, ctx.randomness) as inside:
                inner = _context(inside, ctx.left, ctx.saved_tensors, call)
                given = iter(None if g is None else inside.admit(g, True) for g in gradients)
                outs = _several(found[0])
                grads = _several(function.backward(inner, *[next(given) if y is Tensor else None for y in outs]))
                grads = (*grads, *(None,) * (len(args) - len(grads)))
                out = [None if grads[k] is None else inside.leave(grads[k]) for k in spots]
            return tuple(
                g if g is None or has_batch else FN["sum"](g, (0,)) for g, has_batch in zip(out, flags, strict=True)
            )

    Batched.__name__ = function.__name__
    with level.outside():
        made = iter(Batched.apply(*values))
    out = found[0]
    found[0] = _mapped(lambda y: Tensor if isinstance(y, Tensor) else y, out)  # backward needs to know no more
    several = tuple(level.wrap(next(made), True) if isinstance(y, Tensor) else y for y in _several(out))
    return several if isinstance(out, tuple) else several[0]


def _several(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def _left(level: Any, ctx: FunctionCtx, results: list[Any], call: Any) -> dict[str, Any]:
    """What forward left in its context, as what does not belong to the level."""
    index = {id(y): k for k, y in enumerate(results)}

    def kept(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return _Result(call, index[id(x)]) if id(x) in index else _Kept(call, *level.unwrap(x))

    left = {name: _mapped(kept, value) for name, value in vars(ctx).items() if name not in _OWN}
    return left | {"_saved": [kept(x) for x, _ in ctx._saved]}


def _context(level: Any, left: dict[str, Any], results: Any, call: Any) -> FunctionCtx:
    """A context as backward expects it, with tensors of a level."""

    def back(x: Any) -> Any:
        if isinstance(x, _Result) and x.call is call:
            return level.admit(results[x.number], True)
        return level.admit(x.value, x.has_batch) if isinstance(x, _Kept) and x.call is call else x

    out = FunctionCtx(left["needs_input_grad"])
    for name, value in left.items():
        if name != "_saved":
            setattr(out, name, _mapped(back, value))
    out._saved = tuple((back(x), 0) for x in left["_saved"])
    return out


def _mapped(f: Any, x: Any) -> Any:
    """f of every leaf of nested lists, tuples and dicts; of kept tensors first of the whole."""
    if isinstance(x, (_Kept, _Result)):
        y = f(x)
        return y if y is not x else _Kept(x.call, _mapped(f, x.value), x.has_batch) if isinstance(x, _Kept) else x
    if x.__class__ is list or x.__class__ is tuple:
        return x.__class__([_mapped(f, y) for y in x])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return x.__class__(*[_mapped(f, y) for y in x])
    return {k: _mapped(f, y) for k, y in x.items()} if isinstance(x, dict) else f(x)
