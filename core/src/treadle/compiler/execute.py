"""Run a lowered Graph step by step through dispatch: what every backend without a compiler of its own gets."""

from itertools import chain
from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.compiler.lower import Place, Plan, Step
from treadle.compiler.passes import optimize
from treadle.compiler.runners import RUNNERS
from treadle.eager.resolve import copy_of, decomposed
from treadle.ir.graph import Graph, Number
from treadle.ir.rewrite import duplicate
from treadle.runtime import dispatch
from treadle.sig import Sig


class Stepper:
    """An executable that calls one kernel after the other: `run(*storages, *numbers) -> storages of the outputs`.

    Outputs that are donated to an input lie in that input's storage and are not returned.
    """

    def __init__(self, plan: Plan, plain: bool = False) -> None:
        """plain: graphs of branches and loops run as they were traced, step by step."""
        self.plan, self.device = plan, plan.device
        self.constants = [dispatch.from_numpy(plan.device, a, "constant") for a in plan.constants]
        self.calls = [_bind(s, plan.device, plain) for s in plan.steps]
        self.last = _last_uses(plan)

    def __call__(self, *operands: Any) -> list[Any]:
        backend, plan = self.device.backend, self.plan
        storages, numbers = operands[: len(plan.inputs)], operands[len(plan.inputs) :]
        held: list[Any] = [None] * len(plan.buffers)
        for k, buffer in enumerate(plan.buffers):
            if buffer.kind == "input":
                held[k] = storages[buffer.index]
            elif buffer.kind == "constant":
                held[k] = self.constants[buffer.index]
        given = dict(zip(plan.graph.numbers, numbers, strict=True))

        def at(p: Any) -> Any:
            if p.__class__ is Place:
                storage = self._given(held, p.buffer)  # of an empty tensor, nothing may have been written yet
                return backend.view(storage, p.offset) if p.offset else storage
            return given[p] if p.__class__ is Number else p

        for step, call, gone in zip(plan.steps, self.calls, self.last, strict=True):
            if call is None:
                self._copy(step, held, at)
            else:
                self._keep(step, call(*[at(p) for p in step.ins if p is not None]), held)
            for b in gone:
                held[b] = None
        return [self._given(held, p.buffer) for k, p in enumerate(plan.outputs) if k not in plan.donated]

    def _keep(self, step: Step, made: Any, held: list[Any]) -> None:
        for p, storage in zip(step.outs, made if len(step.outs) > 1 else (made,), strict=True):
            if p is None:
                continue
            if self.plan.buffers[p.buffer].kind == "input":  # donated: the result belongs there
                dispatch.copy_into(self.device, held[p.buffer], p.sig, storage, p.sig)
            else:
                held[p.buffer] = storage

    def _copy(self, step: Step, held: list[Any], at: Any) -> None:
        (src,), (dst,) = step.ins, step.outs
        assert dst is not None
        self._given(held, dst.buffer)
        dispatch.copy_into(self.device, at(dst), dst.sig, at(src), src.sig)

    def _given(self, held: list[Any], buffer: int) -> Any:
        if held[buffer] is None:
            held[buffer] = dispatch.allocate(self.device, self.plan.buffers[buffer].nbytes, "compiled function")
        return held[buffer]


def _ready(graph: Graph, device: Any, plain: bool) -> Any:
    """The executable of a graph in an attribute, which others may share."""
    copy, _ = duplicate(graph)
    if plain:
        return Stepper(Plan(copy, device), plain)
    plan = Plan(optimize(copy, device), device)
    return device.backend.compile(plan) or Stepper(plan)


def _bind(step: Step, device: Any, plain: bool) -> Any:
    """A callable over the storages of the operands that are there."""
    call = step.call
    if call is None:
        return None
    if call.op.tier == "control":
        return RUNNERS[call.op.name](step, device, lambda graph: _ready(graph, device, plain))
    if step.bound is not None:
        return dispatch.native(device, call, step.bound)
    if step.lists:
        return _by_formula(step)
    kernel = dispatch.bind(call.op, device, call.ins, call.outs, call.attrs, call.want, decomposed)
    present = [k for k, x in enumerate(call.ins) if x is not None]

    def run_with_absent(*storages: Any) -> Any:
        operands: list[Any] = [None] * len(call.ins)
        for k, s in zip(present, storages, strict=True):
            operands[k] = s
        return kernel.run(*operands)

    return run_with_absent


def _by_formula(step: Step) -> Any:
    """A list op by its decomposition."""
    call = step.call
    assert call is not None
    op, ins = call.op, call.ins
    attrs = {k: v for k, v in call.attrs.items() if k != "n"}

    def run(*operands: Any) -> Any:
        rest = iter([Tensor(s, x) if isinstance(x, Sig) else s for s, x in zip(operands, ins, strict=True)])
        lists = [[next(rest) for _ in range(n)] for n in step.lists]
        token = tape.GRAD_MODE.set(False)
        try:
            results = op.decompose(*lists, *rest, **attrs)
        finally:
            tape.GRAD_MODE.reset(token)
        outs = tuple(copy_of(x) for x in chain.from_iterable(r if isinstance(r, list) else [r] for r in results))
        return outs[0] if len(outs) == 1 else outs

    return run


def _last_uses(plan: Plan) -> list[list[int]]:
    """After each step, the temporary buffers that nothing later reads."""
    last: dict[int, int] = {}
    for k, s in enumerate(plan.steps):
        last.update(dict.fromkeys(chain(s.reads(), s.writes()), k))
    out: list[list[int]] = [[] for _ in plan.steps]
    for b, k in last.items():
        if plan.buffers[b].kind == "temp":
            out[k].append(b)
    return out
