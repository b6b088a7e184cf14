"""Passes: small functions Graph -> Graph (in place, on a graph that the caller owns), each with one idea.

`optimize` runs them in an order in which each finds what the one before prepared.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from treadle.compiler.passes.common import common_subexpressions
from treadle.compiler.passes.epilogues import activations, fold_batch_norm
from treadle.compiler.passes.fold import fold_constants
from treadle.compiler.passes.fuse import fuse
from treadle.compiler.passes.legalise import legalise
from treadle.compiler.passes.own import Pass, everywhere
from treadle.compiler.passes.pooling import relu_after_pooling
from treadle.compiler.passes.prune import prune
from treadle.compiler.passes.recognise import recognise
from treadle.compiler.passes.simplify import simplify
from treadle.compiler.passes.steps import split_steps
from treadle.config import config
from treadle.errors import GraphError
from treadle.ir.graph import Graph
from treadle.ir.verify import verify


def optimize(graph: Graph, device: Any, own: Sequence[Pass] = ()) -> Graph:
    """Rewrite a graph for a device; the graph itself is changed and returned. own: passes that somebody brings.

    The graph is verified after each of these, and with TREADLE_VERIFY_PASSES after every pass and before all;
    GraphError names the one that broke it.
    """
    checked = config.verify_passes or config.verify
    if checked:
        _verify(graph, "tracing")
    theirs = [everywhere(f) for f in own]
    fold, batch_norm = partial(fold_constants, device=device), partial(fold_batch_norm, device=device)
    order: list[Any] = [prune, *theirs, simplify, common_subexpressions, prune, fold, recognise, prune]
    order += [relu_after_pooling, batch_norm, activations, partial(legalise, device=device)]
    order += [fold, simplify, common_subexpressions, prune, split_steps, partial(fuse, device=device)]
    for run in order:
        graph = run(graph)
        if checked or run in theirs:
            _verify(graph, getattr(run, "func", run).__name__)
    return graph


def _verify(graph: Graph, after: str) -> None:
    try:
        verify(graph)
    except GraphError as e:
        raise GraphError(f"after {after}: {e}") from None
