"""Tapes inside and outside of vmap: detach and no_grad, user functions, second orders; jvp, jacobian, hessian."""

import numpy as np
import pytest

import treadle as td
from treadle.errors import ArgumentError, AutogradError, BatchError, DTypeError, ShapeError


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


@pytest.fixture
def x():
    return td.randn(3, 4, dtype=td.float64)


def same(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a.detach().numpy_copy(), b.detach().numpy_copy(), 1e-9, 1e-9)


def total(f):
    """The sum of f over a batch, to be differentiated from outside."""
    return td.grad(lambda x: td.vmap(f)(x).sum())


# ---- two tapes -----------------------------------------------------------------------------------------------------
def test_every_order_of_grad_and_vmap(x):
    cube = lambda v: (v**3).sum()
    same(td.vmap(td.grad(cube))(x), 3 * x**2)
    same(total(cube)(x), 3 * x**2)
    same(total(lambda v: td.grad(cube)(v).sum())(x), 6 * x)
    same(td.vmap(td.grad(lambda v: td.grad(cube)(v).sum()))(x), 6 * x)
    same(td.grad(lambda x: total(cube)(x).sum())(x), 6 * x)
    same(td.vmap(total(lambda s: s**3))(x), 3 * x**2)
    same(total(lambda row: td.vmap(td.grad(lambda s: s**3))(row).sum())(x), 6 * x)
    w = td.randn(4, dtype=td.float64, requires_grad=True)
    y = td.vmap(td.grad(lambda v: (v * v * w).sum()))(x)
    y.sum().backward()
    same(w.grad, 2 * x.sum(0))
    assert not td.vmap(td.grad(cube))(x).requires_grad


def test_weights_from_outside_get_the_sum():
    w, x = td.randn(4, 2, dtype=td.float64, requires_grad=True), td.randn(3, 4, dtype=td.float64)
    td.vmap(lambda v: (v @ w).tanh().sum())(x).sum().backward()
    got, w.grad = w.grad, None
    (x @ w).tanh().sum().backward()
    same(got, w.grad)


def test_detach_and_no_grad_hold_for_the_tape_outside(x):
    same(total(lambda v: (v.detach() * v).sum())(x), x)
    same(total(lambda v: (v[1:].detach() * v[1:]).sum())(x)[:, 1:], x[:, 1:])

    def quiet(v):
        with td.no_grad():
            c = v * 2
            with td.enable_grad():
                d = v * 3
        return (c * v + d).sum()

    same(total(quiet)(x), 2 * x + 3)
    same(td.vmap(td.grad(quiet))(x), 2 * x + 3)

    @td.no_grad()
    def slope(v):
        return td.grad(lambda u: (u**3).sum())(v)  # a gradient's own tape is not switched off

    same(td.vmap(slope)(x), 3 * x**2)
    assert td.grad(lambda x: (td.vmap(slope)(x) + x).sum())(x).sum().item() == 12
    leaf = x.clone().requires_grad_()
    with td.no_grad():
        assert not td.vmap(lambda v: v * 2)(leaf).requires_grad
    assert td.vmap(lambda v: v * 2)(leaf).requires_grad
    same(total(lambda v: td.value_and_grad(lambda u: (u**2).sum())(v)[0])(x), 2 * x)  # the value is not cut off
    detached = lambda v: v.clone().detach_().sum() + v.sum()
    same(total(detached)(x), td.ones(3, 4, dtype=td.float64))


def test_inner_variables_may_come_from_outside(x):
    w = td.ones(4, dtype=td.float64, requires_grad=True)
    f = lambda v: td.grad(lambda u: (u * u * v).sum())(w)
    same(td.vmap(f)(x), 2 * x)
    same(td.grad(lambda w: td.vmap(lambda v: td.grad(lambda u: (u * u * v).sum())(w))(x).sum())(w), 2 * x.sum(0))
    y = td.vmap(lambda v: (v.requires_grad_(), (v**2).sum().backward(), v.grad)[2])(x)
    same(y, 2 * x)


