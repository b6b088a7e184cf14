"""Optimizers: groups, closures, state_dict, errors; formulas against NumPy."""

import copy
import math

import numpy as np
import pytest

import treadle as td
from treadle import optim


def leaf(*values):
    return td.tensor(list(values), requires_grad=True)


def descend(opt, p, steps):
    for _ in range(steps):
        opt.zero_grad()
        ((p - 3.0) * (p - 3.0)).sum().backward()
        opt.step()


@pytest.mark.parametrize("make", [
    lambda p: optim.SGD(p, lr=0.1), lambda p: optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    lambda p: optim.Adam(p, lr=0.3), lambda p: optim.AdamW(p, lr=0.3, weight_decay=0.0),
    lambda p: optim.Adam(p, lr=0.3, amsgrad=True),
])  # fmt: skip
def test_finds_a_minimum(make):
    p = leaf(0.0, 10.0)
    descend(make([p]), p, 150)
    np.testing.assert_allclose(p.detach().numpy(), [3.0, 3.0], atol=0.05)


def test_adam_formula():
    p, g = leaf(1.0, -2.0), np.array([0.3, -0.1])
    opt = optim.AdamW([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    want, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for t in range(1, 4):
        p.grad = td.tensor(g.astype(np.float32))
        opt.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        want = want * (1 - 0.1 * 0.5) - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-5)


def test_groups_have_options_of_their_own():
    a, b, c = leaf(1.0), leaf(1.0), leaf(1.0)
    opt = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    opt.add_param_group({"params": [c], "lr": 0.0})
    (a + b + c).sum().backward()
    opt.step()
    np.testing.assert_allclose([a.item(), b.item(), c.item()], [0.9, 0.5, 1.0], rtol=1e-6)
    assert len(opt.param_groups) == 3 and opt.param_groups[1]["momentum"] == 0


def test_named_parameters():
    opt = optim.Adam(td.nn.Linear(2, 1).named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_closure_and_zero_grad():
    p = leaf(2.0)
    opt = optim.SGD([p], lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with td.no_grad():
        assert opt.step(closure).item() == 4.0
    assert abs(p.item() - 1.6) < 1e-6
    opt.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0]
    opt.zero_grad()
    assert p.grad is None
    opt.step()  # nothing to do


def test_steps_count_per_parameter():
    a, b = leaf(1.0), leaf(1.0)
    opt = optim.Adam([a, b], lr=0.1)
    a.grad = td.ones(1)
    opt.step()
    b.grad = td.ones(1)
    opt.step()
    assert opt.state[a]["step"] == 2 and opt.state[b]["step"] == 1
    np.testing.assert_allclose(b.item(), 0.9, rtol=1e-5)


def test_state_dict_round_trip():
    p, q = leaf(0.0, 10.0), leaf(0.0, 10.0)
    a, b = optim.Adam([p], lr=0.3), optim.Adam([q], lr=99.0)
    descend(a, p, 5)
    saved = copy.deepcopy(a.state_dict())
    with td.no_grad():
        q.copy_(p)
    b.load_state_dict(saved)
    assert b.param_groups[0]["lr"] == 0.3 and b.param_groups[0]["params"][0] is q
    descend(a, p, 3)
    descend(b, q, 3)
    assert p.tolist() == q.tolist()
    assert saved["state"][0]["step"] == 5  # loading copies


def test_load_state_dict_casts_and_checks():
    p = td.tensor([1.0], dtype=td.float64, requires_grad=True)
    q = leaf(1.0)
    a, b = optim.Adam([q]), optim.Adam([p])
    q.grad = td.ones(1)
    a.step()
    b.load_state_dict(a.state_dict())
    assert b.state[p]["exp_avg"].dtype is td.float64
    with pytest.raises(ValueError, match="number of parameter groups"):
        optim.Adam([{"params": [leaf(1.0)]}, {"params": [leaf(1.0)]}]).load_state_dict(a.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        optim.Adam([leaf(1.0), leaf(2.0)]).load_state_dict(a.state_dict())


def test_errors():
    p = leaf(1.0)
    for make, match in [
        (lambda: optim.SGD([], lr=0.1), "empty parameter list"),
        (lambda: optim.SGD([p], lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda: optim.SGD([p], nesterov=True), "Nesterov momentum"),
        (lambda: optim.Adam([p], betas=(0.9, 1.0)), "Invalid beta parameter at index 1: 1.0"),
        (lambda: optim.Adam([p], differentiable=True), "differentiable=True is not supported"),
        (lambda: optim.SGD([p, p]), "more than once"),
        (lambda: optim.SGD([{"params": [p]}, {"params": [p]}]), "more than one parameter group"),
        (lambda: optim.SGD([p * 2]), "non-leaf"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
    for bad in (p, [1.0], [{"params": {p}}]):
        with pytest.raises(TypeError):
            optim.SGD(bad, lr=0.1)
    with pytest.raises(TypeError, match="must be a dict"):
        optim.SGD([p]).add_param_group([p])


def test_learning_rate_as_tensor():
    p = leaf(1.0)
    opt = optim.SGD([p], lr=td.tensor(0.5))
    schedule = optim.lr_scheduler.ExponentialLR(opt, 0.5)
    p.grad = td.ones(1)
    opt.step()
    schedule.step()
    assert p.item() == 0.5 and opt.param_groups[0]["lr"].item() == 0.25


def test_step_writes_in_place():
    """Views and Modules keep seeing the parameter; a stale graph is noticed."""
    p = leaf(1.0, 2.0)
    view = p.detach()
    y = (p * p).sum()
    p.grad = td.ones(2)
    optim.SGD([p], lr=1.0).step()
    assert view.tolist() == [0.0, 1.0]
    with pytest.raises(RuntimeError, match=r"modified|in-?place"):
        y.backward()


def test_half_precision():
    p = td.tensor([1.0, -1.0], dtype=td.bfloat16, requires_grad=True)
    q = leaf(1.0, -1.0)
    opt = optim.Adam([p, q], lr=0.1)
    p.grad, q.grad = td.tensor([1.0, -1.0], dtype=td.bfloat16), td.tensor([1.0, -1.0])
    opt.step()
    assert p.dtype is td.bfloat16 and abs(p.tolist()[0] - 0.9) < 0.01
    np.testing.assert_allclose(q.detach().numpy(), [0.9, -0.9], rtol=1e-5)


def test_infinite_gradients_stay_visible():
    p = leaf(1.0)
    opt = optim.Adam([p], lr=0.1)
    p.grad = td.tensor([math.inf])
    opt.step()
    assert math.isnan(p.item())
