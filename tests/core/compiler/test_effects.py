"""What a compiled function writes, and what it gives back of what it wrote over: as in eager, in every order."""

import numpy as np
import pytest

import treadle as td


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        yield request.param


def kept_before_a_write(x, y):
    kept = td.ops.copy(x)
    x.mul_(2)
    return kept, x[:1], y


def exchanged(x, y):
    x[...], y[...] = y.clone(), x.clone()
    return x + y


def around_in_a_ring(x, y):
    z = x * 1
    first = x.clone()
    x.copy_(y.flip(0))
    y.copy_(first)
    z.copy_(x)
    return first, z


def through_windows(x, y):
    w = td.ops.windows(x, axis=0, size=3, step=2, dilation=1)
    w[1] = -0.5
    return w, y


def through_an_expanded_view(x, y):
    wide = (x * 2).expand(3, 5, 2)
    wide[0, 1] = 7.0
    return wide.sum(0), y


def begun_in_larger_memory(x, y):
    a, c = x * 2, y + 1
    part = a[:1].exp()
    return part + 1, (c * 3).exp()


@pytest.mark.parametrize(
    "f",
    [
        kept_before_a_write,
        exchanged,
        around_in_a_ring,
        through_windows,
        through_an_expanded_view,
        begun_in_larger_memory,
    ],
    ids=lambda f: f.__name__,
)
def test_results_and_arguments_are_those_of_eager(f):
    arrays = [np.arange(10.0).reshape(5, 2) / 8, np.arange(10.0).reshape(5, 2) + 1]
    eager, compiled = ([td.tensor(a) for a in arrays] for _ in range(2))
    g = td.compile(f)
    for _ in range(2):
        want, got = f(*eager), g(*compiled)
        want, got = (r if isinstance(r, tuple) else (r,) for r in (want, got))
        for a, b in zip((*want, *eager), (*got, *compiled), strict=True):
            np.testing.assert_array_equal(b.numpy(), a.numpy())


def test_a_leaf_that_is_a_view_is_differentiated_where_it_is_closed_over():
    base = td.tensor([[1.0, 2.0, 3.0]])
    leaf = base[::-1].detach().requires_grad_()
    y = td.compile(lambda: leaf * leaf)()
    assert y.requires_grad
    assert td.autograd.grad(y.sum(), leaf)[0].tolist() == [[2.0, 4.0, 6.0]]


def test_gradient_of_a_mean_over_a_symbolic_size_has_the_type_of_its_operand():
    def f(x):
        return td.autograd.grad((x.mean() * 2).sum(), x)[0]

    g = td.compile(f, dynamic=True)
    for n in (2, 5):
        found = g(td.ones(n, 1, requires_grad=True))
        assert found.dtype is td.float32
        np.testing.assert_allclose(found.numpy(), np.full((n, 1), 2 / n), rtol=1e-6)
    assert g.traces == 1


def test_a_variance_over_a_symbolic_size_is_differentiated():
    def f(x):
        return td.autograd.grad((x.var(0) * x.std(0)).sum(), x)[0]

    g = td.compile(f, dynamic=True)
    for n in (3, 6):
        x = td.tensor(np.arange(2.0 * n).reshape(n, 2) ** 2 / 8, requires_grad=True)
        np.testing.assert_allclose(g(x).numpy(), f(x).numpy(), rtol=1e-12)
        np.testing.assert_allclose(f(x).sum().item(), 0, atol=1e-10)
    assert g.traces == 1
