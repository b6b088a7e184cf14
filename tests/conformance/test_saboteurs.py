"""The suite can fail: each backend with one defect is caught by the cases that are there for it, and the one without
passes."""

import pytest
from odd.saboteurs import SABOTEURS, Plain

import treadle as td
from treadle.conformance import run

td.register_backend("plain", Plain, host=True)
for _cls in SABOTEURS:
    td.register_backend(_cls.__name__.lower(), _cls, host=True)


@pytest.mark.parametrize("saboteur", SABOTEURS, ids=lambda cls: cls.__name__)
def test_defect_is_caught(saboteur):
    result = run(saboteur.__name__.lower(), saboteur.level, ops=saboteur.ops or ("identity", "layout", "memory"))
    for part in saboteur.caught:
        assert any(id.startswith(part) for id in result.failures), (
            f"no case {part}... failed; these did: {result.failures[:9]}"
        )
    assert result.counts["P"], "one defect must not fail everything"


@pytest.mark.parametrize("level", ["L0", "L1"])
def test_without_defect_nothing_fails(level):
    ops = sorted({name for cls in SABOTEURS if cls.level == level for name in cls.ops}) or (
        "identity",
        "layout",
        "memory",
    )
    result = run("plain", level, ops=ops)
    assert result.ok, [(id, result.outcomes[id].text) for id in result.failures[:5]]
    assert set(result.counts) == {"P"}
