"""The same calls in PyTorch and here."""

import numpy as np
import pytest

import treadle as td

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # inside of torch.func
X = np.random.default_rng(0).standard_normal((3, 4, 5))


def both(f, *arrays, tolerance=1e-9):
    """f(library, tensors) in both, compared leaf by leaf."""
    mine = td.tree.leaves(f(td, *[td.tensor(a) for a in arrays]))
    theirs = td.tree.leaves(f(torch, *[torch.tensor(a) for a in arrays]))
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert tuple(a.shape) == tuple(b.shape)
        np.testing.assert_allclose(a.detach().numpy_copy(), b.detach().numpy(), tolerance, tolerance)


def written(a):
    b = a.clone()
    b[1:, ::2] = a[0, 0]
    b.t()[1].mul_(2)
    return b


CALLS = {
    "in and out": lambda lib, x: lib.func.vmap(lambda a: (a.t() @ a, a.sum(0)), in_dims=-1, out_dims=(1, -1))(x),
    "shared": lambda lib, x: lib.func.vmap(lambda a, b: (a * b).sum(), in_dims=(0, None))(x, x[0]),
    "nested": lambda lib, x: lib.func.vmap(lib.func.vmap(lambda a, b: a[:, None] * b, (0, None)), (0, 1))(x, x.permute(2, 0, 1)),
    "structures": lambda lib, x: lib.func.vmap(lambda d: {"s": d["a"] + d["b"][0], "m": d["a"].amax(0)}, in_dims=({"a": 0, "b": [1]},))({"a": x, "b": [x.permute(1, 0, 2)]}),
    "softmax": lambda lib, x: lib.func.vmap(lambda a: lib.nn.functional.softmax(a, -1).cumsum(0))(x),
    "sort": lambda lib, x: lib.func.vmap(lambda a: a.sort(0, descending=True)[0])(x),
    "indices": lambda lib, x: lib.func.vmap(lambda a, i: a.gather(1, i))(x, (x[:, :, :2] > 0).to(lib.int64)),
    "written": lambda lib, x: lib.func.vmap(written)(x),
    "grad": lambda lib, x: lib.func.vmap(lib.func.grad(lambda a: (a.sin() * a).sum()))(x),
    "grad of vmap": lambda lib, x: lib.func.grad(lambda x: lib.func.vmap(lambda a: (a @ a.t()).tanh().sum())(x).sum())(x),
    "second": lambda lib, x: lib.func.vmap(lib.func.grad(lambda a: (lib.func.grad(lambda b: (b**3).sum())(a) ** 2).sum()))(x),
    "jacrev": lambda lib, x: lib.func.jacrev(lambda a, b: (a * b.sum(0)).tanh().sum(1), argnums=(0, 1))(x[0], x[1]),
    "jacfwd": lambda lib, x: lib.func.jacfwd(lambda a: {"y": a.exp().sum(1)})(x[0]),
    "hessian": lambda lib, x: lib.func.hessian(lambda a: (a.sin() * a.flip(0)).sum())(x[0]),
    "jvp": lambda lib, x: lib.func.jvp(lambda a: (a.cos(), a.sum()), (x,), (x * 2,)),
    "vjp": lambda lib, x: lib.func.vjp(lambda a, b: a @ b.t(), x[0], x[1])[1](x[0, :, :4]),
    "vmap of jacrev": lambda lib, x: lib.func.vmap(lib.func.jacrev(lambda a: a.sigmoid().sum(0)))(x),
    "vmap of vjp": lambda lib, x: lib.func.vmap(lib.func.vjp(lambda a: a.tanh() @ a.t(), x[0])[1])(x[:, :, :4].permute(0, 2, 1)),
    "grad_and_value": lambda lib, x: lib.func.grad_and_value(lambda a: (a**2).sum())(x),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_torch_twins(name):
    both(CALLS[name], X)


def test_torch_modules_as_functions():
    def build(lib):
        n = lib.nn
        return n.Sequential(n.Conv2d(1, 3, 3), n.ReLU(), n.MaxPool2d(2), n.Flatten(), n.Linear(12, 2)).double()

    state = {k: v.detach().numpy() for k, v in build(torch).named_parameters()}
    images = np.random.default_rng(1).standard_normal((4, 1, 6, 6))

    def f(lib, x):
        model, p = build(lib), {k: lib.tensor(v) for k, v in state.items()}
        loss = lambda p, a, t: lib.nn.functional.cross_entropy(lib.func.functional_call(model, p, (a[None],)), t[None])
        return lib.func.vmap(lib.func.grad(loss), in_dims=(None, 0, 0))(p, x, lib.tensor([0, 1, 1, 0]))

    both(f, images)


def test_torch_writes_through_arguments():
    def f(lib, x):
        y = x.clone()
        lib.func.vmap(lambda a: a[1].add_(a[0]))(y)
        return y

    both(f, X)


def test_torch_refuses_the_same():
    for lib, errors in ((td, td.TreadleError), (torch, (RuntimeError, ValueError))):
        x = lib.ones(3, 2)
        for call in (
            lambda: lib.func.vmap(lambda a, b: a)(x, lib.ones(2, 2)),
            lambda: lib.func.vmap(lambda a: a.sum().item())(x),
            lambda: lib.func.vmap(lambda a: lib.rand(2))(x),
            lambda: lib.func.vmap(lambda a: 3)(x),
            lambda: lib.func.vmap(lambda a, b: a)(x, 2.0),
            lambda: lib.func.vmap(lambda a, out=lib.zeros(2): out.copy_(a))(x),
            lambda: lib.func.vmap(lambda a: a, in_dims=2)(x),
        ):
            with pytest.raises(errors):
                call()
