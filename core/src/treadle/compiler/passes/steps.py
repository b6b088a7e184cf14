"""Optimizer steps tensor by tensor, each as soon as its gradient is there.

One step over all parameters at the end keeps every gradient alive until then. Tensors of some size are stepped alone,
right after their gradient was made and the old parameter was read for the last time: the gradient is still in the
cache, and its memory is free again. Small tensors stay together in one node.
"""

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import substitute

SMALL = 1 << 14  # bytes


def split_steps(graph: Graph) -> Graph:
    """Split list nodes whose tensors do not depend on each other, and move the parts up."""
    instead: dict[Value, Value] = {}
    nodes: list[Node] = []
    for n in graph.nodes:
        parts = _parts(n)
        nodes += [n] if parts is None else _made(n, parts, instead)
    graph.nodes = nodes
    return _early(substitute(graph, instead))


def _parts(n: Node) -> list[list[int]] | None:
    """Groups of indices into the lists, or None for another kind of node."""
    if not _separable(n):
        return None
    first = n.inputs[0]
    large = [[k] for k, v in enumerate(first) if v.spec.nbytes >= SMALL]
    small = [k for k, v in enumerate(first) if v.spec.nbytes < SMALL]
    groups = [*large, small] if small else large
    return groups if len(groups) > 1 else None


def _made(n: Node, parts: list[list[int]], instead: dict[Value, Value]) -> list[Node]:
    count = len(n.inputs[0])
    out = []
    for part in parts:
        inputs = tuple(tuple(x[k] for k in part) if x.__class__ is tuple and x else x for x in n.inputs)
        results = [r * count + k for r in range(len(n.outputs) // count) for k in part]
        node = Node(n.op, inputs, n.attrs, [n.specs[k] for k in results], n.line)
        for k, v in zip(results, node.outputs, strict=True):
            old = n.outputs[k]
            assert old is not None and v is not None
            instead[old] = v
        out.append(node)
    return out


def _early(graph: Graph) -> Graph:
    """Move each step to just after all that it, and the other readers of what it replaces, need."""
    rest = [n for n in graph.nodes if not _separable(n)]
    if len(rest) == len(graph.nodes):
        return graph
    last: dict[Value, int] = {}  # when a Value is there, and when its memory was read for the last time, if later
    seen_through: dict[Value, Value] = {}  # a view reads the memory of what it is a view of
    for k, n in enumerate(rest):
        for v in n.operands():
            last[seen_through.get(v, v)] = k
        for v in n.results():
            last[v] = k
            if n.op.tier == "view":
                seen_through[v] = seen_through.get(n.inputs[0], n.inputs[0])
    places: dict[int, list[Node]] = {}
    for n in graph.nodes:
        if _separable(n):
            after = max(last.get(seen_through.get(v, v), -1) for v in n.operands())
            places.setdefault(after, []).append(n)
            last.update(dict.fromkeys([*n.operands(), *n.results()], after))
    graph.nodes = list(places.get(-1, ()))
    for k, n in enumerate(rest):
        graph.nodes += [n, *places.get(k, ())]
    return graph


def _separable(n: Node) -> bool:
    """Whether it is a list node whose tensors do not depend on each other."""
    return n.op.category == "lists" and all(r.endswith("*") for r in n.op.results)
