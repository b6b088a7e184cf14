"""The suite as pytest items: one per op and element type, the cases inside.

    # tests/test_conformance.py of a plugin
    from treadle.conformance.pytest_plugin import *

    DEVICE = "mine"
    LEVELS = ("L0", "L1", "graph")  # the default
    COMPLETE = False  # the default; with True, cases that the device does not support fail too
    SEED, COUNT = 0, 100  # the default: which random programs of level graph, and how many

A device that is not available here skips the module's items and says why. The first failing cases of a block are shown
with their repro; `treadle conform DEVICE --case ID` runs one alone.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from treadle.conformance.repro import repro
from treadle.conformance.runner import POLICY, blocks, run_block
from treadle.conformance.suites.randoms import COUNT, SEED
from treadle.errors import DeviceError
from treadle.runtime.device import device as Device
from treadle.runtime.dispatch import fallback

__all__ = ["conformance_policy", "pytest_generate_tests", "test_conformance"]

SHOWN = 3


def pytest_generate_tests(metafunc: Any) -> None:
    """Give `test_conformance` of a module every block of the levels it names."""
    if "conformance_block" not in metafunc.fixturenames:
        return
    levels = getattr(metafunc.module, "LEVELS", ("L0", "L1", "graph"))
    try:
        _ = Device(metafunc.module.DEVICE).backend
    except DeviceError as e:
        metafunc.parametrize(
            "conformance_block", [pytest.param(None, marks=pytest.mark.skip(reason=str(e)))], ids=["unavailable"]
        )
        return
    programs = [getattr(metafunc.module, name, value) for name, value in (("SEED", SEED), ("COUNT", COUNT))]
    found = [(level, block) for level in levels for block in blocks(level, *programs)]
    ids = [f"{level}-{block.name.replace('/', '-')}" for level, block in found]
    metafunc.parametrize("conformance_block", found, ids=ids)


@pytest.fixture(scope="module", autouse=True)
def conformance_policy(request: Any) -> Iterator[dict[str, Any]]:
    """The fallback policy in force, changed only between levels: changing it forgets every resolved call."""
    held: dict[str, Any] = {"level": None, "policy": None}
    yield held
    if held["policy"] is not None:
        held["policy"].__exit__()


def test_conformance(conformance_block: Any, request: Any, conformance_policy: dict[str, Any]) -> None:
    """Every case of a block passes or is declared as unsupported."""
    level, block = conformance_block
    if conformance_policy["level"] != level:
        if conformance_policy["policy"] is not None:
            conformance_policy["policy"].__exit__()
        conformance_policy.update(level=level, policy=fallback(POLICY[level]))
    device = request.module.DEVICE
    failing = ("F", "FB", "U") if getattr(request.module, "COMPLETE", False) else ("F", "FB")
    bad: list[str] = []
    unsupported = count = 0
    for case, outcome in run_block(block, Device(device)):
        count += 1
        unsupported += outcome.status == "U"
        if outcome.status in failing:
            bad.append(
                f"{outcome.status} {case.id}: {outcome.text}" + (f"\n{repro(case, device)}" if len(bad) < SHOWN else "")
            )
    assert not bad, f"{len(bad)} of {count} cases failed\n" + "\n".join(bad)
    if count and unsupported == count:
        pytest.skip("declared as unsupported")
