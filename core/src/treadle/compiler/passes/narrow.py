"""Control flow takes and gives only what somebody reads: dead results of branches and loops go, and what they read."""

from collections.abc import Callable, Sequence
from typing import Any

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.rewrite import extract, needed

Prune = Callable[[Graph], Graph]


def narrow(n: Node, alive: set[Value], prune: Prune) -> None:
    """Change a node of control flow so that it computes what is alive; it gets new graphs, as others may share its."""
    wanted = [k for k, v in enumerate(n.outputs) if v in alive]
    {"cond": _cond, "scan": _scan, "while_loop": _while}[n.op.name](n, wanted, prune)


def _part(graph: Graph, outputs: Sequence[int], prune: Prune) -> Graph:
    """A copy that gives these outputs, with all inputs."""
    return prune(extract(graph, graph.inputs, [graph.outputs[k] for k in outputs]))


def _read(graph: Graph, outputs: Sequence[int] | None = None) -> list[int]:
    """Which inputs are read, for these outputs."""
    _, alive = needed(graph, graph.outputs if outputs is None else [graph.outputs[k] for k in outputs])
    return [k for k, v in enumerate(graph.inputs) if v in alive]


def _keep_inputs(graph: Graph, which: Sequence[int]) -> None:
    graph.inputs = [graph.inputs[k] for k in which]


def _keep_outputs(n: Node, which: Sequence[int]) -> None:
    outputs = [n.outputs[k] for k in which]
    for k, v in enumerate(outputs):
        if v is not None:
            v.index = k
    n.outputs, n.specs = tuple(outputs), tuple(n.specs[k] for k in which)


def _cond(n: Node, wanted: list[int], prune: Prune) -> None:
    graphs = {name: _part(n.attrs[name], wanted, prune) for name in ("then", "otherwise")}
    read = sorted(set[int]().union(*(_read(g) for g in graphs.values())))
    for g in graphs.values():
        _keep_inputs(g, read)
    p, xs = n.inputs
    n.inputs, n.attrs = (p, tuple(xs[k] for k in read)), graphs
    _keep_outputs(n, wanted)


def _carries(body: Graph, count: int, first: int, wanted: set[int]) -> list[int]:
    """Carries that are needed for wanted outputs of the body, in this iteration or a later one.

    first: which output is the first carry.
    """
    now: list[int] = []
    while True:
        read = _read(body, sorted(wanted | {first + k for k in now}))
        more = sorted({k for k in read if k < count} | {k for k in range(count) if first + k in wanted})
        if more == now:
            return now
        now = more


def _scan(n: Node, wanted: list[int], prune: Prune) -> None:
    count, lists = n.attrs["carries"], n.inputs
    body = prune(extract(n.attrs["body"], n.attrs["body"].inputs, n.attrs["body"].outputs))
    carries = _carries(body, count, 0, set(wanted))
    outputs = [*carries, *[k for k in wanted if k >= count]]
    body = _part(body, outputs, prune)
    read = {k for k in _read(body) if k >= count}
    _loop(n, body, [[*carries], *_split(read, [count, len(lists[1]), len(lists[2])])], lists)
    n.attrs = {**n.attrs, "body": body, "carries": len(carries)}
    _keep_outputs(n, outputs)


def _while(n: Node, wanted: list[int], prune: Prune) -> None:
    again, *lists = n.inputs
    count = len(lists[0])
    body = prune(extract(n.attrs["body"], n.attrs["body"].inputs, n.attrs["body"].outputs))
    carries = _carries(body, count, 1, {0, *[k + 1 for k in wanted]})
    body = _part(body, [0, *[k + 1 for k in carries]], prune)
    read = {k for k in _read(body) if k >= count}
    _loop(n, body, [[*carries], *_split(read, [count, len(lists[1])])], lists)
    n.inputs, n.attrs = (again, *n.inputs), {**n.attrs, "body": body}
    _keep_outputs(n, carries)


def _split(read: set[int], lengths: list[int]) -> list[list[int]]:
    """Indices into all lists together, as those that fall into each list after the first."""
    out, start = [], lengths[0]
    for length in lengths[1:]:
        out.append(sorted(k for k in read if start <= k < start + length))
        start += length
    return out


def _loop(n: Node, body: Graph, kept: list[list[int]], lists: Sequence[Any]) -> None:
    """Let a loop take only these of the inputs of its body, which count through all lists."""
    flat = [v for xs in lists for v in xs]
    n.inputs = tuple(tuple(flat[k] for k in ks) for ks in kept)
    _keep_inputs(body, [k for ks in kept for k in ks])
