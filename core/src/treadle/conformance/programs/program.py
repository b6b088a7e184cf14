"""A program: inputs, steps, outputs, and its text, which is what is run and what a report shows.

    def build(device):
        c0 = td.tensor(...)                 # inputs that the function closes over

        def program(x0):
            v0 = td.ops.softmax(x0, axis=1)
            v0[1:3] = c0
            return (v0,)

        return program, lambda: [td.tensor(...)], [c0]

`run(device, wrap)` calls `wrap(program)` and gives back results, gradients and what became of the inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

import treadle as td
from treadle.conformance.programs.places import PLACES
from treadle.conformance.tensors import flat, mapped
from treadle.dtypes import DType

INSIDE, OUTSIDE = "inside", "outside"  # where the gradient is taken, seen from the compiled function
CALLS = 2  # of one compiled function: the first traces


class Ref(NamedTuple):
    """A value of the program, by name."""

    name: str


class Input(NamedTuple):
    """A tensor that the program is given, or closes over."""

    name: str
    array: Any
    place: str = "dense"
    leaf: bool = False  # asks for a gradient
    closed: bool = False


class Step(NamedTuple):
    """One line. form: op (`y = td.ops.what(...)`), index (`y = x[items]`), assign (`x[items] = y`), method
    (`x.what(...)`, which writes into x), constant (`y = td.tensor(...)`)."""

    form: str
    what: str
    args: tuple[Any, ...]  # Refs, numbers, None, lists of these; of an index: the Ref, then items
    attrs: dict[str, Any] = {}
    results: tuple[str, ...] = ()

    def reads(self) -> list[str]:
        """Names of the values it looks at."""
        return [a.name for a in flat(list(self.args)) if isinstance(a, Ref)]

    @property
    def writes(self) -> str:
        """The name of the value it writes into, or nothing."""
        return self.args[0].name if self.form in ("assign", "method") else ""


@dataclass(frozen=True)
class Program:
    """gradient: where it is taken (inside or outside of the compiled function), or nothing."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    gradient: str = ""
    dynamic: bool = False
    calls: int = CALLS
    text: str = field(default="", compare=False)

    def but(self, **changes: Any) -> "Program":
        """The same with some fields changed; its text is made anew."""
        return replace(self, text="", **changes)

    def leaves(self) -> list[str]:
        """Names of the inputs whose gradient is taken."""
        return [x.name for x in self.inputs if x.leaf] if self.gradient else []


# ---- text ----------------------------------------------------------------------------------------------------------
def array_text(a: Any) -> str:
    """An expression for an array, exact to the last bit."""
    kind = f'"{a.dtype.name}"'
    if a.size == 0:
        return f"np.zeros({a.shape}, {kind})"
    if a.size > 1 and bool((a.reshape(-1) == a.reshape(-1)[0]).all()) and not np.signbit(a.reshape(-1)[0]):
        return f"np.full({a.shape}, {a.reshape(-1)[0].item()!r}, {kind})"
    return f"np.array({a.tolist()!r}, {kind})"


def value_text(value: Any) -> str:
    """An argument or attribute as Python writes it."""
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, DType):
        return f"td.{value.name}" if value.name != "bool" else "td.bool"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def item_text(item: Any) -> str:
    """One item of a subscript."""
    if isinstance(item, slice):
        start, stop = ("" if n is None else str(n) for n in (item.start, item.stop))
        return f"{start}:{stop}" + (f":{item.step}" if item.step not in (None, 1) else "")
    return "..." if item is Ellipsis else repr(item)


def items_text(items: tuple[Any, ...]) -> str:
    return ", ".join(map(item_text, items)) or "..."


def step_text(step: Step) -> str:
    """The line of a step."""
    if step.form == "op":
        return f"{_targets(step.results)} = {_call_text(step)}"
    if step.form == "index":
        return f"{step.results[0]} = {step.args[0].name}[{items_text(step.args[1])}]"
    if step.form == "assign":
        return f"{step.args[0].name}[{items_text(step.args[1])}] = {value_text(step.args[2])}"
    if step.form == "method":
        return f"{step.args[0].name}.{step.what}({', '.join(map(value_text, step.args[1:]))})"
    return f"{step.results[0]} = td.tensor({array_text(step.args[0])}, device=device)"


