"""Nothing grows: a thousand training steps without the garbage collector keep memory flat, and errors leave nothing
behind."""

import gc
import tracemalloc

import pytest

import treadle as td


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live_bytes():
    return td.get_default_device().backend.memory_stats().get("live", 0)


def growth(step, warm=50, steps=300):
    """(Python objects, bytes of storages) that `steps` calls leave behind after a warm-up."""
    for _ in range(warm):
        step()
    objects, stored = len(gc.get_objects()), live_bytes()
    for _ in range(steps):
        step()
    return len(gc.get_objects()) - objects, live_bytes() - stored


def test_a_thousand_training_steps(no_gc):
    td.manual_seed(0)
    model = td.nn.Sequential(
        td.nn.Linear(8, 16), td.nn.ReLU(), td.nn.Dropout(0.1), td.nn.LayerNorm(16), td.nn.Linear(16, 4)
    )
    optimizer = td.optim.Adam(model.parameters(), lr=1e-3)
    x, y = td.randn(32, 8), td.randint(0, 4, (32,))

    def step():
        optimizer.zero_grad()
        loss = td.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        loss.item()

    growth(step)
    tracemalloc.start()
    try:
        step()
        before = tracemalloc.get_traced_memory()[0]
        objects, storages = growth(step, steps=1000)
        size = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert objects < 100 and storages <= 0, (objects, storages)
    assert size < 3_000_000, size  # CPython keeps some thousands of freed tuples


def views_and_writes():
    w = td.ones(4, 4, requires_grad=True)
    x = w * 2
    x[1:3].mul_(3)
    x[:, 0] += 1
    x[[0, 1]] = x[[1, 0]].detach()
    y = x.t().reshape(16).unfold(0, 4, 4)
    (y * y).sum().backward()


def second_order():
    w = td.ones(4, requires_grad=True)
    (g,) = td.autograd.grad((w.sin() * w).sum(), w, create_graph=True)
    (g * g).sum().backward()


def hooks():
    w = td.ones(4, requires_grad=True)
    y = w * 2
    y.register_hook(lambda g: g * 2)
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad is not None


class Double(td.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x * 2
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        return g * 2


def functions():
    w = td.ones(4, requires_grad=True)
    Double.apply(Double.apply(w)).sum().backward()
    Double.apply(w)  # never walked


def transforms():
    x = td.ones(3)
    td.value_and_grad(lambda x: (x**3).sum())(x)
    td.grad(lambda x: td.grad(lambda z: (z**3).sum())(x).sum())(x)
    y, pull = td.vjp(lambda x: x * x, x)
    pull(y)


def failures():
    for f in (
        lambda: td.ones(2) + td.ones(3),
        lambda: td.ones(3)[5],
        lambda: td.ones(2, requires_grad=True).add_(1),
        lambda: td.ones(2).sum().backward(),
        lambda: td.tensor("x"),
    ):
        with pytest.raises((RuntimeError, IndexError, TypeError)):
            f()


def dropped_graphs():
    w = td.ones(64, requires_grad=True)
    for _ in range(5):
        y = ((w * w).exp() + w).softmax(0)
    y.sum()


def numbers_and_keys():
    x = td.ones(10)
    for k in range(10):
        x[k : k + 1] * float(k)
    x.tolist(), x.numpy(), x.max(0), x.sort(), repr(x)


@pytest.mark.parametrize(
    "step",
    [views_and_writes, second_order, hooks, functions, transforms, dropped_graphs, numbers_and_keys],
    ids=lambda f: f.__name__,
)
def test_what_a_step_leaves_behind(step, no_gc):
    objects, storages = growth(step)
    assert objects < 100 and storages <= 0, (objects, storages)


def test_errors_leave_nothing_behind():
    """With the collector on: a caught exception and its traceback form cycles of Python's own."""
    failures()
    gc.collect()
    before = live_bytes()
    for _ in range(50):
        failures()
    gc.collect()
    assert live_bytes() <= before


def test_dropout_probabilities_and_slices_do_not_pile_up():
    x = td.ones(8)

    def step():
        step.k += 1
        td.nn.functional.dropout(x, (step.k % 997) / 1000)
        x.reshape(2, 4)[:, step.k % 3 :]

    step.k = 0
    objects, _ = growth(step, warm=1000, steps=1000)
    assert objects < 100
