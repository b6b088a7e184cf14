"""Softmax, log-softmax, layer-norm and attention written out become the ops that have kernels of their own.

A pattern is replaced where nobody else reads what lies inside of it: not where a backward needs it. Results agree
within the numeric class of the op; rules that would change what a non-finite number does (a row that is masked as a
whole) are left out.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.compiler.passes.pattern import Match, Pattern
from treadle.ir.graph import Graph, Node, Value
from treadle.op import CATALOGUE

Found = tuple[str, tuple[Any, ...], dict[str, Any]]  # op, operands, attributes


def recognise(graph: Graph) -> Graph:
    """Let the last node of each known pattern be the op that it amounts to; the others are dead then."""
    users, ends = graph.users(), set(graph.outputs)
    for n in graph.nodes:
        for pattern, rule in RULES.get(n.op.name, ()):
            y = n.outputs[0]
            m = pattern.match(y) if y is not None and y.dtype.kind == "f" else None
            found = rule(m, n, graph) if m is not None and _closed(m, n, users, ends) else None
            if found is not None:
                n.op, n.inputs, n.attrs = CATALOGUE[found[0]], found[1], found[2]
                break
    return graph


def _closed(m: Match, root: Node, users: dict[Value, list[Node]], ends: set[Value]) -> bool:
    """Whether only nodes of the match read what its inner nodes make; a view of a captured operand is free."""
    inside = [n for n in m.covered if n is not root and (n.op.tier != "view" or n.inputs[0].node in m.covered)]
    inner = [v for n in inside for v in n.results()]
    return all(v not in ends and m.covered.issuperset(users.get(v, ())) for v in inner)


def _axis(n: Node) -> int | None:
    """The one axis of a reduction that keeps it."""
    axes = n.attrs["axes"]
    return axes[0] if len(axes) == 1 and n.attrs["keepdims"] else None


def _softmax(m: Match, n: Node, graph: Graph) -> Found | None:
    axis = _axis(m.nodes["max"])
    same = axis is not None and _axis(m.nodes["sum"]) == axis
    return ("softmax", (m["x"],), {"axis": axis}) if same and m["x"].shape == n.specs[0].shape else None


def _log_softmax(m: Match, n: Node, graph: Graph) -> Found | None:
    axis = m.nodes["softmax"].attrs["axis"] if "softmax" in m.nodes else _axis(m.nodes["logsumexp"])
    return None if axis is None or m["x"].shape != n.specs[0].shape else ("log_softmax", (m["x"],), {"axis": axis})


def _normalised(m: Match, n: Node, graph: Graph) -> Found | None:
    """(x - mean) / sqrt(var + eps) over the last axes."""
    x, eps, means = m["x"], m["eps"], (m.nodes["mean"], m.nodes["squares"])
    axes = means[0].attrs["axes"]
    last = tuple(range(len(x.shape) - len(axes), len(x.shape)))
    if x.shape != n.specs[0].shape or not all(s.attrs["keepdims"] and tuple(s.attrs["axes"]) == last for s in means):
        return None
    if means[1].attrs.get("correction", 0) != 0 or not isinstance(eps, float) or eps <= 0:
        return None
    return "layer_norm", (x, None, None), {"ndim": len(axes), "eps": eps}


def _affine(position: int) -> Any:
    """layer_norm(x) * w, layer_norm(x) + b, with w and b of the shape that is normalised."""

    def rule(m: Match, n: Node, graph: Graph) -> Found | None:
        norm, v = m.nodes["layer_norm"], m["v"]
        free = norm.inputs[position] is None and (position == 2 or norm.inputs[2] is None)
        shape = norm.specs[0].shape[len(norm.specs[0].shape) - norm.attrs["ndim"] :]
        if not free or v.__class__ is not Value or v.shape != shape or v.dtype is not n.specs[0].dtype:
            return None
        operands = list(norm.inputs)
        operands[position] = v
        return "layer_norm", tuple(operands), norm.attrs

    return rule


def _attention(m: Match, n: Node, graph: Graph) -> Found | None:
    """softmax(scale * q k', the upper triangle left out or not) v, all of four axes."""
    q, k, v, y = m["q"], m["k"], m["v"], n.specs[0]
    if m.nodes["softmax"].attrs["axis"] != 3 or tuple(m.nodes["permute"].attrs["axes"]) != (0, 1, 3, 2):
        return None
    if not (len(q.shape) == len(k.shape) == len(v.shape) == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]):
        return None
    if "mask" in m.captured and not _later(graph.constants.get(m["mask"]), q.shape[2], k.shape[2]):
        return None
    scale = m.captured.get("scale", 1.0)
    scale = 1 / scale if "true_div" in m.nodes and scale else scale
    hidden = m.captured.get("hidden", -math.inf)
    if not isinstance(scale, (int, float)) or hidden != -math.inf or y.shape != (*q.shape[:3], v.shape[3]):
        return None
    return "attention", (q, k, v, None), {"scale": float(scale), "causal": "mask" in m.captured}


def _later(mask: Any, rows: int, columns: int) -> bool:
    """Whether a constant mask is True exactly at keys that come after the query."""
    return mask is not None and np.array_equal(mask.reshape(mask.shape[-2:]), ~np.tri(rows, columns, dtype=bool))


def _texts() -> list[tuple[str, Any]]:
    centred = "sub(x, mean(x))"
    out: list[tuple[str, Any]] = [
        ("true_div(exp(sub(x, max(x))), sum(exp(sub(x, max(x)))))", _softmax),
        ("log(softmax(x))", _log_softmax),
        ("sub(x, logsumexp(x))", _log_softmax),
        ("mul(layer_norm(x, _, _), v)", _affine(1)),
        ("add(layer_norm(x, _, _), v)", _affine(2)),
    ]
    for square in (f"mean(mul({centred}, {centred}))", f"mean(square({centred}))", "var(x)"):
        variance = f"add((squares := {square}), eps)"
        out.append((f"true_div({centred}, sqrt({variance}))", _normalised))
        out.append((f"mul({centred}, rsqrt({variance}))", _normalised))
    products = "matmul(q, permute(k))"
    for scores in (products, f"mul({products}, scale)", f"true_div({products}, scale)"):
        out.append((f"matmul(softmax({scores}), v)", _attention))
        out.append((f"matmul(softmax(where(mask, hidden, {scores})), v)", _attention))
    return out


def _rules() -> dict[str, list[tuple[Pattern, Callable[[Match, Node, Graph], Found | None]]]]:
    """Rules per op of the last node."""
    out: dict[str, Any] = {}
    for text, rule in _texts():
        out.setdefault(text.split("(")[0], []).append((Pattern(text), rule))
    return out


RULES = _rules()
