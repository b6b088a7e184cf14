"""The plan of a compiled function's memory, as numbers, as a table and as a picture."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from graph_tools import load

import treadle as td
import treadle.nn.functional as F
from treadle import nn

SVG = "{http://www.w3.org/2000/svg}"
MODELS = ["mlp_b64", "mlp_b1024", "cnn_b64", "resnet18_fwd", "resnet18_train", "gpt_fwd", "gpt_train"]
NOISE = 1e-6  # pixels


def training_step():
    td.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    optimizer = td.optim.AdamW(model.parameters(), lr=1e-2)

    @td.compile
    def step(x, t):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        optimizer.step()
        return loss

    return step, td.randn(8, 1, 8, 8), td.randint(0, 5, (8,))


def rectangles(plan):
    """(x, y, x where it ends, y where it ends, title) of every buffer, from the picture alone."""
    root = ElementTree.fromstring(plan.to_svg())
    for r in root.iterfind(f"{SVG}g[@id='buffers']/{SVG}rect"):
        x, y, w, h = (float(r.get(name)) for name in ("x", "y", "width", "height"))
        yield x, y, x + w, y + h, r.findtext(f"{SVG}title")


def alive(plan, step):
    return sum(-(-b.nbytes // 64) * 64 for b in plan.buffers if b.first <= step <= b.last)


def disjoint(a, b):
    return any(a[k + 2] <= b[k] + NOISE or b[k + 2] <= a[k] + NOISE for k in (0, 1))


def test_no_two_rectangles_overlap():
    step, x, t = training_step()
    plan = step.memory_plan(x, t)
    found = list(rectangles(plan))
    assert len(found) == len(plan.buffers) > 10
    assert all(disjoint(a, b) for a, b in combinations(found, 2))
    titles = [r[4] for r in found]
    assert any(re.search(r"%\d+ = conv2d: float32\[8, 4, 8, 8\] \(\w+\.py:\d+\)\n", t) for t in titles)
    assert all(re.search(r"^\d+ bytes at \d+, steps \d+ to \d+$", t, re.M) for t in titles)


def test_the_picture_has_the_peak_and_the_lower_bound(tmp_path):
    step, x, t = training_step()
    plan = step.memory_plan(x, t)
    text = plan.to_svg(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_text(encoding="utf-8") == text
    root = ElementTree.fromstring(text)
    said = [root.findtext(f"{SVG}line[@id='{name}']/{SVG}title") for name in ("peak", "lower-bound")]
    assert [int(re.search(r": (\d+) bytes$", s)[1]) for s in said] == [plan.peak, plan.lower_bound]
    top = float(root.find(f"{SVG}line[@id='peak']").get("y1"))
    assert top - NOISE <= min(r[1] for r in rectangles(plan)) <= top + 64


def test_numbers_agree_with_each_other_and_with_the_executable():
    with td.device("cpu"):
        step, x, t = training_step()
        plan = step.memory_plan(x, t)
        step(x, t)
    [entry] = next(iter(step.entries.values()))
    assert step.traces == 1 and plan.peak == entry.forward.run.__self__.arena_bytes
    assert len(plan.steps) == len(entry.forward.plan.steps) == max(b.last for b in plan.buffers) + 1
    assert plan.lower_bound == max(alive(plan, k) for k in range(len(plan.steps)))
    assert 0 <= plan.peak - max(b.offset + b.nbytes for b in plan.buffers) < 64
    assert plan.outside["input"] == sum(v.spec.nbytes for v in plan.graph.inputs) and plan.outside["output"] == 4


@pytest.mark.parametrize("workload", MODELS)
def test_the_peak_is_near_the_lower_bound(workload):
    """Greedy offsets need at most a tenth more than the bytes that are alive at one step."""
    step = td.compile(getattr(load("benchmarks/programs.py").Programs("treadle"), workload)())
    plan = step.memory_plan()
    assert 0 < plan.lower_bound <= plan.peak <= 1.1 * plan.lower_bound
    assert plan.lower_bound == max(alive(plan, k) for k in range(len(plan.steps)))


def test_a_result_over_its_operand_is_one_buffer():
    plan = td.compile(lambda x: (x @ x).exp().sum()).memory_plan(td.ones(8, 8))
    [(offset, nbytes, first, last, tenants)] = plan.buffers
    assert (offset, nbytes, first, last) == (0, 256, 0, 2) and [t.op for t in tenants] == ["matmul", "exp"]


def test_the_gradient_has_a_plan_of_its_own():
    model = td.compile(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)))
    plan = model.memory_plan(td.randn(32, 8))
    assert plan.backward is not None and "tanh" in plan.steps and "tanh" not in plan.backward.steps
    with td.no_grad():
        assert model.memory_plan(td.randn(32, 8)).backward is None


def test_the_table():
    step, x, t = training_step()
    plan = step.memory_plan(x, t)
    lines = str(plan).splitlines()
    assert str(len(plan.buffers)) in lines[0] and "inputs" in lines[1] and repr(plan).endswith(f"{plan.peak} bytes>")
    sizes = [int(line.split()[1]) for line in lines[3:]]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == sum(b.nbytes for b in plan.buffers)
    short = plan.table(2).splitlines()
    assert short[3:5] == lines[3:5] and short[5] == f"and {len(plan.buffers) - 2} smaller ones"


def test_nothing_to_plan():
    plan = td.compile(lambda x: x + 1).memory_plan(td.ones(3))
    assert (plan.peak, plan.lower_bound, plan.buffers) == (0, 0, ())
    assert list(rectangles(plan)) == [] and "0 buffers" in str(plan)
    empty = td.compile(lambda: 3).memory_plan()
    assert empty.steps == () and list(rectangles(empty)) == []


def test_copies_that_no_node_made():
    """A transposed operand is copied for a kernel that takes rows only."""
    plan = td.compile(lambda x: x.t().reshape(-1).exp().sum()).memory_plan(td.ones(4, 6))
    assert plan.steps[0] == "copy" and plan.buffers[0].tenants[0].op in ("copy", "reshape")
