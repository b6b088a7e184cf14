"""Random programs: the same every time, of many kinds, caught where a device is wrong, and shrunk to a script that runs
alone."""

import argparse
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from odd.saboteurs import ChangesOperand, IgnoresStrides, LastTile, Plain, TiesAreZero, WrongGradient

import treadle as td
from treadle.conformance import find, run
from treadle.conformance.programs import twin
from treadle.conformance.programs.check import DERIVATIVE, EAGER, NUMPY, RAISES, examine
from treadle.conformance.programs.derivative import wrong_derivative
from treadle.conformance.programs.generate import generate
from treadle.conformance.programs.program import INSIDE, Input, Program, Ref, Step, program_text, runner
from treadle.conformance.programs.script import script
from treadle.conformance.programs.shrink import shrink
from treadle.conformance.repro import repro
from treadle.conformance.runner import add_arguments, blocks, main
from treadle.op import CATALOGUE, unary_float

HERE = Path(__file__).parent
DEFECTS = [TiesAreZero, IgnoresStrides, LastTile, ChangesOperand, WrongGradient]
ENOUGH = 400  # programs that must show each


def plain(f):
    return f


def provided(cls):
    name = cls.__name__.lower()
    td.register_backend(name, cls, host=True)
    return name


def alone(text, cls=None):
    """What a script gives in a process of its own; a backend of these tests is registered first."""
    head = ""
    if cls is not None:
        head = (
            f"import sys; sys.path.insert(0, {str(HERE)!r})\nimport treadle as td\nfrom odd.saboteurs import {cls.__name__}\n"
            f"td.register_backend({cls.__name__.lower()!r}, {cls.__name__}, host=True)\n"
        )
    return subprocess.run([sys.executable, "-c", head + text], capture_output=True, text=True, timeout=120)


def body(text):
    """The lines of a script's program, without its head and its return."""
    inside = text.split("def program(")[1].split("return ")[0]
    return [line for line in inside.splitlines()[1:] if line.strip()]


def one_step(step, *arrays, gradient=""):
    """A program of one line."""
    inputs = tuple(Input(f"x{k}", np.asarray(a), leaf=bool(gradient)) for k, a in enumerate(arrays))
    return Program(inputs, (step,), step.results, gradient)


# ---- what is generated ---------------------------------------------------------------------------------------------
def test_a_seed_is_a_program():
    assert [program_text(generate(3, n)) for n in range(5)] == [program_text(generate(3, n)) for n in range(5)]
    assert program_text(generate(3, 0)) != program_text(generate(4, 0))


def test_programs_are_of_many_kinds():
    seen = Counter()
    for n in range(150):
        p = generate(0, n)
        seen.update(f"{s.form} {s.what}".strip() for s in p.steps)
        seen.update(x.array.dtype.name for x in p.inputs)
        seen.update({x.place for x in p.inputs})
        seen.update({f"size {n}" for x in p.inputs for n in x.array.shape})
        seen.update([f"gradient {p.gradient}".strip(), f"{len(p.outputs)} outputs"])
        seen["closed over"] += any(x.closed for x in p.inputs)
        seen["unused"] += any(
            r not in p.outputs and not any(r in s.reads() for s in p.steps) for s in p.steps for r in s.results
        )
    wanted = ["index", "assign", "constant", "float32", "float64", "int64", "bool", "size 0", "size 1", "closed over",
        "unused", "gradient", "gradient inside", "gradient outside", "1 outputs", "3 outputs", "op permute",
        "op expand", "method add_", "transposed", "flipped", "expanded", "spaced", "rows", "offset"]  # fmt: skip
    assert not [w for w in wanted if not seen[w]]
    assert sum(f"op {name}" in seen for name in CATALOGUE) > 0.75 * len(CATALOGUE)


def test_the_text_is_what_is_run():
    p = generate(0, 3)
    scope = {"td": td, "np": np}
    exec(program_text(p), scope)
    for a, b in zip(scope["run"]("reference", plain), runner(p)("reference", plain), strict=True):
        assert (a is None and b is None) or a.tobytes() == b.tobytes()


