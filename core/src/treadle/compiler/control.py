"""td.cond, td.scan, td.while_loop: control flow that depends on values of tensors, with JAX's names and semantics.

In eager they are Python's if, for and while, and the tape records what runs. In a function that is being compiled each
becomes one node with Graphs of the branches or the body.
"""

from collections.abc import Callable
from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.api.math import where
from treadle.api.shape import stack
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.batching.level import Level
from treadle.compiler.flow import branch, loop, repeat
from treadle.compiler.nested import Body, Nested, spec_of
from treadle.compiler.trace import Trace, trace
from treadle.creation import full, zeros
from treadle.dtypes import bool_
from treadle.errors import ArgumentError
from treadle.ir.graph import Value
from treadle.op import INTERPRETER, STATE
from treadle.sig import dense_sig
from treadle.spec import Spec


def _tracing() -> Trace | None:
    """The trace that what is called now becomes a part of."""
    i = INTERPRETER.get() if STATE.special else None
    return i if isinstance(i, Trace) else None


def _batching() -> Level | None:
    """The function under vmap that what is called now belongs to."""
    i = INTERPRETER.get() if STATE.special else None
    return i if isinstance(i, Level) else None


# ---- what goes in and comes out ------------------------------------------------------------------------------------
def _kinds(leaves: list[Any]) -> list[Any]:
    """Specs of tensors; other leaves as they are."""
    return [spec_of(x) if isinstance(x, Tensor) else x for x in leaves]


def _text(structure: Any, kinds: list[Any]) -> str:
    return str(structure.build(iter([str(k) if isinstance(k, Spec) else k for k in kinds]))).replace("'", "")


def _agree(a: list[Any], b: list[Any]) -> bool:
    return all(x is y or (x.__class__ is y.__class__ and bool(x == y)) for x, y in zip(a, b, strict=True))


def _check_carry(name: str, before: Any, leaves: list[Any], structure: Any, what: str = "a carry") -> None:
    """ArgumentError unless a carry comes out as it went in; before: its structure and kinds."""
    if structure != before[0] or not _agree(before[1], _kinds(leaves)):
        raise ArgumentError(
            f"{name}: {what} must keep its structure, shapes and dtypes, and leaves that are no tensors their values "
            f"(at {Trace.line()}): it goes in as {_text(*before)} and comes out as {_text(structure, _kinds(leaves))}"
        )


