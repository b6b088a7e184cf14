"""Passes: small functions Graph -> Graph (in place, on a graph that the caller owns), each with one idea.

`optimize` runs them in an order in which each finds what the one before prepared.
"""

from typing import Any

from treadle.compiler.passes.common import common_subexpressions
from treadle.compiler.passes.epilogues import activations, fold_batch_norm
from treadle.compiler.passes.fold import fold_constants
from treadle.compiler.passes.legalise import legalise
from treadle.compiler.passes.pooling import relu_after_pooling
from treadle.compiler.passes.prune import prune
from treadle.compiler.passes.recognise import recognise
from treadle.compiler.passes.simplify import simplify
from treadle.compiler.passes.steps import split_steps
from treadle.ir.graph import Graph


def optimize(graph: Graph, device: Any) -> Graph:
    """Rewrite a graph for a device; the graph itself is changed and returned."""
    prune(graph)
    simplify(graph)
    common_subexpressions(graph)
    prune(graph)
    fold_constants(graph, device)
    prune(recognise(graph))
    relu_after_pooling(graph)
    fold_batch_norm(graph, device)
    activations(graph)
    legalise(graph, device)
    simplify(graph)
    common_subexpressions(graph)
    prune(graph)
    split_steps(graph)
    return prune(graph)
