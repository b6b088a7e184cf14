"""The suite's own behaviour: ids, command, repros, statuses, and what the least backend must pass."""

import argparse
import io
import subprocess
import sys
from pathlib import Path

import pytest
from odd.minimal import Minimal
from odd.saboteurs import DropsNaN

import treadle as td
from treadle.conformance import find, run
from treadle.conformance.case import Case
from treadle.conformance.checks import REQUIRED, carried_out
from treadle.conformance.repro import repro
from treadle.conformance.runner import add_arguments, blocks, main, run_block
from treadle.errors import ArgumentError
from treadle.op import CATALOGUE
from treadle.runtime.dispatch import fallback

td.register_backend("minimal", Minimal, host=True)
td.register_backend("drops_nan", DropsNaN, host=True)
IDS = Path(__file__).parents[1] / "data" / "case_ids.txt"


def command(*words):
    """What `treadle conform` prints and returns."""
    parser, out = argparse.ArgumentParser(), io.StringIO()
    add_arguments(parser)
    return main(parser.parse_args(words), out), out.getvalue()


def test_ids_are_stable():
    sys.path.insert(0, str(IDS.parent))
    from make_case_ids import lines

    known, now = set(IDS.read_text().splitlines()), set(lines())
    changed = sorted({line.split()[0] for line in known ^ now})
    assert not changed, f"ids of {changed[:9]} changed; if that is meant: python tests/data/make_case_ids.py"


def test_ids_are_unique_and_found():
    seen = [
        case.id
        for level in ("L0", "L1")
        for block in blocks(level)
        if block.name.split("/")[0] in ("add", "conv2d", "copy", "layout")
        for case in block.make()
    ]
    assert len(seen) == len(set(seen))
    assert {"add/f32/broadcast-3", "conv2d/f32/2", "add/f32/grad-0", "add/errors/0"} <= set(seen)
    assert find("add/f32/broadcast-3").layouts == ("broadcast", "broadcast")
    with pytest.raises(ArgumentError, match="no case"):
        find("add/f32/nothing-3")


def test_operands_are_the_same_every_time():
    first, second = (find("add/f32/transposed-3").arrays() for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_command_passes():
    status, text = command("reference", "--op", "round", "--op", "floor")
    assert status == 0
    assert text.splitlines()[-1].startswith("conform reference L1: ") and text.splitlines()[-1].endswith(
        " passed, 0 failed, 0 unsupported"
    )
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == ["floor", "round"]


def test_command_lists_ids():
    status, text = command("reference", "--list", "--op", "round")
    assert status == 0 and "round/f32/special-0" in text.splitlines()
    assert "layout/f32/offset-2" in command("reference", "--level", "L0", "--list")[1].splitlines()


def test_command_shows_failures_and_reruns_one():
    status, text = command("drops_nan", "--op", "max")
    assert status == 1 and "F max/f32/special-0: " in text and "find('max/f32/special-0')" in text
    status, text = command("drops_nan", "--case", "max/f32/special-0")
    assert status == 1 and text.splitlines()[-1] == "conform drops_nan L1: 0 passed, 1 failed, 0 unsupported"
    with pytest.raises(ArgumentError, match="no case matches"):
        command("reference", "--case", "max/f32/nothing-0")


@pytest.mark.parametrize(
    "id",
    [
        "add/f32/broadcast-3",
        "concat/i32/1",
        "clamp/f32/0",
        "softmax/f32/transposed-0",
        "adam_step/f32/1",
        "iota/i32/1",
        "reshape/f32/0",
        "add/f32/grad-3",
        "layout/f32/offset-2",
    ],
)
def test_repro_runs_alone(id):
    script = repro(find(id), "reference")
    assert len(script.splitlines()) <= 6
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_least_backend_passes():
    """Required element types pass in full, by kernels or by decomposition to them.

    Others are unsupported, never failed.
    """
    device, wanted = (
        td.device("minimal"),
        {f"{op.name}/{d.short}" for op in CATALOGUE.values() for d in REQUIRED & op.dtypes},
    )
    with fallback("error"):
        for block in blocks("L1"):
            if block.name in wanted:
                for case, outcome in run_block(block, device):
                    assert outcome.status in ("P", "U"), f"{outcome.status} {case.id}: {outcome.text}"
                    assert (
                        outcome.status == "P" or "/grad-" in case.id or case.attrs.get("dtype") not in (None, *REQUIRED)
                    ), case.id


def test_unclaimed_types_are_unsupported():
    result = run("minimal", "L1", ops=["add", "softmax"])
    assert result.ok
    of = {id: o.status for id, o in result.outcomes.items()}
    assert (of["add/f64/3"], of["add/f32/3"], of["softmax/f16/0"], of["softmax/f32/0"]) == ("U", "P", "U", "P")


def test_unexpected_exception_is_a_failure_of_the_case():
    def check(case, device):
        raise RuntimeError("boom")

    outcome = carried_out(Case("x/any/0", check), td.device("reference"))
    assert outcome.status == "F" and outcome.text == "RuntimeError: boom"


def test_unknown_level_and_device():
    with pytest.raises(ArgumentError, match="no level"):
        run("reference", "L9")
    with pytest.raises(td.errors.DeviceError):
        run("nowhere")


def test_missing_device_is_skipped_in_pytest(tmp_path):
    (tmp_path / "test_it.py").write_text("from treadle.conformance.pytest_plugin import *\nDEVICE = 'nowhere'\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "1 skipped" in done.stdout and "nobody provides" in done.stdout, done.stdout
