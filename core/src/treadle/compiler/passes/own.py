"""A pass that a user brings, over a graph and the graphs in it."""

from collections.abc import Callable
from typing import Any

from treadle.errors import GraphError
from treadle.ir.graph import Graph
from treadle.ir.rewrite import duplicate

Pass = Callable[[Graph], Graph]


def everywhere(f: Pass) -> Pass:
    """f over the graphs of branches and loops, from the inside outwards, and then over the graph itself.

    GraphError if what it returns is no graph, or takes or gives something else than before.
    """
    name = getattr(f, "__name__", type(f).__name__)

    def run(graph: Graph) -> Graph:
        for n in graph.nodes:
            if n.op.tier == "control":  # others may share its graphs
                n.attrs = {k: run(duplicate(x)[0]) if isinstance(x, Graph) else x for k, x in n.attrs.items()}
        before = _surface(graph)
        made = f(graph)
        if not isinstance(made, Graph):
            raise GraphError(f"after {name}: a pass returns a graph, not {type(made).__name__}")
        if _surface(made) != before:
            raise GraphError(f"after {name}: inputs, numbers and outputs must be as many and of the types they were")
        return made

    run.__name__ = name
    return run


def _surface(graph: Graph) -> Any:
    return [v.spec for v in graph.inputs], list(graph.numbers), [getattr(v, "spec", None) for v in graph.outputs]
