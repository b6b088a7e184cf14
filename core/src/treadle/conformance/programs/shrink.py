"""A smaller program with the same fault: what can be left out is left out, until nothing can.

Greedy delta debugging (Zeller and Hildebrandt 2002) with moves that know programs: a line can become an input with the
value it had, an operand can stand in for a result, sizes can shrink everywhere at once, numbers can become 0 and 1.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from treadle.conformance.programs import twin
from treadle.conformance.programs.check import Fault, examine
from treadle.conformance.programs.places import fits, placed
from treadle.conformance.programs.program import INSIDE, Input, Program, Ref, Step, program_text, replaced
from treadle.conformance.tensors import is_array, mapped

SECONDS = 20.0
FEW = 12  # elements that are tried one by one


def shrink(p: Program, device: str, fault: Fault, seconds: float = SECONDS) -> tuple[Program, Fault]:
    """The smallest program found in some time whose fault on the device is of the same kind, and that fault."""
    search = Search(device, p, fault, time.monotonic() + seconds)
    while search.pursue_all() and not search.over():
        pass
    plain = renamed(search.p)
    again = same_fault(plain, device, search.fault)
    return (search.p, search.fault) if again is None else (plain, again)


class Search:
    """The smallest program so far, its fault, and the texts of all that were tried."""

    def __init__(self, device: str, p: Program, fault: Fault, until: float) -> None:
        self.device, self.p, self.fault, self.until = device, p, fault, until
        self.tried = {program_text(p)}

    def over(self) -> bool:
        return time.monotonic() > self.until

    def pursue_all(self) -> bool:
        """Every kind of move once; says whether any helped."""
        helped = False
        for move in MOVES:
            helped |= self.pursue(move)
        return helped

    def pursue(self, move: Callable[[Program], Iterator[Program]]) -> bool:
        """One kind of move, again and again while it helps; says whether it did."""
        helped = False
        while self._once(move):
            helped = True
        return helped

    def _once(self, move: Callable[[Program], Iterator[Program]]) -> bool:
        for candidate in move(self.p):
            if self.over():
                return False
            text = program_text(candidate)
            if text in self.tried:
                continue
            self.tried.add(text)
            found = same_fault(candidate, self.device, self.fault)
            if found is not None:
                self.p, self.fault = candidate, found
                return True
        return False


def same_fault(p: Program, device: str, fault: Fault) -> Fault | None:
    """The program's fault if it is of the same kind; None for a program that eager refuses too."""
    try:
        found, _ = examine(p, device, fault.kind)
    except Exception:  # a candidate need not make sense, nor the twin know what it means
        return None
    return found if fault.like(found) else None


def renamed(p: Program) -> Program:
    """Inputs called x0, x1 ..., values v0, v1 ..."""
    made = [name for s in p.steps for name in s.results]
    new = {x.name: f"{'c' if x.closed else 'x'}{k}" for k, x in enumerate(p.inputs)}
    new |= {name: f"v{k}" for k, name in enumerate(made)}
    steps = tuple(
        s._replace(
            args=tuple(mapped(lambda a: Ref(new[a.name]) if isinstance(a, Ref) else a, list(s.args))),
            results=tuple(new[name] for name in s.results),
        )
        for s in p.steps
    )
    inputs = tuple(x._replace(name=new[x.name]) for x in p.inputs)
    return p.but(inputs=inputs, steps=steps, outputs=tuple(new[name] for name in p.outputs))


# ---- the program as a whole ----------------------------------------------------------------------------------------
def _plainer(p: Program) -> Iterator[Program]:
    if p.calls > 1:
        yield p.but(calls=1)
    if p.dynamic:
        yield p.but(dynamic=False)
    if p.gradient:
        yield p.but(gradient="", inputs=tuple(x._replace(leaf=False) for x in p.inputs))
        if p.gradient != INSIDE:
            yield p.but(gradient=INSIDE)


def _fewer_outputs(p: Program) -> Iterator[Program]:
    if len(p.outputs) > 1:
        for name in dict.fromkeys(p.outputs):
            yield tidied(p.but(outputs=(name,)))
        for k in range(len(p.outputs)):
            yield tidied(p.but(outputs=(*p.outputs[:k], *p.outputs[k + 1 :])))
    if not p.gradient and p.outputs:  # what a write leaves behind may be enough
        yield tidied(p.but(outputs=()))
    for name in [x.name for x in p.inputs]:
        if p.outputs != (name,):
            yield tidied(p.but(outputs=(name,)))


