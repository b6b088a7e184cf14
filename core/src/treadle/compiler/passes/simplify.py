"""Algebraic simplification: what changes nothing goes, views of views become one.

Only rewrites that keep every bit are made: x + 0.0 stays (it turns -0.0 into 0.0).
"""

from collections.abc import Callable
from typing import Any

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute

Rule = Callable[[Node], Any]  # -> the Value to read instead, or None; may change the node


def simplify(graph: Graph) -> Graph:
    """Apply the rules below once, in order of the nodes, so that each sees its operands simplified."""
    instead: dict[Value, Value] = {}
    for n in graph.nodes:
        n.inputs = tuple(_now(x, instead) for x in n.inputs)
        rule = RULES.get(n.op.name)
        same = rule(n) if rule is not None else None
        if same is not None:
            y = n.outputs[0]
            assert y is not None
            instead[y] = same
    return substitute(graph, instead)


def _now(x: Any, instead: dict[Value, Value]) -> Any:
    if x.__class__ is tuple:
        return tuple(instead.get(v, v) for v in x)
    return instead.get(x, x) if x.__class__ is Value else x


def _made_by(x: Value, name: str) -> Node | None:
    return x.node if x.node is not None and x.node.op.name == name else None


def _copy(n: Node) -> Value:
    return n.inputs[0]  # type: ignore[no-any-return]  # Values never change: a copy is the same


def _reshape(n: Node) -> Value | None:
    """reshape(reshape(x)) is one reshape; to its own shape it is x."""
    (x,) = n.inputs
    inner = _made_by(x, "reshape")
    if inner is not None:
        n.inputs = x = inner.inputs
        (x,) = n.inputs
    return x if x.shape == n.specs[0].shape else None  # type: ignore[no-any-return]


def _permute(n: Node) -> Value | None:
    (x,) = n.inputs
    inner = _made_by(x, "permute")
    if inner is not None:
        n.inputs = inner.inputs
        n.attrs = {"axes": tuple(inner.attrs["axes"][a] for a in n.attrs["axes"])}
    identity = tuple(n.attrs["axes"]) == tuple(range(len(n.attrs["axes"])))
    return n.inputs[0] if identity else None


def _expand(n: Node) -> Value | None:
    (x,) = n.inputs
    inner = _made_by(x, "expand")
    if inner is not None:
        n.inputs = inner.inputs
    return n.inputs[0] if n.inputs[0].shape == n.specs[0].shape else None


def _cast(n: Node) -> Value | None:
    return n.inputs[0] if n.inputs[0].dtype is n.attrs["dtype"] else None


def _neutral(number: Any) -> Rule:
    """x op number is x."""

    def rule(n: Node) -> Value | None:
        a, b = n.inputs
        same = b.__class__ in (int, float) and b == number and a.dtype is n.specs[0].dtype
        return a if same else None  # type: ignore[no-any-return]

    return rule


RULES: dict[str, Rule] = {
    "copy": _copy,
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "cast": _cast,
    "mul": _neutral(1),
    "div": _neutral(1),
    "pow": _neutral(1),
}
