"""The reverse walk: gradients flow from outputs to leaves, latest node first.

Iterative, so that depth is no limit. Each node's saved values are freed as soon as it has run, unless the graph is
retained.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from treadle._tensor import Tensor, View
from treadle.creation import full_of
from treadle.errors import AutogradError, DeviceError, DTypeError, ShapeError
from treadle.op import CATALOGUE, INTERPRETER, STATE
from treadle.tape import EDGES, GRAD_MODE, HookedRule, Leaf, freed, run_hooks


def backward(
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Compute gradients of outputs (weighted by grads) and add them to the `.grad` of all leaves they came from.

    A missing gradient is allowed for one-element outputs (it is 1). AutogradError when an output is not on the tape.
    """
    seeds = [_seed(y, g) for y, g in zip(outputs, grads, strict=True)]
    Walk(create_graph, create_graph if retain_graph is None else retain_graph).run(seeds)


def grad_of(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor | None],
    retain_graph: bool | None = None,
    create_graph: bool = False, allow_unused: bool = False,
) -> list[Any]:  # fmt: skip
    """Return the gradients of outputs with respect to inputs; `.grad` of no tensor changes.

    AutogradError for an input that is not on the tape or (unless allow_unused) was not used.
    """
    if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:
        inputs = [x if (twin := i.lift(x)).node is None else twin for x in inputs]  # under vmap the tape stays outside
    for k, x in enumerate(inputs):
        if x.node is None:
            raise AutogradError(f"grad: input {k} ({x.dtype.name}{list(x.shape)}) does not require grad")
    seeds = [_seed(y, g) for y, g in zip(outputs, grads, strict=True)]
    walk = Walk(create_graph, create_graph if retain_graph is None else retain_graph, [x.node for x in inputs])
    walk.run(seeds)
    found = [walk.captured.get(target(x.node)) for x in inputs]
    if not allow_unused and any(g is None for g in found):
        missing = [k for k, g in enumerate(found) if g is None]
        raise AutogradError(
            f"grad: inputs {missing} were not used in the outputs; pass allow_unused=True to get None for them"
        )
    return found


def _seed(y: Tensor, g: Tensor | None) -> tuple[Any, Tensor]:
    if y.node is None:
        raise AutogradError(
            f"backward: the output ({y.dtype.name}{list(y.shape)}) does not require grad: no operand on its way did"
        )
    if g is None:
        if y.sig.size != 1:
            raise AutogradError(
                f"backward: a gradient must be given for an output of shape {y.shape}; only one-element "
                "outputs need none"
            )
        return y.node, full_of(y.shape, 1, y.dtype, y.device)
    if not isinstance(g, Tensor):
        raise DTypeError(f"backward: the gradient must be a tensor, not {type(g).__name__}")
    if g.shape != y.shape:
        raise ShapeError(f"backward: the gradient has shape {g.shape}, the output {y.shape}")
    if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:
        g = i.lift(g)
    elif g.device is not y.device:
        raise DeviceError(f"backward: the gradient is on {g.device}, the output on {y.device}")
    return y.node, g if g.dtype is y.dtype else CATALOGUE["cast"](g, y.dtype)


def target(node: Any) -> Any:
    """Identity of an edge's target: a leaf by its Leaf object, a result by (node id, index)."""
    if node.__class__ is tuple:
        return node[0][0], node[1]
    return id(node[2]) if node[0] == 0 else (node[0], 0)


