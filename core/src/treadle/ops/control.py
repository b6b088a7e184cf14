"""Control flow in graphs: ops whose attributes are Graphs. `td.cond`, `td.scan` and `td.while_loop` make them.

Inputs of the inner graphs are the operands after the first (cond), or carry, slices and captured values in this order
(loops); what an inner graph reads from around it is captured, so it shares no Value with the outer one.
"""

from typing import Any

from treadle.errors import ShapeError
from treadle.ir.graph import Graph
from treadle.op import GraphOp
from treadle.spec import Spec


def _specs(graph: Graph) -> tuple[Spec, ...]:
    return tuple(v.spec for v in graph.outputs)


def _fits(name: str, graph: Graph, operands: Any) -> None:
    """ShapeError unless a graph takes operands of these specs (None: any)."""
    inputs = [v.spec for v in graph.inputs]
    if len(inputs) != len(operands) or any(o is not None and o != s for o, s in zip(operands, inputs, strict=True)):
        given = ", ".join("any" if o is None else str(o) for o in operands)
        raise ShapeError(f"{name}: its graph takes {', '.join(map(str, inputs))}, given are {given}")


def _one_bool(name: str, p: Spec) -> None:
    if p.shape != () or p.dtype.kind != "b":
        raise ShapeError(f"{name}: a bool without dimensions decides, not {p}")


def _check_cond(p: Spec, *xs: Spec, then: Graph, otherwise: Graph) -> None:
    _one_bool("cond", p)
    for graph in (then, otherwise):
        _fits("cond", graph, xs)
    if _specs(then) != _specs(otherwise):
        raise ShapeError(f"cond: one branch gives {_specs(then)}, the other {_specs(otherwise)}")


def _check_scan(*xs: Spec, body: Graph, carries: int, length: int, reverse: bool) -> None:
    inputs = [v.spec for v in body.inputs]
    sliced = [x if x == s else Spec(x.shape[1:], x.dtype) for x, s in zip(xs, inputs, strict=False)]
    _fits("scan", body, [*xs[:carries], *sliced[carries:], *xs[len(inputs) :]])
    if _specs(body)[:carries] != tuple(inputs[:carries]):
        raise ShapeError(f"scan: a carry of {inputs[:carries]} becomes {_specs(body)[:carries]}")


def _scan(*xs: Spec, body: Graph, carries: int, length: int, reverse: bool) -> tuple[Spec, ...]:
    found = _specs(body)
    return found[:carries] + tuple(Spec((length, *s.shape), s.dtype) for s in found[carries:])


def _check_while(p: Spec, *xs: Spec, body: Graph, max_steps: int | None) -> None:
    _one_bool("while_loop", p)
    _fits("while_loop", body, xs)
    again, *carry = _specs(body)
    _one_bool("while_loop", again)
    if carry != [v.spec for v in body.inputs[: len(carry)]]:
        raise ShapeError(f"while_loop: a carry of {[v.spec for v in body.inputs]} becomes {carry}")


cond: GraphOp = GraphOp("cond", "p xs* -> ys*", check=_check_cond,
    spec=lambda p, *xs, then, otherwise: _specs(then),
    doc="Run one of two graphs on the operands: `then` where p holds, else `otherwise`.")
scan: GraphOp = GraphOp("scan", "init* xs* captured* -> carry* ys*", check=_check_scan, spec=_scan,
    doc="Run a graph for every index of the first axis of xs, handing on a carry; ys are its other results, stacked.")
while_loop: GraphOp = GraphOp("while_loop", "again init* captured* -> carry*", check=_check_while,
    spec=lambda again, *xs, body, max_steps=None: _specs(body)[1:],
    doc="Run a graph while `again` holds, max_steps times at most; it gives the next `again` and the carry.")
