"""Batching rules: what an op does with operands of which some have a batch axis in front.

A declaration may say it (`batch`), in one of three forms:

* "axis": the op works along the axes that its attribute `axis` or `axes` names, which move by one.
* a text such as "x:0 -> 0 | w:0 b:0 -> 1; groups=1 | x:1 w:0 b:0 -> 1; groups*": alternatives, of which the first is
  taken that names all operands with a batch. "x:1" merges the batch into axis 1 of x, "x:*" leaves it in front; behind
  the arrow stands where it comes out of every result. Then attributes: `groups=1` must hold, `groups*` is multiplied by
  the batch, and so is one number of `input_size[0]*`.
* a function (operands, which of them are batched, attrs, want) -> results with the batch in front, or NotImplemented.

Otherwise it goes by category or, for some kernels, by name (treadle.batching.special). An op for which nothing is said
is decomposed, and one without a decomposition runs example by example.
"""

import functools
from typing import Any, NamedTuple

from treadle.batching import special
from treadle.batching.special import front, moved
from treadle.errors import BatchError, TreadleError
from treadle.op import ELEMENTWISE, FN
from treadle.runtime.backend import Call

Results = list[tuple[Any, bool]]  # per result: a tensor of the level outside (None: not wanted), whether it has a batch


def apply(call: Call, given: list[Any], flags: list[bool], size: int, spread: bool) -> Results | None:
    """Results of a call on tensors of the level outside; None where its decomposition is to run instead."""
    op, attrs = call.op, call.attrs
    if spread:
        return _checked(call, special.drawn(op, given, flags, attrs, size), True, size)
    if not any(flags):
        return _checked(call, plain(call, given), False, size)
    if size == 0:
        like = next(x for x, b in zip(given, flags, strict=True) if b)
        made = [
            like.new_zeros((0, *o.shape), dtype=o.dtype) if w else None
            for o, w in zip(call.outs, call.want, strict=True)
        ]
        return [(y, True) for y in made]
    results = _by_rule(call, given, flags, size)
    if results is NotImplemented and op.decompose is not None:
        return None
    if results is NotImplemented:
        results = looped(lambda *xs: FN[op.name](*xs, **attrs), given, flags, size)
    return _checked(call, results, True, size)


def plain(call: Call, given: list[Any]) -> Any:
    """The call itself."""
    wanted = {"want": call.want} if call.op.partial else {}
    return call.op.fn(*given, **call.attrs, **wanted)


def _by_rule(call: Call, given: list[Any], flags: list[bool], size: int) -> Any:
    op, results = call.op, NotImplemented
    if op.batch is not None:
        results = _declared(call, given, flags, size)
    if results is NotImplemented:
        rule = special.BY_NAME.get(op.name)
        if rule is not None:
            results = rule(given, flags, call.attrs, call.want)
        elif op.category in ELEMENTWISE or op.category in ("cast", "bits"):
            results = plain(call, given)  # axes of size 1 are all there, so that they broadcast
        elif op.category == "reduction":
            results = along(call, given, flags, size)
    return results


def _declared(call: Call, given: list[Any], flags: list[bool], size: int) -> Any:
    rule = call.op.batch
    if callable(rule):
        return rule(given, flags, call.attrs, call.want)
    if rule == "axis":
        return along(call, given, flags, size)
    for way in parsed(rule):
        if way.fits(call, flags):
            return way.run(call, given, flags, size)
    return NotImplemented


def _checked(call: Call, results: Any, has_batch: bool, size: int) -> Results:
    """Results of the shapes declared; elementwise ones may still have to be repeated along axes of size 1."""
    made: Results = []
    for y, out in zip(results if isinstance(results, tuple) else (results,), call.outs, strict=True):
        shape = (size, *out.shape) if has_batch else tuple(out.shape)
        if y is not None and y.shape != shape:
            if call.op.category not in ELEMENTWISE and call.op.category not in ("cast", "bits"):
                raise TreadleError(f"{call.op.name}: its batching rule gives shape {y.shape}, expected is {shape}")
            y = FN["expand"](y, shape)
        made.append((y, has_batch))
    return made


