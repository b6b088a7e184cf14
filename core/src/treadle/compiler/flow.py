"""Nodes of control flow in a trace, and their gradients: again branches and loops, over the gradients of the bodies.

The gradient of a loop runs backward over the carries that the forward loop stacked, and computes each step again from
its carry: memory is that of the carries alone.
"""

from collections.abc import Sequence
from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.batching.level import Level
from treadle.compiler.device import TRACE
from treadle.compiler.nested import Body, Nested, frozen, inside, leaf_of, shown, spec_of
from treadle.compiler.trace import Trace
from treadle.creation import zeros_like
from treadle.errors import TraceError
from treadle.op import INTERPRETER
from treadle.ops.control import cond, scan, while_loop
from treadle.spec import Spec


def _values(given: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple(x.storage.value for x in given)


def _made(t: Trace, op: Any, inputs: tuple[Any, ...], attrs: dict[str, Any], specs: Any, device: Any) -> list[Tensor]:
    """Results of a new node."""
    return [shown(t, v, device) for v in t.add(op, inputs, attrs, specs).outputs if v is not None]


def _record(outs: list[Tensor], live: list[bool], name: str, given: Sequence[Tensor], run: Any) -> None:
    """Put a node on the tape behind results that a gradient may be wanted of."""
    if not is_grad_enabled() or not any(live):
        return
    several = len(outs) if len(outs) > 1 else 0
    rule = tape.Rule(name, len(given), run if hasattr(run, "refuses") else _over_batches(run), True, several)
    node = [tape.next_id(), rule, *[x.node for x in given]]
    for k, y in enumerate(outs):
        if live[k]:
            y.node = (node, k) if several else node


def _over_batches(run: Any) -> Any:
    """A gradient rule that holds under vmap too: there it runs once for every example."""

    def rule(node: list[Any], g: Any) -> Any:
        level = INTERPRETER.get()
        if not isinstance(level, Level):
            return run(node, g)
        where: list[int] = []
        count = 0

        def one(*gs: Any) -> Any:
            nonlocal count
            found = rule(node, list(gs) if g.__class__ is list else gs[0])
            where[:], count = [k for k, x in enumerate(found) if x is not None], len(found)
            return tuple(found[k] for k in where)

        made = level.each(one, g if g.__class__ is list else [g])
        out: list[Any] = [None] * count
        for k, x in zip(where, made, strict=True):
            out[k] = x
        return out

    return rule


def _leaves(inner: Sequence[Tensor | None], given: Sequence[Tensor]) -> set[int]:
    """Leaves of inputs whose operand is on the tape."""
    return {leaf_of(x) for x, outer in zip(inner, given, strict=True) if outer.node is not None} - {0}


def _or_zeros(body: Body, found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    with inside(body.trace):
        return [zeros_like(x) if g is None else g for g, x in zip(found, like, strict=True)]


# ---- cond ----------------------------------------------------------------------------------------------------------
def branch(p: Tensor, bodies: Sequence[Body], operands: Sequence[Tensor]) -> list[Tensor]:
    """Results of the first body where p holds, else of the second; their inputs are the operands."""
    t = TRACE.get()
    p = frozen(t, p)
    common: dict[Any, Tensor] = {}
    for b in bodies:
        common |= {key: c.outer for key, c in b.captures().items()}
    given = [frozen(t, x) for x in (*operands, *common.values())]
    specs = [spec_of(x) for x in given]
    full = []
    for b in bodies:
        own = b.captures()
        more = [own[key].inner if key in own else None for key in common]
        full.append(Body(b.trace, [*b.inputs, *more], b.outputs))
    then, otherwise = (b.graph(specs, name) for b, name in zip(full, ("then", "otherwise"), strict=True))
    results = [v.spec for v in then.outputs]
    outs = _made(t, cond, (_values([p])[0], _values(given)), {"then": then, "otherwise": otherwise}, results, p.device)
    live = [False] * len(outs)
    for b in full:
        leaves = _leaves(b.inputs, given)
        live = [was or bool(r & leaves) for was, r in zip(live, b.reach(), strict=True)]

    def run(node: list[Any], g: Any) -> list[Any]:
        edges = node[tape.EDGES : tape.EDGES + len(given)]
        return _branch_gradient(p, full, given, g if len(outs) > 1 else [g], [e is not None for e in edges])

    _record(outs, live, "cond", given, run)
    return outs


def _branch_gradient(p: Tensor, bodies: list[Body], given: list[Tensor], gs: Any, need: list[bool]) -> list[Any]:
    which = [k for k, g in enumerate(gs) if g is not None]
    wanted = [k for k, wanted in enumerate(need) if wanted]
    found, seeds = [], []
    for b in bodies:
        seeds.append(b.seeds(which))
        found.append(b.gradients(which, seeds[-1], [b.inputs[k] for k in wanted]))
    some = [j for j in range(len(wanted)) if any(f[j] is not None for f in found)]
    back = []
    for b, f, s in zip(bodies, found, seeds, strict=True):
        grads = _or_zeros(b, [f[j] for j in some], [given[wanted[j]] for j in some])
        back.append(Body(b.trace, [*b.inputs, *s], grads))
    out: list[Any] = [None] * len(given)
    if some:
        for j, g in zip(some, branch(p, back, [*given, *[gs[k] for k in which]]), strict=True):
            out[wanted[j]] = g
    return out


# ---- scan ----------------------------------------------------------------------------------------------------------
def flowing(body: Body, carries: Sequence[Tensor | None], inner: Sequence[Any], given: Sequence[Tensor]) -> set[int]:
    """Leaves of inputs that gradients flow to, through any number of iterations.

    The first results of the body are the next carries.
    """
    live, reach, before = _leaves(inner, given), body.reach(), -1
    while len(live) != before:
        before = len(live)
        live |= {leaf_of(c) for c, r in zip(carries, reach, strict=False) if r & live} - {0}
    return live


def loop(body: Body, init: Sequence[Tensor], xs: Sequence[Tensor], length: Any, reverse: bool) -> list[Tensor]:
    """Final carries and stacked results of a body over (carries, slices of xs) that gives (carries, results)."""
    t, n, m = TRACE.get(), len(init), len(body.outputs)
    captures = body.captures().values()
    given = [frozen(t, x) for x in (*init, *xs, *(c.outer for c in captures))]
    inner = [*body.inputs, *(c.inner for c in captures)]
    live = flowing(body, body.inputs[:n], inner, given) if is_grad_enabled() else set()
    stacked = [x for x in body.inputs[:n] if x is not None] if live else []
    full = Body(body.trace, inner, [*body.outputs, *stacked])
    graph = full.graph([spec_of(x) for x in given], "body")
    specs = [v.spec for v in graph.outputs]
    specs[n:] = [Spec((length, *s.shape), s.dtype) for s in specs[n:]]
    attrs = {"body": graph, "carries": n, "length": length, "reverse": reverse}
    values = _values(given)
    operands = (values[:n], values[n : n + len(xs)], values[n + len(xs) :])
    outs = _made(t, scan, operands, attrs, specs, body.outputs[0].device)
    grad = _LoopGradient(full, given, outs, n, len(xs), length, reverse)
    _record(outs, [bool(r & live) for r in full.reach()], "scan", given, grad.run)
    return outs[:m]


class _LoopGradient:
    """The gradient of a loop whose last results are the carries, stacked."""

    def __init__(
        self, body: Body, given: list[Tensor], outs: list[Tensor], carries: int, scanned: int, length: Any,
        reverse: bool,
    ) -> None:  # fmt: skip
        self.body, self.given, self.carries, self.length, self.reverse = body, given, carries, length, reverse
        self.xs = range(carries, carries + scanned)
        self.captured = range(carries + scanned, len(given))
        self.sigs = [(y.storage, y.sig) for y in outs]  # not the tensors: these know the node that knows us

    def run(self, node: list[Any], g: Any) -> list[Any]:
        gs = g if len(self.sigs) > 1 else [g]
        need = [e is not None for e in node[tape.EDGES : tape.EDGES + len(self.given)]]
        body, n = self.body, self.carries
        ys = [k for k in range(n, len(gs)) if gs[k] is not None]
        carries = self._carries({k for k in range(n) if gs[k] is not None}, ys)
        which = [*carries, *ys]
        reach = set[int]().union(*(r for k, r in enumerate(body.reach()) if k in which))
        reached = [k for k, x in enumerate(body.inputs) if need[k] and leaf_of(x) in reach]
        xs, captured = ([k for k in reached if k in ks] for ks in (self.xs, self.captured))
        seeds = body.seeds(which)
        back = self._back(which, seeds, len(carries), xs, captured)
        zero = [k for k in carries if gs[k] is None]
        init = [zeros_like(self.given[k]) if k in zero else gs[k] for k in carries]
        init += [zeros_like(self.given[k]) for k in captured]
        scanned = [*self._stacks(node), *[self.given[k] for k in self.xs], *[gs[k] for k in ys]]
        found = loop(back, init, scanned, self.length, not self.reverse)
        out: list[Any] = [None] * len(self.given)
        for k, g in zip([*carries, *captured, *xs], found, strict=True):
            out[k] = g if need[k] else None
        return out

    def _carries(self, start: set[int], ys: list[int]) -> list[int]:
        """Carries that have a gradient in some iteration, if these have one in the last and ys in every one."""
        reach, now = self.body.reach(), start
        while True:
            leaves = set[int]().union(*(reach[k] for k in (*now, *ys)))
            more = now | {k for k in range(self.carries) if leaf_of(self.body.inputs[k]) in leaves}
            if more == now:
                return sorted(now)
            now = more

    def _stacks(self, node: list[Any]) -> list[Tensor]:
        """The carry at the beginning of every iteration."""
        first = len(self.sigs) - self.carries
        recorded = is_grad_enabled()
        return [
            Tensor(storage, sig, (node, first + k) if recorded and leaf_of(self.body.inputs[k]) else None)
            for k, (storage, sig) in enumerate(self.sigs[first:])
        ]

    def _back(self, which: list[int], seeds: list[Tensor], carries: int, xs: list[int], captured: list[int]) -> Body:
        """One step back: (gradients of carries, sums for what was captured; carries, slices, gradients of results)."""
        body, t = self.body, self.body.trace
        of = [*which[:carries], *captured, *xs]
        inputs = [body.inputs[k] for k in of]
        found = body.gradients(which, seeds, inputs)
        sums = [t.enter(spec_of(self.given[k]), self.given[k].device, is_grad_enabled()) for k in captured]
        with inside(t):
            for j, total in enumerate(sums, carries):
                g = found[j]
                found[j] = total if g is None else total + g
        grads = _or_zeros(body, found, [x for x in inputs if x is not None])
        scanned = [*body.inputs[: self.carries], *[body.inputs[k] for k in self.xs], *seeds[carries:]]
        return Body(t, [*seeds[:carries], *sums, *scanned], grads)


# ---- while_loop ----------------------------------------------------------------------------------------------------
def repeat(again: Tensor, body: Body, init: Sequence[Tensor], max_steps: int | None) -> list[Tensor]:
    """Final carries of a body that gives (whether to go on, carries), run while `again` holds.

    With max_steps it is differentiable: then it is a loop of that many steps, which do nothing once it has ended.
    """
    t = TRACE.get()
    captures = body.captures().values()
    again, *given = [frozen(t, x) for x in (again, *init, *(c.outer for c in captures))]
    inner = [*body.inputs, *(c.inner for c in captures)]
    live = flowing(body, [None, *body.inputs], inner, given) if is_grad_enabled() else set()
    flows = [bool(r & live) for r in body.reach()][1:]
    if any(flows) and max_steps is not None:
        return _bounded(t, again, body, init, max_steps)
    graph = Body(body.trace, inner, body.outputs).graph([spec_of(x) for x in given], "body")
    values = _values(given)
    operands = (_values([again])[0], values[: len(init)], values[len(init) :])
    specs = [v.spec for v in graph.outputs[1:]]
    outs = _made(t, while_loop, operands, {"body": graph, "max_steps": max_steps}, specs, again.device)
    _record(outs, flows, "while_loop", given, _Endless(t.line()))
    return outs


class _Endless:
    """The gradient of a loop of which nobody knows how often it runs."""

    def __init__(self, line: str) -> None:
        self.refuses = (
            f"while_loop: the loop at {line} cannot be differentiated, because nothing says how many steps have to be "
            "kept: give max_steps, or use td.scan"
        )

    def __call__(self, node: list[Any], g: Any) -> Any:
        raise TraceError(self.refuses)


def _bounded(t: Trace, again: Tensor, body: Body, init: Sequence[Tensor], max_steps: int) -> list[Tensor]:
    step = Nested(t, body.trace.what)
    alive = step.enter(spec_of(again), again.device, False)
    carry = [step.enter(spec_of(x), x.device, x.dtype.kind == "f") for x in init]
    rest = Nested(step, body.trace.what)
    same = [rest.enter(spec_of(x), x.device, x.node is not None) for x in carry]
    with inside(rest):
        ended = zeros_like(again)
    body.trace.parent = step  # it is run from there; what it has captured is captured again on the way
    with inside(step):
        outs = branch(alive, [body, Body(rest, same, [ended, *same])], carry)
    return loop(Body(step, [alive, *carry], outs), [again, *init], [], max_steps, False)[1:]