def tidied(p: Program) -> Program:
    """Without lines and inputs that nothing depends on."""
    needed = set(p.outputs)
    written = {s.writes for s in p.steps if s.writes}
    kept: list[Step] = []
    for step in reversed(p.steps):
        if step.writes or needed & set(step.results) or written & set(step.results):
            kept.append(step)
            needed |= set(step.reads())
    return p.but(inputs=tuple(x for x in p.inputs if x.name in needed), steps=tuple(reversed(kept)))


# ---- lines ---------------------------------------------------------------------------------------------------------
def _ends(p: Program) -> Iterator[Program]:
    """Nothing after a line, whose results are given back; nothing before it, but the values that there were."""
    for k, step in enumerate(p.steps[:-1]):
        outputs = step.results or (step.writes,)
        yield tidied(p.but(steps=p.steps[: k + 1], outputs=outputs))
    for k in reversed(range(1, len(p.steps))):
        given = {x.name: x for x in p.inputs}
        inputs = tuple(
            given[name]._replace(array=a, place="dense") if name in given else _as_input(p, name, a)
            for name, a in values_before(p, k).items()
        )
        yield tidied(p.but(inputs=inputs, steps=p.steps[k:]))


def _as_input(p: Program, name: str, a: Any) -> Input:
    return Input(name, a, "dense", bool(p.gradient) and a.dtype.kind == "f")


def values_before(p: Program, k: int) -> dict[str, Any]:
    """Every value when line k is about to run for the first time."""
    env = {x.name: placed(x.array, x.place) for x in p.inputs}
    with np.errstate(all="ignore"):
        for step in p.steps[:k]:
            twin.execute(step, env)
    return {name: np.ascontiguousarray(a).reshape(a.shape).copy() for name, a in env.items()}


def known(p: Program) -> dict[str, Any]:
    """Every value when it was new."""
    env = {x.name: placed(x.array, x.place) for x in p.inputs}
    seen = {name: a.copy() for name, a in env.items()}
    with np.errstate(all="ignore"):
        for step in p.steps:
            twin.execute(step, env)
            seen.update({name: env[name].copy() for name in step.results})
    return seen


def _fewer_steps(p: Program) -> Iterator[Program]:
    for k in reversed(range(len(p.steps))):
        step = p.steps[k]
        if not step.results or not _used(p, k):
            yield tidied(p.but(steps=(*p.steps[:k], *p.steps[k + 1 :])))
    values = known(p)
    for k in range(len(p.steps)):
        if p.steps[k].results:
            yield _cut(p, k, values)
    for k in range(len(p.steps)):
        yield from _bypassed(p, k, values)


def _used(p: Program, k: int) -> bool:
    made = set(p.steps[k].results)
    return bool(made & set(p.outputs)) or any(made & set(s.reads()) for s in p.steps[k + 1 :])


def _cut(p: Program, k: int, values: dict[str, Any]) -> Program:
    """Line k as inputs with the values it gave."""
    new = tuple(_as_input(p, name, values[name]) for name in p.steps[k].results)
    return tidied(p.but(inputs=(*p.inputs, *new), steps=(*p.steps[:k], *p.steps[k + 1 :])))


def _bypassed(p: Program, k: int, values: dict[str, Any]) -> Iterator[Program]:
    """An operand of line k in place of its result."""
    step = p.steps[k]
    for result in step.results:
        y = values[result]
        for name in dict.fromkeys(step.reads()):
            if values[name].shape == y.shape and values[name].dtype == y.dtype:
                rest = tuple(replaced(s, result, Ref(name)) for s in p.steps[k + 1 :])
                outputs = tuple(name if o == result else o for o in p.outputs)
                yield tidied(p.but(steps=(*p.steps[:k], *rest), outputs=outputs))


def _simpler_steps(p: Program) -> Iterator[Program]:
    """Attributes at their defaults, numbers 1 and 0, subscripts that take all, one operand for two."""
    for k, step in enumerate(p.steps):
        for simpler in _simpler(step):
            yield tidied(p.but(steps=(*p.steps[:k], simpler, *p.steps[k + 1 :])))


def _simpler(step: Step) -> Iterator[Step]:
    for name in step.attrs:
        yield step._replace(attrs={n: v for n, v in step.attrs.items() if n != name})
    for j, a in enumerate(step.args):
        if type(a) in (int, float) and a not in (0, 1):
            for simple in (type(a)(1), type(a)(0)):
                yield step._replace(args=(*step.args[:j], simple, *step.args[j + 1 :]))
        if type(a) is list and len(a) > 1:
            for i in range(len(a)):
                yield step._replace(args=(*step.args[:j], [*a[:i], *a[i + 1 :]], *step.args[j + 1 :]))
    if step.form in ("index", "assign"):
        items = step.args[1]
        for i in range(len(items)):
            yield step._replace(args=(step.args[0], items[:i], *step.args[2:]))
            yield step._replace(args=(step.args[0], (*items[:i], slice(None), *items[i + 1 :]), *step.args[2:]))
    reads = list(dict.fromkeys(step.reads()))
    if len(reads) > 1 and step.form == "op":
        for name in reads[1:]:
            yield replaced(step, name, Ref(reads[0]))


