"""How branches and loops run: each is a step over storages that calls the executables of its graphs.

The slices of a scan are views into its operands. A carry that a body hands on unchanged is not copied.
"""

from collections.abc import Callable, Sequence
from typing import Any

from treadle.compiler.lower import Step
from treadle.ir.graph import Graph
from treadle.ir.rewrite import extract
from treadle.runtime import dispatch
from treadle.sig import Sig, dense_sig
from treadle.spec import Spec

Ready = Callable[[Graph], Any]


def _holds(device: Any, storage: Any) -> bool:
    return any(bytes(device.backend.d2h(storage, 1)))


def _one_or_all(made: Sequence[Any]) -> Any:
    return made[0] if len(made) == 1 else tuple(made)


class _Body:
    """The executable of a loop's graph; outputs that are inputs are handed on as they are."""

    def __init__(self, graph: Graph, ready: Ready) -> None:
        inputs = {v: k for k, v in enumerate(graph.inputs)}
        self.same = [inputs.get(v) for v in graph.outputs]
        computed = [v for v in graph.outputs if v not in inputs]
        self.run = ready(extract(graph, graph.inputs, computed)) if computed else lambda *given: ()
        self.all = len(computed) == len(graph.outputs)

    def __call__(self, given: Sequence[Any]) -> Sequence[Any]:
        made = self.run(*given)
        if self.all:
            return made  # type: ignore[no-any-return]
        made = iter(made)
        return [next(made) if k is None else given[k] for k in self.same]


def _cond(step: Step, device: Any, ready: Ready) -> Any:
    assert step.call is not None
    then, otherwise = (ready(step.call.attrs[name]) for name in ("then", "otherwise"))

    def run(p: Any, *xs: Any) -> Any:
        return _one_or_all((then if _holds(device, p) else otherwise)(*xs))

    return run


class _Final:
    """Carries at the end as memory of their own: those that are handed on may be memory of an operand."""

    def __init__(self, device: Any, specs: Sequence[Spec], same: Sequence[int | None]) -> None:
        self.device, self.same = device, same
        self.sigs = [dense_sig(s.dtype, tuple(s.shape), device) for s in specs]

    def own(self, carry: Sequence[Any], steps: int) -> list[Any]:
        return [
            s if steps and k is None else _copy(self.device, s, sig)
            for s, sig, k in zip(carry, self.sigs, self.same, strict=True)
        ]


def _copy(device: Any, storage: Any, sig: Sig) -> Any:
    out = dispatch.allocate(device, sig.nbytes, "loop")
    dispatch.copy_into(device, out, sig, storage, sig)
    return out


def _scan(step: Step, device: Any, ready: Ready) -> Any:
    assert step.call is not None
    attrs, (n, m, _) = step.call.attrs, step.lists
    graph, length = attrs["body"], attrs["length"]
    order = range(length - 1, -1, -1) if attrs["reverse"] else range(length)
    body, view, copy = _Body(graph, ready), device.backend.view, device.backend.copy_strided
    sizes = [v.spec.nbytes for v in graph.inputs[n : n + m]]
    final = _Final(device, [v.spec for v in graph.outputs[:n]], body.same[:n])
    stacked = [v.spec for v in graph.outputs[n:]]
    flat = [(k, s.nbytes, s.dtype.itemsize, (s.size,)) for k, s in enumerate(stacked) if s.size]

    def run(*given: Any) -> Any:
        carry: Sequence[Any]
        carry, xs, captured = given[:n], given[n : n + m], given[n + m :]
        ys = [dispatch.allocate(device, s.nbytes * length, "scan") for s in stacked]
        for k in order:
            made = body((*carry, *[view(x, k * size) for x, size in zip(xs, sizes)], *captured))  # noqa: B905 - hot
            carry = made[:n]
            for j, nbytes, itemsize, shape in flat:
                copy(view(ys[j], k * nbytes), made[n + j], itemsize, shape, (1,), (1,))
        return _one_or_all([*final.own(carry, length), *ys])

    return run


def _while(step: Step, device: Any, ready: Ready) -> Any:
    assert step.call is not None
    attrs, n = step.call.attrs, step.lists[0]
    graph, most = attrs["body"], attrs["max_steps"]
    body = _Body(graph, ready)
    final = _Final(device, [v.spec for v in graph.outputs[1:]], body.same[1:])

    def run(again: Any, *given: Any) -> Any:
        carry, captured, steps = list(given[:n]), given[n:], 0
        while (most is None or steps < most) and _holds(device, again):
            again, *carry = body([*carry, *captured])
            steps += 1
        return _one_or_all(final.own(carry, steps))

    return run


RUNNERS: dict[str, Any] = {"cond": _cond, "scan": _scan, "while_loop": _while}