def _targets(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _call_text(step: Step) -> str:
    op = td.ops.CATALOGUE[step.what]
    spread = op.inputs[0].many and op.category != "lists"
    words = [value_text(a) for a in (step.args[0] if spread else step.args)]
    words += [f"{k}={value_text(v)}" for k, v in step.attrs.items()]
    words += ["device=device"] if op.category == "create" else []
    name = step.what if hasattr(td.ops, step.what) else f"CATALOGUE[{step.what!r}]"  # one that a plugin declares
    return f"td.ops.{name}({', '.join(words)})"


def input_text(x: Input) -> str:
    """The expression that makes an input."""
    place = PLACES[x.place]
    text = f"td.tensor({array_text(place.base(x.array))}, device=device){place.text(x.array)}"
    return text + ".requires_grad_()" * x.leaf


LOSS = "loss = sum((y * y).sum() for y in {ys} if y.requires_grad)"
GRADIENTS = "list(td.autograd.grad(loss, [{leaves}], allow_unused=True))"


def program_text(p: Program) -> str:
    """The functions `build` and `run` of a program."""
    lines = ["def build(device):"]
    lines += [f"    {x.name} = {input_text(x)}" for x in p.inputs if x.closed]
    given = [x for x in p.inputs if not x.closed]
    lines += ["", f"    def program({', '.join(x.name for x in given)}):"]
    lines += [f"        {step_text(s)}" for s in p.steps]
    outputs = _tuple(p.outputs)
    if p.gradient == INSIDE and p.leaves():
        lines += [f"        results = {outputs}", f"        {LOSS.format(ys='results')}"]
        outputs = f"(*results, *{GRADIENTS.format(leaves=', '.join(p.leaves()))})"
    lines += [f"        return {outputs}", ""]
    lines += ["    def arguments():", *[f"        {x.name} = {input_text(x)}" for x in given]]
    lines += [f"        return [{', '.join(x.name for x in given)}]", ""]
    closed = ", ".join(x.name for x in p.inputs if x.closed)
    return "\n".join([*lines, f"    return program, arguments, [{closed}]", "", "", *_run_text(p)])


def _tuple(names: tuple[str, ...]) -> str:
    return f"({', '.join(names)}{',' * (len(names) == 1)})"


def _run_text(p: Program) -> Iterator[str]:
    yield "def run(device, wrap):"
    yield "    program, arguments, closed = build(device)"
    yield "    program = wrap(program)"
    once = p.calls == 1
    if not once:
        yield f"    for _ in range({p.calls}):"
    indent = "    " if once else "        "
    yield f"{indent}given = arguments()"
    yield f"{indent}results = list(program(*given))"
    if p.gradient == OUTSIDE and p.leaves():
        given = [x.name for x in p.inputs if not x.closed]
        closed = [x.name for x in p.inputs if x.closed]
        of = [f"given[{given.index(n)}]" if n in given else f"closed[{closed.index(n)}]" for n in p.leaves()]
        yield f"    {LOSS.format(ys='results')}"
        yield f"    results += {GRADIENTS.format(leaves=', '.join(of))}"
    yield "    return [None if y is None else y.detach().numpy().copy() for y in [*results, *given, *closed]]"


# ---- running -------------------------------------------------------------------------------------------------------
def runner(p: Program) -> Callable[[str, Callable[[Any], Any]], list[Any]]:
    """The function `run` of a program's text."""
    scope: dict[str, Any] = {"td": td, "np": np}
    exec(compile(program_text(p), "<random program>", "exec"), scope)
    return scope["run"]


def names(p: Program) -> list[str]:
    """What each array that `run` gives back is, in words."""
    order = [x for x in p.inputs if not x.closed] + [x for x in p.inputs if x.closed]
    of = [f"result {k} ({name})" for k, name in enumerate(p.outputs)]
    of += [f"the gradient for {name}" for name in p.leaves()]
    return of + [f"{x.name} after the call" for x in order]


def replaced(step: Step, old: str, new: Any) -> Step:
    """The step with another value (or number) in place of a value that it reads."""
    args = mapped(lambda a: new if isinstance(a, Ref) and a.name == old else a, list(step.args))
    return step._replace(args=tuple(args))
