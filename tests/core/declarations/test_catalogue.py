"""What every declaration must have, and what holds for all of them together."""

import ast
import re
import statistics
from pathlib import Path

import pytest
from declared import DEVICE

import treadle as td
from treadle.conformance.case import Case, samples_for
from treadle.conformance.suites.refusals import usual
from treadle.conformance.tensors import mapped
from treadle.eager import resolve
from treadle.op import CATALOGUE, Interpreter, interpreting
from treadle.ops.samples import default_errors, default_samples

OPS = Path(td.ops.__file__).parent
KERNELS = """
iota
neg abs sign floor round sqrt exp log expm1 log1p sin cos tanh erf bit_not
add sub mul div rem pow maximum minimum atan2 bit_and bit_or bit_xor shl shr eq lt le
where cast bitcast
sum prod max min
dot_general
gather_nd scatter_nd
sort
""".split()
every_op = pytest.mark.parametrize("op", CATALOGUE.values(), ids=lambda op: op.name)


def test_kernels_are_the_contracts():
    assert len(KERNELS) == 44
    assert sorted(op.name for op in CATALOGUE.values() if op.tier == "kernel") == sorted(KERNELS)


@every_op
def test_op_is_complete(op):
    assert default_samples(op), "no samples"
    assert default_errors(op), "no error case"
    assert re.fullmatch(r"[A-Z][^\n]*\.", op.doc.replace("\n", " ")), f"not one paragraph: {op.doc!r}"
    assert op.reference is not None or op.decompose is not None or op.tier == "view", "nothing says what it means"
    assert op.num.kind in ("exact", "ulp", "contract", "mixed", "stepwise")
    assert op.tier in ("kernel", "view", "copy", "composite", "host")
    if op.tier == "kernel":
        assert op.reference is not None and op.decompose is None
    if op.tier == "composite":
        assert op.decompose is not None
    if any(d.kind == "f" for d in op.dtypes) and op.tier == "kernel" and op.vjp is None:
        pytest.fail("a kernel op needs a gradient rule, or {} to say that there is none")


def declarations():
    """(name, lines) of every declaration in ops/."""
    for path in sorted(OPS.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and value.args and getattr(value.args[0], "value", None) in CATALOGUE:
                yield value.args[0].value, node.end_lineno - node.lineno + 1


def test_declarations_are_short():
    found = dict(declarations())
    assert set(found) == set(CATALOGUE)
    assert statistics.median(found.values()) <= 8
    assert max(found.values()) <= 20, max(found, key=found.get)


class Recorder(Interpreter):
    """Runs calls as eager does and notes their names."""

    def __init__(self):
        self.names = set()

    def __call__(self, op, args, attrs):
        self.names.add(op.name)
        return self.plainly(op, args, attrs)


def expansion(op):
    """Names of the ops that a decomposition calls, over all samples."""
    recorder, dtype = Recorder(), usual(op)
    for n, sample in samples_for(op, dtype):
        made = Case(f"{op.name}/{dtype.short}/{n}", None, op, dtype, sample.args, sample.attrs)
        args = mapped(lambda a: td.tensor(a, device=DEVICE) if hasattr(a, "dtype") else a, made.arrays())
        with interpreting(recorder):
            if op.category == "lists":
                op.decompose(*args, **{**op.attrs, **sample.attrs})
            else:
                resolve._expand(op, args, {**op.attrs, **sample.attrs}, False)
    return recorder.names


def test_decompositions_end_in_kernels_and_never_in_themselves():
    calls = {op.name: expansion(op) for op in CATALOGUE.values() if op.decompose is not None}
    state = {}

    def visit(name, path):
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name in state:
            return
        assert name in calls or CATALOGUE[name].tier in ("kernel", "view", "copy"), (
            f"{path[-1]} needs {name}, which is {CATALOGUE[name].tier}"
        )
        for inner in sorted(calls.get(name, ())):
            visit(inner, [*path, name])
        state[name] = True

    for name in calls:
        visit(name, [])
    reached = set().union(*calls.values())
    assert reached & set(KERNELS), "nothing was recorded"
