"""td.vmap: where the batch comes from and goes to, errors, views and writes inside, closures, control flow, compilation."""

import collections
import threading

import numpy as np
import pytest

import treadle as td
from treadle import nn
from treadle.errors import ArgumentError, BatchError, IndexRangeError

Pair = collections.namedtuple("Pair", "a b")


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def same(a, b):
    assert a.shape == b.shape and a.dtype is b.dtype
    np.testing.assert_allclose(a.detach().numpy_copy(), b.detach().numpy_copy(), 1e-5, 1e-6)


def loop(f, *xs):
    return td.stack([f(*row) for row in zip(*xs, strict=True)])


# ---- arguments and results -----------------------------------------------------------------------------------------
def test_pytrees_and_nested_in_dims():
    x, w, b = td.randn(3, 4), td.randn(4), td.randn(4, 3)
    f = lambda d, p: {"sum": d["x"] + d["w"], "pair": Pair(p.a * 2, [p.b.sum()])}
    out = td.vmap(f, in_dims=({"x": 0, "w": None}, Pair(0, 1)))({"x": x, "w": w}, Pair(x, b))
    same(out["sum"], x + w)
    same(out["pair"].a, x * 2)
    same(out["pair"].b[0], b.sum(0))
    out = td.vmap(f, in_dims=({"x": 0, "w": None}, Pair(0, 1)), out_dims={"sum": -1, "pair": Pair(1, 0)})(
        {"x": x, "w": w}, Pair(x, b)
    )
    same(out["sum"], (x + w).t())
    same(out["pair"].a, x.t() * 2)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_any_axis_in_and_out(dim):
    x = td.randn(3, 3, 3)
    f = lambda v: v @ v.t()
    same(td.vmap(f, in_dims=dim)(x), td.stack([f(v) for v in x.unbind(dim)]))
    same(td.vmap(f, out_dims=dim)(x), td.stack([f(v) for v in x], dim))


def test_shared_arguments_and_keywords():
    x, w = td.randn(3, 4), td.randn(4)
    same(td.vmap(lambda a, b, scale: (a * b).sum() * scale, in_dims=(0, None))(x, w, scale=2.0), (x @ w) * 2)
    same(td.vmap(lambda a, flag, b=None: a * b if flag else a, in_dims=(0, None))(x, True, b=w), x * w)
    same(td.vmap(lambda a, nothing: a, in_dims=0)(x, None), x)


def test_results_that_are_the_same_for_all():
    x, w = td.randn(3, 4), td.randn(2)
    a, b, c = td.vmap(lambda v: (w, td.zeros(2), v.sum()), out_dims=(0, None, 0))(x)
    assert a.shape == (3, 2) and b.shape == (2,) and c.shape == (3,)
    assert td.vmap(lambda v: v + 1, in_dims=None, axis_size=5)(w).shape == (5, 2)
    assert td.vmap(lambda v: (v, 7, None), out_dims=(0, None, 0))(x)[1:] == (7, None)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_none_or_one(size):
    x, w = td.randn(size, 4), td.randn(4, 2)
    f = lambda v: (v @ w).relu().softmax(0)
    assert td.vmap(f)(x).shape == (size, 2)
    assert td.vmap(td.grad(lambda v: f(v)[0]))(x).shape == (size, 4)
    assert td.vmap(lambda v: nn.functional.conv2d(v.reshape(1, 1, 2, 2), td.ones(1, 1, 2, 2)))(x).shape == (
        size,
        1,
        1,
        1,
        1,
    )


