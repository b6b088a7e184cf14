"""Replacing Values in a Graph."""

from typing import Any

from treadle.ir.graph import Graph, Value


def substitute(graph: Graph, instead: dict[Value, Value]) -> Graph:
    """Let everybody who reads a key of `instead` read its value; chains are followed."""
    if not instead:
        return graph

    def now(x: Any) -> Any:
        if x.__class__ is tuple:
            return tuple(now(v) for v in x)
        while x.__class__ is Value and x in instead:
            x = instead[x]
        return x

    for n in graph.nodes:
        n.inputs = tuple(now(x) for x in n.inputs)
    graph.outputs = [now(v) for v in graph.outputs]
    return graph