def _pair(name: str, result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(f"{name}: its function must return (carry, y), not {type(result).__name__}")
    return result


def _merged(leaves: list[Any], tensors: Any) -> list[Any]:
    """Leaves with tensors in the places of their tensors."""
    rest = iter(tensors)
    return [next(rest) if isinstance(x, Tensor) else x for x in leaves]


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [x for x in leaves if isinstance(x, Tensor)]


def _verdict(name: str, x: Any, like: list[Tensor]) -> Any:
    """What decides, as a bool tensor without dimensions."""
    if not isinstance(x, Tensor):
        return full((), bool(x), dtype=bool_, device=like[0].device if like else None)
    if x.sig.size != 1:
        raise ArgumentError(f"{name}: one element decides, not {spec_of(x)} (at {Trace.line()})")
    x = x if x.ndim == 0 else x.reshape(())
    return x if x.dtype is bool_ else x != 0


def _enter(t: Nested, x: Tensor, shape: Any, leaf: bool) -> Tensor:
    return t.enter(Spec(tuple(shape), x.dtype), x.device, leaf and x.dtype.kind == "f")


def _carried(t: Nested, leaves: list[Tensor]) -> list[Tensor]:
    """Inputs for carries: what begins without a past may get one from the body."""
    return [_enter(t, x, x.shape, is_grad_enabled()) for x in leaves]


# ---- cond ----------------------------------------------------------------------------------------------------------
def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """Return true_fn(*operands) if pred (a tensor of one element, or a bool) holds, else false_fn(*operands).

    In a compiled function only the branch that is taken runs, and both must return pytrees of the same structure,
    shapes and dtypes (ArgumentError). A branch may use tensors from outside, but writing into them in place raises a
    TraceError. Differentiable. Under vmap, where pred differs between examples, both branches run.

    >>> import treadle as td
    >>> f = td.compile(lambda x: td.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, x))
    >>> f(td.tensor([1.0, 2.0])).tolist(), f(td.tensor([-1.0, -2.0])).tolist(), f.traces
    ([2.0, 4.0], [1.0, 2.0], 1)
    """
    functions, t = (true_fn, false_fn), _tracing()
    if isinstance(pred, Tensor) and (level := _batching()) is not None and level.unwrap(pred)[1]:
        return _selected(_verdict("cond", pred, []), functions, operands)
    if t is None or not isinstance(pred, Tensor):
        return (true_fn if bool(pred) else false_fn)(*operands)
    leaves, structure = tree.flatten(operands)
    given = [t.lift(x) for x in _tensors(leaves)]

    def traced(f: Any) -> Any:
        inner = Nested(t, "a branch of td.cond", draws=True)
        inputs = [_enter(inner, x, x.shape, x.node is not None) for x in given]
        found, kind = tree.flatten(inner.call(f, *structure.build(iter(_merged(leaves, inputs)))))
        found = [inner.lift(x) if isinstance(x, Tensor) else x for x in found]
        return Body(inner, inputs, _tensors(found)), (kind, found)

    bodies, results = zip(*map(traced, functions), strict=True)
    kind, found = _agreed(functions, results)
    outs = branch(_verdict("cond", pred, given), bodies, given) if bodies[0].outputs else []
    return kind.build(iter(_merged(found, outs)))


def _selected(p: Tensor, functions: Any, operands: Any) -> Any:
    """Under vmap, where examples may differ in what holds: both branches run, and every example takes its own."""
    results = [tree.flatten(f(*operands))[::-1] for f in functions]
    kind, found = _agreed(functions, results)
    chosen = [where(p, a, b) for a, b in zip(*(_tensors(leaves) for _, leaves in results), strict=True)]
    return kind.build(iter(_merged(found, chosen)))


def _agreed(functions: Any, results: Any) -> Any:
    """Structure and leaves of what the first branch gives; ArgumentError unless the second gives the same kinds."""
    (kind, found), (other_kind, other) = results
    if kind != other_kind or not _agree(_kinds(found), _kinds(other)):
        said = [
            f"{getattr(f, '__name__', type(f).__name__)} gives {_text(k, _kinds(r))}"
            for f, (k, r) in zip(functions, results, strict=True)
        ]
        raise ArgumentError(
            f"cond: both branches must give the same structure, shapes and dtypes, and the same values where they give "
            f"no tensors (at {Trace.line()}): {said[0]}, {said[1]}"
        )
    return kind, found


# ---- scan ----------------------------------------------------------------------------------------------------------
def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return (carry, ys): carry, y = f(carry, x) for every index x of the first axis of xs, with the y stacked.

    init, xs and what f returns are pytrees; without xs, f gets None `length` times. reverse: from the last index to the
    first, ys in the order of xs. A carry keeps its structure, shapes and dtypes (ArgumentError). In a compiled function
    f is traced once, may use tensors from outside but not write into them, and must not draw random numbers
    (TraceError). Differentiable: the gradient keeps the carries and computes each step again.

    >>> import treadle as td
    >>> carry, ys = td.scan(lambda c, x: (c + x, c * x), td.tensor(0.0), td.tensor([1.0, 2.0, 3.0]))
    >>> carry.item(), ys.tolist()
    (6.0, [0.0, 2.0, 9.0])
    """
    scanned, arrangement = tree.flatten(xs)
    count = _length(scanned, length)
    if (t := _tracing()) is not None:
        return _traced_scan(t, f, init, (scanned, arrangement), count, reverse)
    leaves, structure = tree.flatten(init)
    if count == 0:
        return init, _no_ys(f, init, scanned, arrangement)
    before, carry, made = (structure, _kinds(leaves)), init, []
    for k in reversed(range(count)) if reverse else range(count):
        x = arrangement.build(iter([x[k] if isinstance(x, Tensor) else x for x in scanned]))
        carry, y = _pair("scan", f(carry, x))
        _check_carry("scan", before, *tree.flatten(carry))
        made.append(tree.flatten(y))
    first, kind = made[0]
    for more, other in made:
        _check_carry("scan", (kind, _kinds(first)), more, other, "a result")
    made = made[::-1] if reverse else made
    columns = zip(*[_ys(ys) for ys, _ in made], strict=True)
    return carry, kind.build(iter(_merged(first, [stack(c) for c in columns])))


def _length(scanned: list[Any], length: int | None) -> Any:
    sizes = []
    for x in scanned:
        if isinstance(x, Tensor) and x.ndim:
            sizes.append(x.shape[0])
        elif x is not None:
            given = spec_of(x) if isinstance(x, Tensor) else repr(x)
            raise ArgumentError(f"scan: xs must be tensors of one dimension or more: {given}")
    sizes += [] if length is None else [length]
    if not sizes:
        raise ArgumentError("scan: without xs, length is needed")
    if any(n != sizes[0] for n in sizes):
        raise ArgumentError(f"scan: xs and length differ in how long they are: {', '.join(map(str, sizes))}")
    return sizes[0]


def _ys(leaves: list[Any]) -> list[Tensor]:
    """The tensors that become stacked; None is the only other leaf."""
    wrong = next((x for x in leaves if x is not None and not isinstance(x, Tensor)), None)
    if wrong is not None:
        raise ArgumentError(f"scan: what is stacked must be tensors, not {wrong!r} (at {Trace.line()})")
    return _tensors(leaves)


def _no_ys(f: Any, init: Any, scanned: list[Any], arrangement: Any) -> Any:
    """What no iterations give: f is traced to see what one would."""
    slices = [Tensor(None, dense_sig(x.dtype, tuple(x.shape[1:]), x.device)) for x in _tensors(scanned)]
    arguments = (init, arrangement.build(iter(_merged(scanned, slices))))
    leaves, structure = tree.flatten((arguments, {}))
    found = trace(f, leaves, structure, outer=False)

    def result(kind: str, what: Any) -> Any:
        x = found.effects[what].value if kind == "value" else leaves[what] if kind == "arg" else what
        return zeros((0, *x.shape), dtype=x.dtype, device=device) if isinstance(x, (Tensor, Value)) else x

    device = next(iter(_tensors(leaves))).device if _tensors(leaves) else None
    _pair("scan", found.structure.build(iter(found.results)))
    carry, y = found.structure.children
    return y.build(iter([result(*r) for r in found.results[carry.count() :]]))


def _traced_scan(t: Trace, f: Any, init: Any, xs: Any, length: Any, reverse: bool) -> tuple[Any, Any]:
    leaves, structure = tree.flatten(init)
    scanned, arrangement = xs
    carry, given = ([t.lift(x) for x in _tensors(each)] for each in (leaves, scanned))
    inner = Nested(t, "the body of td.scan")
    inputs = _carried(inner, carry)
    slices = [_enter(inner, x, x.shape[1:], x.node is not None) for x in given]
    arguments = (_merged(leaves, inputs), structure), (_merged(scanned, slices), arrangement)
    out, y = _pair("scan", inner.call(f, *[s.build(iter(each)) for each, s in arguments]))
    after, kind = tree.flatten(out)
    _check_carry("scan", (structure, _kinds(_merged(leaves, carry))), after, kind)
    ys, kind = tree.flatten(y)
    outputs = [inner.lift(x) for x in (*_tensors(after), *_ys(ys))]
    body = Body(inner, [*inputs, *slices], outputs)
    if length == 0:
        empty = [zeros((0, *y.shape), dtype=y.dtype, device=y.device) for y in outputs[len(carry) :]]
        return init, kind.build(iter(_merged(ys, empty)))
    outs = loop(body, carry, given, length, reverse) if outputs else []
    final = structure.build(iter(_merged(leaves, outs[: len(carry)])))
    return final, kind.build(iter(_merged(ys, outs[len(carry) :])))


# ---- while_loop ----------------------------------------------------------------------------------------------------
def while_loop(
    cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], init: Any, max_steps: int | None = None
) -> Any:
    """Return the carry after `while cond_fn(carry): carry = body_fn(carry)`, beginning with init.

    A carry is a pytree that keeps its structure, shapes and dtypes (ArgumentError). max_steps: the loop ends after so
    many steps in any case. In a compiled function both functions are traced (cond_fn twice), may use tensors from
    outside but not write into them, and must not draw random numbers (TraceError); gradients need max_steps, without
    it asking for them raises a TraceError. In eager they flow in any case.

    >>> import treadle as td
    >>> f = td.compile(lambda x: td.while_loop(lambda c: c < 100, lambda c: c * 2, x))
    >>> f(td.tensor(3)).item(), f(td.tensor(200)).item(), f.traces
    (192, 200, 1)
    """
    leaves, structure = tree.flatten(init)
    if max_steps is not None and max_steps < 0:
        raise ArgumentError(f"while_loop: max_steps must not be negative: {max_steps}")
    if (t := _tracing()) is not None:
        return _traced_while(t, cond_fn, body_fn, leaves, structure, max_steps)
    before, carry, steps = (structure, _kinds(leaves)), init, 0
    while (max_steps is None or steps < max_steps) and bool(cond_fn(carry)):
        carry, steps = body_fn(carry), steps + 1
        _check_carry("while_loop", before, *tree.flatten(carry))
    return carry


def _traced_while(
    t: Trace, cond_fn: Any, body_fn: Any, leaves: list[Any], structure: Any, max_steps: int | None
) -> Any:
    carry = [t.lift(x) for x in _tensors(leaves)]
    if not carry:
        raise ArgumentError(f"while_loop: its carry holds no tensor (at {t.line()})")
    again = _verdict("while_loop", cond_fn(structure.build(iter(_merged(leaves, carry)))), carry)
    inner = Nested(t, "the body of td.while_loop")
    inputs = _carried(inner, carry)

    def step() -> list[Any]:
        out = body_fn(structure.build(iter(_merged(leaves, inputs))))
        after, kind = tree.flatten(out)
        _check_carry("while_loop", (structure, _kinds(_merged(leaves, carry))), after, kind)
        return [_verdict("while_loop", cond_fn(out), inputs), *_tensors(after)]

    body = Body(inner, inputs, [inner.lift(x) for x in inner.call(step)])
    return structure.build(iter(_merged(leaves, repeat(again, body, carry, max_steps))))
