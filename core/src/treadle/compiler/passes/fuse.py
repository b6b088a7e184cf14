"""Fusion: connected elementwise nodes over one shape become one `fused` node, where the backend claims that op.

Regions grow along edges, from producer to consumer, in the order of the nodes. A merge is refused when it would make a
circle (a path that leaves the region and comes back), when there would be too many operands, results or ops, or when
the backend declines such a mixture of dtypes. Every merge saves at least one pass over memory. Expanded operands stay
views, which cost nothing when the graph is lowered.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute
from treadle.ops.fused import Body, fused, fusible
from treadle.runtime.backend import Call
from treadle.shapes import expand_strides
from treadle.sig import Sig, dense_sig, sig_of
from treadle.spec import Spec

MAX_INPUTS, MAX_RESULTS, MAX_OPS = 8, 8, 32
MAX_LINES = 4  # of the user's program, said of a node
LARGEST = 1 << 53  # of an integer that a float holds exactly


def fuse(graph: Graph, device: Any) -> Graph:
    """Replace regions of elementwise nodes by `fused` nodes."""
    if not device.backend.candidates(fused):
        return graph
    regions = _Grower(graph, device).regions()
    for r in regions:
        r.node = _fused(r.nodes, r.inputs, r.results, device)
    of: dict[Any, Region] = {n: r for r in regions if r.node is not None for n in r.nodes}
    if not of:
        return graph
    instead: dict[Value, Value] = {}
    for r in dict.fromkeys(of.values()):
        instead |= zip(r.results, r.node.results(), strict=True)  # type: ignore[union-attr]
    units: list[Any] = [u.node if isinstance(u, Region) else u for u in _ordered(graph.nodes, of)]
    graph.nodes = units
    return substitute(graph, instead)


class Region:
    """Nodes that are to run as one, in their order."""

    __slots__ = ("first", "inputs", "last", "node", "nodes", "results")

    def __init__(self, nodes: list[Node], inputs: list[Value], results: list[Value], first: int, last: int) -> None:
        self.nodes, self.inputs, self.results = nodes, inputs, results
        self.first, self.last = first, last  # positions of its nodes in the graph
        self.node: Node | None = None


# ---- nodes ---------------------------------------------------------------------------------------------------------
def _fused(nodes: list[Node], inputs: list[Value], results: list[Value], device: Any) -> Node | None:
    """The node that stands for some, if the backend takes it."""
    inputs = sorted(inputs, key=lambda v: v.dtype.kind != "f")  # the main operand, by which ops are claimed, is a float
    if not inputs or inputs[0].dtype.kind != "f":
        return None
    attrs = {"body": _body(nodes, inputs), "results": _numbers(nodes, inputs, results)}
    made = Node(fused, (tuple(inputs),), attrs, [v.spec for v in results], _lines(nodes))
    ins = tuple(_sig(v, device) for v in inputs)
    call = Call(fused, ins, made.specs, {**attrs, "n": len(inputs)}, (True,) * len(results))
    return made if device.backend.bind(call) is not None else None


def _body(nodes: list[Node], inputs: list[Value]) -> Body:
    number = {v: k for k, v in enumerate(inputs)}
    out = []
    for n in nodes:
        operands = [number[x] if x.__class__ is Value else float(x) for x in n.inputs]
        out.append((n.op.name, *operands, *[d.name for d in n.attrs.values()]))
        number[n.outputs[0]] = len(number)  # type: ignore[index]
    return tuple(out)


def _numbers(nodes: list[Node], inputs: list[Value], values: list[Value]) -> tuple[int, ...]:
    order = [*inputs, *[n.outputs[0] for n in nodes]]
    return tuple(order.index(v) for v in values)


def _lines(nodes: list[Node]) -> str:
    lines = list(dict.fromkeys(n.line for n in nodes))
    return ", ".join([*lines[:MAX_LINES], *["..."] * (len(lines) > MAX_LINES)])


def _sig(v: Value, device: Any) -> Sig:
    """What the backend will see of an input, as far as it is known before the graph is lowered."""
    shape = tuple(v.shape)
    if v.node is None or v.node.op.name != "expand":
        return dense_sig(v.dtype, shape, device)
    small = dense_sig(v.dtype, tuple(v.node.inputs[0].shape), device)
    return sig_of(v.dtype, shape, expand_strides(small.shape, small.strides, shape), device)


# ---- regions -------------------------------------------------------------------------------------------------------
class _Grower:
    """Finds the regions of a graph."""

    def __init__(self, graph: Graph, device: Any) -> None:
        self.device = device
        self.position = {n: k for k, n in enumerate(graph.nodes)}
        self.users = graph.users()
        self.ends = set(graph.outputs)
        self.of: dict[Node, Region] = {}
        self.asked: dict[Any, bool] = {}
        for k, n in enumerate(graph.nodes):
            if self._takes(n):
                self.of[n] = Region([n], [*dict.fromkeys(n.operands())], [*n.results()], k, k)
                for x in self.of[n].inputs:
                    if x.node in self.of and x.shape == n.specs[0].shape:
                        self._merge(self.of[x.node], self.of[n])

    def regions(self) -> list[Region]:
        """Those of two nodes or more."""
        return [r for r in dict.fromkeys(self.of.values()) if len(r.nodes) > 1]

    def _takes(self, n: Node) -> bool:
        """Whether the backend runs such a node as a region."""
        specs = [v.spec for v in n.operands()]
        if not fusible(n.op) or not specs or not all(map(_exact, n.inputs)):
            return False
        if any(s.dtype.kind not in "fb" for s in (*specs, *n.specs)):
            return False
        key = (n.op.name, *[x.dtype if x.__class__ is Value else None for x in n.inputs], *n.attrs.values())
        if key not in self.asked:
            inputs = [*dict.fromkeys(n.operands())]
            kinds = [d for c in self.device.backend.candidates(fused) for d in c.dtypes or ()] or [n.specs[0].dtype]
            if all(v.dtype.kind == "b" for v in inputs):  # beside a float that is not used
                inputs.append(Value(Spec(inputs[0].shape, kinds[0])))
            self.asked[key] = _fused([n], inputs, [*n.results()], self.device) is not None
        return self.asked[key]

    def _merge(self, a: Region, b: Region) -> None:
        """Make one region of two, of which b reads a, unless something forbids it."""
        if a is b or len(a.nodes) + len(b.nodes) > MAX_OPS:
            return
        nodes = sorted([*a.nodes, *b.nodes], key=self.position.__getitem__)
        inputs, results = self._borders(nodes)
        if len(inputs) > MAX_INPUTS or len(results) > MAX_RESULTS or self._comes_back(a, b):
            return
        if _kinds(a) != _kinds(b) and not self._mixes(nodes, inputs, results):
            return
        made = Region(nodes, inputs, results, min(a.first, b.first), max(a.last, b.last))
        self.of.update(dict.fromkeys(nodes, made))

    def _borders(self, nodes: list[Node]) -> tuple[list[Value], list[Value]]:
        """What nodes read that others make, and what they make that others read."""
        own = set(nodes)
        inputs = dict.fromkeys(v for n in nodes for v in n.operands() if v.node not in own)
        made = (v for n in nodes for v in n.results())
        results = [v for v in made if v in self.ends or any(u not in own for u in self.users.get(v, ()))]
        return [*inputs], results

    def _comes_back(self, a: Region, b: Region) -> bool:
        """Whether b reads something made outside of both that depends on a."""
        todo = [n for n in _producers(b.nodes) if self.of.get(n) is not a]
        seen = {id(b)}
        while todo:
            n = todo.pop()
            r = self.of.get(n)
            unit, nodes, last = (n, [n], self.position[n]) if r is None else (r, r.nodes, r.last)
            if r is a:
                return True
            if id(unit) not in seen and last > a.first:
                todo += _producers(nodes)
            seen.add(id(unit))
        return False

    def _mixes(self, nodes: list[Node], inputs: list[Value], results: list[Value]) -> bool:
        """Whether the backend computes in these dtypes side by side."""
        kinds = frozenset(v.dtype for n in nodes for v in (*n.operands(), *n.results()))
        if kinds not in self.asked:
            self.asked[kinds] = _fused(nodes, inputs, results, self.device) is not None
        return self.asked[kinds]


def _exact(x: Any) -> bool:
    """Whether an operand can stand in a body: a Value, or a number that a float holds."""
    return x.__class__ is Value or x.__class__ is float or (x.__class__ is int and abs(x) <= LARGEST)


def _kinds(r: Region) -> set[Any]:
    return {v.dtype for n in r.nodes for v in (*n.operands(), *n.results()) if v.dtype.kind != "b"}


def _producers(nodes: Iterable[Node]) -> list[Node]:
    return [v.node for n in nodes for v in n.operands() if v.node is not None]


# ---- order ---------------------------------------------------------------------------------------------------------
def _ordered(nodes: list[Node], of: dict[Any, Region]) -> Iterator[Any]:
    """Nodes and regions in an order in which they can run: a region where its last node was, or earlier."""
    ends: dict[Any, Node] = {r: n for n in nodes if (r := of.get(n)) is not None}
    done = set()
    for n in nodes:
        todo: list[Any] = [of.get(n, n)] if ends.get(of.get(n)) in (n, None) else []
        while todo:
            unit = todo[-1]
            read = unit.inputs if unit.__class__ is Region else unit.operands()
            needed = [of.get(v.node, v.node) for v in read if v.node is not None]
            needed = [u for u in needed if u not in done]
            if unit in done or needed:
                todo = todo[:-1] if unit in done else todo + needed
                continue
            done.add(unit)
            yield todo.pop()
