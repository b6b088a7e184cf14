"""Imports run one way, nothing of ours is imported inside a function, and the engine knows no device by name."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import treadle

CORE = Path(treadle.__file__).parent
REPO = Path(__file__).resolve().parents[2]

# A module may import only modules of its own line or of lines above it.
LAYERS = [
    ["errors", "plugin"],
    ["config", "shapes"],
    ["dtypes"],
    ["spec"],
    ["op", "sig"],
    ["ops", "tape", "ir"],
    ["runtime"],
    ["_tensor"],
    ["autograd.grad_mode", "autograd.views"],
    ["eager"],
    ["creation", "autograd.backward"],
    ["api"],
    ["random", "tree", "threads", "autograd", "explain"],
    ["compiler", "batching"],
    ["autodiff", "func"],
    ["optim", "weights"],
    ["nn", "data"],
    ["utils", "profiler"],
    ["demo"],
    ["conformance"],
    ["cli", "__main__"],
]
ENGINE = [p for p in sorted(CORE.rglob("*.py")) if not {"demo", "conformance"} & set(p.relative_to(CORE).parts)]


def module_name(path):
    parts = path.relative_to(CORE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__") or "treadle"


def layer_of(name):
    """Index of the line a module stands on: the longest matching entry wins."""
    best = None
    for index, line in enumerate(LAYERS):
        for entry in line:
            if (name == entry or name.startswith(entry + ".")) and (best is None or len(entry) > best[1]):
                best = (index, len(entry))
    return None if best is None else best[0]


def own_imports(tree):
    """(line, module) of imports of our own package, with where they stand."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "treadle":
            base = (node.module or "")[len("treadle") :].lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                found.append(
                    (
                        node.lineno,
                        full
                        if layer_of(full) is not None
                        and (CORE / (full.replace(".", "/"))).with_suffix(".py").exists()
                        or not base
                        else base,
                    )
                )
        elif isinstance(node, ast.Import):
            found += [
                (node.lineno, a.name[len("treadle") :].lstrip("."))
                for a in node.names
                if a.name.split(".")[0] == "treadle"
            ]
    return found


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=module_name)
def test_imports_run_one_way(path):
    name = module_name(path)
    if name in ("treadle", "cli", "__main__", "autograd"):
        return
    mine = layer_of(name)
    assert mine is not None, f"{name} stands on no line of LAYERS"
    if name.startswith(("conformance", "demo")):
        return  # outermost: they use everything
    for line, target in own_imports(ast.parse(path.read_text())):
        other = layer_of(target)
        assert other is not None, f"{name}:{line} imports {target or 'treadle itself'}, which stands on no line"
        assert other <= mine, f"{name}:{line} imports {target}, which stands further out"


@pytest.mark.parametrize(
    "path",
    sorted([*CORE.rglob("*.py"), *(REPO / "plugins").glob("*/src/**/*.py")]),
    ids=lambda p: str(p.relative_to(REPO) if p.is_relative_to(REPO) else p.name),
)
def test_nothing_of_ours_is_imported_inside_functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = own_imports(node)
            assert not inner, f"{path.name}:{inner[0][0]} imports treadle.{inner[0][1]} inside {node.name}"


DEVICE_NAMES = re.compile(r"^(cpu|cuda|gpu|tpu|mps|xla|rocm)(_\w+)?(:\d+)?$")


@pytest.mark.parametrize("path", ENGINE, ids=module_name)
def test_engine_knows_no_device_by_name(path):
    """String literals that are device names; docstrings and messages do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not DEVICE_NAMES.match(node.value) or _is_method_name(node, tree), (
                f"{path.name}:{node.lineno} names the device {node.value!r}"
            )


def _is_method_name(node, tree):
    """`.cpu()` is PyTorch's word for the host device: a name in a table of methods, not a device."""
    return node.value == "cpu" and any(isinstance(n, ast.Dict) and node in n.keys for n in ast.walk(tree))


def test_import_loads_no_plugin():
    code = "import sys, treadle; bad = [m for m in sys.modules if m.startswith('treadle_backend') or m == 'ctypes._dlls']; assert not bad, bad"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plugin_manifest_is_light():
    code = (
        "import sys, time, treadle; before = set(sys.modules); t = time.perf_counter(); import "
        "treadle_backend_cpu.plugin\n"
        "assert time.perf_counter() - t < 0.03\n"
        "new = {m for m in set(sys.modules) - before if not m.startswith('treadle_backend_cpu')}; assert not new, new\n"
        "assert not any('_native' in m for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_engine_works_without_outer_layers(tmp_path):
    """nn, optim, data (and utils, which names data) and their lines in __init__ and the command can be deleted."""
    copy = tmp_path / "treadle"
    shutil.copytree(
        CORE, copy, ignore=shutil.ignore_patterns("__pycache__", "nn", "optim", "data", "utils", "demo", "weights.py")
    )
    init = copy / "__init__.py"
    text = init.read_text()
    init.write_text(
        "\n".join(
            line
            for line in text.splitlines()
            if not re.match(r"from treadle(\.weights)? import (data|nn|optim|load)\b", line)
        )
    )
    code = (
        "import treadle as td; assert not hasattr(td, 'nn'); x = td.randn(4, 3, requires_grad=True); w = "
        "td.randn(3, 2)\n"
        "td.ops.cross_entropy(td.relu(x @ w), td.tensor([0, 1, 1, 0]), None).backward(); assert "
        "x.grad.shape == (4, 3)\n"
        "from treadle.cli import main; assert main(['devices']) == 0"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )


@pytest.mark.parametrize(
    "path",
    sorted(
        [*(REPO / "core/src").rglob("*.py"), *(REPO / "plugins").rglob("*.[ch]"), *(REPO / "plugins").rglob("*.py")]
    ),
    ids=lambda p: p.name,
)
def test_files_are_short(path):
    if "build" in path.relative_to(REPO).parts:
        return
    assert len(path.read_text().splitlines()) <= 600, path


def test_no_module_has_the_name_of_a_public_function():
    modules = {module_name(p).split(".")[0] for p in CORE.rglob("*.py")}
    clashes = [n for n in modules if callable(getattr(treadle, n, None))]
    assert clashes == [] or clashes == ["explain"], clashes


def test_functions_are_short():
    long = []
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 90:
                long.append(f"{path.name}:{node.name}")
    assert not long
