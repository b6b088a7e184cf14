"""How much memory a Graph needs at each of its nodes, judged before it is lowered.

The same rules that the plan follows, without its details: a view shares the memory of what it shows, an elementwise
result takes that of an operand that dies, inputs and constants are there anyway, results of optimizer steps go where
the old contents were. Copies that a kernel asks for are not seen here, so what counts in the end is the plan.
"""

from typing import NamedTuple

from treadle.ir.graph import Graph, Node, Value
from treadle.op import CATALOGUE, ELEMENTWISE, Op

MERGES = (*ELEMENTWISE, "fused")  # categories of ops whose results can take the memory of operands

# A machine to compare costs with. What is computed again is weighed against the rest of the graph, so that only the
# ratios count: they are those measured on two cores with AVX-512, with operands in the second-level caches.
FLOPS_PER_SECOND = 1.8e11
BYTES_PER_SECOND = 5e10
CALLS, CALL = ("exp", "log", "tanh", "erf", "pow", "sin", "cos"), 50  # operations of an elementwise function's call
WINOGRAD = 2.25  # how many times fewer products a 3x3 convolution may take


class Span(NamedTuple):
    """The nodes between which memory is in use, both included, and how many bytes."""

    first: int
    last: int
    nbytes: int


def seconds(n: Node) -> float:
    """An estimate of a node's time."""
    if n.op.tier in ("view", "control"):
        return 0.0
    made = list(n.results())
    ins = [x.spec if x.__class__ is Value else x for x in n.inputs if x.__class__ is not tuple]
    flops: float = 0 if n.op.category == "lists" else n.op.flops(ins, list(n.specs), n.attrs)
    if n.op.category in ELEMENTWISE:
        flops *= _weight(n.op)
    elif n.op.category == "fused":
        flops = n.specs[0].size * sum(_weight(CATALOGUE[name]) for name, *_ in n.attrs["body"])
    nbytes = sum(v.spec.nbytes for v in [*made, *n.operands()])
    if n.op.name.startswith("conv2d") and n.attrs["stride"] == (1, 1):
        flops /= WINOGRAD if tuple(n.attrs.get("weight_size", n.inputs[1].shape))[2:] == (3, 3) else 1
    passes = 1.3 if n.op.tier == "composite" and n.op.category not in MERGES else 1.0  # statistics come first
    return max(flops / FLOPS_PER_SECOND, passes * nbytes / BYTES_PER_SECOND)


def _weight(op: Op) -> int:
    """Operations of an elementwise op for one element."""
    return 1 + CALL * sum(op.c_expr.count(f"{f}(") for f in CALLS) if isinstance(op.c_expr, str) else 1


class Timeline:
    """Which memory is in use when, for the nodes of a graph as they stand.

    roots: the Value whose memory each Value shows. uses: per root the indices of the nodes that read it. there: roots
    that need no memory that could be saved. spans: when the others need it. alive: bytes in use at each node.
    inplace: whether the device's elementwise kernels can write over an operand.
    """

    def __init__(self, graph: Graph, inplace: bool = True) -> None:
        self.nodes, self.inplace = graph.nodes, inplace
        self.roots: dict[Value, Value] = {}
        self.uses: dict[Value, list[int]] = {}
        self.made: dict[Value, int] = {}
        self.there = {*graph.inputs, *graph.constants}
        reads = [self._read(k, n) for k, n in enumerate(graph.nodes)]
        self.there.update(self.root(v) for v in graph.outputs)
        self.spans: dict[Value, Span] = {}
        for k, n in enumerate(graph.nodes):
            if n.op.tier != "view":
                self._span(k, n, reads[k])
        self.alive = self._alive()

    def _read(self, k: int, n: Node) -> list[Value]:
        """Note node k; the roots that it reads."""
        roots, view = self.roots, n.op.tier == "view"
        found: dict[Value, None] = {}
        for x in n.inputs:
            for v in x if x.__class__ is tuple else (x,):
                if v.__class__ is Value:
                    found[roots.get(v, v)] = None
        for v in n.outputs:
            if v is not None:
                self.made[v] = k
                if view:
                    self.roots[v] = next(iter(found))
        if not view:
            for v in found:
                self.uses.setdefault(v, []).append(k)
        return list(found)

    def root(self, v: Value) -> Value:
        return self.roots.get(v, v)

    def _span(self, k: int, n: Node, read: list[Value]) -> None:
        """Say when the results of node k need memory."""
        spans, there = self.spans, self.there
        lists, merges = n.op.category == "lists", self.inplace and n.op.category in MERGES
        taken = set[Value]()
        for y in n.outputs:
            if y is None or y in there:
                continue
            if lists:
                there.add(y)
                continue
            nbytes, last = y.spec.nbytes, self.uses.get(y, (k,))[-1]
            over = [v for v in read if v in spans and spans[v].last == k and spans[v].nbytes == nbytes]
            over = [v for v in over if merges and v not in taken][:1]
            taken.update(over)
            late = len(over)
            if not late or last > k:
                spans[y] = Span(k + late, last, nbytes)

    def _alive(self) -> list[int]:
        change = [0] * (len(self.nodes) + 2)
        for s in self.spans.values():
            change[s.first] += s.nbytes
            change[s.last + 1] -= s.nbytes
        out, now = [], 0
        for c in change[: len(self.nodes)]:
            now += c
            out.append(now)
        return out

    def peak(self) -> int:
        """The most bytes in use at once."""
        return max(self.alive, default=0)

    def height(self) -> tuple[int, int]:
        """The peak, and at how many nodes it is reached: what gets lower has got better."""
        peak = self.peak()
        return peak, self.alive.count(peak)


class Snapshot:
    """A graph's nodes as they are wired now, to go back to."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes, self.inputs = graph, list(graph.nodes), [n.inputs for n in graph.nodes]

    def restore(self) -> None:
        for n, inputs in zip(self.nodes, self.inputs, strict=True):
            n.inputs = inputs
        self.graph.nodes = list(self.nodes)