# ---- what is expected ----------------------------------------------------------------------------------------------
def test_the_twin_shares_memory_as_tensors_do():
    """A write through a view of a view, seen in the base and in the next call."""
    p = Program(
        (Input("x0", np.arange(6.0).reshape(2, 3), "transposed"), Input("c1", np.zeros(2), closed=True)),
        (
            Step("op", "permute", (Ref("x0"),), {"axes": (1, 0)}, ("v2",)),
            Step("index", "", (Ref("v2"), (slice(1, 3), 0)), {}, ("v3",)),
            Step("method", "add_", (Ref("c1"), Ref("v3"))),
            Step("assign", "", (Ref("v3"), (slice(None),), 9.0)),
        ),
        ("v2", "x0"),
    )
    want = [np.array([[0, 3], [9, 4], [9, 5]]), np.array([[0, 9, 9], [3, 4, 5]])]
    want += [want[1], np.array([2.0, 4.0])]  # two calls have added up
    for found in (twin.evaluate(p), runner(p)("reference", plain)):
        for a, b in zip(found, want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert twin.exact(p) == [True] * 4


def test_what_rounding_decides_is_not_asked():
    """A device whose exp is off in the last place may round to another integer."""

    class NearlyExp(Plain):
        ops = ("exp",)

        def spoil(self, call, arrays, y):
            return np.nextafter(y, np.inf)

    device = provided(NearlyExp)
    x = np.log(np.float32(2.5), dtype=np.float32)
    steps = (
        Step("op", "exp", (Ref("x0"),), {}, ("v1",)),
        Step("op", "mul", (Ref("v1"), 2), {}, ("v2",)),
        Step("op", "round", (Ref("v1"),), {}, ("v3",)),
        Step("op", "cast", (Ref("v3"),), {"dtype": td.int64}, ("v4",)),
    )
    p = Program((Input("x0", np.asarray(x)),), steps, ("v2", "v4"))
    assert examine(p, device)[0] is None
    exact = one_step(Step("op", "mul", (Ref("x0"), 3), {}, ("v1",)), x)
    assert examine(exact, device) == (None, 0.0)


def test_a_wrong_gradient_of_an_op_is_found_without_autograd():
    x = np.array([0.5, 1.5])
    assert wrong_derivative(one_step(Step("op", "log1p", (Ref("x0"),), {}, ("v1",)), x, gradient=INSIDE)) is None
    op = unary_float("shifted_log", "log1p(x)", np.log1p, {"x": lambda g, x: g / x})
    try:
        p = one_step(Step("op", op.name, (Ref("x0"),), {}, ("v1",)), x, gradient=INSIDE)
        fault, _ = examine(p, "reference")
        assert fault.kind == DERIVATIVE and "slope" in fault.text
        text = script(p.but(calls=1), "reference", fault, "a wrong rule")
        scope = {}
        with pytest.raises(AssertionError, match="not the slope"):
            exec(text, scope)
        assert abs(scope["want"] - (np.log1p(x) / (1 + x) * 2 * scope["ways"][0]).sum()) < 1e-6
    finally:
        del CATALOGUE["shifted_log"]


# ---- what is found -------------------------------------------------------------------------------------------------
def first_found(device):
    """The id of the first program that a device fails."""
    for n in range(ENOUGH):
        if examine(generate(0, n), device)[0] is not None:
            return f"random/0/{n}"
    raise AssertionError(f"{device} passes {ENOUGH} programs")


@pytest.mark.parametrize("saboteur", DEFECTS, ids=lambda cls: cls.__name__)
def test_a_defect_is_caught_and_shrunk_to_a_script_that_runs_alone(saboteur):
    device = provided(saboteur)
    case = find(first_found(device))
    assert not run(device, "graph", case=case.id).ok
    text = repro(case, device)
    assert len(body(text)) <= 3 and len(text) < 2500, text
    done = alone(text, saboteur)
    assert done.returncode == 1 and "AssertionError" in done.stderr, text + done.stderr
    assert done.stdout.startswith("got ") and "\nwant " in done.stdout
    cured = alone(text.replace(f'"{device}"', '"reference"'))
    assert cured.returncode == 0, cured.stderr


def test_without_defect_nothing_is_found():
    device = provided(Plain)
    result = run(device, "graph", ops=["random"], seed=9, count=25)
    assert result.ok and result.counts["P"] == 25, [(i, result.outcomes[i].text) for i in result.failures]


def test_an_exception_is_a_fault_of_its_own():
    class Fails(Plain):
        ops = ("floor",)

        def spoil(self, call, arrays, y):
            raise RuntimeError("no floor here")

    device = provided(Fails)
    steps = (
        Step("op", "neg", (Ref("x0"),), {}, ("v1",)),
        Step("op", "floor", (Ref("v1"),), {}, ("v2",)),
        Step("op", "abs", (Ref("v2"),), {}, ("v3",)),
    )
    p = Program((Input("x0", np.ones((3, 4), np.float32), "transposed"),), steps, ("v3",))
    fault, _ = examine(p, device)
    assert fault.kind == RAISES and fault.text == "RuntimeError: no floor here"
    small, fault = shrink(p, device, fault)
    assert [s.what for s in small.steps] == ["floor"] and small.inputs[0].array.size == 1
    assert "eager runs it" in script(small, device, fault, "an exception")


def test_eager_and_numpy_are_two_judges(monkeypatch):
    """Where eager is wrong in the same way as the device, NumPy is not."""
    p = one_step(Step("op", "abs", (Ref("x0"),), {}, ("v1",)), np.array([-1.0, 2.0]))
    monkeypatch.setattr(twin, "call", lambda op, args, attrs: [np.array([1.0, 3.0])])
    fault, _ = examine(p, "reference")
    assert fault.kind == NUMPY and not fault.like(fault._replace(kind=EAGER))
    text = script(p, "reference", fault, "NumPy knows better")
    done = alone(text)
    assert done.returncode == 1 and "want [1.0, 3.0]" in done.stdout


# ---- the command ---------------------------------------------------------------------------------------------------
def command(*words):
    parser, out = argparse.ArgumentParser(), io.StringIO()
    add_arguments(parser)
    return main(parser.parse_args(words), out), out.getvalue()


def test_the_command_takes_a_seed_and_a_count():
    status, text = command("reference", "--level", "graph", "--op", "random", "--seed", "5", "--count", "4")
    assert status == 0 and text.splitlines()[-1] == "conform reference graph: 4 passed, 0 failed, 0 unsupported"
    status, text = command("reference", "--level", "graph", "--op", "random", "--seed", "5", "--count", "3", "--list")
    assert text.splitlines() == ["random/5/0", "random/5/1", "random/5/2"]
    assert command("reference", "--level", "graph", "--case", "random/77/3")[0] == 0


def test_ids_name_programs_of_any_seed():
    assert find("random/12/345").option == (12, 345)
    assert [b.name for b in blocks("graph") if b.name.startswith("random/")] == ["random/0"]
    assert not [b for b in blocks("graph", count=0) if b.name.startswith("random/")]
    device = provided(IgnoresStrides)
    id = first_found(device)
    status, text = command(device, "--level", "graph", "--case", id)
    assert status == 1 and f"F {id}: " in text and "def program(" in text
