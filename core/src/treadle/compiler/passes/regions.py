"""Regions: connected elementwise nodes over one shape that can run as one.

Regions grow along edges, from producer to consumer, in the order of the nodes. A merge is refused when it would make a
circle (a path that leaves the region and comes back), when there would be too many operands, results or ops, or when
the backend declines such a mixture of dtypes. As a region runs as one, some of its nodes run at another time than
before. If that takes more memory in the whole, the regions that keep more than they free are grown again, with nodes
between the same two larger ones only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from treadle.dtypes import float32
from treadle.ir.graph import Graph, Node, Value
from treadle.ops.fused import fusible
from treadle.spec import Spec

MAX_INPUTS, MAX_RESULTS, MAX_OPS = 8, 8, 32
LARGEST = 1 << 53  # of an integer that a float holds exactly


class Region:
    """Nodes that are to run as one, in their order."""

    __slots__ = ("first", "inputs", "last", "nodes", "results")

    def __init__(self, nodes: list[Node], inputs: list[Value], results: list[Value], first: int, last: int) -> None:
        self.nodes, self.inputs, self.results = nodes, inputs, results
        self.first, self.last = first, last  # positions of its nodes in the graph


Accepts = Callable[[Region], bool]


def grow(graph: Graph, accepts: Accepts) -> list[Region]:
    """The regions of two nodes or more that a graph has; accepts says what the backend takes."""
    grower = _Grower(graph, accepts)
    grower.grow(graph.nodes)
    lives = _Lives(graph, grower.of)
    if lives.peak(lives.units) > lives.peak(graph.nodes):
        grower.grow([n for r in grower.regions() if lives.longer(r) > 0 for n in r.nodes], near=True)
    return grower.regions()


def ordered(nodes: list[Node], of: dict[Node, Region]) -> Iterator[Any]:
    """Nodes and regions in an order in which they can run: a region where its last node was, or earlier."""
    last = {of[n]: n for n in nodes if n in of}
    done: set[Any] = set()
    for n in nodes:
        todo: list[Any] = [of.get(n, n)] if n not in of or last[of[n]] is n else []
        while todo:
            unit = todo.pop()
            if unit in done:
                continue
            read = unit.inputs if isinstance(unit, Region) else unit.operands()
            needed = [u for v in read if v.node is not None and (u := of.get(v.node, v.node)) not in done]
            if needed:
                todo += [unit, *needed]
            else:
                done.add(unit)
                yield unit


# ---- growing -------------------------------------------------------------------------------------------------------
class _Grower:
    """Which region each node is in."""

    def __init__(self, graph: Graph, accepts: Accepts) -> None:
        self.accepts = accepts
        self.position = {n: k for k, n in enumerate(graph.nodes)}
        self.users = graph.users()
        self.ends = set(graph.outputs)
        self.others = _others(graph.nodes)
        self.of: dict[Node, Region] = {}
        self.asked: dict[Any, bool] = {}

    def regions(self) -> list[Region]:
        """Those of two nodes or more."""
        return [r for r in dict.fromkeys(self.of.values()) if len(r.nodes) > 1]

    def grow(self, nodes: list[Node], near: bool = False) -> None:
        """Begin anew with some nodes. near: a region must not reach over nodes that are not elementwise."""
        alone = [_alone(n, self.position[n]) for n in nodes if self._takes(n)]
        self.of.update((r.nodes[0], r) for r in alone)
        for r in alone:
            for x in r.inputs:
                if x.node in self.of and x.shape == r.results[0].shape:
                    self._merge(self.of[x.node], self.of[r.nodes[0]], near)

    def _takes(self, n: Node) -> bool:
        """Whether the backend runs such a node as a region."""
        specs = [v.spec for v in n.operands()]
        pairs = zip(n.op.inputs, n.inputs, strict=True)
        if not any(x.__class__ is Value and i.name != "c" for i, x in pairs):  # numbers alone decide the dtype
            return False
        if not fusible(n.op) or not all(map(_exact, n.inputs)):
            return False
        if any(s.dtype.kind not in "fb" for s in (*specs, *n.specs)):
            return False
        key = (n.op.name, *[x.dtype if x.__class__ is Value else None for x in n.inputs], *n.attrs.values())
        if key not in self.asked:
            r = _alone(n, 0)
            if all(s.dtype.kind == "b" for s in specs):  # beside a float that is not used
                r.inputs.append(Value(Spec(specs[0].shape, float32)))
            self.asked[key] = self.accepts(r)
        return self.asked[key]

    def _merge(self, a: Region, b: Region, near: bool) -> None:
        """Make one region of two, of which b reads a, unless something forbids it."""
        if a is b or len(a.nodes) + len(b.nodes) > MAX_OPS:
            return
        nodes = sorted([*a.nodes, *b.nodes], key=self.position.__getitem__)
        made = Region(nodes, *self._borders(nodes), min(a.first, b.first), max(a.last, b.last))
        if near and self.others[made.first] != self.others[made.last]:
            return
        if len(made.inputs) > MAX_INPUTS or len(made.results) > MAX_RESULTS or self._comes_back(a, b):
            return
        if _floats(a) == _floats(b) or self._mixes(made):
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
        seen: set[Any] = {b}
        while todo:
            n = todo.pop()
            r = self.of.get(n)
            unit, nodes, last = (n, [n], self.position[n]) if r is None else (r, r.nodes, r.last)
            if r is a:
                return True
            if unit not in seen and last > a.first:
                todo += _producers(nodes)
            seen.add(unit)
        return False

    def _mixes(self, r: Region) -> bool:
        """Whether the backend computes in these dtypes side by side."""
        kinds = frozenset(_floats(r))
        if kinds not in self.asked:
            self.asked[kinds] = self.accepts(r)
        return self.asked[kinds]


def _alone(n: Node, k: int) -> Region:
    return Region([n], [*dict.fromkeys(n.operands())], [*n.results()], k, k)


def _exact(x: Any) -> bool:
    """Whether an operand can stand in a body: a Value, or a number that a float holds."""
    return x.__class__ is Value or x.__class__ is float or (x.__class__ is int and abs(x) <= LARGEST)


def _floats(r: Region) -> set[Any]:
    """The floating-point dtypes in a region."""
    return {v.dtype for n in r.nodes for v in (*n.operands(), *n.results()) if v.dtype.kind == "f"}


def _producers(nodes: Iterable[Node]) -> list[Node]:
    return [v.node for n in nodes for v in n.operands() if v.node is not None]


def _others(nodes: Iterable[Node]) -> list[int]:
    """How many nodes before each position are neither elementwise nor views: the clock by which memory is judged."""
    count = [0]
    for n in nodes:
        count.append(count[-1] + (n.op.tier != "view" and not fusible(n.op)))
    return count


# ---- memory --------------------------------------------------------------------------------------------------------
class _Lives:
    """How long values are in memory, before and with regions; inputs and outputs of the graph have their own."""

    def __init__(self, graph: Graph, of: dict[Node, Region]) -> None:
        self.source: dict[Value, Value] = {}  # of a view: whose memory it shows
        self.readers: dict[Value, list[Node]] = {}
        for n in graph.nodes:
            if n.op.tier == "view":
                self.source |= {v: self._memory(n.inputs[0]) for v in n.results()}
                continue
            for v in dict.fromkeys(map(self._memory, n.operands())):
                self.readers.setdefault(v, []).append(n)
        self.ends = {self._memory(v) for v in graph.outputs}
        self.units = list(ordered(graph.nodes, of))
        self.before = dict(zip(graph.nodes, _others(graph.nodes), strict=False))
        clock = _others([u.nodes[0] if isinstance(u, Region) else u for u in self.units])
        self.after = {n: k for k, u in zip(clock, self.units, strict=False) for n in _nodes(u)}

    def _memory(self, v: Value) -> Value:
        """The value whose memory this one shows."""
        return self.source.get(v, v)

    def longer(self, r: Region) -> int:
        """Bytes times steps of the clock that values of a region are in memory longer than before."""
        more = 0
        for v in (*dict.fromkeys(map(self._memory, r.inputs)), *(v for n in r.nodes for v in n.results())):
            more += (self._span(v, self.after) - self._span(v, self.before)) * int(v.spec.nbytes)
        return more

    def _span(self, v: Value, time: dict[Node, int]) -> int:
        """How long a value is in memory."""
        if v in self.ends:
            return 0
        start = time[v.node] if v.node is not None else 0
        return max((time[n] for n in self.readers.get(v, ())), default=start) - start

    def peak(self, units: Iterable[Any]) -> int:
        """The most bytes at a time, about, if nodes and regions run in this order."""
        units = list(units)
        last = {v: k for k, u in enumerate(units) for n in _nodes(u) for v in map(self._memory, n.operands())}
        alive = most = 0
        for k, u in enumerate(units):
            results = u.results if isinstance(u, Region) else u.results()
            made = [int(v.spec.nbytes) for v in results if v not in self.source and v not in self.ends]
            read = {self._memory(v) for v in (u.inputs if isinstance(u, Region) else u.operands())}
            freed = (v for v in read if last[v] == k and v.node is not None and v not in self.ends)
            free = [int(v.spec.nbytes) for v in freed]
            over = sum((Counter(made) & Counter(free)).elements()) if _writes_over(_nodes(u)[0]) else 0
            most = max(most, alive + sum(made) - over)
            alive += sum(made) - sum(free)
        return most


def _writes_over(n: Node) -> bool:
    """Whether results may take the memory of operands."""
    return fusible(n.op) or n.op.category == "lists"


def _nodes(unit: Any) -> list[Node]:
    return unit.nodes if isinstance(unit, Region) else [unit]
