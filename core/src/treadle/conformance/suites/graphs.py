"""graph: every op's samples and gradients as compiled functions, traced, lowered and run on the device.

Judged as in L1, by the float64 reference, so that a fault of the trace, a pass, the memory plan or the executable shows
even where eager has the same.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from treadle.compiler.compiled import compile
from treadle.conformance import oracle
from treadle.conformance.case import Block, Case, Outcome, differentiable, samples_for
from treadle.conformance.checks import case_weights, first, gradient_verdict, on, unchanged, verdicts
from treadle.conformance.suites.gradients import gradient_cases
from treadle.conformance.suites.refusals import usual
from treadle.conformance.tensors import flat, mapped
from treadle.op import CATALOGUE, Op


def blocks() -> Iterator[Block]:
    """One block per op, for its usual element type; ops whose result's shape depends on data cannot be traced."""
    for op in CATALOGUE.values():
        if op.tier != "host":
            yield Block(f"{op.name}/graph", partial(cases, op))


def cases(op: Op) -> list[Case]:
    """The op's samples, and their gradients."""
    dtype = usual(op)
    made = [
        Case(f"{op.name}/{dtype.short}/graph-{n}", check_compiled, op, dtype, sample.args, sample.attrs)
        for n, sample in samples_for(op, dtype)
    ]
    if differentiable(op):
        made += [
            Case(c.id.replace("/grad-", "/graph-grad-"), check_compiled_gradient, op, dtype, c.args, c.attrs)
            for c in gradient_cases(op, dtype)
        ]
    return made


def check_compiled(case: Case, device: Any) -> Outcome:
    """The compiled call gives the right results, twice, and leaves its operands as they were."""
    op = case.op
    assert op is not None
    arrays = case.arrays()
    operands = case.place(arrays, device)
    f = compile(lambda args: flat(oracle.call(op, args, case.attrs, device)))
    f(operands)
    got = [y.numpy_copy() for y in f(operands)]
    return first(verdicts(case, got, arrays, operands, device), lambda: unchanged(arrays, operands))


def check_compiled_gradient(case: Case, device: Any) -> Outcome:
    """Gradients computed inside of a compiled function agree with those computed in float64."""
    op = case.op
    assert op is not None
    arrays = case.arrays()
    weights = case_weights(case, arrays)
    try:
        wanted = oracle.gradients(op, arrays, case.attrs, weights)
    except NotImplementedError:
        return Outcome("P")  # L1 checks that it is refused
    operands = mapped(
        lambda x: x.requires_grad_() if getattr(getattr(x, "dtype", None), "kind", "") == "f" else x,
        case.place(arrays, device),
    )
    leaves = [x for x in flat(operands) if getattr(x, "node", None) is not None]
    ws = [on(w, leaves[0].device) for w in weights]
    f = compile(lambda args, ws: oracle.pull(op, args, case.attrs, ws, device))
    found = f(operands, ws)
    judged = [gradient_verdict(g, w, x, device) for g, w, x in zip(found, wanted, leaves, strict=True)]
    return first(judged, lambda: "")