ERRORS = [
    (lambda x: td.vmap(lambda a, b: a)(x, td.ones(2, 4)), ArgumentError, r"argument 0 has 3 .*argument 1 has 2 \(axis 0 of float32\[2, 4\]\)"),
    (lambda x: td.vmap(lambda d: d)({"w": [x, td.ones(2)]}), ArgumentError, r"argument 0\['w'\]\[0\] has 3 .*\['w'\]\[1\] has 2"),
    (lambda x: td.vmap(lambda a: a, axis_size=4)(x), ArgumentError, "axis_size is 4, argument 0 has 3"),
    (lambda x: td.vmap(lambda a: a)(td.tensor(1.0)), IndexRangeError, "argument 0 .* has no axis 0"),
    (lambda x: td.vmap(lambda a: a, in_dims=-3)(x), IndexRangeError, "no axis -3"),
    (lambda x: td.vmap(lambda a, b: a)(x, 2.0), ArgumentError, "argument 1 is of type float"),
    (lambda x: td.vmap(lambda a: a, in_dims=None)(x), ArgumentError, "pass axis_size"),
    (lambda x: td.vmap(lambda a: a, in_dims=(0, 0))(x), ArgumentError, "2 entries for 1 argument"),
    (lambda x: td.vmap(lambda a: a, in_dims="0")(x), ArgumentError, "must be an integer, None"),
    (lambda x: td.vmap(lambda a: a, in_dims=({"a": 0},))({"b": x}), ArgumentError, "does not fit the structure"),
    (lambda x: td.vmap(lambda a: (a, a), out_dims=(0,))(x), ArgumentError, "out_dims .* does not fit"),
    (lambda x: td.vmap(lambda a: a, out_dims=2)(x), IndexRangeError, "out_dims 2 is out of range"),
    (lambda x: td.vmap(lambda a: a, out_dims=None)(x), BatchError, "differs between the examples"),
    (lambda x: td.vmap(lambda a: 3)(x), ArgumentError, "returned a int"),
    (lambda x: td.vmap(lambda a: a, randomness="some"), ArgumentError, "randomness"),
    (lambda x: td.vmap(lambda a: a.sum().item())(x), BatchError, "td.where"),
    (lambda x: td.vmap(lambda a: a if a.sum() > 0 else -a)(x), BatchError, "td.where"),
    (lambda x: td.vmap(lambda a: a.numpy())(x), BatchError, "one value is read"),
    (lambda x: td.vmap(lambda a: a[a > a.mean()])(x), BatchError, "differ in shape"),
    (lambda x: td.vmap(lambda a: td.rand(2))(x), BatchError, "randomness="),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors(number):
    call, error, text = ERRORS[number]
    x = td.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, -1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    with pytest.raises(error, match=text):
        call(x)
    same(td.vmap(lambda a: a * 2)(x), x * 2)  # nothing is left behind


def test_batched_tensors_do_not_escape():
    x, kept = td.randn(3, 4), []
    td.vmap(lambda a: kept.append(a * 2) or a)(x)
    for use in (lambda: kept[0] + 1, lambda: td.vmap(lambda a: a + kept[0])(x), lambda: repr(kept[0])):
        with pytest.raises(BatchError, match="used after it"):
            use()
    td.vmap(lambda a: kept.append(a.device) or a)(x)
    with pytest.raises(BatchError, match="has ended"):
        td.zeros(2, device=kept[1])

    def inner(a):
        return td.vmap(lambda b: kept.append(b * 2) or b)(a) + kept[-1]

    with pytest.raises(BatchError, match="used after it"):
        td.vmap(inner)(x)


# ---- inside --------------------------------------------------------------------------------------------------------
def views(x):
    y = x.reshape(4, 3).t()[1:]
    z = y.flip(1)[:, None, ::2].expand(2, 5, 2)
    return z, y.permute(1, 0)[1], x.flip(0)[::3], y.diagonal(), td.ops.windows(x, 0, 3, 2, 1), x[None, 4:].expand(2, 8)


def writes(x):
    y = x.reshape(3, 4) * 2
    y[:, 1] = 5.0
    z = y.t()[1:]
    z += x[0]
    y[0].neg_()
    y.flip(1)[1, ::2] = x[:2]
    w = td.zeros(3, 4)
    w[1] = x[4:8]
    w.t()[2].add_(1)
    w[w > 0.5] = -1.0
    return y, z.reshape(-1), w


def indexed(x):
    i = (x[:3] > 0).to(td.int64)
    y = x.clone()
    y[i] = x.sum()
    return (
        x[i],
        x.reshape(3, 4)[i, 1:],
        x.gather(0, i),
        x.sort()[0],
        x.argmax(),
        y,
        x.reshape(4, 3).index_select(0, i),
        x[x.argmax()],
    )


def created(x):
    return (
        x + td.ones(12),
        td.zeros_like(x) + td.arange(12),
        td.eye(12) @ x,
        td.tensor([1.0, 2.0]) * x[0],
        td.full((2,), 3.0) * x[:2],
        x.new_zeros(2) + x[1],
        td.stack([x, td.zeros(12)]),
        td.cat([td.ones(2), x]),
    )


def python(x):
    total = x[0] * 0
    for v in x:
        total = total + v * len(x)
    return (
        total,
        td.where(x.sum() > 0, x, -x),
        x.max(0),
        x.topk(3).values,
        [v.mean() for v in x.split(5)],
        x.to(td.float64),
        (x > 0).any(),
    )


@pytest.mark.parametrize("f", [views, writes, indexed, created, python], ids=lambda f: f.__name__)
def test_functions(f):
    x = td.randn(3, 12)
    want = [td.tree.leaves(f(v)) for v in x]
    for k, a in enumerate(td.tree.leaves(td.vmap(f)(x))):
        same(a, td.stack([row[k] for row in want]))
    for k, a in enumerate(td.tree.leaves(td.vmap(f, in_dims=1, out_dims=-1)(x.t()))):
        same(a, td.stack([row[k] for row in want], -1))


@pytest.mark.parametrize("f", [views, writes, created, python], ids=lambda f: f.__name__)
def test_functions_compiled(f):
    x = td.randn(3, 12)
    compiled = td.compile(td.vmap(f))
    for seed in range(2):
        x = td.randn(3, 12, generator=td.Generator().manual_seed(seed))
        for a, b in zip(td.tree.leaves(compiled(x)), td.tree.leaves(td.vmap(f)(x)), strict=True):
            same(a, b)
    assert compiled.traces == 1


def test_compiled_for_any_size_of_the_batch():
    layer, conv = nn.Linear(4, 3), nn.Conv2d(1, 2, 2)

    def f(v):
        y = v.reshape(2, 2).t()
        y = y + conv(td.cat([y, y]).reshape(1, 1, 4, 2)).sum() + v[(v[:1] > 0).to(td.int64)]
        return td.grad(lambda u: nn.functional.cross_entropy(layer(u)[None], td.tensor([1])))(y.reshape(-1))

    compiled = td.compile(td.vmap(f), dynamic=True)
    for size in (3, 5, 8):
        x = td.randn(size, 4)
        same(compiled(x), td.vmap(f)(x))
    assert compiled.traces == 1


def test_compiled_inside_is_part_of_the_batch():
    x, w = td.randn(3, 4), td.randn(4)
    inner = td.compile(lambda v: (v * w).sum())
    same(td.vmap(inner)(x), x @ w)
    assert inner.traces == 0
    same(td.compile(lambda x: td.vmap(td.grad(inner))(x))(x), w.expand(3, 4))


def test_levels_see_each_other():
    x, y, z = td.randn(3, 4), td.randn(2), td.randn(5, 4)
    out = td.vmap(lambda a: td.vmap(lambda b: td.vmap(lambda c: (a * c).sum() + b)(z))(y))(x)
    same(out, (x[:, None, None] * z).sum(3) + y[:, None])
    out = td.vmap(lambda a: a + td.vmap(lambda b: b * 2)(z).sum())(x)
    same(out, x + z.sum() * 2)


def test_written_arguments_and_closures():
    x, w, count = td.randn(3, 4), td.zeros(3, 4), td.zeros(())
    before = x.clone()

    def f(a, b):
        a.mul_(2)
        a[1:3] = 0
        b += a
        count.add_(1)
        return a.sum()

    same(td.vmap(f, in_dims=(1, 0))(x.t().t().t(), w), x.sum(1))
    same(x[:, 0], before[:, 0] * 2)
    assert x[:, 1:3].abs().sum().item() == 0 and count.item() == 1
    same(w, x)
    out = td.zeros(4)
    with pytest.raises(BatchError, match=r"written into float32\[4\]"):
        td.vmap(lambda a: out.copy_(a))(x)
    assert out.sum().item() == 0
    strided = td.zeros(4, 3).t()
    td.vmap(lambda a, b: b.reshape(2, 2).t().add_(a))(x[:, 0], strided)
    same(strided, x[:, :1].expand(3, 4))


def test_writes_keep_copies_apart():
    x = td.ones(3, 4)

    def f(a):
        b, c = a.clone(), td.empty(4).copy_(a)
        a.add_(1)
        return b, c, a * 1

    b, c, a = td.vmap(f)(x)
    assert b.sum().item() == c.sum().item() == 12 and a.sum().item() == 24
    y, z = td.vmap(lambda a: (lambda s: (s, s.clone()))(a * 2))(td.ones(3))
    y.zero_()
    assert z.tolist() == [2, 2, 2]


def test_modules_and_optimizer_inside():
    layer, x = nn.Linear(4, 2), td.randn(3, 4)
    same(td.vmap(layer)(x), layer(x))
    with pytest.raises(BatchError, match="from outside of the function under vmap"):
        td.vmap(nn.BatchNorm1d(2))(td.randn(3, 5, 2))
    same(
        td.vmap(nn.BatchNorm1d(2, track_running_stats=False))(x.reshape(3, 2, 2))[0],
        nn.BatchNorm1d(2)(x[0].reshape(2, 2)),
    )

    def fitted(rate):
        w = td.zeros(4, requires_grad=True)
        for _ in range(3):
            loss = ((x @ w - 1) ** 2).mean()
            (g,) = td.autograd.grad(loss, w)
            w = (w - g * rate).detach().requires_grad_()
        return w.detach()

    rates = td.tensor([0.1, 0.01])
    same(td.vmap(fitted)(rates), td.stack([fitted(r) for r in rates]))

    def stepped(v):
        p = v.clone().requires_grad_()
        opt = td.optim.Adam([p], lr=0.1)
        for _ in range(2):
            opt.zero_grad()
            (p * p).sum().backward()
            opt.step()
        return p.detach()

    same(td.vmap(stepped)(x), td.stack([stepped(v) for v in x]))


def test_control_flow():
    x, w = td.tensor([[1.0, 2.0], [-3.0, 1.0], [4.0, 0.5]]), td.ones(2)
    f = lambda v: td.cond(v.sum() > 0, lambda v: {"y": v * 2, "n": 1}, lambda v: {"y": v - 1, "n": 1}, v)["y"]
    same(td.vmap(f)(x), td.stack([f(v) for v in x]))
    same(td.vmap(td.grad(lambda v: f(v).sum()))(x), td.stack([td.grad(lambda v: f(v).sum())(v) for v in x]))
    runs = []
    same(td.vmap(lambda v: td.cond(w.sum() > 0, lambda: v * 2, lambda: runs.append(1)))(x), x * 2)
    assert not runs
    scanned = lambda v: td.scan(lambda c, u: (c + u, c * u), td.zeros(()), v)[1]
    same(td.vmap(scanned)(x), td.stack([scanned(v) for v in x]))
    same(td.compile(td.vmap(scanned))(x), td.stack([scanned(v) for v in x]))
    steps = lambda v: td.while_loop(lambda n: n < 3, lambda n: n + 1, td.zeros(())) + v
    same(td.vmap(steps)(x), x + 3)
    with pytest.raises(BatchError, match="one value"):
        td.vmap(lambda v: td.while_loop(lambda c: c.sum() < 50, lambda c: c * 2 + 1, v))(x)


def test_threads_have_their_own_levels():
    x, results = td.randn(3, 4), {}

    def work(k):
        with td.device("reference"):
            results[k] = td.vmap(lambda a: (a * k).sum())(td.tensor(x.numpy()))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(4):
        np.testing.assert_allclose(results[k].numpy(), (x * k).sum(1).numpy(), 1e-5)
