"""The profile sees every op once, with the work that it is."""

import json

import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn
from treadle.cli import main


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def training(wrap=lambda f: f):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    opt = td.optim.Adam(model.parameters())
    x, t = td.randn(5, 1, 8, 8), td.randint(0, 3, (5,))

    @wrap
    def step():
        opt.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        opt.step()
        return loss

    return step


def test_eager_ops_are_counted_with_their_work():
    step = training()
    with td.profiler.profile() as p:
        for _ in range(3):
            step()
    rows = {r.name: r for r in p.rows()}
    assert rows["conv2d"].calls == rows["adam_step"].calls == 3
    assert rows["conv2d"].flops == 3 * 2 * (5 * 4 * 6 * 6) * 9
    assert rows["linear"].flops == 3 * 2 * 5 * 144 * 3 and rows["linear"].kind == "eager"
    assert rows["relu"].bytes == 3 * 2 * 4 * (5 * 4 * 6 * 6)
    assert all(r.seconds > 0 for r in p.rows()) and sum(r.seconds for r in p.rows()) < (p.ended - p.began) / 1e9
    text = str(p)
    assert "conv2d" in text and "GFLOP/s" in text


def test_a_compiled_step_is_seen_from_inside(device):
    step = training(td.compile)
    step()
    with td.profiler.profile() as p:
        loss = step()
    assert step.traces == 1 and loss.item() > 0
    rows = {r.name: r for r in p.rows()}
    if device == "reference":
        assert list(rows) == ["graph"]
        return
    conv = rows["fused_conv2d"]  # with its relu
    assert conv.kind == "compiled" and conv.flops == 2 * (5 * 4 * 6 * 6) * 9
    assert any("test_profiler.py" in e.line for e in p.events)


def test_a_function_compiled_while_profiling_works():
    f = td.compile(lambda x: x * 2)
    with td.profiler.profile():
        assert f(td.ones(2)).tolist() == [2, 2] and f(td.ones(2)).tolist() == [2, 2]
    assert f(td.ones(2)).tolist() == [2, 2] and f.traces == 1


def test_the_trace_is_chrome_json(tmp_path):
    with td.profiler.profile() as p:
        training()()
    p.export(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    calls = [e for e in events if e["ph"] == "X"]
    assert {"name", "ts", "dur", "pid", "tid", "args"} <= set(calls[0]) and len(calls) == len(p.events)
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in zip(calls, calls[1:], strict=False))


def test_limits_make_a_column():
    with td.profiler.profile() as p:
        _ = td.ones(64, 64) @ td.ones(64, 64)
    found = td.profiler.limits()
    assert found.flops_per_second > 0 and found.bytes_per_second > 0 and "limit" in p.table(found)


def test_the_command_profiles_a_script(tmp_path, capsys, device):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, treadle as td\nprint('given', sys.argv[1])\nx = td.ones(8, 8)\n(x @ x).sum().item()\n"
    )
    main(["profile", "--trace", str(tmp_path / "t.json"), str(script), "7"])
    text = capsys.readouterr().out
    assert "given 7" in text and "matmul" in text and "limit" in text
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
