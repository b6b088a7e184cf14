"""Passes: small functions Graph -> Graph (in place, on a graph that the caller owns), each with one idea.

`optimize` runs them in an order in which each finds what the one before prepared.
"""

from typing import Any

from treadle.compiler.passes.common import common_subexpressions
from treadle.compiler.passes.legalise import legalise
from treadle.compiler.passes.prune import prune
from treadle.compiler.passes.simplify import simplify
from treadle.compiler.passes.steps import split_steps
from treadle.ir.graph import Graph


def optimize(graph: Graph, device: Any) -> Graph:
    """Rewrite a graph for a device; the graph itself is changed and returned."""
    prune(graph)
    simplify(graph)
    common_subexpressions(graph)
    prune(graph)
    legalise(graph, device)
    simplify(graph)
    common_subexpressions(graph)
    prune(graph)
    split_steps(graph)
    return graph
