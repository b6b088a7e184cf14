"""Constant folding: what depends on constants alone is computed once, by eager on the device that it is meant for.

So a folded result has the bits that it would have had. Views of constants stay: they cost nothing.
"""

from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.rewrite import needed, substitute
from treadle.op import outside
from treadle.runtime import dispatch
from treadle.sig import dense_sig

MOST = 1 << 20  # bytes of a result that is kept


def fold_constants(graph: Graph, device: Any) -> Graph:
    """Replace results that depend on constants alone, up to 1 MiB each, by constants."""
    known = dict.fromkeys(graph.constants)
    folded: dict[Node, None] = {}
    for n in graph.nodes:
        if _foldable(n) and all(v in known for v in n.operands()):
            folded[n] = None
            known |= dict.fromkeys(n.results())
    wanted = _wanted(graph, folded)
    if not wanted:
        return graph
    token = tape.GRAD_MODE.set(False)
    try:
        with outside(), device:  # ops without operands run on the default device
            arrays = _computed(graph, wanted, device)
    finally:
        tape.GRAD_MODE.reset(token)
    made = {v: graph.constant(a, v.spec) for v, a in zip(wanted, arrays, strict=True)}
    return substitute(graph, made)


def _foldable(n: Node) -> bool:
    """Whether eager can run it as it stands; aux values are only made where something is recorded."""
    if n.op.tier == "control" or n.op.category == "lists" or any(x.__class__ is Number for x in n.inputs):
        return False
    return len(n.outputs) == len(n.op.results) and all(s.nbytes <= MOST for s in n.specs)


def _wanted(graph: Graph, folded: dict[Node, None]) -> list[Value]:
    """Results of folded nodes that others read, views of them traced back to what they are views of."""
    read = [v for n in graph.nodes if n not in folded for v in n.operands()] + graph.outputs
    wanted: dict[Value, None] = {}
    for v in read:
        while v.node in folded and v.node.op.tier == "view":
            v = v.node.inputs[0]
        if v.node in folded:
            wanted[v] = None
    return list(wanted)


def _computed(graph: Graph, wanted: list[Value], device: Any) -> list[Any]:
    """The arrays of some Values that depend on constants alone."""
    tensors: dict[Value, Tensor] = {}

    def tensor(v: Value) -> Tensor:
        if v not in tensors:
            storage = dispatch.from_numpy(device, graph.constants[v], "constant")
            tensors[v] = Tensor(storage, dense_sig(v.dtype, tuple(v.shape), device))
        return tensors[v]

    for n in needed(graph, wanted)[0]:
        operands = [v for x in n.inputs for v in (x if x.__class__ is tuple else (x,))]
        made = n.op(*[tensor(x) if x.__class__ is Value else x for x in operands], **n.attrs)
        for v, y in zip(n.outputs, made if len(n.outputs) > 1 else (made,), strict=True):
            if v is not None:
                tensors[v] = y
    return [dispatch.to_numpy(device, tensors[v].storage, tensors[v].sig) for v in wanted]
