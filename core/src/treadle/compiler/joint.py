"""Gradients through a compiled function from outside: its backward is traced right after it, and the graph is split.

The forward graph gives the results and what the backward needs of its inner values (residuals); the backward graph maps
residuals and the results' gradients to gradients of the inputs. (The same split: Griewank and Walther 2008, chapter 3,
"store all".)
"""

from typing import Any, NamedTuple

from treadle import tape
from treadle._tensor import Tensor, is_leaf_node
from treadle.autograd.backward import grad_of
from treadle.errors import TraceError
from treadle.ir.graph import Graph, Value
from treadle.ir.rewrite import substitute


class Backward(NamedTuple):
    """The second half of a differentiable function.

    graph: inputs are residuals, then gradients of `outputs`; outputs are gradients of the inputs `wanted`.
    residuals: per residual, ("input", k) or ("output", k of the forward graph).
    """

    graph: Graph
    residuals: list[tuple[str, int]]
    outputs: list[int]  # positions among the differentiable results
    wanted: list[int]  # indices of inputs


def differentiable(results: list[Any]) -> tuple[list[int], dict[int, str]]:
    """Which of the results somebody outside could differentiate: those whose tape is still whole.

    Also those whose tape goes through something that has no gradient, and what it says when it is asked for one.
    """
    which, refused = [], {}
    for k, y in enumerate(results):
        runs = [getattr(rule, "inner", rule.run) for rule in _behind(y.node)] if isinstance(y, Tensor) else []
        text = next((run.refuses for run in runs if hasattr(run, "refuses")), None)
        if text is not None:
            refused[k] = text
        elif runs and tape.freed_run not in runs:
            which.append(k)
    return which, refused


def refusing(text: str) -> Any:
    """A function that makes nodes which raise when a gradient arrives."""

    def run(node: Any, g: Any) -> Any:
        raise TraceError(text)

    rule = tape.Rule("compiled function", 0, run, False)
    return lambda: [tape.next_id(), rule]


def _behind(edge: Any) -> list[tape.Rule]:
    """The rules of all nodes behind an edge, that of a leaf among them."""
    stack, seen, rules = [edge], set(), []
    while stack:
        edge = stack.pop()
        n = edge[0] if edge.__class__ is tuple else edge
        if n is None or n[0] in seen:
            continue
        rules.append(n[1])
        if n[0] != 0:
            seen.add(n[0])
            stack += n[tape.EDGES : tape.EDGES + n[1].count]
    return rules


def gradients(
    t: Any, ys: list[Tensor], inputs: list[tuple[int, Tensor]]
) -> tuple[list[Value], list[tuple[int, Value]]]:
    """Trace the backward of ys: (new inputs for their gradients, (input, its gradient) for those that are reached)."""
    xs = [(k, x) for k, x in inputs if x.node is not None and is_leaf_node(x.node)]
    if not xs:
        return [], []
    seeds = [t.cotangent(y) for y in ys]
    found = grad_of(ys, [x for _, x in xs], seeds, allow_unused=True)
    values = [t.value(s) for s in seeds]
    return values, [(k, t.value(g)) for (k, _), g in zip(xs, found, strict=True) if g is not None]


def split(graph: Graph, seeds: list[Value], grads: list[tuple[int, Value]], kept: set[Value]) -> Backward:
    """Cut a graph with the inputs `seeds`: what only `grads` need moves into a graph of its own.

    kept: inputs that the function does not write to, so that they need not be copied.
    """
    given = [v for v in graph.inputs if v not in seeds]
    forward = _needed(graph, graph.outputs)
    backward = [n for n in graph.nodes if n not in forward]
    made = {v for n in backward for v in n.results()}
    outside = dict.fromkeys(
        v for v in [*(v for n in backward for v in n.operands()), *(g for _, g in grads)] if v not in made
    )
    out = Graph(f"{graph.name}_backward")
    instead: dict[Value, Value] = {}
    residuals: list[tuple[str, int]] = []
    where = {v: k for k, v in enumerate(given)}
    for v in outside:
        if v in graph.constants:
            instead[v] = out.constant(graph.constants[v], v.spec)
        elif v not in seeds:
            instead[v] = out.input(v.spec)
            if v in where and v in kept:
                residuals.append(("input", where[v]))
            else:
                residuals.append(("output", len(graph.outputs)))
                graph.outputs.append(v)
    for v in seeds:
        instead[v] = out.input(v.spec)
    out.nodes, out.outputs = backward, [g for _, g in grads]
    graph.nodes = [n for n in graph.nodes if n in forward]
    graph.inputs = given
    return Backward(substitute(out, instead), residuals, [], [k for k, _ in grads])


def _needed(graph: Graph, outputs: list[Value]) -> set[Any]:
    alive, needed = set(outputs), set()
    for n in reversed(graph.nodes):
        if any(v in alive for v in n.results()):
            needed.add(n)
            alive.update(n.operands())
    return needed
