"""Ops over any number of operands: copies such as concat, and optimizer steps over whole lists of parameters."""

from itertools import chain
from typing import Any

from treadle import dtypes, tape
from treadle._tensor import Tensor
from treadle.eager import inplace
from treadle.eager import resolve as resolving
from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import INTERPRETER, STATE, Live, Op
from treadle.runtime import dispatch
from treadle.runtime.backend import Call
from treadle.spec import Spec
from treadle.tape import Rule

_ROWS: dict[Any, Any] = {}
_RULES: dict[Any, Rule] = {}
MAX_ROWS = 4096


def variadic_function(op: Op) -> Any:
    """The eager function of `op(*tensors, **attrs)` whose one operand is a list."""
    rule = next(iter((op.vjp or {}).values()), None)
    name = op.inputs[0].name

    def function(*xs: Any, **attrs: Any) -> Any:
        if STATE.special and (i := INTERPRETER.get()) is not None:
            return i(op, xs, tuple({**op.attrs, **attrs}.values()))
        try:
            entry = _ROWS.get((op.name, tuple([x.sig for x in xs]), tuple(attrs.items())))
        except AttributeError:  # not all are tensors
            entry = None
        if entry is None:
            xs, entry = _resolve(op, xs, attrs)
        kernel, sig = entry
        out = kernel(*[x.storage for x in xs])
        nodes = [x.node for x in xs]
        if rule is None or not any(n is not None for n in nodes) or not tape.grad_enabled():
            return Tensor(out, sig, None)
        shapes = [x.shape for x in xs]
        return Tensor(out, sig, [tape.next_id(), _rule(op, rule, name, len(xs)), *nodes, shapes, attrs])

    function.__name__ = op.name
    return function