def test_writes_are_recorded(x):
    def f(v):
        y = v * 2
        y[1] = v[0] * v[2]
        y[2:].mul_(v[3])
        z = td.zeros(4, dtype=td.float64)
        z[:2] = y[:2]
        z.reshape(2, 2).t()[0] += y[1:3]
        return (y * z).sum()

    want = td.stack([td.grad(f)(v) for v in x])
    same(td.vmap(td.grad(f))(x), want)
    same(total(f)(x), want)
    same(td.grad(lambda x: td.vmap(f, in_dims=1)(x).sum())(x.t()), want.t())
    with pytest.raises(AutogradError, match="leaf"):
        total(lambda v: v.mul_(2).sum())(x)


# ---- user functions ------------------------------------------------------------------------------------------------
class Odd(td.autograd.Function):
    """A function whose gradient is not its derivative."""

    @staticmethod
    def forward(ctx, x, w, scale):
        y = x.exp() * w
        ctx.save_for_backward(y, w, x)
        ctx.extra = {"scale": scale, "twice": (w * 2,)}
        return y, (x > 0), x + 1

    @staticmethod
    def backward(ctx, g, _, g2):
        y, w, x = ctx.saved_tensors
        twice = ctx.extra["twice"][0]
        g, g2 = (0.0 if v is None else v for v in (g, g2))  # a result that nobody differentiated
        return g * y * ctx.extra["scale"] + g2 * twice, g * x.sin() + g2 * w, None


def odd(x, w):
    a, mask, b = Odd.apply(x, w, 3.0)
    return (a * mask.to(a.dtype)).sum() + (b * b).sum()


def looped(x, w):
    return sum(odd(v, w) for v in x)


def test_a_user_function_keeps_its_gradient(x):
    w = td.randn(4, dtype=td.float64)
    want = td.grad(looped, (0, 1))(x, w)
    batched = lambda x, w: td.vmap(odd, in_dims=(0, None))(x, w).sum()
    for a, b in zip(td.grad(batched, (0, 1))(x, w), want, strict=True):
        same(a, b)
    inside = td.vmap(td.grad(odd, (0, 1)), in_dims=(0, None))(x, w)
    same(inside[0], want[0])
    same(inside[1].sum(0), want[1])
    second = [td.grad(lambda x, w: (td.grad(f)(x, w) ** 2).sum(), (0, 1))(x, w) for f in (batched, looped)]  # noqa: B023
    for a, b in zip(*second, strict=True):
        same(a, b)
    rows = td.jacobian(lambda x: td.vmap(odd, in_dims=(0, None))(x, w))(x)
    same(rows.sum(0), want[0])
    twice = td.grad(lambda x: td.vmap(td.vmap(odd, in_dims=(0, None)), in_dims=(0, None))(x.reshape(3, 1, 4), w).sum())(
        x
    )
    same(twice, want[0])
    both = td.compile(lambda x, w: td.grad(batched, (0, 1))(x, w))(x, w)
    same(both[1], want[1])


def test_custom_vjp(x):
    double = td.custom_vjp(lambda v: v * 2)
    double.defvjp(lambda v: (v * 2, {"v": v}), lambda left, g: (g * left["v"] * 5,))
    for f in (total(lambda v: double(v).sum()), td.vmap(td.grad(lambda v: double(v).sum()))):
        same(f(x), 5 * x)


# ---- whole derivatives ---------------------------------------------------------------------------------------------
def test_jvp(x):
    a, t = td.randn(2, 3, dtype=td.float64), td.randn(3, dtype=td.float64)
    v = td.randn(3, dtype=td.float64)
    y, dy = td.jvp(lambda v: a @ v.sin(), (v,), (t,))
    same(y, a @ v.sin())
    same(dy, (a * v.cos()) @ t)
    assert not y.requires_grad and not dy.requires_grad
    out, moved, aux = td.jvp(
        lambda p, q: ({"a": p["u"] * q, "b": td.ones(2)}, "note"), ({"u": v}, t), ({"u": t}, v), has_aux=True
    )
    same(moved["a"], t * t + v * v)
    assert moved["b"].tolist() == [0, 0] and aux == "note" and out["b"].tolist() == [1, 1]
    same(td.grad(lambda v: td.jvp(lambda u: (u**3).sum(), (v,), (t,))[1])(v), 6 * v * t)
    same(td.vmap(lambda v: td.jvp(lambda u: u**2, (v,), (v,))[1])(x), 2 * x * x)
    same(td.jvp(lambda v: td.jvp(lambda u: u**3, (v,), (t,))[1], (v,), (t,))[1], 6 * v * t * t)
    for primals, tangents, error in (
        ((v,), (t, t), ArgumentError),
        ((v,), (a,), ShapeError),
        ((v,), (t.float(),), DTypeError),
        ([v], [t], ArgumentError),
        ((v,), (1.0,), ArgumentError),
    ):
        with pytest.raises(error, match="jvp"):
            td.jvp(lambda v: v, primals, tangents)