# ---- inputs --------------------------------------------------------------------------------------------------------
def _plainer_inputs(p: Program) -> Iterator[Program]:
    for k, x in enumerate(p.inputs):
        for changes in ({"place": "dense"}, {"closed": False}, {"leaf": False}):
            ((name, value),) = changes.items()
            if getattr(x, name) != value:
                yield _with(p, k, x._replace(**changes))


def _with(p: Program, k: int, x: Input) -> Program:
    return p.but(inputs=(*p.inputs[:k], x, *p.inputs[k + 1 :]))


def _smaller(p: Program) -> Iterator[Program]:
    """Every axis of one size cut to another, in all inputs and attributes; then single axes; then none of size 1."""
    sizes = sorted({n for x in p.inputs for n in x.array.shape if n > 1}, reverse=True)
    for n in sizes:
        for m in dict.fromkeys((1, 2, n // 2, n - 1)):
            for start in dict.fromkeys((0, n - m)):
                if 0 < m < n:
                    yield _resized(p, n, slice(start, start + m))
    for k, x in enumerate(p.inputs):
        for axis, n in enumerate(x.array.shape):
            for i in range(n if 1 < n <= FEW else 0):
                yield _with(p, k, _input(x, x.array.take([i], axis)))
    for at in (0, -1):
        yield _squeezed(p, at)


def _resized(p: Program, n: int, part: slice) -> Program:
    m = part.stop - part.start

    def array(a: Any) -> Any:
        return np.ascontiguousarray(a[tuple(part if size == n else slice(None) for size in a.shape)]).reshape(
            tuple(m if size == n else size for size in a.shape)
        )

    def attribute(v: Any) -> Any:
        if v.__class__ is tuple:
            return tuple(attribute(w) for w in v)
        return m if v.__class__ is int and v == n else v

    inputs = tuple(_input(x, array(x.array)) for x in p.inputs)
    steps = tuple(
        s._replace(
            args=tuple(mapped(lambda a: array(a) if is_array(a) else a, list(s.args))),
            attrs={k: attribute(v) for k, v in s.attrs.items()},
        )
        for s in p.steps
    )
    return p.but(inputs=inputs, steps=steps)


def _input(x: Input, a: Any) -> Input:
    return x._replace(array=np.asarray(a), place=x.place if fits(x.place, a) else "dense")


def _squeezed(p: Program, at: int) -> Program:
    """The first or last axis gone where it has size 1."""

    def less(x: Input) -> Input:
        a = x.array
        return _input(x, a.squeeze(at)) if a.ndim and a.shape[at] == 1 else x

    def attribute(name: str, v: Any) -> Any:
        if at == 0 and name == "axis":
            return v - 1
        return tuple(a - 1 for a in v if a) if at == 0 and name == "axes" else v

    steps = tuple(s._replace(attrs={k: attribute(k, v) for k, v in s.attrs.items()}) for s in p.steps)
    return p.but(inputs=tuple(map(less, p.inputs)), steps=steps)


def _simpler_values(p: Program) -> Iterator[Program]:
    for k, x in enumerate(p.inputs):
        for a in _simpler_arrays(x.array):
            if a.tobytes() != x.array.tobytes():
                yield _with(p, k, _input(x, a))


def _simpler_arrays(a: Any) -> Iterator[Any]:
    """Simpler first: all 0, all 1, whole numbers; then single elements."""
    plain = [np.zeros_like(a), np.ones_like(a)]
    same = next((k for k, b in enumerate(plain) if b.tobytes() == a.tobytes()), len(plain))
    yield from plain[:same]
    if same == len(plain) and a.dtype.kind == "f" and not (a == np.round(a)).all():
        yield np.asarray(np.round(a) + 0.0).astype(a.dtype)
    if same == len(plain) and 1 < a.size <= FEW:
        for i in range(a.size):
            for value in (0, 1):
                old = a.reshape(-1)[i]
                if old == value:
                    break
                b = a.copy()
                b.reshape(-1)[i] = value
                yield b


MOVES: tuple[Callable[[Program], Iterator[Program]], ...] = (
    _plainer, _fewer_outputs, _ends, _fewer_steps, _plainer_inputs, _smaller, _simpler_steps, _simpler_values,
)  # fmt: skip
