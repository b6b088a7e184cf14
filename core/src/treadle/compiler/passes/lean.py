"""Less memory: steps of optimizers are delayed and cheap Values computed again, by default as far as it costs nothing
to speak of.

These passes come last: what they add would be taken for common subexpressions by others.
"""

import math
from typing import Any

from treadle.compiler.passes.delay import delay
from treadle.compiler.passes.recompute import recompute
from treadle.compiler.passes.timeline import Snapshot, Timeline, seconds
from treadle.ir.graph import Graph

SHARE = 0.01  # of the estimated time, which may go into computing again what was not asked for
SMALL = 1 << 20  # bytes; below them nothing is done unasked
GAIN = 0.05  # of the peak: what is gained unasked must be worth it


def peak_of(graph: Graph, device: Any) -> int:
    """The most bytes that a graph needs at once on a device, judged before it is lowered."""
    return Timeline(graph, "inplace" in device.backend.features).peak()


def lean(graph: Graph, device: Any, donated: dict[int, int], target: int | None = None) -> Graph:
    """Lower the peak of a graph to `target` bytes if that can be, by default as far as SHARE of its time allows.

    donated: output index -> index of the input whose memory it takes.
    """
    replaced = {graph.inputs[k]: graph.outputs[out] for out, k in donated.items()}
    inplace = "inplace" in device.backend.features
    peak = Timeline(graph, inplace).peak()
    if target is None and peak < SMALL:
        return graph
    before, least = Snapshot(graph), target or 0
    spend = math.inf if target is not None else SHARE * sum(map(seconds, graph.nodes))
    delay(graph, least, inplace)
    recompute(graph, least, spend, replaced, inplace)
    delay(graph, least, inplace)
    if target is None and Timeline(graph, inplace).peak() > (1 - GAIN) * peak:
        before.restore()
    return graph
