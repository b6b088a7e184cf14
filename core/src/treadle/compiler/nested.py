"""A trace within a trace: what a branch or the body of a loop does becomes a Graph of its own.

Whatever it uses of what is around it (traced tensors, parameters, random states) is captured: it becomes one more input
of the inner Graph, and an operand of the node that runs it. The trace stays open, with the tape of what it recorded, so
that gradients of any order are traced into it later: they are those of the tape, with its detached values, hooks and
user functions, and only what a Body needs is copied out of it into a Graph.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from treadle import tape
from treadle._tensor import Tensor, is_leaf_node
from treadle.autograd.backward import grad_of
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.compiler.device import TRACE, Cell, TracedDevice, cell_of, traced
from treadle.compiler.trace import Trace
from treadle.errors import TraceError
from treadle.ir.graph import Graph, Value
from treadle.ir.rewrite import extract, needed
from treadle.op import Op, interpreting
from treadle.sig import dense_sig
from treadle.spec import Spec


class Capture(NamedTuple):
    """A tensor from around: it, how it was when it was first used, and the input that stands for it."""

    source: Tensor
    outer: Tensor
    inner: Tensor


@contextmanager
def inside(t: Trace) -> Iterator[None]:
    """Let t be the trace that ops are added to."""
    token = TRACE.set(t)
    try:
        with interpreting(t):
            yield
    finally:
        TRACE.reset(token)


def spec_of(x: Tensor) -> Spec:
    return Spec(tuple(x.shape), x.dtype)


def shown(t: Trace, value: Value, device: Any, node: Any = None) -> Tensor:
    """A tensor with memory of its own that shows a Value."""
    return Tensor(Cell(t, value.spec.nbytes, value), dense_sig(value.dtype, tuple(value.shape), device), node)


def frozen(t: Trace, x: Tensor) -> Tensor:
    """x as it is now, for t: later writes into x do not change it. It has the node of x."""
    with inside(t):
        y = t.lift(x)
        return shown(t, t.value(y), y.device, y.node)


class Nested(Trace):
    """The trace of a function that `what` runs, any number of times unless it draws.

    draws: whether random numbers may be drawn, which takes that it runs once at most.
    """

    def __init__(self, parent: Trace, what: str, draws: bool = False) -> None:
        super().__init__()
        self.parent, self.what, self.draws = parent, what, draws
        self.captured: dict[Any, Capture] = {}
        self.cells: dict[int, Cell] = {}  # of the inputs, which nobody may write to

    def enter(self, spec: Spec, device: Any, leaf: bool) -> Tensor:
        """A new input; leaf: gradients with respect to it may be wanted."""
        x = shown(self, self.graph.input(spec), traced(device), tape.leaf_node() if leaf else None)
        self.cells[id(x.storage)] = x.storage
        if leaf:
            self._know(x.node[2])
        return x

    def lift(self, x: Tensor) -> Tensor:
        if isinstance(x.device, TracedDevice) and _home(x.storage) is self:
            return x
        with inside(self.parent):
            source = self.parent.lift(x)
            key = id(source), self.parent.value(source)
        found = self.captured.get(key)
        if found is None:
            outer = frozen(self.parent, source)
            inner = self.enter(spec_of(outer), outer.device, outer.node is not None)
            found = self.captured[key] = Capture(source, outer, inner)
        return found.inner

    def call(self, f: Callable[..., Any], *args: Any) -> Any:
        """Run f in this trace; TraceError if it leaves a gradient in a tensor from outside."""
        try:
            with inside(self):
                result = f(*args)
            if any(leaf.grad is not before for leaf, before in self.leaves.values()):
                self.refuse("changes the .grad of a tensor from outside, as backward() does: use td.grad in its place")
            return result
        finally:
            for leaf, before in self.leaves.values():
                leaf.grad = before

    def refuse(self, problem: str) -> None:
        raise TraceError(f"{self.what} {problem} (at {self.line()})")

    # ---- what may not be done inside -------------------------------------------------------------------------------
    def write(self, f: Any, x: Any, *args: Any) -> Any:
        cell, _ = cell_of(self.lift(x).storage)
        if id(cell) in self.cells:
            self.refuse("writes in place into a tensor from outside: return the new content instead")
        return super().write(f, x, *args)

    def step(self, op: Op, lists: Any, numbers: Any, attrs: dict[str, Any]) -> Any:
        self.refuse(f"writes in place into tensors from outside ({op.name}): do it outside")

    def random_state(self, generator: Any, device: Any) -> Any:
        if not self.draws:
            self.refuse(
                "draws random numbers, which would be the same ones in every iteration: draw them outside, for all "
                "iterations, and pass them as xs"
            )
        with inside(self.parent):
            state = self.parent.random_state(generator, device)
        return self.lift(state)

    # ---- what the trace around it has to know ----------------------------------------------------------------------
    def guard(self, owner: Any, attribute: str) -> None:
        self.parent.guard(owner, attribute)

    def touch(self, leaf: Any) -> None:
        self._know(leaf)
        self.parent.touch(leaf)


def _home(storage: Any) -> Any:
    return (storage if storage.__class__ is Cell else storage.cell).trace


def leaf_of(x: Tensor | None) -> int:
    """Which leaf of the tape an input is; 0 for none."""
    return id(x.node[2]) if x is not None and x.node is not None and is_leaf_node(x.node) else 0


def leaves_behind(edge: Any) -> set[int]:
    """Leaves that the tape behind an edge leads to."""
    found: set[int] = set()
    stack, seen = [edge], set()
    while stack:
        edge = stack.pop()
        n = edge[0] if edge.__class__ is tuple else edge
        if n is None or n[0] in seen:
            continue
        if n[0] == 0:
            found.add(id(n[2]))
        else:
            seen.add(n[0])
            stack += n[tape.EDGES : tape.EDGES + n[1].count]
    return found


class Body:
    """Results as a function of inputs, in a Nested trace. Inputs are its leaves; None is one that it does not use."""

    def __init__(self, trace: Nested, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> None:
        self.trace, self.inputs, self.outputs = trace, list(inputs), list(outputs)
        with inside(trace):
            self.values = [trace.value(y) for y in outputs]

    def captures(self) -> dict[Any, Capture]:
        """What the results need of what was captured, apart from the inputs."""
        _, alive = needed(self.trace.graph, self.values)
        given = {id(x) for x in self.inputs}
        return {
            key: c
            for key, c in self.trace.captured.items()
            if c.inner.storage.value in alive and id(c.inner) not in given
        }

    def graph(self, specs: Sequence[Spec], name: str) -> Graph:
        """A Graph of the results, with one input per input; specs: of those that are None."""
        inputs = [Value(s) if x is None else x.storage.value for x, s in zip(self.inputs, specs, strict=True)]
        return extract(self.trace.graph, inputs, self.values, name)

    def reach(self) -> list[set[int]]:
        """Per result the leaves that it depends on."""
        return [leaves_behind(y.node) for y in self.outputs]

    def seeds(self, which: Sequence[int]) -> list[Tensor]:
        """New inputs that stand for the gradients of results."""
        return [self.trace.enter(spec_of(y), y.device, is_grad_enabled()) for y in (self.outputs[k] for k in which)]

    def gradients(
        self, which: Sequence[int], seeds: Sequence[Tensor], wanted: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Gradients of the results `which`, weighted by seeds, with respect to inputs; None where they are zero."""
        pairs = [(self.outputs[k], s) for k, s in zip(which, seeds, strict=True) if self.outputs[k].node is not None]
        xs = [x for x in wanted if x is not None and leaf_of(x)]
        if not pairs or not xs:
            return [None] * len(wanted)
        with inside(self.trace):
            found = grad_of(
                [y for y, _ in pairs], xs, [s for _, s in pairs],
                retain_graph=True, create_graph=is_grad_enabled(), allow_unused=True,
            )  # fmt: skip
        rest = iter(found)
        return [next(rest) if leaf_of(x) else None for x in wanted]