class Walk:
    """One reverse walk. With `wanted`, gradients of these nodes are captured instead of collected in leaves.

    stop: it ends at the nodes that are wanted, and their hooks do not run: another walk goes on from there.
    """

    def __init__(self, create_graph: bool, retain: bool, wanted: list[Any] | None = None, stop: bool = False) -> None:
        self.create_graph, self.retain, self.stop = create_graph, retain, stop
        self.wanted = None if wanted is None else {target(n) for n in wanted}
        self.inner = {key[0] for key in self.wanted or () if key.__class__ is tuple}  # ids of nodes with wanted results
        self.useless: dict[int, list[int]] = {}  # of each node to run: slots of the edges that lead to nothing wanted
        self.captured: dict[Any, Any] = {}
        self.pending: dict[int, Any] = {}
        self.heap: list[Any] = []
        self.given: dict[int, Any] = {}  # gradients that leaves may not share
        self.waiting: dict[int, Any] = {}  # leaves with hooks, and their gradients so far

    def run(self, seeds: list[tuple[Any, Tensor]]) -> None:
        token = GRAD_MODE.set(self.create_graph)
        try:
            if self.wanted is not None:
                self.useless = _reaching([e for e, _ in seeds], self.wanted, self.inner if self.stop else set())
            self.given = {id(g): g for _, g in seeds}
            for edge, g in seeds:
                self.put(edge, g)
            self.walk()
            self.finish()
        finally:
            GRAD_MODE.reset(token)

    def walk(self) -> None:
        heap, pending, retain, put = self.heap, self.pending, self.retain, self.put
        capture = self.wanted is not None
        while heap:
            n = heappop(heap)
            g = pending.pop(n[0])
            rule = n[1]
            if capture:
                results = self.run_captured(n, rule, g)
                if results is None:
                    continue
            else:
                results = rule.run(n, g)
            k = EDGES
            for r in results:
                if r is not None:
                    edge = n[k]
                    if edge is not None:
                        if edge.__class__ is list and edge[0] != 0 and not capture:  # the common case, without a call
                            i = edge[0]
                            if i in pending:
                                pending[i] = pending[i] + r
                            else:
                                pending[i] = r
                                heappush(heap, edge)
                        else:
                            put(edge, r)
                k += 1
            if rule.saves and not retain:
                n[1] = rule.gone or freed(rule)
                del n[EDGES:]

    def run_captured(self, n: list[Any], rule: Any, g: Any) -> Any:
        """Capture what is wanted of a node, and run its rule if something wanted lies beyond it, else return None."""
        i, run = n[0], rule.run
        if rule.__class__ is HookedRule and not (self.stop and i in self.inner):
            g, run = rule.before(g), rule.inner
        if i in self.inner:
            for k, x in enumerate(g) if rule.several else ((0, g),):
                if x is not None and (i, k) in self.wanted:  # type: ignore[operator]
                    self.captured[i, k] = x
        useless = self.useless.get(i)
        if useless is None:
            return None
        if useless and not self.create_graph:
            n = n[:]  # with fewer edges the rule computes less
            for k in useless:
                n[k] = None
        return run(n, g)

    def put(self, edge: Any, g: Any) -> None:
        """Add a gradient to what is pending for an edge."""
        if edge.__class__ is tuple:
            node, k = edge
            i = node[0]
            slots = self.pending.get(i)
            if slots is None:
                slots = self.pending[i] = [None] * node[1].several
                heappush(self.heap, node)
            slots[k] = g if slots[k] is None else slots[k] + g
            return
        i = edge[0]
        if i == 0:
            self.collect(edge[2], g)
        elif i in self.pending:
            self.pending[i] = self.pending[i] + g
        else:
            self.pending[i] = g
            heappush(self.heap, edge)

    def collect(self, leaf: Leaf, g: Any) -> None:
        """Give a leaf a part of its gradient; where hooks wait for the whole, it is kept until the end."""
        key = id(leaf)
        if leaf.hooks and not self.stop:
            before = self.waiting.get(key)
            self.waiting[key] = (leaf, g if before is None else before[1] + g)
        elif self.wanted is None:
            self.accumulate(leaf, g)
        elif key in self.wanted:
            before = self.captured.get(key)
            self.captured[key] = g if before is None else before + g

    def accumulate(self, leaf: Leaf, g: Any) -> None:
        with leaf.lock:
            leaf.grad = self.own(g) if leaf.grad is None else leaf.grad + g

    def own(self, g: Any) -> Any:
        """g, or a copy of it where others hold its memory."""
        if isinstance(g, View) or id(g) in self.given:
            g = CATALOGUE["copy"](g)
        self.given[id(g)] = g
        return g

    def finish(self) -> None:
        """Hooks of leaves see the whole gradient; captured gradients become tensors of their own."""
        for key, (leaf, g) in self.waiting.items():
            changed = run_hooks(leaf.hooks or {}, g)
            self.given[id(g)] = g  # a hook may have kept it
            if self.wanted is None:
                self.accumulate(leaf, changed)
            elif key in self.wanted:
                self.captured[key] = changed
        for key, g in self.captured.items():
            self.captured[key] = self.own(g)


def _reaching(starts: list[Any], wanted: set[Any], ends: set[Any]) -> dict[int, list[int]]:
    """The nodes beyond which something wanted lies, by id.

    With the slots of their edges that lead to nothing wanted. ends: ids of nodes beyond which nothing is looked for.
    """
    nodes: dict[int, Any] = {}
    stack = [e[0] if e.__class__ is tuple else e for e in starts]
    while stack:
        n = stack.pop()
        if n[0] != 0 and n[0] not in nodes and n[0] not in ends:
            nodes[n[0]] = n
            stack += [e[0] if e.__class__ is tuple else e for e in n[EDGES : EDGES + n[1].count] if e is not None]
    found: dict[int, list[int]] = {}
    for i in sorted(nodes, reverse=True):  # inputs are older than results, and ids fall
        n = nodes[i]
        edges = [(k, n[k]) for k in range(EDGES, EDGES + n[1].count) if n[k] is not None]
        useless = [
            k for k, e in edges if target(e) not in wanted and (e[0][0] if e.__class__ is tuple else e[0]) not in found
        ]
        if len(useless) < len(edges):
            found[i] = useless
    return found


def tensor_backward(
    x: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Compute the gradients of x with respect to all leaves on its tape and add them to their `.grad`.

    >>> import treadle as td
    >>> x = td.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    """
    backward((x,), (gradient,), retain_graph, create_graph)
