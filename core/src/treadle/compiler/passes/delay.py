"""Delay: an optimizer step, with the gradient that only it reads, moves from the peak to where memory is free again.

The gradient of a large weight is made where most activations are still alive. What it is made from is often much
smaller than itself, and can wait.
"""

from treadle.compiler.passes.timeline import Snapshot, Timeline
from treadle.ir.graph import Graph, Node, Value


def delay(graph: Graph, target: int, inplace: bool = True) -> None:
    """Move steps of optimizers out of the highest peak until it is at most `target` bytes, or that helps no more."""
    line, useless = Timeline(graph, inplace), set[Node]()
    while line.peak() > target:
        top = line.alive.index(line.peak())
        step = next((n for n in _steps(line, top) if n not in useless), None)
        if step is None:
            return
        before = Snapshot(graph)
        _move(graph, line, _group(line, step))
        now = Timeline(graph, inplace)
        if now.height() < line.height():
            line = now
        else:
            before.restore()
            useless.add(step)


def _steps(line: Timeline, top: int) -> list[Node]:
    """Steps of which something that they alone read is in use at the peak."""
    found = []
    for v, span in line.spans.items():
        uses = line.uses.get(v, [])
        if span.first <= top <= span.last and len(uses) == 1 and line.nodes[uses[0]].op.category == "lists":
            found.append(line.nodes[uses[0]])
    return list(dict.fromkeys(found))


def _group(line: Timeline, step: Node) -> list[Node]:
    """A step and the nodes whose results only go into it, in order."""
    where = {n: k for k, n in enumerate(line.nodes)}
    readers: dict[Value, set[Node]] = {}
    for n in line.nodes:
        for v in n.operands():
            readers.setdefault(v, set()).add(n)
    group, todo = {step}, [step]
    while todo:
        for v in todo.pop().operands():
            maker = v.node
            if maker is not None and maker not in group and _only(maker, group, readers, line):
                group.add(maker)
                todo.append(maker)
    return sorted(group, key=where.__getitem__)


def _only(n: Node, group: set[Node], readers: dict[Value, set[Node]], line: Timeline) -> bool:
    """Whether all results of a node go into a group: then making it later keeps nothing else waiting."""
    return all(v not in line.there and readers.get(v, set()) <= group for v in n.results())


def _move(graph: Graph, line: Timeline, group: list[Node]) -> None:
    """Put a group to the first place behind its own where it fits below the peak that remains without it."""
    inside = set(group)
    rest = [n for n in graph.nodes if n not in inside]
    start = len(graph.nodes) - len(group) - sum(1 for n in graph.nodes[graph.nodes.index(group[-1]) + 1 :])
    graph.nodes = rest
    base = Timeline(graph, line.inplace)
    made = sum(line.spans[v].nbytes for n in group for v in n.results() if v in line.spans)
    read = {base.root(v) for n in group for v in n.operands() if v not in line.there}
    waits = sum(s.nbytes for v in read if (s := base.spans.get(v)) is not None)
    fits = (k for k in range(max(start, 0), len(rest)) if base.alive[k] + made + waits <= base.peak())
    at = next(fits, len(rest) - 1) + 1
    graph.nodes = [*rest[:at], *group, *rest[at:]]
