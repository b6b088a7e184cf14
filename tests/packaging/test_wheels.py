"""What is in the sdists and wheels, and what their metadata says."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, EntryPoints
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
CORE, BACKEND = REPO / "core", REPO / "plugins" / "backend_cpu"
TREES = {"treadle": CORE, "treadle_backend_cpu": BACKEND}


class InWheel(Distribution):
    """The metadata of a wheel that is not installed, read as importlib.metadata reads an installed one's."""

    def __init__(self, wheel):
        self.wheel = wheel

    def read_text(self, name):
        with zipfile.ZipFile(self.wheel) as archive:
            found = [n for n in archive.namelist() if n.endswith(f".dist-info/{name}")]
            return archive.read(found[0]).decode() if found else None

    def locate_file(self, path):
        return Path(path)


def contents(path):
    """Return a dict from name to bytes of an archive's files; an sdist's names are without its folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(path) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}


def sources(package):
    """Return the files of a package in the checkout, as git would list them."""
    top = TREES[package] / "src"
    skip = re.compile(r"__pycache__|\.egg-info|\.(so|pyc)$")
    return {str(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and not skip.search(str(p.relative_to(top)))}


def test_names_and_tags(dist):
    assert re.fullmatch(r"treadle-[\d.]+-py3-none-any\.whl", dist["treadle", ".whl"].name)
    assert re.fullmatch(
        r"treadle_backend_cpu-[\d.]+-cp311-abi3-linux_\w+\.whl", dist["treadle_backend_cpu", ".whl"].name
    )


@pytest.mark.parametrize("package", TREES)
def test_a_wheel_holds_the_package_and_nothing_else(dist, package):
    inside = {name for name in contents(dist[package, ".whl"]) if ".dist-info/" not in name}
    expected = {name for name in sources(package) if "/csrc/" not in name}
    if package != "treadle":
        expected.add(f"{package}/_native.abi3.so")
    assert inside == expected and f"{package}/py.typed" in inside


@pytest.mark.parametrize("package", TREES)
def test_an_sdist_holds_all_that_is_needed(dist, package):
    inside = contents(dist[package, ".tar.gz"])
    assert {f"src/{name}" for name in sources(package)} <= set(inside)
    assert {"pyproject.toml", "README.md", "LICENSE"} <= set(inside)
    assert not [name for name in inside if name.endswith((".so", ".o", ".pyc", ".recipe")) or "/build/" in name]
    if package != "treadle":
        tests = {str(p.relative_to(BACKEND)) for f in ("tests", "tools") for p in (BACKEND / f).rglob("*.py")}
        assert {"setup.py", *tests} <= set(inside)


@pytest.mark.parametrize("package", TREES)
def test_licences_are_the_repository_s(dist, package):
    licence = (REPO / "LICENSE").read_bytes()
    assert contents(dist[package, ".tar.gz"])["LICENSE"] == licence
    wheel = contents(dist[package, ".whl"])
    assert [data for name, data in wheel.items() if name.endswith("/licenses/LICENSE")] == [licence]


def test_the_tree_builds_into_the_wheel_of_the_sdist(dist, tmp_path):
    """`make wheels` builds from the sdist; the checkout gives the same bytes, the compiled module included."""
    tree = tmp_path / "a tree"
    shutil.copytree(BACKEND, tree, ignore=shutil.ignore_patterns("lib*", "sanitize", "bdist*", "*.so", "__pycache__"))
    command = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", str(tmp_path / "out"), str(tree)]
    subprocess.run(command, check=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert wheel.name == dist["treadle_backend_cpu", ".whl"].name
    ours, theirs = contents(wheel), contents(dist["treadle_backend_cpu", ".whl"])
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_the_module_needs_only_the_system_s_libraries(dist, tmp_path):
    with zipfile.ZipFile(dist["treadle_backend_cpu", ".whl"]) as archive:
        module = archive.extract("treadle_backend_cpu/_native.abi3.so", tmp_path)
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    listed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listed))
    assert {re.sub(r"\.so.*", "", name) for name in needed} <= {
        "libc",
        "libm",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
    assert "RPATH" not in listed and "RUNPATH" not in listed


def metadata(dist, package):
    return InWheel(dist[package, ".whl"])


def test_metadata_of_both(dist):
    core, backend = metadata(dist, "treadle"), metadata(dist, "treadle_backend_cpu")
    assert (core.metadata["Name"], backend.metadata["Name"]) == ("treadle", "treadle-backend-cpu")
    assert core.version == backend.version
    for one in (core, backend):
        assert one.metadata["Requires-Python"] == ">=3.11" and one.metadata["License-Expression"] == "Apache-2.0"
        assert one.metadata["Summary"] and len(one.metadata["Description"]) > 100
        assert one.metadata["Description-Content-Type"] == "text/markdown"
        classifiers = one.metadata.get_all("Classifier")
        versions = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
        assert versions | {"Operating System :: POSIX :: Linux"} <= set(classifiers)
        assert not any("License ::" in c for c in classifiers)  # License-Expression excludes them


def test_requirements(dist):
    core, backend = metadata(dist, "treadle"), metadata(dist, "treadle_backend_cpu")
    plain = [r for r in core.requires if "extra ==" not in r]
    assert sorted(re.split(r"[<>=]", r)[0] for r in plain) == ["ml_dtypes", "numpy", "pluggy"]
    extras = {e: [r for r in core.requires if f'extra == "{e}"' in r] for e in core.metadata.get_all("Provides-Extra")}
    assert set(extras) == {"cpu", "demo", "test"}
    assert [r.split(";")[0].strip() for r in extras["cpu"]] == ["treadle-backend-cpu"]
    assert sorted(re.split(r"[<>=]", r)[0] for r in extras["demo"]) == ["matplotlib", "tqdm"]
    series = ".".join(core.version.split(".")[:2])
    (requirement,) = backend.requires
    assert requirement.startswith("treadle") and f">={series}" in requirement


def test_entry_points(dist):
    core, backend = metadata(dist, "treadle").entry_points, metadata(dist, "treadle_backend_cpu").entry_points
    assert isinstance(core, EntryPoints)
    assert [(e.group, e.name, e.value) for e in core] == [("console_scripts", "treadle", "treadle.cli:main")]
    assert [(e.group, e.name, e.value) for e in backend] == [("treadle.plugins", "cpu", "treadle_backend_cpu.plugin")]


@pytest.mark.parametrize("package", TREES)
def test_an_sdist_s_metadata_is_the_wheel_s(dist, package):
    described = contents(dist[package, ".tar.gz"])["PKG-INFO"].decode()
    assert described == metadata(dist, package).read_text("METADATA")
