"""Replacing Values in a Graph."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle.ir.dim import Dim, Ratio
from treadle.ir.dim import substitute as substitute_sizes
from treadle.ir.graph import Graph, Node, Value
from treadle.spec import Spec


def substitute(graph: Graph, instead: dict[Value, Value]) -> Graph:
    """Let everybody who reads a key of `instead` read its value; chains are followed."""
    if not instead:
        return graph

    def now(x: Any) -> Any:
        if x.__class__ is tuple:
            return tuple(now(v) for v in x)
        while x.__class__ is Value and x in instead:
            x = instead[x]
        return x

    for n in graph.nodes:
        n.inputs = tuple(now(x) for x in n.inputs)
    graph.outputs = [now(v) for v in graph.outputs]
    return graph


def duplicate(graph: Graph, into: Graph | None = None) -> tuple[Graph, dict[Value, Value]]:
    """A copy that shares no Node or Value, and what each Value became. Constants' data is shared."""
    out = Graph(graph.name) if into is None else into
    now: dict[Value, Value] = {v: out.input(v.spec) for v in graph.inputs}
    for v, array in graph.constants.items():
        now[v] = out.constant(array, v.spec)
    out.numbers = list(graph.numbers)
    for n in graph.nodes:
        inputs = tuple(
            tuple(now[v] for v in x) if x.__class__ is tuple else now[x] if x.__class__ is Value else x
            for x in n.inputs
        )
        made = out.add(Node(n.op, inputs, n.attrs, n.specs, n.line, [v is not None for v in n.outputs]))
        for old, new in zip(n.outputs, made.outputs, strict=True):
            if old is not None and new is not None:
                now[old] = new
    out.outputs = [now[v] for v in graph.outputs]
    return out, now


def specialise(graph: Graph, env: Mapping[str, int]) -> tuple[Graph, dict[Value, Value]]:
    """A copy with all symbolic sizes replaced by numbers, and what each Value became; DimError for a missing one."""
    out, now = Graph(graph.name), {}
    for v in graph.inputs:
        now[v] = out.input(_sized(v.spec, env))
    for v, data in graph.constants.items():
        if isinstance(data, (Dim, Ratio)):
            data = np.asarray(data.at(env), v.dtype.np)
        now[v] = out.constant(data, _sized(v.spec, env))
    out.numbers = list(graph.numbers)
    for n in graph.nodes:
        inputs = tuple(
            tuple(now[v] for v in x) if x.__class__ is tuple else now[x] if x.__class__ is Value else x
            for x in n.inputs
        )
        specs = [_sized(s, env) for s in n.specs]
        want = [v is not None for v in n.outputs]
        attrs = {k: specialise(x, env)[0] if isinstance(x, Graph) else x for k, x in n.attrs.items()}
        made = out.add(Node(n.op, inputs, substitute_sizes(attrs, env), specs, n.line, want))
        now |= {a: b for a, b in zip(n.outputs, made.outputs, strict=True) if a is not None and b is not None}
    out.outputs = [now[v] for v in graph.outputs]
    return out, now


def _sized(spec: Spec, env: Mapping[str, int]) -> Spec:
    return Spec(substitute_sizes(spec.shape, env), spec.dtype)


def needed(graph: Graph, outputs: Sequence[Value]) -> tuple[list[Node], set[Value]]:
    """What outputs are computed by: nodes in their order, and all Values on the way, inputs and constants too."""
    alive, nodes = set(outputs), []
    for n in reversed(graph.nodes):
        if any(v in alive for v in n.results()):
            nodes.append(n)
            alive.update(n.operands())
    return nodes[::-1], alive


def extract(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value], name: str = "") -> Graph:
    """A graph of its own that computes outputs from inputs: a copy of what that takes; nothing else may be read."""
    nodes, alive = needed(graph, outputs)
    part = Graph(name or graph.name)
    part.inputs, part.nodes, part.outputs = list(inputs), nodes, list(outputs)
    part.constants = {v: a for v, a in graph.constants.items() if v in alive}
    part.numbers = graph.numbers
    return duplicate(part)[0]
