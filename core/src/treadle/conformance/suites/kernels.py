"""L1: every op for every element type on its samples, in every layout, on values that break kernels, in place and asked
for parts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from treadle.conformance import layouts, values
from treadle.conformance.case import Block, Case, dtypes_of, samples_for, tensors_in
from treadle.conformance.checks import (
    check_alias,
    check_aux,
    check_call,
    check_inplace,
    check_inplace_lists,
    check_want,
)
from treadle.conformance.suites.gradients import gradient_cases
from treadle.dtypes import DType
from treadle.op import CATALOGUE, ELEMENTWISE, Op
from treadle.ops.samples import Arg, Sample, s

LARGE = (211, 301)  # reaches threads, tiles and blocked copies; both prime to the widths of vectors
POINTS = 499  # of a sweep


def blocks() -> Iterator[Block]:
    """One block per op and element type, in the order of the catalogue."""
    for op in CATALOGUE.values():
        for dtype in dtypes_of(op):
            yield Block(f"{op.name}/{dtype.short}", partial(cases, op, dtype))


def cases(op: Op, dtype: DType) -> list[Case]:
    """All cases of one block."""
    given = list(samples_for(op, dtype))
    made = [_case(op, dtype, str(n), sample) for n, sample in given]
    made += _in_layouts(op, dtype, given)
    made += _special(op, dtype) + _large(op, dtype)
    made += _aliases(op, dtype, given) + _inplace(op, dtype, given) + _parts(op, dtype, given)
    return made + gradient_cases(op, dtype)


def _case(op: Op, dtype: DType, name: str, sample: Sample, check: Any = check_call, **fields: Any) -> Case:
    return Case(f"{op.name}/{dtype.short}/{name}", check, op, dtype, sample.args, sample.attrs, **fields)


# ---- layouts -------------------------------------------------------------------------------------------------------
def _in_layouts(op: Op, dtype: DType, given: list[tuple[int, Sample]]) -> Iterator[Case] | list[Case]:
    """All operands in each layout, on two samples; each operand alone, on the larger one."""
    if op.tier == "host" or op.category in ("create", "lists"):
        return []
    made = []
    for n, sample in dict(chosen(given)).items():
        operands = tensors_in(sample.args)
        for layout in layouts.VARIANTS:
            each = tuple(
                layout if layouts.fits(layout, a.shape) and _may(op, sample, layout, a) else "dense" for a in operands
            )
            if layout in each:
                made.append(_case(op, dtype, f"{layout}-{n}", sample, layouts=each))
    return made + _one_by_one(op, dtype, given)


def _may(op: Op, sample: Sample, layout: str, operand: Any) -> bool:
    """Repeated indices have no defined result when elements are set."""
    return not (
        layout == "broadcast"
        and "mode" in op.attrs
        and sample.attrs.get("mode", "set") == "set"
        and operand.kind != "main"
    )


def _one_by_one(op: Op, dtype: DType, given: list[tuple[int, Sample]]) -> list[Case]:
    made = []
    n, sample = chosen(given)[-1]
    operands = tensors_in(sample.args)
    for k in range(len(operands)) if len(operands) > 1 else ():
        for layout in layouts.VARIANTS:
            if layouts.fits(layout, operands[k].shape) and _may(op, sample, layout, operands[k]):
                each = tuple(layout if j == k else "dense" for j in range(len(operands)))
                made.append(_case(op, dtype, f"{k}.{layout}-{n}", sample, layouts=each))
    return made


def chosen(given: list[tuple[int, Sample]]) -> list[tuple[int, Sample]]:
    """The first sample with a matrix among its operands, and the one with most elements."""
    full = [(n, x) for n, x in given if tensors_in(x.args) and not any(0 in a.shape for a in tensors_in(x.args))]
    if not full:
        return given[:1]
    matrix = next((x for x in full if any(len(a.shape) > 1 for a in tensors_in(x[1].args))), full[0])
    most = max(full, key=lambda x: sum(int(np.prod(a.shape)) for a in tensors_in(x[1].args)))
    return [matrix, most]


# ---- values --------------------------------------------------------------------------------------------------------
def _special(op: Op, dtype: DType) -> list[Case]:
    if op.name in SPECIAL:
        made = SPECIAL[op.name](op, dtype)
    elif op.category in ELEMENTWISE:
        made = _elementwise_special(op, dtype)
    else:
        return []
    return [_case(op, dtype, name, sample) for name, sample in made]


def _elementwise_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    """All combinations of special values; for functions of the ulp class a sweep over the whole range."""
    pick = values.tame if op.num.kind == "mixed" or op.reference is None else values.wild
    columns = []
    for operand in op.inputs:
        columns.append(np.array([False, True]) if operand.name == "c" else pick(dtype))
    if len(columns) > 2:
        columns = [c[:13] for c in columns]
    crossed = values.crossed(*columns)
    if op.name in ("div", "rem") and dtype.kind != "f":
        crossed = [c[crossed[1] != 0] for c in crossed]
    made = [("special-0", s(*crossed))]
    if op.num.kind == "ulp" and dtype.kind == "f":
        made.append(("sweep-0", s(*[partial(values.sweep, dtype=dtype, count=POINTS) for _ in op.inputs])))
    return made


def _planted(op: Op, dtype: DType, **attrs: Any) -> Sample:
    return s(partial(values.planted, shape=(23, 37), values=values.wild(dtype)), **attrs)


def _order_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    """Ties, NaN, infinities and signed zeros along both axes."""
    if op.name == "sort":
        return [("special-0", _planted(op, dtype)), ("special-1", _planted(op, dtype, descending=True))]
    key = "axis" if "axis" in op.attrs else "axes"
    return [(f"special-{k}", _planted(op, dtype, **{key: k if key == "axis" else (k,)})) for k in (0, 1)]


def _sum_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    """Rows with a NaN, an infinity, both infinities, and only zeros."""
    if dtype.kind != "f":
        return []
    rows = np.ones((5, 19))
    rows[0, 7], rows[1, 3], rows[2, 4], rows[2, 11], rows[3] = np.nan, np.inf, -np.inf, np.inf, 0.0
    key: dict[str, Any] = {"axis": 1} if "axis" in op.attrs else {"axes": (1,)}
    return [("special-0", s(rows.astype(dtype.np), **key))]


def _softmax_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    """Masked elements, and values whose exponentials overflow."""
    rows = np.array(
        [
            [-np.inf, 0.0, 1.0, -np.inf],
            [1000.0, 0.0, -1000.0, 999.0],
            [-1000.0, -1001.0, -1000.0, -np.inf],
            [np.nan, 0.0, 1.0, 2.0],
        ]
    )
    key: dict[str, Any] = {"axis": 1} if "axis" in op.attrs else {"axes": (1,)}
    return [("special-0", s(rows.astype(dtype.np), **key))]


def _lse_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    nothing = s(np.full((2, 3), -np.inf).astype(dtype.np), axes=(1,))
    return [*_softmax_special(op, dtype), ("special-1", nothing)]


def _cast_special(op: Op, dtype: DType) -> list[tuple[str, Sample]]:
    """Every kind of value to every type: saturation, NaN, rounding, wrapping."""
    more = [values.wild(dtype)]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            more.append(
                np.array(
                    [
                        127.5,
                        128,
                        255.9,
                        256,
                        -128.9,
                        32767.5,
                        65504,
                        65520,
                        2.0**31,
                        -(2.0**31),
                        2.0**32,
                        2.0**63,
                        -(2.0**63),
                        2.0**64,
                    ]
                ).astype(dtype.np)
            )
    targets = [sample.attrs["dtype"] for _, sample in samples_for(op, dtype)]
    return [(f"special-{t.short}", s(np.concatenate(more), dtype=t)) for t in dict.fromkeys(targets)]


SPECIAL: dict[str, Any] = {
    **dict.fromkeys(("max", "min", "argmax", "argmin", "sort"), _order_special),
    **dict.fromkeys(("sum", "prod", "mean", "cumsum"), _sum_special),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax_special),
    "logsumexp": _lse_special,
    "cast": _cast_special,
}


def _large(op: Op, dtype: DType) -> list[Case]:
    """More elements than one thread, tile or vector takes, dense and transposed."""
    if op.category in ELEMENTWISE:
        from_positive = op.name in ("div", "rem", "true_div", "pow")
        args = [
            Arg(LARGE, "bool" if i.name == "c" else "positive" if k and from_positive else "main")
            for k, i in enumerate(op.inputs)
        ]
        made = [("large-0", s(*args), ()), ("large-1", s(*args), ("transposed",) * len(args))]
    elif op.category == "reduction":
        made = [
            (f"large-{k}", s(Arg(LARGE), axes=axes, keepdims=False), ()) for k, axes in enumerate(((0,), (1,), (0, 1)))
        ]
    elif op.category == "contraction":
        made = [("large-0", s(Arg((2, 97, 131)), Arg((2, 131, 75))), ())]
    else:
        return []
    return [_case(op, dtype, name, sample, layouts=each) for name, sample, each in made]


# ---- other ways to call --------------------------------------------------------------------------------------------
def _aliases(op: Op, dtype: DType, given: list[tuple[int, Sample]]) -> list[Case]:
    if op.tier in ("view", "host") or op.category in ("create", "lists"):
        return []
    n, sample = chosen(given)[0]
    return [_case(op, dtype, f"alias-{n}", sample, check_alias)]


def _inplace(op: Op, dtype: DType, given: list[tuple[int, Sample]]) -> list[Case]:
    """Ops whose result replaces an operand of its own type and shape."""
    if op.category == "lists":
        return [_case(op, dtype, f"inplace-{n}", sample, check_inplace_lists) for n, sample in given]
    if op.category not in ("unary", "binary") or (
        op.spec is not None and op.spec.__name__ == "boolean" and dtype.kind != "b"
    ):
        return []
    same = [
        (n, x)
        for n, x in given
        if len(tensors_in(x.args)) == len(op.inputs) and len({a.shape for a in tensors_in(x.args)}) == 1
    ]
    return [_case(op, dtype, f"inplace-{n}", sample, check_inplace) for n, sample in same]


def _parts(op: Op, dtype: DType, given: list[tuple[int, Sample]]) -> list[Case]:
    """Some results of a gradient op, and the aux values of a recorded forward."""
    made = []
    if op.partial:
        for n, sample in given[:2]:
            for k in range(1, 2 ** len(op.results) - 1):
                want = tuple(bool(k >> j & 1) for j in range(len(op.results)))
                made.append(
                    _case(op, dtype, f"want{''.join(str(int(w)) for w in want)}-{n}", sample, check_want, option=want)
                )
    if op.aux is not None:
        made += [_case(op, dtype, f"aux-{n}", sample, check_aux) for n, sample in given]
    return made
