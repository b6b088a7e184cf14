"""Trace: run a Python function once on traced tensors; what it did to tensors is the Graph.

Tensors from outside (parameters, buffers, whatever the function closes over) become inputs, never constants. What the
function wrote into them, and into `.grad` of leaves, become effects: extra outputs that a run puts back.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle import dtypes, tape, tree
from treadle._tensor import Tensor, View, is_leaf_node
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.compiler.device import TRACE, Cell, TracedDevice, cell_of, read, traced
from treadle.compiler.joint import Backward, differentiable, gradients, split
from treadle.errors import TraceError
from treadle.ir.dim import Dim, Ratio
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.op import CATALOGUE, Interpreter, Live, Op, interpreting, outside
from treadle.random import drawn, unnoted
from treadle.sig import dense_sig, sig_of
from treadle.spec import Spec

PACKAGE = str(Path(__file__).parents[1])


class Source(NamedTuple):
    """Where a run takes an input from. kind: arg (which), state (a tensor), grad (a leaf), live (a function)."""

    kind: str
    what: Any


class Effect(NamedTuple):
    """Where a run puts an output. kind: output, state (a tensor), arg (which), grad (a leaf; None: it has none)."""

    kind: str
    what: Any
    value: Any  # a Value, or None


class Trace(Interpreter):
    """The interpreter that records. Ops run as in eager on the traced device, whose kernels add Nodes."""

    lifts = True

    def __init__(self) -> None:
        self.graph = Graph()
        self.outer = True
        self.home: Any = None  # the device of the call that is being made
        self.sources: list[Source] = []  # one per input of the graph
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}  # id of a tensor from outside -> it, its traced twin
        self.leaves: dict[int, tuple[Any, Any]] = {}  # id of a Leaf -> it, its gradient before
        self.guards: dict[Any, tuple[Any, str, Any]] = {}
        self.looked: set[int] = set()  # ids of leaves whose gradient the function looked at
        self.used_up: set[int] = set()  # ids of gradients that an optimizer has taken
        self.args: dict[int, int] = {}  # id of a tensor among the arguments -> its leaf
        self.same: dict[Any, tuple[int, Any]] = {}  # arguments that are also something else
        # while something is computed again: what it reads -> the same behind a barrier
        self.barriers: dict[Value, Value] | None = None
        self.repeats = 0

    # ---- recording -------------------------------------------------------------------------------------------------
    def add(self, op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], specs: Any, want: Any = None) -> Node:
        """Append a node."""
        if self.barriers is not None:
            inputs = tuple(self._behind(x) for x in inputs)
        made = self.graph.add(Node(op, inputs, attrs, specs, self.line(), want))
        if self.barriers is not None:
            self.barriers.update((v, v) for v in made.results())
        return made

    def _behind(self, x: Any) -> Any:
        """Operands of what is computed again, each behind a barrier, so that no pass finds it equal to the first."""
        if x.__class__ is tuple:
            return tuple(self._behind(v) for v in x)
        if x.__class__ is not Value or x in self.graph.constants:
            return x
        assert self.barriers is not None
        if x not in self.barriers:
            node = Node(CATALOGUE["barrier"], (x,), {"number": self.repeats}, (x.spec,), self.line())
            self.barriers[x] = y = next(self.graph.add(node).results())
            self.barriers[y] = y
        return self.barriers[x]

    @contextmanager
    def again(self) -> Iterator[None]:
        before, self.barriers = self.barriers, {}
        self.repeats += 1
        try:
            yield
        finally:
            self.barriers = before

    def one(self, op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], spec: Spec) -> Value:
        """Append a node with one result and return that."""
        value = self.add(op, inputs, attrs, (spec,)).outputs[0]
        assert value is not None
        return value

    def literal(self, pending: Any, spec: Spec) -> Value:
        """Bytes, a fill pattern, or nothing at all (uninitialised memory), as a Value."""
        if isinstance(pending, bytes):
            return self.graph.constant(np.frombuffer(pending, spec.dtype.np).reshape(spec.shape), spec)
        pattern = bytes(spec.dtype.itemsize) if pending is None else pending[0]
        scalar = Spec((), spec.dtype)
        one = self.graph.constant(np.frombuffer(pattern, spec.dtype.np).reshape(()), scalar)
        return one if spec.shape == () else self.one(CATALOGUE["expand"], (one,), {"to": spec.shape}, spec)

    @staticmethod
    def line() -> str:
        """The user's line: the innermost frame outside of this package."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith((PACKAGE, "<")):
                return f"{name}:{frame.f_lineno}"
            frame = frame.f_back
        return "an unknown line"

    # ---- as an interpreter -----------------------------------------------------------------------------------------
    def __call__(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        self.home = next((a.device for a in args if isinstance(a, Tensor) and isinstance(a.device, TracedDevice)), None)
        args = tuple(self.lift_all(a) for a in args)
        out = self.plainly(op, args, attrs)
        if op.tier == "view":
            self.note(op, args[0], attrs, out)
        return out

    def note(self, op: Op, x: Tensor, attrs: tuple[Any, ...], y: Tensor) -> None:
        """Remember how a view was made, so that reading it becomes this op."""
        cell, offset = cell_of(y.storage)
        origin, start = cell_of(x.storage)
        item = y.dtype.itemsize
        layout = (tuple(y.shape), tuple(y.sig.strides), offset // item)
        source = (tuple(x.shape), tuple(x.sig.strides), start // item)
        if cell is not origin:  # the op copied first
            source = (source[0], dense_sig(x.dtype, x.shape, x.device).strides, 0)
        origin_of = source
        while origin_of in cell.paths and origin_of != layout:  # back to a layout that nobody named
            origin_of = cell.paths[origin_of][2]
        if origin_of != layout:
            cell.paths.setdefault(layout, (op, dict(zip(op.attrs, attrs, strict=True)), source))

    def place(self, device: Any) -> Any:
        return traced(device)

    def write(self, f: Any, x: Any, *args: Any) -> Any:
        twin = self.lift(x)
        given = [self.lift_all(a) for a in args]
        with outside():
            f(twin, *given)
        return x

    def guard(self, owner: Any, attribute: str) -> None:
        self.guards.setdefault((id(owner), attribute), (owner, attribute, getattr(owner, attribute)))

    def touch(self, leaf: Any) -> None:
        self.looked.add(id(leaf))
        self._know(leaf)

    def _know(self, leaf: Any) -> None:
        self.leaves.setdefault(id(leaf), (leaf, leaf.grad))

    # ---- tensors from outside --------------------------------------------------------------------------------------
    def lift_all(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.lift(x)
        if x.__class__ is list or x.__class__ is tuple:
            return x.__class__(self.lift_all(y) for y in x)
        return self.size(x) if isinstance(x, (Dim, Ratio)) else x

    def size(self, number: Any) -> Any:
        """A number that depends on symbolic sizes, as a 0-d tensor: its value is known when the sizes are."""
        kind = dtypes.float64 if isinstance(number, Ratio) else dtypes.int64
        value = self.graph.constant(number, Spec((), kind))
        return Tensor(Cell(self, kind.itemsize, value), dense_sig(kind, (), self.home))

    def lift(self, x: Tensor) -> Tensor:
        """The traced twin of a tensor; a traced tensor is its own."""
        if isinstance(x.device, TracedDevice):
            cell_of(x.storage)
            return x
        found = self.twins.get(id(x))
        if id(x) in self.args:  # the function closes over one of its arguments
            self.same[id(x)] = self.args[id(x)], x
        if found is None:
            twin = self._twin_of_view(x) if isinstance(x, View) else None
            found = self.twins[id(x)] = (x, self._twin(x) if twin is None else twin)
        return found[1]

    def _twin(self, x: Tensor) -> Tensor:
        source = Source("state", x)
        for leaf, before in self.leaves.values():
            if x is before:
                source = Source("grad", leaf)
        return self.input(x, source)

    def input(self, x: Tensor, source: Source, shape: Any = None) -> Tensor:
        """A new input of the graph that stands for x, seen with another (symbolic) shape if one is given."""
        shape = tuple(x.shape) if shape is None else shape
        node = x.node
        if node is not None:
            if is_leaf_node(node):
                self._know(node[2])
            else:  # it has a past outside: here it begins one of its own
                node = tape.leaf_node()
        value = self.graph.input(Spec(shape, x.dtype))
        self.sources.append(source)
        return Tensor(Cell(self, value.spec.nbytes, value), dense_sig(x.dtype, shape, traced(x.device)), node)

    def _twin_of_view(self, x: View) -> Tensor | None:
        """A view of the twin of x's base; None where x is not a plain view of a row-major tensor, or a leaf itself."""
        if x.base is None and x.node is not None:
            return None
        base = x.base if x.base is not None else x.owner
        if base.sig.layout != "dense" or isinstance(base, View) or (x.base is None and x.sig is not x.owner.sig):
            return None
        root = self.lift(base)
        sig = sig_of(x.dtype, x.shape, x.sig.strides, root.device)
        cell, _ = cell_of(root.storage)
        storage = sig.device.backend.view(cell, x.offset * x.dtype.itemsize) if x.offset else root.storage
        return View(storage, sig, root if x.base is not None else None, root, x.offset)

    def twin_of(self, source: Source, given: list[Any]) -> Tensor:
        """The traced tensor that stands for what an input comes from."""
        # type: ignore[no-any-return]
        return given[source.what] if source.kind == "arg" else self.twins[id(source.what)][1]

    def cotangent(self, y: Tensor) -> Tensor:
        """A new input that stands for the gradient of a result."""
        return self.input(Tensor(None, y.sig), Source("cotangent", None))

    @staticmethod
    def value(x: Tensor) -> Value:
        """The Value that a traced tensor shows now."""
        cell, offset = cell_of(x.storage)
        return read(cell, x.dtype, (tuple(x.shape), tuple(x.sig.strides), offset // x.dtype.itemsize))

    # ---- what is read anew at every run ----------------------------------------------------------------------------
    def random_state(self, generator: Any, device: Any) -> Any:
        real = device.real if isinstance(device, TracedDevice) else device
        return drawn(lambda: self.input(_state_like(real), Source("live", lambda: generator.next_state(real))))

    def step(self, op: Op, lists: Any, numbers: Any, attrs: dict[str, Any]) -> Any:
        """An in-place list op: one node whose results become what its targets hold."""
        attrs = {**op.attrs, **attrs}
        twins = [[self.lift(x) for x in xs] for xs in lists]
        starred = [i.name for i in op.inputs if i.many]
        results = [r.rstrip("*") for r in op.results if r != "norm"]
        targets = twins[:1] if op.results[-1] == "norm" else [twins[starred.index(r)] for r in results]
        inputs = [tuple(self.value(x) for x in xs) for xs in twins]
        flat = [x for xs in targets for x in xs]
        specs = [Spec(tuple(x.shape), x.dtype) for x in flat]
        norm = op.results[-1] == "norm"
        if norm:
            specs.append(Spec((), flat[0].dtype))
        made = self.add(op, (*inputs, *self._numbers(op, numbers)), attrs, specs).outputs
        for x, value in zip(flat, made, strict=False):
            cell, _ = cell_of(x.storage)
            assert value is not None
            cell.put(value)
        if not norm:
            grads = lists[starred.index("grads")] if "grads" in starred else []
            self.used_up |= {id(g) for g in grads}
            return None
        value = made[-1]
        assert value is not None
        device = flat[0].device
        return Tensor(Cell(self, value.spec.nbytes, value), dense_sig(value.dtype, (), device))

    def _numbers(self, op: Op, numbers: Any) -> list[Any]:
        if not isinstance(numbers, Live):
            return list(numbers)
        names = [i.name for i in op.inputs if i.number]
        made = [Number(f"{n}{len(self.graph.numbers)}", k) for n, k in zip(names, numbers.kinds, strict=True)]
        made[0].read = numbers.read  # one call gives the numbers of all
        self.graph.numbers += made
        return list(made)


def _state_like(device: Any) -> Tensor:
    uint32 = next(d for d in _all() if d.name == "uint32")
    return Tensor(None, dense_sig(uint32, (4,), device))


def _all() -> Any:
    return CATALOGUE["iota"].dtypes


class Traced(NamedTuple):
    """What a trace found: the graph, where its inputs come from, where its outputs go, and the shape of the result."""

    graph: Graph
    sources: list[Source]
    effects: list[Effect]
    results: list[Any]  # per leaf of the result: ("value", which output), ("same", tensor), ("arg", k), ("plain", x)
    structure: Any
    leaves: list[Any]  # (leaf, gradient or None when it was traced)
    guards: list[Any]  # (object, attribute, value) that the trace depended on
    same: list[Any]  # (leaf, an earlier leaf or a tensor closed over) of arguments that were one object
    backward: Backward | None = None  # for a function that can be differentiated from outside
    refused: dict[int, str] = {}  # which of the outputs cannot, though they require grad, and why


def trace(f: Any, args: list[Any], structure: Any, outer: bool = True, shapes: Any = None) -> Traced:
    """Trace f called with a structure (args, kwargs) whose leaves are args.

    outer: whether its results may be differentiated from outside, so that its backward is traced too. shapes: per leaf
    a shape with symbolic sizes to trace it with, or None for its own.
    """
    t = Trace()
    t.outer = outer
    leaves: list[Any] = []
    for k, x in enumerate(args):
        if isinstance(x, Tensor) and t.args.setdefault(id(x), k) != k:
            t.same[k] = k, t.args[id(x)]
        elif isinstance(x, Tensor):
            t.twins[id(x)] = (x, t.input(x, Source("arg", k), shapes[k] if shapes else None))
        leaves.append(t.twins[id(x)][1] if isinstance(x, Tensor) else x)
    token = TRACE.set(t)
    try:
        positional, named = structure.build(iter(leaves))
        with interpreting(t), unnoted():
            result = f(*positional, **named)
            return _finish(t, args, leaves, result)
    finally:
        TRACE.reset(token)
        for leaf, before in t.leaves.values():
            leaf.grad = before


def _finish(t: Trace, args: list[Any], given: list[Any], result: Any) -> Traced:
    found, structure = tree.flatten(result)
    effects: list[Effect] = []
    results: list[Any] = []
    own = {id(x): k for k, x in enumerate(given) if isinstance(x, Tensor)}
    for x in found:
        if not isinstance(x, Tensor):
            results.append(("plain", x))
        elif not isinstance(x.device, TracedDevice):
            results.append(("same", x))
        elif id(x) in own:
            results.append(("arg", own[id(x)]))
        else:
            results.append(("value", len(effects)))
            effects.append(Effect("output", None, t.value(x)))
    backward = None
    made = [x for x, r in zip(found, results, strict=True) if r[0] == "value"]
    which, refused = differentiable(made) if t.outer and is_grad_enabled() else ([], {})
    inputs = list(zip(t.sources, t.graph.inputs, strict=True))
    twins = [(k, t.twin_of(s, given)) for k, (s, _) in enumerate(inputs) if s.kind in ("state", "arg")]
    seeds, grads = gradients(t, [made[k] for k in which], twins) if which else ([], [])
    t.sources = [s for s in t.sources if s.kind != "cotangent"]
    for source, value in inputs:
        if source.kind in ("state", "arg"):
            cell, _ = cell_of(t.twin_of(source, given).storage)
            if cell.value is not value:
                effects.append(Effect(source.kind, source.what, cell.value))
    for leaf, before in t.leaves.values():
        g = leaf.grad
        if g is before:
            if g is not None and (twin := t.twins.get(id(g))) is not None:  # it was accumulated into in place
                now = cell_of(twin[1].storage)[0].value
                if now not in t.graph.inputs:
                    effects.append(Effect("grad", leaf, None if id(g) in t.used_up else now))
            continue
        if g is None or id(g) in t.used_up:
            effects.append(Effect("grad", leaf, None))
        elif isinstance(g.device, TracedDevice):
            effects.append(Effect("grad", leaf, t.value(g)))
        else:
            raise TraceError("a gradient made outside was assigned to .grad while tracing; assign it outside")
    t.graph.outputs = [e.value for e in effects if e.value is not None]
    if grads:
        written = {(e.kind, id(e.what)) for e in effects}
        kept = {value for source, value in inputs if (source.kind, id(source.what)) not in written}
        backward = split(t.graph, seeds, grads, kept)._replace(outputs=which)
    t.graph.inputs = [v for v in t.graph.inputs if v not in seeds]
    leaves = [(leaf, g) for key, (leaf, g) in t.leaves.items() if key in t.looked or leaf.grad is not g]
    guards, same = list(t.guards.values()), list(t.same.values())
    return Traced(t.graph, t.sources, effects, results, structure, leaves, guards, same, backward, refused)
