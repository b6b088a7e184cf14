"""The tables of the `peers` benchmark, from records made here. No framework is needed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent


@pytest.fixture(scope="module")
def table():
    """The module, imported as the benchmark does, with nothing left behind on the path."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("peers.table")
    finally:
        sys.path.remove(str(BENCHMARKS))


def record(framework, workload, ms, first_ms=10.0, run="a", **more):
    times = {"median_s": ms / 1e3, "first_s": first_ms / 1e3}
    return {"run": run, "framework": framework, "workload": workload, "problem": None, **times, **more}


def cells(text):
    """{first cell: {column: cell}} of every Markdown table in a text, table by table."""
    tables = []
    for block in text.split("\n\n"):
        lines = [
            [c.strip() for c in line.strip("| ").split("|")] for line in block.splitlines() if line.startswith("|")
        ]
        if lines:
            tables.append({line[0]: dict(zip(lines[0], line)) for line in lines[2:]})
    return tables


ONE_RUN = [
    record("treadle_compiled", "mlp_b64", 0.3, 20),
    record("treadle", "mlp_b64", 0.4, 2),
    record("jax", "mlp_b64", 0.5, 150),
    record("torch_compile", "mlp_b64", 0.75, 4000),
    record("treadle_compiled", "gpt_fwd", 40),
    record("jax", "gpt_fwd", 90),
    record("ort", "gpt_fwd", 80),
]


def test_ratios_targets_and_the_fastest_peer(table):
    steady, first = cells(table.tables(ONE_RUN))
    mlp = steady["mlp_b64"]
    assert mlp["treadle_compiled"] == "300 µs"
    assert mlp["treadle"] == "400 µs (0.75)"  # eager is faster than every peer, and no peer
    assert mlp["jax"] == "**500 µs (0.60)**"
    assert mlp["torch_compile"] == "750 µs (0.40)"
    assert mlp["ort"] == "–"
    assert (mlp["to the fastest"], mlp["target"]) == ("0.60", "0.5, missed")
    gpt = steady["gpt_fwd"]
    assert gpt["ort"] == "**80 ms (0.50)**" and gpt["jax"] == "90 ms (0.44)"
    assert (gpt["to the fastest"], gpt["target"]) == ("0.50", "0.8, met")
    assert first["mlp_b64"]["treadle_compiled"] == "20 ms" and first["mlp_b64"]["torch_compile"] == "4 s"
    assert list(steady) == list(first) == ["mlp_b64", "gpt_fwd"]


def test_wrong_results_errors_and_absent_frameworks_do_not_compete(table):
    text = table.tables(
        [
            {"run": "a", "framework": "tf", "missing": ["tensorflow"]},
            record("treadle_compiled", "mlp_b64", 1),
            record("jax", "mlp_b64", 0.1, problem="the loss did not fall"),
            {"run": "a", "framework": "ort", "workload": "mlp_b64", "error": "Traceback\n  ...\nValueError: no such"},
            record("torch", "mlp_b64", 2),
        ]
    )
    row = cells(text)[0]["mlp_b64"]
    assert row["jax"] == row["ort"] == "fails" and row["torch"] == "**2 ms (0.50)**"
    assert "tf" not in row and "* tf is left out: tensorflow not installed" in text
    assert (
        "* jax fails at mlp_b64: the loss did not fall" in text
        and "* ort fails at mlp_b64: ValueError: no such" in text
    )


def test_without_ours_or_without_peers_there_is_no_ratio(table):
    steady = cells(table.tables([record("jax", "mlp_b64", 1), record("treadle_compiled", "gpt_fwd", 1)]))[0]
    assert steady["mlp_b64"]["jax"] == "1 ms" and steady["mlp_b64"]["treadle_compiled"] == "–"
    for row in steady.values():
        assert (row["to the fastest"], row["target"]) == ("–", str(table.TARGETS[row["workload"]]))


def test_ratios_of_several_runs_are_medians_of_ratios_within_a_run(table):
    """In run b the machine was ten times slower for all; run c timed only JAX and says nothing about a ratio."""
    runs = [("a", 1, 2), ("b", 10, 40), ("d", 1, 1)]
    records = [record("treadle_compiled", "mlp_b64", ours, run=run) for run, ours, _ in runs]
    records += [record("jax", "mlp_b64", theirs, run=run) for run, _, theirs in runs]
    row = cells(table.tables([*records, record("jax", "mlp_b64", 0.01, run="c")]))[0]["mlp_b64"]
    assert row["treadle_compiled"] == "1 ms"
    assert row["jax"] == "**1.5 ms (0.50)**"  # medians of 2, 40, 1, 0.01 and of 1/2, 1/4, 1
    assert (row["to the fastest"], row["target"]) == ("0.50", "0.5, met")


def test_a_file_is_a_run_of_its_own_unless_its_records_name_theirs(table, tmp_path):
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, ours in zip(paths, (1, 3)):
        lines = [record("treadle_compiled", "mlp_b64", ours), record("torch", "mlp_b64", 4)]
        path.write_text("".join(json.dumps({k: v for k, v in r.items() if k != "run"}) + "\n" for r in lines))
    records = table.read(paths)
    assert [r["run"] for r in records] == [str(paths[0])] * 2 + [str(paths[1])] * 2
    assert cells(table.tables(records))[0]["mlp_b64"]["torch"] == "**4 ms (0.50)**"  # of 1/4 and 3/4


@pytest.mark.parametrize(
    "seconds, text",
    [(2, "2 s"), (0.99999, "1 s"), (0.0123, "12.3 ms"), (0.00099996, "1 ms"), (4.56e-6, "4.56 µs"), (3e-8, "30 ns")],
)
def test_times_have_three_digits_and_a_unit(table, seconds, text):
    assert table.human(seconds) == text


def test_the_command_prints_the_tables_of_a_file(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ONE_RUN))
    command = [sys.executable, str(BENCHMARKS / "peers"), "--table", str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert cells(out)[0]["mlp_b64"]["to the fastest"] == "0.60"
