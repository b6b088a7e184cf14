"""Patterns over Nodes, written as text: "true_div(exp(x), sum(exp(x)))".

A name called is an op, a plain name captures an operand (twice: the same operand), _ takes
anything, (label := call) names a node. Operands of add and mul may come in either order; an `expand` on the way is
looked through.
"""

import ast
from collections.abc import Iterator
from typing import Any

from treadle.ir.graph import Node, Value

COMMUTE = {"add", "mul"}


class Match:
    """What a pattern found. captured: name -> operand; nodes: label (else name of the op in the text) -> node.

    covered: all nodes that were matched, expands on the way too.
    """

    def __init__(self, captured: dict[str, Any], nodes: dict[str, Node], covered: frozenset[Node]) -> None:
        self.captured, self.nodes, self.covered = captured, nodes, covered

    def __getitem__(self, name: str) -> Any:
        return self.captured[name]


class Pattern:
    """A pattern that is matched against the operands of nodes, from the result back."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text, mode="eval").body

    def match(self, v: Any) -> Match | None:
        """The first way in which an operand fits, or None."""
        return next(_fits(self.tree, v, Match({}, {}, frozenset())), None)


def _fits(p: ast.expr, v: Any, so_far: Match) -> Iterator[Match]:
    """All ways in which operand v fits pattern p, given what is captured already."""
    captured, nodes, covered = so_far.captured, so_far.nodes, so_far.covered
    while v.__class__ is Value and v.node is not None and v.node.op.name == "expand":
        covered |= {v.node}
        v = v.node.inputs[0]
    if isinstance(p, ast.Name):
        if p.id == "_" or captured.get(p.id, v) is v or (v.__class__ is not Value and captured[p.id] == v):
            yield Match(captured if p.id == "_" else captured | {p.id: v}, nodes, covered)
        return
    label, call = (p.target.id, p.value) if isinstance(p, ast.NamedExpr) else (None, p)
    assert isinstance(call, ast.Call)
    n = v.node if v.__class__ is Value else None
    name = ast.unparse(call.func)
    if n is None or n.op.name != name or len(call.args) != len(n.inputs):
        return
    here = Match(captured, nodes | {label or name: n}, covered | {n})
    yield from _all_fit(call.args, n.inputs, here)
    if n.op.name in COMMUTE:
        yield from _all_fit(call.args, n.inputs[::-1], here)


def _all_fit(ps: list[ast.expr], vs: Any, so_far: Match) -> Iterator[Match]:
    if not ps:
        yield so_far
        return
    for m in _fits(ps[0], vs[0], so_far):
        yield from _all_fit(ps[1:], vs[1:], m)
