"""A lane of its own, slow: `make test-install` builds dist/ and names this folder; other runs of pytest pass it by."""

from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
DIST = HERE.parents[1] / "dist"


def pytest_ignore_collect(collection_path, config):
    """Collect nothing here unless an argument of the command line lies in this folder."""
    named = [(config.invocation_params.dir / str(arg).split("::")[0]).resolve() for arg in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@pytest.fixture(scope="session")
def dist():
    """The two wheels and sdists that `make wheels` made: a dict from (package, suffix) to path."""
    found = {}
    for path in sorted(DIST.glob("treadle*")):
        package = path.name.split("-")[0]
        suffix = ".tar.gz" if path.name.endswith(".tar.gz") else path.suffix
        assert (package, suffix) not in found, f"{path.name} is not the only one: run make wheels"
        found[package, suffix] = path
    expected = {(p, s) for p in ("treadle", "treadle_backend_cpu") for s in (".whl", ".tar.gz")}
    assert set(found) == expected, f"{DIST} holds {sorted(found)}: run make wheels"
    return found
