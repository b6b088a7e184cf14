"""Dead code: nodes whose results nobody reads go, and results that nobody reads are marked as unwanted."""

from treadle.compiler.passes.narrow import narrow
from treadle.ir.graph import Graph


def prune(graph: Graph) -> Graph:
    """Remove what does not lead to an output.

    Only ops that can leave out a result (gradients of several operands, aux values) get an unwanted one.
    """
    alive = set(graph.outputs)
    kept = []
    for n in reversed(graph.nodes):
        if any(v in alive for v in n.results()):
            if n.op.tier == "control":
                narrow(n, alive, prune)
            kept.append(n)
            alive.update(n.operands())
    graph.nodes = kept[::-1]
    graph.constants = {v: a for v, a in graph.constants.items() if v in alive}
    for n in graph.nodes:
        if n.op.category in ("lists", "fused"):
            continue  # it makes all that it makes
        count = 0 if n.op.partial else len(n.op.results)
        n.outputs = tuple(v if k < count or v in alive else None for k, v in enumerate(n.outputs))
    return graph
