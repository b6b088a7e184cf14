"""One trace for batches of any size."""

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def same(a, b):
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def network():
    td.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(36),
        nn.Linear(36, 3),
    )


def test_a_training_step_for_every_batch_size():
    def run(wrap):
        model = network()
        opt = td.optim.AdamW(model.parameters(), lr=1e-2)

        def step(x, t):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), t)
            loss.backward()
            opt.step()
            return loss

        step = wrap(step)
        generator = td.Generator().manual_seed(2)
        losses = []
        for n in (4, 7, 4, 2, 9):
            x = td.randn(n, 2, 6, 6, generator=generator)
            losses.append(step(x, td.randint(0, 3, (n,), generator=generator)).item())
        return losses, step

    want, _ = run(lambda f: f)
    got, step = run(lambda f: td.compile(f, dynamic=True))
    assert got == want and step.traces == 1


def several(x):
    return (
        x.mean(),
        x.softmax(1),
        x.reshape(-1, 3),
        x.sum(0),
        x / x.shape[0],
        x.var(),
        td.cat([x, x]),
        x[1:],
        x.t() @ x,
        td.zeros(x.shape[0], 2) + 1,
    )


def test_shapes_that_follow_the_batch():
    f = td.compile(several, dynamic=True)
    for n in (4, 7, 3):
        x = td.randn(n, 6)
        for a, b in zip(f(x), several(x), strict=True):
            same(a, b)
    assert f.traces == 1


def test_a_batch_of_one_is_traced_for_itself():
    f = td.compile(lambda x: x + 1, dynamic=True)
    assert f(td.ones(1, 2)).shape == (1, 2) and f(td.ones(2, 2)).shape == (2, 2) and f(td.ones(5, 2)).shape == (5, 2)
    assert f.traces == 2


def test_gradients_from_outside():
    w = td.randn(4, requires_grad=True)
    f = td.compile(lambda x: (x * w).tanh().sum(1), dynamic=True)
    for n in (3, 5):
        x = td.randn(n, 4, requires_grad=True)
        results = []
        for g in (f, f.f):
            w.grad = x.grad = None
            g(x).sum().backward()
            results.append((w.grad, x.grad))
        for a, b in zip(*results, strict=True):
            same(a, b)
    assert f.traces == 1


def test_a_graph_with_a_named_size():
    n = td.Dim("N", 1, 64)
    g = td.graph(network().eval(), td.TensorSpec((n, 2, 6, 6), td.float32))
    assert str(g.outputs[0].shape[0]) == "N"
    model = network().eval()
    for size in (1, 3):
        x = td.randn(size, 2, 6, 6)
        same(g.run(x), model(x))
    with pytest.raises(td.errors.ShapeError, match="N"):
        g.run(td.randn(65, 2, 6, 6))
    with pytest.raises(td.errors.ShapeError, match="traced was"):
        g.run(td.randn(2, 3, 6, 6))


def test_python_cannot_branch_on_a_symbolic_size():
    def f(x):
        return x if x.shape[0] > 5 else -x

    with pytest.raises(td.errors.ShapeError, match=r"N0.*test_dynamic\.py"):
        td.compile(f, dynamic=True)(td.ones(3, 2))
    with pytest.raises(td.errors.ShapeError, match="N0"):
        td.compile(lambda x: [x[i] for i in range(x.shape[0])], dynamic=True)(td.ones(3, 2))
