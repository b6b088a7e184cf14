"""Optimizers against PyTorch: the same gradients give the same parameters and the same state."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def to_td(t):
    return td.from_numpy(t.detach().numpy().copy())


CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "maximize": True}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3}),
    ("AdamW", {"lr": 0.05, "amsgrad": True, "maximize": True}),
]
SHAPES = [(3, 4), (5,), (), (2, 0)]


def make(seed=0):
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.standard_normal(s), np.float32) for s in SHAPES]
    return [torch.from_numpy(a.copy()).requires_grad_() for a in arrays], [
        td.from_numpy(a.copy()).requires_grad_() for a in arrays
    ]


def set_grads(theirs, ours, step):
    rng = np.random.default_rng(100 + step)
    for i, (p, q) in enumerate(zip(theirs, ours, strict=True)):
        g = np.asarray(rng.standard_normal(p.shape), np.float32)
        skip = i == 1 and step == 1  # one parameter misses a step
        p.grad = None if skip else torch.from_numpy(g.copy())
        q.grad = None if skip else td.from_numpy(g.copy())


def compare(theirs, ours, tol=1e-5):
    for p, q in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(q.detach().numpy(), p.detach().numpy(), rtol=tol, atol=tol)


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}{o}".replace(" ", "") for n, o in CASES])
def test_steps(name, options):
    theirs, ours = make()
    a, b = getattr(torch.optim, name)(theirs, **options), getattr(td.optim, name)(ours, **options)
    assert repr(b) == repr(a)
    for step in range(5):
        set_grads(theirs, ours, step)
        a.step()
        b.step()
        compare(theirs, ours)
    assert all(p.is_leaf and p.requires_grad for p in ours)
    mine, yours = b.state_dict(), a.state_dict()
    assert mine["param_groups"] == yours["param_groups"]
    for i, state in yours["state"].items():
        for key, value in state.items():
            got = mine["state"][i].get(key)
            if isinstance(value, torch.Tensor) and key != "step":
                np.testing.assert_allclose(got.numpy(), value.numpy(), rtol=1e-5, atol=1e-6)
            elif value is not None:
                assert got == int(value)


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}{o}".replace(" ", "") for n, o in CASES])
def test_resume_from_pytorchs_state(name, options):
    """A state_dict of PyTorch's optimizer continues here as it would there."""
    theirs, ours = make()
    a, b = getattr(torch.optim, name)(theirs, **options), getattr(td.optim, name)(ours, lr=1.0)
    for step in range(3):
        set_grads(theirs, ours, step)
        a.step()
    saved = copy.deepcopy(a.state_dict())
    for state in saved["state"].values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                state[key] = to_td(value)
    b.load_state_dict(saved)
    for p, q in zip(theirs, ours, strict=True):
        with td.no_grad():
            q.copy_(to_td(p))
    for step in range(3, 5):
        set_grads(theirs, ours, step)
        a.step()
        b.step()
    compare(theirs, ours)
