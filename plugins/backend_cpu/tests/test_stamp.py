"""A compiled module that does not match the sources beside it is not used, and the message says what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from treadle_backend_cpu import _native as native
from treadle_backend_cpu import probe, stamp

SOURCE = Path(__file__).resolve().parents[1] / "src" / "treadle_backend_cpu"
PROGRAM = """
import treadle as td
try:
    print(td.ones(2, device="cpu").sum().item())
except td.errors.BackendUnavailable as e:
    print(e)
"""


@pytest.fixture
def copy(tmp_path):
    """A checkout of the backend in a folder with a space, with the compiled module."""
    package = tmp_path / "my checkout" / "plugins" / "backend_cpu" / "src" / SOURCE.name
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy2(native.__file__, package)
    return package


def run(package, *arguments):
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.returncode == 0, done.stderr
    return done.stdout


def answer(package, monkeypatch):
    """What the probe says of a copy, without a process for it."""
    monkeypatch.setattr(stamp, "PACKAGE", package)
    monkeypatch.setattr(probe, "find_spec", lambda name: type("Spec", (), {"origin": next(package.glob("*.so"))}))
    return probe.probe()


def test_the_module_of_this_checkout_matches_its_sources():
    assert stamp.of_module(native.__file__) == stamp.of_sources()


def test_an_edit_makes_the_device_unavailable(copy):
    assert run(copy, "-c", PROGRAM) == "2.0\n"
    with open(copy / "csrc" / "treadle_cpu.h", "a") as file:
        file.write("/* edited */\n")
    reason = "the compiled module does not match the sources"
    remedy = f'pip install -e "{copy.parents[1]}" (needs gcc)'
    listed = run(copy, "-m", "treadle", "plugins").splitlines()
    assert any(line.startswith("cpu ") and line.endswith(f"unavailable: {reason}") for line in listed)
    assert remedy in [line.strip() for line in listed]
    said = run(copy, "-c", PROGRAM)
    assert said.endswith(f"is unavailable: {reason}. What would help: {remedy}\n")


@pytest.mark.parametrize(
    "name", ["csrc/sort.c", "csrc/softmax.inc", "csrc/new.h", "kernels/conv.py", "kernels/new.py", "backend.py"]
)
def test_every_source_counts(copy, monkeypatch, name):
    assert answer(copy, monkeypatch).ok
    before = (copy / name).read_bytes() if (copy / name).exists() else None
    (copy / name).write_bytes((before or b"") + b"\n")
    assert not answer(copy, monkeypatch).ok
    if before is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(before)
    assert answer(copy, monkeypatch).ok


def test_a_renamed_or_missing_source_counts(copy, monkeypatch):
    (copy / "csrc" / "sort.c").rename(copy / "csrc" / "sorted.c")
    assert not answer(copy, monkeypatch).ok
    (copy / "csrc" / "sorted.c").unlink()
    assert not answer(copy, monkeypatch).ok


@pytest.mark.parametrize("name", ["csrc/notes.txt", "csrc/.#sort.c", "kernels/__pycache__", "py.typed"])
def test_other_files_do_not(copy, monkeypatch, name):
    if name.endswith("__pycache__"):
        (copy / name).mkdir()
    else:
        (copy / name).write_text("anything")
    assert answer(copy, monkeypatch).ok


def test_a_module_without_a_stamp_does_not_match(copy, monkeypatch):
    module = next(copy.glob("*.so"))
    module.write_bytes(module.read_bytes().replace(stamp.MARK, b"X" * len(stamp.MARK)))
    assert answer(copy, monkeypatch).reason == "the compiled module does not match the sources"


def test_an_installed_wheel_is_not_compared(copy, monkeypatch):
    shutil.rmtree(copy / "csrc")
    (copy / "kernels" / "conv.py").write_text("")
    assert answer(copy, monkeypatch).ok


def test_a_missing_module_has_its_remedy(copy, monkeypatch):
    monkeypatch.setattr(stamp, "PACKAGE", copy)
    monkeypatch.setattr(probe, "find_spec", lambda name: None)
    assert probe.probe().remedy.startswith("pip install -e ")
    workspace = copy.parents[3]
    (workspace / "core").mkdir()
    (workspace / "Makefile").touch()
    assert probe.probe().remedy.startswith(f'run make build in "{workspace}", or pip install -e ')
    shutil.rmtree(copy / "csrc")
    assert probe.probe().remedy == "pip install --force-reinstall treadle-backend-cpu"
