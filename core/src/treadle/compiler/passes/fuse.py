"""Fusion: connected elementwise nodes over one shape become one `fused` node, where the backend claims that op.

Every merge saves at least one pass over memory, and nothing is computed twice: values that are read elsewhere are
additional results. Expanded operands stay views, which cost nothing when the graph is lowered.
"""

from typing import Any

from treadle.compiler.passes.regions import Region, grow, ordered
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute
from treadle.ops.fused import fused
from treadle.runtime.backend import Call
from treadle.shapes import expand_strides
from treadle.sig import Sig, dense_sig, sig_of

MAX_LINES = 4  # of the user's program, said of a node


def fuse(graph: Graph, device: Any) -> Graph:
    """Replace regions of elementwise nodes by `fused` nodes."""
    if not device.backend.candidates(fused):
        return graph
    maker = _Maker(device)
    regions = grow(graph, lambda r: maker.node(r) is not None)
    made = {r: node for r in regions if (node := maker.node(r)) is not None}
    if not made:
        return graph
    instead: dict[Value, Value] = {}
    for r, node in made.items():
        instead |= zip(r.results, node.results(), strict=True)
    of = {n: r for r in made for n in r.nodes}
    graph.nodes = [made[u] if isinstance(u, Region) else u for u in ordered(graph.nodes, of)]
    return substitute(graph, instead)


class _Maker:
    """Makes the nodes that stand for regions, as far as the backend takes them."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.answers: dict[Any, bool] = {}

    def node(self, r: Region) -> Node | None:
        """The node that computes what a region does, or None."""
        inputs = sorted(r.inputs, key=lambda v: v.dtype.kind != "f")  # ops are claimed by the first: a float
        if not inputs or inputs[0].dtype.kind != "f":
            return None
        attrs = _program(r.nodes, inputs, r.results)
        made = Node(fused, (tuple(inputs),), attrs, [v.spec for v in r.results], _lines(r.nodes))
        ins = tuple(_sig(v, self.device) for v in inputs)
        key = repr(attrs), ins
        if key not in self.answers:
            call = Call(fused, ins, made.specs, {**attrs, "n": len(inputs)}, (True,) * len(r.results))
            self.answers[key] = self.device.backend.bind(call) is not None
        return made if self.answers[key] else None


def _program(nodes: list[Node], inputs: list[Value], results: list[Value]) -> dict[str, Any]:
    """The attributes body and results."""
    number = {v: k for k, v in enumerate(inputs)}
    body = []
    for n in nodes:
        operands = [number[x] if x.__class__ is Value else float(x) for x in n.inputs]
        body.append((n.op.name, *operands, *[d.name for d in n.attrs.values()]))
        number |= {v: len(number) for v in n.results()}
    return {"body": tuple(body), "results": tuple(number[v] for v in results)}


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
