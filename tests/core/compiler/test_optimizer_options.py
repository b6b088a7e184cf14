"""Options of an optimizer that change between the calls of a compiled step: it does what eager does."""

import copy

import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        yield request.param


class Plain(td.optim.Optimizer):
    """An optimizer of one's own with a Python number as its learning rate."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def _step_group(self, group):
        for p in group["params"]:
            p.sub_(p.grad * group["lr"])


STEPPERS = {
    "SGD": lambda p: td.optim.SGD(p, lr=0.1),
    "momentum": lambda p: td.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: td.optim.Adam(p, lr=1e-2),
    "AdamW": lambda p: td.optim.AdamW(p, lr=1e-2),
    "Plain": lambda p: Plain(p, lr=0.1),
}


def trained(stepper, wrap, change, frozen, steps=8):
    """(losses, weights, traces) of a training in which change(optimizer, k, kept) is made after step k.

    kept: what changes share; "extra" there is a parameter that the optimizer does not have, frozen or not.
    """
    td.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, t = td.randn(10, 6), td.randint(0, 3, (10,))
    optimizer = STEPPERS[stepper](model.parameters())
    extra = td.zeros(3, requires_grad=not frozen)

    def step(x, t):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x) + extra, t)
        loss.backward()
        optimizer.step()
        return loss

    step, losses, kept = wrap(step), [], {"extra": extra}
    for k in range(steps):
        losses.append(step(x, t).item())
        change(optimizer, k, kept)
    return losses, [p.tolist() for p in (*model.parameters(), extra)], getattr(step, "traces", 0)


def both(stepper, change, frozen=True):
    """How often a step that gives what eager gives was traced."""
    want, got = (trained(stepper, wrap, change, frozen) for wrap in (lambda f: f, td.compile))
    assert got[:2] == want[:2]
    return got[2]


def one_cycle(optimizer, k, kept):
    """Cycles the learning rate, and momentum or the first beta where there is one."""
    if k == 0:
        cycles = bool(optimizer.defaults.get("momentum") or "betas" in optimizer.defaults)
        kept["schedule"] = td.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=20, cycle_momentum=cycles
        )
    kept["schedule"].step()


@pytest.mark.parametrize("stepper", STEPPERS)
def test_one_cycle(stepper):
    assert both(stepper, one_cycle) == (8 if stepper == "Plain" else 1)


def setting(name, value, at=3):
    def change(optimizer, k, kept):
        if k == at:
            optimizer.param_groups[0][name] = value

    return change


@pytest.mark.parametrize(
    ("stepper", "name", "value"),
    [
        ("Adam", "betas", (0.5, 0.9)),
        ("Adam", "eps", 1e-2),
        ("AdamW", "weight_decay", 0.5),
        ("AdamW", "maximize", True),
        ("momentum", "momentum", 0),
        ("momentum", "nesterov", True),
        ("momentum", "dampening", 0.5),
        ("SGD", "weight_decay", 0.5),
        ("SGD", "momentum", 0.5),
        ("Plain", "lr", 0.01),
    ],
)
def test_an_option_that_changes(stepper, name, value):
    assert both(stepper, setting(name, value)) == 2 + (stepper == "Plain")  # which leaves gradients behind


@pytest.mark.parametrize("stepper", ["momentum", "AdamW"])
def test_a_state_that_is_loaded(stepper):
    """State and groups are other objects then."""

    def change(optimizer, k, kept):
        if k == 1:
            kept["state"] = copy.deepcopy(optimizer.state_dict())
            kept["state"]["param_groups"][0]["lr"] = 0.05
        if k == 4:
            optimizer.load_state_dict(kept["state"])

    assert both(stepper, change) == 2


@pytest.mark.parametrize("stepper", ["momentum", "AdamW"])
def test_a_group_that_is_added(stepper):
    def change(optimizer, k, kept):
        if k == 2:
            optimizer.add_param_group({"params": [kept["extra"]], "lr": 0.02})

    assert both(stepper, change, frozen=False) > 2  # its gradient is there from the second step on


def test_why_is_said(monkeypatch, capsys):
    monkeypatch.setattr("treadle.config.config.log", "recompiles")
    both("Adam", setting("eps", 1e-2))
    assert "options of Adam is" in capsys.readouterr().err
