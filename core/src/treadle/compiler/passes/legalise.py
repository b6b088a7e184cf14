"""What a device has no kernel for becomes the ops of its decomposition, until all that is left is claimed.

Ops without a decomposition stay: the executor runs their reference on the host, if the policy lets it.
"""

from typing import Any

from treadle.compiler.passes.emit import emit
from treadle.eager.resolve import CAST, expanded
from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute
from treadle.runtime.backend import Call
from treadle.sig import dense_sig


def legalise(graph: Graph, device: Any) -> Graph:
    """Decompose nodes that the device's backend declines."""
    instead: dict[Value, Value] = {}
    todo, done = list(reversed(graph.nodes)), []
    while todo:
        n = todo.pop()
        if n.op.decompose is None or n.op.category == "lists" or _claimed(n, device):
            done.append(n)
            continue
        n.inputs = tuple(
            tuple(instead.get(v, v) for v in x)
            if x.__class__ is tuple
            else instead.get(x, x)
            if x.__class__ is Value
            else x
            for x in n.inputs
        )
        inner = _decomposed(n, graph, device, instead)
        todo += reversed(inner)
    graph.nodes = done
    return substitute(graph, instead)


def _claimed(n: Node, device: Any) -> bool:
    backend = device.backend
    if not backend.candidates(n.op):
        return False
    operands = [v for x in n.inputs for v in (x if x.__class__ is tuple else (x,))]
    ins = tuple(
        dense_sig(x.dtype, tuple(x.shape), device) if x.__class__ is Value else None if x is None else x.__class__
        for x in operands
    )
    count = len(n.op.results)
    outs = n.outputs if n.op.aux is None or any(v is not None for v in n.outputs[count:]) else n.outputs[:count]
    want = tuple(v is not None for v in outs)
    return backend.bind(Call(n.op, ins, n.specs[: len(outs)], n.attrs, want)) is not None


def _decomposed(n: Node, graph: Graph, device: Any, instead: dict[Value, Value]) -> list[Node]:
    """The nodes of a decomposition; what its results are called from now on goes to `instead`."""

    def f(*operands: Any) -> list[Any]:
        results = expanded(n.op, list(operands), n.attrs, len(n.outputs) > len(n.op.results))
        pairs = zip(results, n.specs, strict=True)
        return [y if y.dtype is spec.dtype else CAST[0](y, spec.dtype) for y, spec in pairs]

    nodes, results = emit(graph, device, n.line, f, n.inputs)
    instead |= {v: new for v, new in zip(n.outputs, results, strict=True) if v is not None}
    return nodes
