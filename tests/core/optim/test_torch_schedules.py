"""Schedules against PyTorch: the same rates, step by step, and the same continuation after loading."""

import math
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

CASES = {
    "lambda": lambda s, o: s.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (1 + e)]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 1 - 0.01 * e),
    "step": lambda s, o: s.StepLR(o, 3, 0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9], 0.5),
    "constant": lambda s, o: s.ConstantLR(o, 0.25, 4),
    "linear": lambda s, o: s.LinearLR(o, 0.2, 0.8, 6),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.8),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 5, 0.01),
    "cosine_up": lambda s, o: s.CosineAnnealingLR(o, 3),
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 3), s.CosineAnnealingLR(o, 6), s.ExponentialLR(o, 0.5)], [3, 9]
    ),
    "one_cycle": lambda s, o: s.OneCycleLR(o, [1.0, 0.5], total_steps=15),
    "one_cycle_linear": lambda s, o: s.OneCycleLR(
        o, 1.0, epochs=3, steps_per_epoch=5, anneal_strategy="linear", pct_start=0.4
    ),
    "one_cycle_three": lambda s, o: s.OneCycleLR(o, 1.0, total_steps=15, three_phase=True, pct_start=0.3),
}


def make(t, name, optimizer="SGD"):
    params = [t.zeros(1, requires_grad=True), t.zeros(1, requires_grad=True)]
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    opt = getattr(t.optim, optimizer)([{"params": params[:1]}, {"params": params[1:], "lr": 0.05}], lr=0.1, **options)
    return opt, CASES[name](t.optim.lr_scheduler, opt)


def rates(opt):
    return [g["lr"] for g in opt.param_groups] + [g.get("momentum", g.get("betas", (0,))) for g in opt.param_groups]


def flat(values):
    return np.array([x for v in values for x in (v if isinstance(v, tuple) else (v,))])


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CASES)
def test_rates(name, optimizer):
    (a, s), (b, r) = make(torch, name, optimizer), make(td, name, optimizer)
    np.testing.assert_allclose(flat(rates(b)), flat(rates(a)), rtol=1e-12)
    for _ in range(13):
        a.step()
        b.step()
        s.step()
        r.step()
        np.testing.assert_allclose(flat(rates(b)), flat(rates(a)), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(r.get_last_lr(), s.get_last_lr(), rtol=1e-9, atol=1e-12)
        assert r.last_epoch == s.last_epoch


@pytest.mark.parametrize("name", CASES)
def test_resume(name):
    (a, s), (b, r) = make(td, name), make(td, name)
    for _ in range(5):
        a.step()
        s.step()
    b.load_state_dict(a.state_dict())
    r.load_state_dict(s.state_dict())
    for _ in range(6):
        for x in (a, s, b, r):
            x.step()
        np.testing.assert_allclose(flat(rates(b)), flat(rates(a)), rtol=1e-12)


def test_reduce_on_plateau():
    metrics = [1.0, 0.9, 0.9, 0.9, 0.95, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, math.nan]
    for options in [
        {"patience": 1, "factor": 0.5}, {"patience": 0, "cooldown": 2, "min_lr": 0.02}, {"mode": "max", "patience": 2},
        {"threshold_mode": "abs", "threshold": 0.2, "patience": 1, "min_lr": [0.01, 0.03]},
    ]:  # fmt: skip
        result = {}
        for t in (torch, td):
            opt, _ = make(t, "constant")
            schedule = t.optim.lr_scheduler.ReduceLROnPlateau(opt, **options)
            result[t] = []
            for m in metrics:
                schedule.step(m)
                result[t].append([*rates(opt)[:2], *schedule.get_last_lr()])
            saved = schedule.state_dict()
            schedule.load_state_dict(saved)
        np.testing.assert_allclose(result[td], result[torch])


@pytest.mark.parametrize("name", ["step", "multistep", "constant", "linear", "exponential", "cosine"])
def test_jump_to_an_epoch(name):
    (a, s), (b, r) = make(torch, name), make(td, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in (4, 1, 7):
            s.step(epoch)
            r.step(epoch)
            np.testing.assert_allclose(flat(rates(b)), flat(rates(a)), rtol=1e-9)


def test_two_schedules_chain():
    result = {}
    for t in (torch, td):
        opt, _ = make(t, "exponential")
        warm = t.optim.lr_scheduler.LinearLR(opt, 0.5, total_iters=3)
        decay = t.optim.lr_scheduler.StepLR(opt, 2, 0.1)
        result[t] = []
        for _ in range(6):
            opt.step()
            warm.step()
            decay.step()
            result[t].append(rates(opt)[0])
    np.testing.assert_allclose(result[td], result[torch], rtol=1e-12)


def test_errors_and_warnings():
    opt, _ = make(td, "constant")
    s = td.optim.lr_scheduler
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        s.StepLR(opt, 2).step()
    for make_it in [
        lambda: s.ConstantLR(opt, 2.0), lambda: s.LinearLR(opt, 0.0), lambda: s.LambdaLR(opt, [lambda e: 1.0]),
        lambda: s.OneCycleLR(opt, 1.0), lambda: s.OneCycleLR(opt, 1.0, total_steps=5, anneal_strategy="sin"),
        lambda: s.SequentialLR(opt, [s.StepLR(opt, 1)], [2]),
        lambda: s.SequentialLR(opt, [s.ReduceLROnPlateau(opt)], []),
        lambda: s.ReduceLROnPlateau(opt, factor=1.0), lambda: s.ReduceLROnPlateau(opt, mode="mid"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            make_it()
    with pytest.raises(TypeError, match="not an Optimizer"):
        s.StepLR(3, 1)
    with pytest.raises(KeyError, match="initial_lr"):
        s.StepLR(td.optim.SGD([td.zeros(1, requires_grad=True)]), 1, last_epoch=3)