def _resolve(op: Op, xs: tuple[Any, ...], attrs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """Check and promote the operands; (operands, (kernel, sig of the result)), remembered."""
    _check_tensors(op, xs)
    if len({x.dtype for x in xs}) > 1:
        common = dtypes.result_type([x.dtype for x in xs], [], [])
        xs = tuple(x if x.dtype is common else resolving.CAST[0](x, common) for x in xs)
    resolving._same_device(op, xs)
    out = op.spec(*[Spec(x.shape, x.dtype) for x in xs], **attrs)
    kernel = dispatch.assemble(op, xs[0].device, [x.sig for x in xs], out, attrs)
    entry = (kernel, resolving.dense_sig(out.dtype, out.shape, xs[0].device))
    return xs, _remember((op.name, tuple([x.sig for x in xs]), tuple(attrs.items())), entry)


def _check_tensors(op: Op, xs: Any) -> None:
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise DTypeError(f"{op.name}: one tensor or more expected: {[type(x).__name__ for x in xs]}")


def _rule(op: Op, rule: Any, name: str, count: int) -> Rule:
    found = _RULES.get((op.name, count))
    if found is None:

        def backward(node: list[Any], g: Any) -> Any:
            return rule(g, **{f"shape_{name}": node[-2]}, **node[-1])

        found = _RULES[op.name, count] = Rule(op.name, count, backward, False)
    return found


def _remember(key: Any, entry: Any) -> Any:
    if len(_ROWS) >= MAX_ROWS:
        _ROWS.clear()
    _ROWS[key] = entry
    return entry


# ---- regions -------------------------------------------------------------------------------------------------------
def fused_function(op: Op) -> Any:
    """The eager function of `fused(*tensors, body, results)`: one kernel, or the ops of the body.

    Nothing is recorded.
    """

    def function(*xs: Any, **attrs: Any) -> Any:
        if STATE.special and (i := INTERPRETER.get()) is not None:
            return i(op, xs, tuple(attrs.values()))
        _check_tensors(op, xs)
        key = (op.name, tuple([x.sig for x in xs]), repr(attrs))  # repr: 1.0 == 1, and 0.0 == -0.0
        kernel, sigs = _ROWS.get(key) or _remember(key, _bind_fused(op, xs, attrs))
        made = kernel(*[x.storage for x in xs])
        return tuple(map(Tensor, made if len(sigs) > 1 else (made,), sigs))

    function.__name__ = op.name
    return function


def _bind_fused(op: Op, xs: Any, attrs: dict[str, Any]) -> Any:
    resolving._same_device(op, xs)
    outs = op.spec(*[Spec(x.shape, x.dtype) for x in xs], **attrs)
    ins, device = [x.sig for x in xs], xs[0].device
    kernel = dispatch.bind(op, device, ins, outs, attrs, (True,) * len(outs), resolving.decomposed)
    return kernel.run, tuple(resolving.dense_sig(o.dtype, o.shape, device) for o in outs)


# ---- optimizer steps -----------------------------------------------------------------------------------------------
def lists_function(op: Op) -> Any:
    """The functional form: lists in (operands marked *), lists out; nothing is recorded."""

    def function(*args: Any, **attrs: Any) -> Any:
        if STATE.special and (i := INTERPRETER.get()) is not None:
            return i(op, args, tuple({**op.attrs, **attrs}.values()))
        _check_lists(op, [list(a) for a in args if isinstance(a, (list, tuple))])
        token = tape.GRAD_MODE.set(False)
        try:
            return op.decompose(*args, **{**op.attrs, **attrs})
        finally:
            tape.GRAD_MODE.reset(token)

    function.__name__ = op.name
    return function


def run_inplace_list(op: Op, lists: list[list[Tensor]], numbers: list[float] | Live, attrs: dict[str, Any]) -> Any:
    """Do a list op with its results written over its operands; results beyond the lists are returned (a norm, say).

    lists: one list of tensors per `*` operand, all of one device and dtype per position. Each target's version is
    bumped. One kernel call where the backend claims the op for these tensors, the decomposition otherwise.
    """
    if STATE.special and (i := INTERPRETER.get()) is not None:
        if i.lifts:
            return i.step(op, lists, numbers, attrs)
        flat = tuple(chain.from_iterable(lists))
        return i.watched(op, flat, attrs, lambda: _run_inplace_list(op, lists, numbers, attrs))
    return _run_inplace_list(op, lists, numbers, attrs)


def _run_inplace_list(op: Op, lists: list[list[Tensor]], numbers: list[float] | Live, attrs: dict[str, Any]) -> Any:
    attrs = {**op.attrs, **attrs}
    if isinstance(numbers, Live):
        numbers = numbers.read()
    flat = list(chain.from_iterable(lists))
    targets = _targets(op, lists)
    key = (op.name, tuple([x.sig for x in flat]), len(lists[0]), tuple(attrs.items()))
    entry = _ROWS.get(key)
    if entry is None:
        _check_lists(op, lists)
        entry = _remember(key, _bind_list(op, lists, flat, numbers, attrs))
    kernel, extra = entry
    if kernel is None:
        return _by_decomposition(op, lists, numbers, attrs, targets)
    for x in targets:
        inplace.mark(x)
    device = flat[0].device
    more = [dispatch.allocate(device, s.nbytes, op.name) for s in extra]
    kernel(*[x.storage for x in flat], *numbers, *[x.storage for x in targets], *more)
    for x in targets:
        x._version += 1
    made = [Tensor(s, sig) for s, sig in zip(more, extra, strict=True)]
    return made[0] if len(made) == 1 else made


def _targets(op: Op, lists: list[list[Tensor]]) -> list[Tensor]:
    """Operand tensors that the list results replace, in the order of the results."""
    if op.results[-1:] == ("norm",):
        return list(lists[0])
    starred = [i.name for i in op.inputs if i.many]
    order = [r.rstrip("*") for r in op.results]
    return list(chain.from_iterable(lists[starred.index(r)] for r in order))


def _check_lists(op: Op, lists: list[list[Tensor]]) -> None:
    if not all(isinstance(x, Tensor) for x in chain.from_iterable(lists)):
        raise DTypeError(f"{op.name}: its lists must hold tensors only")
    count = len(lists[0])
    for k, xs in enumerate(lists):
        if xs and len(xs) != count:
            raise ArgumentError(f"{op.name}: lists differ in length: {[len(x) for x in lists]}")
        for first, x in zip(lists[0], xs, strict=False):
            if x.shape != first.shape:
                raise ShapeError(f"{op.name}: list {k} has shape {x.shape} where the first has {first.shape}")
    resolving._same_device(op, list(chain.from_iterable(lists)))


def _bind_list(
    op: Op, lists: list[list[Tensor]], flat: list[Tensor], numbers: list[float], attrs: dict[str, Any]
) -> Any:
    device = flat[0].device
    kinds = {x.dtype for x in flat}
    extra = [resolving.dense_sig(flat[0].dtype, (), device)] if op.results[-1] == "norm" else []
    if len(kinds) > 1 or any(x.sig.layout != "dense" for x in flat):
        return None, extra
    targets = _targets(op, lists)
    outs = tuple(Spec(x.shape, x.dtype) for x in targets) + tuple(Spec((), s.dtype) for s in extra)
    ins = tuple(x.sig for x in flat) + tuple(type(n) for n in numbers)
    bound = device.backend.bind(Call(op, ins, outs, {**attrs, "n": len(lists[0])}, (True,) * len(outs)))
    if bound is None or not bound.claim.inplace:
        return None, extra
    return getattr(bound.run, "run", bound.run), extra


def _by_decomposition(
    op: Op, lists: list[list[Tensor]], numbers: list[float], attrs: dict[str, Any], targets: list[Tensor]
) -> Any:
    token = tape.GRAD_MODE.set(False)
    try:
        results = op.decompose(*lists, *numbers, **attrs)
        news = list(chain.from_iterable(r for r in results if isinstance(r, list)))
        for x, new in zip(targets, news, strict=True):
            inplace.write_values(x, new)
        rest = [r for r in results if not isinstance(r, list)]
        return rest[0] if len(rest) == 1 else rest
    finally:
        tape.GRAD_MODE.reset(token)
