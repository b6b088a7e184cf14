"""References against tables of 60 digits, against their decompositions, and against the declared shapes and types."""

import json
from pathlib import Path

import numpy as np
import pytest
from declared import FLOAT_OPS, case, float_cases

from treadle.conformance import oracle
from treadle.conformance.case import samples_for
from treadle.conformance.tensors import flat
from treadle.dtypes import ALL, dtype, float32, float64
from treadle.op import CATALOGUE
from treadle.runtime.reference import compute, widen

TABLES = json.loads((Path(__file__).parents[2] / "data" / "tables.json").read_text())
EPS = 2.0**-52
ATTRS = {"softmax": {"axis": 1}, "log_softmax": {"axis": 1}, "logsumexp": {"axes": (1,), "keepdims": True}}
ATTRS |= dict.fromkeys(("sum", "mean", "prod"), {"axes": (1,), "keepdims": True})
LIMIT = {
    "pow": 2,
    "prod": 8,
    "softmax": 24,
    "log_softmax": 4,
    "logsumexp": 4,
    "sum": 8,
    "mean": 8,
    "gelu": 300,
    "gelu_tanh": 300,
    "softplus": 4,
}  # of eps; else 3


def numbers(nested):
    return [numbers(x) for x in nested] if isinstance(nested, list) else float.fromhex(nested)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_reference_agrees_with_the_table(name):
    op, table = CATALOGUE[name], TABLES[name]
    args, want = [np.array(numbers(a)) for a in table["args"]], np.array(numbers(table["value"]))
    assert len(want) >= 24
    with np.errstate(all="ignore"):
        got = op.reference(*args, **ATTRS.get(name, {}))
    terms = (
        np.abs(args[0]).sum(1, keepdims=True)
        if name in ("sum", "mean")
        else np.abs(args[0]).max(1, keepdims=True)
        if name in ATTRS
        else 0.0
    )
    error = np.abs(got - want) / (EPS * np.maximum(np.abs(want) + terms, 2.0**-1022))
    assert error.max() <= LIMIT.get(name, 3), (
        f"{error.max()} eps at {args[0].reshape(-1)[error.argmax() % args[0].size]}"
    )


def kinds(op):
    """The element types that differ in how a reference treats them."""
    return [
        d
        for d in ALL
        if d in op.dtypes and d.name in ("bool", "int8", "int64", "uint32", "float16", "bfloat16", "float64")
    ]


@pytest.mark.parametrize(
    "op", [op for op in CATALOGUE.values() if op.reference is not None and op.tier != "host"], ids=lambda op: op.name
)
def test_reference_gives_what_the_rule_declares(op):
    for kind in kinds(op):
        for n, sample in samples_for(op, kind):
            arrays = case(op, n, sample, kind).arrays()
            given = flat(arrays[0]) if op.inputs[0].many else [oracle._rounded(op, a, arrays) for a in arrays]
            with np.errstate(all="ignore"):
                raw = op.reference(*(given if op.category == "bits" else [widen(a) for a in given]), **sample.attrs)
            for y, spec in zip(
                raw if isinstance(raw, tuple) else (raw,), oracle.specs_of(op, arrays, sample.attrs), strict=True
            ):
                y = np.asarray(y)
                assert y.shape == spec.shape, (kind, n)
                same = y.dtype == spec.dtype.np or (spec.dtype.kind == "f" and y.dtype == np.float64)
                assert same, f"{kind.name} sample {n}: {y.dtype} where {spec.dtype.name} is declared"


@pytest.mark.parametrize(
    "op", [op for op in FLOAT_OPS if op.reference is not None and op.decompose is not None], ids=lambda op: op.name
)
def test_reference_agrees_with_the_decomposition(op):
    for made in float_cases(op):
        arrays = made.arrays()
        specs = oracle.specs_of(op, arrays, made.attrs)
        expected = compute(op, [oracle._rounded(op, a, arrays) for a in arrays], made.attrs, specs)
        for want, (got, size) in zip(expected, oracle.on_magnitude(op, arrays, made.attrs), strict=True):
            assert dtype(got.dtype) is dtype(want.dtype) and got.shape == want.shape
            if want.dtype.kind != "f":
                assert (got == want).all()
                continue
            finite = np.isfinite(want)
            assert (np.isnan(got) == np.isnan(want)).all() and (
                got[~finite & ~np.isnan(want)] == want[~finite & ~np.isnan(want)]
            ).all()
            assert (np.abs(got - want)[finite] <= 16 * EPS * (size + np.abs(want))[finite]).all(), made.id


def test_tables_cover_the_functions():
    needed = {op.name for op in CATALOGUE.values() if op.num.kind == "ulp"} | {
        "gelu",
        "gelu_tanh",
        "softplus",
        "softmax",
        "log_softmax",
        "logsumexp",
    }
    assert needed <= set(TABLES)
    assert float32 is not float64
