"""Epilogues: what is done to each result of a product or a convolution right away becomes part of its node.

`linear` and `conv2d` take a relu behind them; `conv2d` first takes a batch_norm_inference, whose statistics are known
before it runs, as a scale and a bias per channel (Jacob et al. 2018, "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", section 3.2). Only where nobody else reads what lies between.
"""

from typing import Any

from treadle.compiler.passes.emit import emit
from treadle.ir.graph import Graph, Node, Value
from treadle.op import CATALOGUE

FUSED = {"linear": "fused_linear", "conv2d": "fused_conv2d"}


def fold_batch_norm(graph: Graph, device: Any) -> Graph:
    """conv2d followed by batch_norm_inference becomes fused_conv2d with a scale and a bias. Rounds otherwise."""
    alone = _read_once(graph)
    nodes: list[Node] = []
    for n in graph.nodes:
        x = n.inputs[0] if n.op.name == "batch_norm_inference" else None
        conv = x.node if x in alone else None
        if x is None or conv is None or conv.op.name != "conv2d" or any(v.dtype is not x.dtype for v in n.operands()):
            nodes.append(n)
            continue
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        given, (shift, scale) = emit(graph, device, n.line, _scaled(n.attrs["eps"]), (bias, *n.inputs[1:]))
        _become(n, "fused_conv2d", (*conv.inputs[:2], shift, scale), {**conv.attrs, "activation": "none"})
        nodes = [m for m in nodes if m is not conv] + [*given, n]
    graph.nodes = nodes
    return graph


def activations(graph: Graph) -> Graph:
    """relu of a linear, a conv2d or a fused_conv2d becomes part of it; every bit stays."""
    alone = _read_once(graph)
    gone: set[Node] = set()
    for n in graph.nodes:
        x = n.inputs[0] if n.op.name == "relu" else None
        before = x.node if x in alone else None
        if before is None or (before.op.name not in FUSED and before.attrs.get("activation") != "none"):
            continue
        absent = (None,) * (1 if before.op.name == "conv2d" else 0)  # the scale
        attrs = {**before.attrs, "activation": "relu"}
        _become(n, FUSED.get(before.op.name, before.op.name), (*before.inputs, *absent), attrs)
        gone.add(before)
    graph.nodes = [n for n in graph.nodes if n not in gone]
    return graph


def _scaled(eps: float) -> Any:
    """(bias of the convolution, mean, var, weight, bias) -> the bias and the scale that do all of it."""

    def f(before: Any, mean: Any, var: Any, w: Any = None, b: Any = None) -> list[Any]:
        scale = (var + eps).rsqrt()
        scale = scale if w is None else scale * w
        shift = (-mean if before is None else before - mean) * scale
        return [shift if b is None else shift + b, scale]

    return f


def _become(n: Node, name: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> None:
    """Let a node be another op with the same result."""
    n.op, n.inputs, n.attrs = CATALOGUE[name], inputs, attrs


def _read_once(graph: Graph) -> set[Value]:
    """Results that exactly one node reads, and nobody outside."""
    ends = set(graph.outputs)
    return {v for v, readers in graph.users().items() if len(readers) == 1 and v not in ends}
