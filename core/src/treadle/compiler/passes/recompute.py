"""Recomputation: what waits long and costs little is computed again right before it is needed late.

At the node where most memory is in use, Values that only wait there for a later reader are looked at, and the nodes
that would make each again from what is there when that reader runs. The one that frees most bytes per second of work
is taken, until the peak is low enough, the time is spent or nothing helps. (Greedy rematerialisation; compare Kumar et
al. 2019, "Efficient rematerialization for deep networks".)
"""

from itertools import accumulate
from typing import Any, NamedTuple

from treadle.compiler.passes.timeline import Snapshot, Timeline, seconds
from treadle.ir.graph import Graph, Node, Value

DEPTH = 4  # how many nodes in a row may be computed again for one Value
WORTH = 0.002  # of the peak: smaller Values are left alone
NEAR = 0.9
NEVER = ("lists", "host", "control")


class Option(NamedTuple):
    """A Value that could be made again: by which nodes, in order, and right before which node."""

    value: Value
    nodes: list[Node]
    needed: set[Value]  # the results of theirs that are wanted
    at: int
    gain: float  # bytes, times how many nodes near the peak they are not needed at
    cost: float  # seconds


def recompute(graph: Graph, target: int, spend: float, replaced: dict[Value, Value], inplace: bool = True) -> float:
    """Lower the peak of a graph towards `target` bytes; return the estimated seconds that this costs, at most `spend`.

    replaced: inputs whose memory an output takes -> that output; they cannot be read after it was made.
    """
    spent, useless, line = 0.0, set[Value](), Timeline(graph, inplace)
    while line.peak() > target:
        options = [o for o in _options(line, replaced, useless) if o.cost <= spend - spent]
        if not options:
            break
        best = max(options, key=lambda o: (o.gain / (o.cost + 1e-7), o.at))
        before = Snapshot(graph)
        _apply(graph, best, line)
        now = Timeline(graph, inplace)
        if now.height() < line.height():
            line, spent = now, spent + best.cost
        else:  # what it takes to make it again needs as much
            before.restore()
            useless.add(best.value)
    return spent


def _options(line: Timeline, replaced: dict[Value, Value], useless: set[Value]) -> list[Option]:
    """What could be computed again to lower the first of the highest peaks."""
    peak = line.peak()
    top = line.alive.index(peak)
    high = [0, *accumulate(n > NEAR * peak for n in line.alive)]  # how many nodes before are near the peak
    out = []
    for v, span in line.spans.items():
        uses = line.uses.get(v, [])
        if not span.first < top < span.last or span.nbytes < WORTH * peak or v in useless or top in uses:
            continue
        search = _Search(line, min(k for k in uses if k > top), top, replaced, span.nbytes)
        if search.make(v, DEPTH) and search.longer < span.nbytes:
            idle = high[search.at] - high[max((k for k in uses if k < top), default=span.first) + 1]
            gain, cost = idle * (span.nbytes - search.longer), sum(map(seconds, search.nodes))
            out.append(Option(v, list(search.nodes), search.needed, search.at, gain, cost))
    return out


class _Search:
    """Which nodes make a Value again at a place of the graph, and how many bytes of operands live longer for it."""

    def __init__(self, line: Timeline, at: int, top: int, replaced: dict[Value, Value], nbytes: int) -> None:
        self.line, self.at, self.top, self.replaced, self.nbytes = line, at, top, replaced, nbytes
        self.nodes: dict[Node, None] = {}
        self.needed: set[Value] = set()
        self.kept: set[Value] = set()
        self.longer = 0

    def make(self, v: Value, depth: int) -> bool:
        """Have v made again; whether that can be."""
        n = v.node
        if n is None or n.op.category in NEVER or n.op.tier in NEVER or (depth == 0 and n.op.tier != "view"):
            return False
        self.needed.add(v)
        if n not in self.nodes:
            left = depth if n.op.tier == "view" else depth - 1
            if not all(self.have(x, left) for x in n.operands()):
                return False
            self.nodes[n] = None
        return True

    def have(self, x: Value, depth: int) -> bool:
        """Whether x can be read there, if need be because it is kept or made again."""
        line, v = self.line, self.line.root(x)
        if v in self.replaced and line.made.get(self.replaced[v], self.at) < self.at:
            return False
        span = line.spans.get(v)
        if v in line.there or v in self.kept or (span is not None and span.last >= self.at):
            return True
        if span is not None and 4 * span.nbytes <= self.nbytes:  # small: statistics of a norm, say
            self.kept.add(v)
            self.longer += span.nbytes
            return True
        return self.make(x, depth)


def _apply(graph: Graph, option: Option, line: Timeline) -> None:
    again: dict[Value, Value] = {}
    made = [_copy(n, again, option.needed) for n in option.nodes]
    for n in graph.nodes[option.at :]:
        for x in n.operands():
            _show(x, again, line, option, made)
        n.inputs = tuple(_now(x, again) for x in n.inputs)
    graph.nodes[option.at : option.at] = made


def _copy(n: Node, again: dict[Value, Value], needed: set[Value]) -> Node:
    """A node again; of aux values, and of gradients of several operands, only those that are needed."""
    if n.op.category == "fused":
        return _copy_region(n, again, needed)
    count = 0 if n.op.partial else len(n.op.results)
    want = [v is not None and (k < count or v in needed) for k, v in enumerate(n.outputs)]
    made = Node(n.op, tuple(_now(x, again) for x in n.inputs), n.attrs, n.specs, n.line, want)
    again |= {a: b for a, b in zip(n.outputs, made.outputs, strict=True) if a in needed and b is not None and a}
    return made


def _copy_region(n: Node, again: dict[Value, Value], needed: set[Value]) -> Node:
    """A fused node again, with the results that are needed."""
    kept = [(k, v) for k, v in enumerate(n.outputs) if v in needed]
    attrs = {**n.attrs, "results": tuple(n.attrs["results"][k] for k, _ in kept)}
    made = Node(n.op, tuple(_now(x, again) for x in n.inputs), attrs, [n.specs[k] for k, _ in kept], n.line)
    again |= {v: new for (_, v), new in zip(kept, made.results(), strict=True) if v is not None}
    return made


def _show(x: Value, again: dict[Value, Value], line: Timeline, option: Option, made: list[Node]) -> None:
    """Make the views from before through which a late reader sees the Value anew."""
    n = x.node
    if x in again or n is None or line.root(x) is not option.value or line.made[x] >= option.at:
        return
    _show(n.inputs[0], again, line, option, made)
    made.append(_copy(n, again, {x}))


def _now(x: Any, again: dict[Value, Value]) -> Any:
    if x.__class__ is tuple:
        return tuple(again.get(v, v) for v in x)
    return again.get(x, x) if x.__class__ is Value else x