# ---- along axes ----------------------------------------------------------------------------------------------------
def along(call: Call, given: list[Any], flags: list[bool], size: int) -> Any:
    """All operands with the batch in front, and the op along axes one further back."""
    xs = [front(x, b, size) for x, b in zip(given, flags, strict=True)]
    attrs = dict(call.attrs)
    single = xs[0].ndim == 1 and "axis" in attrs  # of numbers: an axis of size 1 stands for none
    if single:
        xs = [FN["reshape"](x, (size, 1)) for x in xs]
    if "axis" in attrs:
        attrs["axis"] += 1
    if "axes" in attrs:
        attrs["axes"] = tuple(a + 1 for a in attrs["axes"])
    results = plain(call._replace(attrs=attrs), xs)
    if single:
        several = results if isinstance(results, tuple) else (results,)
        return tuple(FN["reshape"](y, (size,)) for y in several)
    return results


# ---- merged into axes ----------------------------------------------------------------------------------------------
class Way(NamedTuple):
    """One alternative of a text."""

    places: dict[str, int | None]  # operand -> axis that takes the batch; None: it stays in front
    out: tuple[int | None, ...]
    needs: tuple[tuple[str, int], ...]  # attributes that must have a value
    scaled: tuple[tuple[str, int | None], ...]  # attributes (or one of their numbers) that grow with the batch

    def fits(self, call: Call, flags: list[bool]) -> bool:
        """Whether this alternative takes the call."""
        named = zip(call.op.inputs, flags, strict=True)
        return all(not b or i.name in self.places for i, b in named) and all(call.attrs[a] == v for a, v in self.needs)

    def run(self, call: Call, given: list[Any], flags: list[bool], size: int) -> Any:
        """Merge, call, and split."""
        args = []
        for x, has_batch, operand in zip(given, flags, call.op.inputs, strict=True):
            if x is not None and operand.name in self.places:
                axis = self.places[operand.name]
                x = front(x, has_batch, size)
                x = x if axis is None else merged(x, axis)
            args.append(x)
        attrs = dict(call.attrs)
        for name, index in self.scaled:
            old = attrs[name]
            attrs[name] = (
                old * size if index is None else tuple(n * size if k == index else n for k, n in enumerate(old))
            )
        results = plain(call._replace(attrs=attrs), args)
        several = results if isinstance(results, tuple) else (results,)
        return tuple(
            y if y is None or axis is None else split(y, axis, size) for y, axis in zip(several, self.out, strict=True)
        )


def merged(x: Any, axis: int) -> Any:
    """(B, ..., n, ...) -> (..., B*n, ...)."""
    axis = axis if axis >= 0 else axis + x.ndim - 1
    x = moved(x, 0, axis)
    return FN["reshape"](x, (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]))


def split(y: Any, axis: int, size: int) -> Any:
    """(..., B*n, ...) -> (B, ..., n, ...)."""
    axis = axis if axis >= 0 else axis + y.ndim
    y = FN["reshape"](y, (*y.shape[:axis], size, y.shape[axis] // size, *y.shape[axis + 1 :]))
    return moved(y, axis, 0)


@functools.cache
def parsed(text: str) -> tuple[Way, ...]:
    """The alternatives of a text."""
    return tuple(_way(part) for part in text.split("|"))


def _way(text: str) -> Way:
    ends, _, conditions = text.partition(";")
    operands, arrow, out = ends.partition("->")
    if not arrow:
        raise TreadleError(f"a batching rule needs an arrow: {text!r}")
    places = {name: _axis(axis) for name, _, axis in (word.partition(":") for word in operands.split())}
    needs, scaled = [], []
    for word in conditions.split():
        name, equal, value = word.partition("=")
        if equal:
            needs.append((name, int(value)))
        else:
            name, _, index = word.rstrip("*]").partition("[")
            scaled.append((name, int(index) if index else None))
    return Way(places, tuple(_axis(a) for a in out.split()), tuple(needs), tuple(scaled))


def _axis(text: str) -> int | None:
    return None if text == "*" else int(text)


# ---- example by example --------------------------------------------------------------------------------------------
def looped(f: Any, given: list[Any], flags: list[bool], size: int) -> Any:
    """Results of f for every example, stacked."""
    made: list[Any] = []
    for k in range(size):
        xs = [special.example(x, k) if b else x for x, b in zip(given, flags, strict=True)]
        results = f(*xs)
        made.append(results if isinstance(results, tuple) else (results,))
    stacks = []
    for column in zip(*made, strict=True):
        if any(y.shape != column[0].shape for y in column):
            shapes = ", ".join(str(tuple(y.shape)) for y in column)
            raise BatchError(f"under vmap, results of one call differ in shape from example to example: {shapes}")
        rows = [FN["reshape"](y, (1, *y.shape)) for y in column]
        stacks.append(FN["concat"](*rows, axis=0))
    return tuple(stacks)
