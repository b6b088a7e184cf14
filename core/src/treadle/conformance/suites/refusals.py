"""L1: calls that must be refused, with the exception and the words that the core or the op declares."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from treadle.conformance import oracle
from treadle.conformance.case import Block, Case, samples_for, tensors_in
from treadle.conformance.checks import check_refusal
from treadle.conformance.magnitude import magnitude_device
from treadle.conformance.tensors import flat, mapped
from treadle.dtypes import ALL, DType, float32, int32, uint32
from treadle.errors import DeviceError, DTypeError
from treadle.op import CATALOGUE, ELEMENTWISE, Op
from treadle.ops.samples import Sample, default_errors


def blocks() -> Iterator[Block]:
    """One block per op."""
    for op in CATALOGUE.values():
        yield Block(f"{op.name}/errors", partial(cases, op))


def cases(op: Op) -> list[Case]:
    """The op's declared errors, and those that follow from its signature."""
    dtype = usual(op)
    made = [_case(op, dtype, str(n), e.sample, e.error, e.match, _call) for n, e in enumerate(default_errors(op))]
    sample = next(
        x
        for _, x in samples_for(op, dtype)
        if op.category not in ELEMENTWISE or not any(isinstance(a, (int, float)) for a in x.args)
    )
    if op.category not in ("create", "lists") and op.tier != "host":
        if len(tensors_in(sample.args)) > 1:
            made.append(_case(op, dtype, "device", sample, DeviceError, "different devices", _call_across))
        wrong = [d for d in ALL if d not in op.dtypes]
        if (
            wrong
            and not op.int_to_float
            and not op.inputs[0].many
            and getattr(sample.args[op.main], "kind", "") in ("main", "positive")
        ):
            made.append(_case(op, wrong[0], "dtype", sample, DTypeError, "not defined for", _call))
    return made


def usual(op: Op) -> DType:
    """The element type in which an op's errors are tried."""
    return next(d for d in (float32, int32, uint32, *ALL) if d in op.dtypes)


def _case(op: Op, dtype: DType, name: str, sample: Sample, error: Any, match: str, call: Any) -> Case:
    return Case(
        f"{op.name}/errors/{name}",
        check_refusal,
        op,
        dtype,
        sample.args,
        sample.attrs,
        option=(error, re.compile(match), call),
    )


def _call(case: Case, operands: list[Any], device: Any) -> Any:
    assert case.op is not None
    return oracle.call(case.op, operands, case.attrs, device)


def _call_across(case: Case, operands: list[Any], device: Any) -> Any:
    """The last tensor operand comes from another device."""
    last = next(x for x in reversed(flat(operands)) if hasattr(x, "to"))
    return _call(case, mapped(lambda x: x.to(magnitude_device()) if x is last else x, operands), device)
