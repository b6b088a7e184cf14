"""checkpoint: the inner values of a function are not kept for its backward but computed again there.

(Griewank and Walther 2000, "Algorithm 799: revolve"; Chen et al. 2016, "Training deep nets with sublinear memory
cost".)
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from treadle import tape, tree
from treadle._tensor import Tensor, View, detach_in_place, is_leaf_node
from treadle.autograd.backward import Walk, target
from treadle.autograd.grad_mode import recording
from treadle.errors import ArgumentError, AutogradError
from treadle.op import INTERPRETER, STATE
from treadle.random import Draws


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: Any = None, preserve_rng_state: bool = True, **kwargs: Any
) -> Any:
    """Return function(*args, **kwargs), whose backward computes the function again instead of keeping its inner values.

    Between forward and backward only the arguments and results stay in memory. Gradients reach arguments (nested lists,
    tuples and dicts of tensors too) and whatever else the function reads: parameters, tensors it closes over. Random
    numbers drawn inside are the same in both runs, unless preserve_rng_state is False. What the function does beside
    computing (printing, statistics of a BatchNorm) happens twice. Works in compiled functions and inside itself.
    use_reentrant is accepted for PyTorch's sake and changes nothing. AutogradError at backward when an argument was
    written over in between, or when the second run returns other tensors or draws more random numbers than the first.

    >>> import treadle as td
    >>> x = td.ones(3, requires_grad=True)
    >>> y = td.checkpoint(lambda v: (v * 2).exp().sin(), x)
    >>> y.sum().backward()
    >>> td.allclose(x.grad, 2 * td.exp(2 * x) * td.cos(td.exp(2 * x)))
    True
    """
    if not tape.grad_enabled():
        return function(*args, **kwargs)
    segment = _Segment(function, args, kwargs, preserve_rng_state)
    begin = tape.next_id()  # what is recorded from here on has a smaller id
    found, structure = segment.run(False)
    made = list({id(y): y for y in found if isinstance(y, Tensor) and _within(y.node, begin)}.values())
    if not made:
        return structure.build(iter(found))
    several = len(made) if len(made) > 1 else 0
    edges = _frontier([y.node for y in made], begin)
    kinds = [y.sig for y in made]
    where = [next(k for k, x in enumerate(found) if x is y) for y in made]
    node = [tape.next_id(), tape.Rule("checkpoint", len(edges), _rule(segment, where, kinds), True, several), *edges]
    instead = {id(y): _cut(y, (node, k) if several else node, begin) for k, y in enumerate(made)}
    return structure.build(iter([instead.get(id(y), y) for y in found]))


class _Segment:
    """A function with its arguments, which can be run again as it was run the first time."""

    def __init__(self, function: Any, args: Any, kwargs: Any, same_draws: bool) -> None:
        leaves, self.structure = tree.flatten((args, kwargs))
        self.function: Any = function
        self.interpreter: Any = _current()
        if self._lifts():
            leaves = [self.interpreter.lift(x) if isinstance(x, Tensor) else x for x in leaves]
        self.leaves = leaves
        self.versions = [x._version if isinstance(x, Tensor) else 0 for x in self.leaves]
        self.draws = Draws() if same_draws else None

    def _lifts(self) -> bool:
        return bool(self.interpreter is not None and self.interpreter.lifts)

    def run(self, again: bool) -> Any:
        """(leaves of the result, their structure), recorded."""
        args, kwargs = self.structure.build(iter(self.leaves))
        with recording(True), self.draws.noted(again) if self.draws else nullcontext():
            return tree.flatten(self.function(*args, **kwargs))

    def run_again(self) -> list[Any]:
        """The leaves of the result once more, computed where they were computed the first time."""
        if any(isinstance(x, Tensor) and x._version != v for x, v in zip(self.leaves, self.versions, strict=True)):
            raise tape.modified("checkpoint", "argument")
        now = _current()
        before = self.interpreter if self._lifts() or (now is not None and now.lifts) else now
        token = INTERPRETER.set(before)
        try:
            with before.again() if before is not None else nullcontext():
                return self.run(True)[0]  # type: ignore[no-any-return]
        finally:
            INTERPRETER.reset(token)


def _current() -> Any:
    return INTERPRETER.get() if STATE.special else None


def _within(edge: Any, begin: int) -> bool:
    """Whether an edge leads to a node that was recorded after `begin`."""
    return edge is not None and (edge[0][0] if edge.__class__ is tuple else edge[0]) < begin


def _frontier(starts: list[Any], begin: int) -> list[Any]:
    """Where the tape behind `starts` leaves what was recorded after `begin`: leaves, and results from before."""
    out: dict[Any, Any] = {}
    stack, seen = list(starts), set()
    while stack:
        edge = stack.pop()
        n = edge[0] if edge.__class__ is tuple else edge
        if is_leaf_node(n) or n[0] > begin:
            out.setdefault(target(edge), edge)
        elif n[0] not in seen:
            seen.add(n[0])
            stack += [e for e in n[tape.EDGES : tape.EDGES + n[1].count] if e is not None]
    return list(out.values())


def _cut(y: Tensor, edge: Any, begin: int) -> Tensor:
    """y with this edge and nothing that holds on to what was recorded inside."""
    if isinstance(y, View):
        if _within(y.root.node, begin):
            y = Tensor(y.storage, y.sig)
        else:
            detach_in_place(y)
    y.node = edge
    return y


def _rule(segment: _Segment, where: list[int], kinds: list[Any]) -> Any:
    """The gradient of a segment; where: which leaves of its result are recorded, kinds: what they are."""

    def run(node: list[Any], g: Any) -> list[Any]:
        create = tape.grad_enabled()
        edges = node[tape.EDGES : tape.EDGES + node[1].count]
        found = segment.run_again()
        made: list[Any] = [found[k] if k < len(found) else None for k in where]
        if any(not isinstance(y, Tensor) or y.sig is not s for y, s in zip(made, kinds, strict=True)):
            raise AutogradError("checkpoint: the function returned other tensors when it was computed again")
        given = g if len(made) > 1 else [g]
        seeds = [(y.node, x) for y, x in zip(made, given, strict=True) if x is not None and y.node is not None]
        wanted = [e for e in edges if e is not None]
        walk = Walk(create, create, wanted, stop=True)
        walk.run(seeds)
        return [None if e is None else walk.captured.get(target(e)) for e in edges]

    return run


def checkpoint_sequential(functions: Any, segments: int, input: Any, **kwargs: Any) -> Any:
    """Return a Sequential (or a list of functions) of input, cut into `segments` parts of which all but the last are
    checkpoints.

    ArgumentError unless there are 1 to as many segments as functions. kwargs are those of `checkpoint`.

    >>> import treadle as td
    >>> model = td.nn.Sequential(*[td.nn.Linear(4, 4) for _ in range(4)])
    >>> td.utils.checkpoint.checkpoint_sequential(model, 2, td.ones(1, 4)).shape
    (1, 4)
    """
    parts = list(functions)
    if not 1 <= segments <= max(len(parts), 1):
        raise ArgumentError(f"checkpoint_sequential: {segments} segments of {len(parts)} functions")
    size = max(len(parts) // segments, 1)
    for k in range(segments - 1):
        input = checkpoint(_chain(parts[k * size : (k + 1) * size]), input, **kwargs)
    return _chain(parts[(segments - 1) * size :])(input)


def _chain(parts: list[Any]) -> Any:
    def run(x: Any) -> Any:
        for f in parts:
            x = f(x)
        return x

    return run