BOTH = pytest.mark.parametrize("jacobian", [td.jacobian, td.func.jacfwd], ids=["reverse", "forward"])


@BOTH
def test_jacobian(jacobian, x):
    a, v = td.randn(2, 4, dtype=td.float64), x[0]
    same(jacobian(lambda v: a @ v.sin())(v), a * v.cos())
    same(jacobian(lambda v: (v**2).sum())(v), 2 * v)
    same(jacobian(lambda m: m.t() * 2)(x).sum((0, 1)), td.full((3, 4), 2.0, dtype=td.float64))
    assert jacobian(lambda m: m.t())(x).shape == (4, 3, 3, 4)
    found = jacobian(lambda p, q: {"y": p["w"] * q, "z": [q.sum()]}, argnums=(0, 1))({"w": v}, v)
    same(found["y"][0]["w"], v.diag())
    same(found["y"][1], v.diag())
    assert found["z"][0][0]["w"].tolist() == [0] * 4 and found["z"][0][1].tolist() == [1] * 4
    values, aux = jacobian(lambda v: (v * 2, v.sum()), has_aux=True)(v)
    same(values, 2 * td.eye(4, dtype=td.float64))
    same(aux, v.sum())
    assert not values.requires_grad and not aux.requires_grad
    same(jacobian(lambda v: td.ones(3, dtype=td.float64))(v), td.zeros(3, 4, dtype=td.float64))
    same(td.vmap(jacobian(lambda v: v**2))(x), td.stack([(2 * v).diag() for v in x]))
    same(td.grad(lambda v: jacobian(lambda u: u**3)(v).sum())(v), 6 * v)
    same(jacobian(lambda v: td.vmap(lambda s: s**2)(v))(v), (2 * v).diag())
    w = td.randn(4, dtype=td.float64, requires_grad=True)
    jacobian(lambda v: v * v * w)(v).sum().backward()
    same(w.grad, 2 * v)
    with pytest.raises(AutogradError, match="must return tensors"):
        jacobian(lambda v: 3.0)(v)


def test_jacobian_compiled(x):
    a, v = td.randn(2, 4, dtype=td.float64), x[0]
    f = lambda v: a @ v.sin()
    same(td.compile(td.jacobian(f))(v), a * v.cos())
    same(td.jacobian(td.compile(f))(v), a * v.cos())
    same(td.vmap(td.jacobian(td.compile(f)))(x)[0], a * v.cos())
    same(td.compile(td.hessian(lambda v: (v**3).sum()))(v), (6 * v).diag())


def test_hessian(x):
    v = x[0]
    a = td.randn(4, 4, dtype=td.float64)
    quadratic = lambda v: 0.5 * (v @ a @ v)
    same(td.hessian(quadratic)(v), (a + a.t()) / 2)
    same(td.func.jacfwd(td.func.jacrev(quadratic))(v), (a + a.t()) / 2)
    same(td.vmap(td.hessian(lambda v: (v**3).sum()))(x), td.stack([(6 * v).diag() for v in x]))
    found = td.hessian(lambda p, q: (p**2 * q).sum(), argnums=(0, 1))(v, v)
    same(found[0][1], (2 * v).diag())
    same(found[1][1], td.zeros(4, 4, dtype=td.float64))


def test_pull_backs_are_vectorised(x):
    """A batch of cotangents through one tape."""
    w = td.randn(4, 2, dtype=td.float64)
    y, pull = td.vjp(lambda v: (v @ w).tanh(), x)
    gs = td.randn(5, 3, 2, dtype=td.float64)
    same(td.vmap(pull)(gs)[0], td.stack([pull(g)[0] for g in gs]))
    with pytest.raises(BatchError):
        td.vmap(lambda g: pull(g)[0].sum().item())(gs)
