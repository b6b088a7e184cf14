"""Common subexpressions: of nodes that compute the same of the same operands, the first stays.

Every op is a function of its operands and attributes alone, random ones too (their state is an operand).
"""

from typing import Any

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute


def common_subexpressions(graph: Graph) -> Graph:
    """Merge equal nodes and equal constants."""
    seen: dict[Any, Any] = {}
    instead: dict[Value, Value] = {}
    for v, array in graph.constants.items():
        first = seen.setdefault((v.spec, array.tobytes()), v)
        if first is not v:
            instead[v] = first
    kept = []
    for n in graph.nodes:
        n.inputs = tuple(_now(x, instead) for x in n.inputs)
        first = seen.setdefault(_key(n), n)
        if first is n:
            kept.append(n)
            continue
        for mine, other in zip(n.outputs, first.outputs, strict=True):
            if mine is not None and other is not None:
                instead[mine] = other
    graph.nodes = kept
    return substitute(graph, instead)


def _now(x: Any, instead: dict[Value, Value]) -> Any:
    if x.__class__ is tuple:
        return tuple(instead.get(v, v) for v in x)
    return instead.get(x, x) if x.__class__ is Value else x


def _key(n: Node) -> Any:
    operands = tuple((x.__class__, repr(x)) if isinstance(x, (int, float)) else x for x in n.inputs)
    wanted = tuple(v is not None for v in n.outputs)
    return n.op.name, operands, tuple(sorted(n.attrs.items(), key=lambda item: item[0])), wanted
