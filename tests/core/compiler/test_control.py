"""td.cond, td.scan, td.while_loop: compiled they do what Python's if, for and while do, gradients too."""

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn
from treadle.ir.text import parse
from treadle.ir.verify import verify

DEVICES = [pytest.param("cpu"), pytest.param("reference")]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def same(a, b, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol, atol)


def tensors(*trees):
    return [x for x in td.tree.leaves(list(trees)) if isinstance(x, td.Tensor)]


def clones(args):
    def clone(x):
        return x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, td.Tensor) else x

    return td.tree.map(clone, args)


def gradients(f, args, closed):
    """(results, gradients of all that requires grad) of a weighted sum of the results."""
    for x in closed:
        x.grad = None
    args = clones(list(args))
    out = f(*args)
    parts = [(y * (k + 1)).sum() for k, y in enumerate(tensors(out)) if y.requires_grad]
    if parts:
        sum(parts[1:], parts[0]).backward()
    grads = [(x, x.grad) for x in [*tensors(args), *closed] if x.requires_grad]
    return out, [td.zeros_like(x) if g is None else g for x, g in grads]


def check(f, *args, closed=(), traces=1):
    """Values and gradients compiled are those in eager: differentiated from outside, and inside of the function."""
    want, want_grads = gradients(f, args, closed)
    compiled = td.compile(f)
    for _ in range(2):
        got, got_grads = gradients(compiled, args, closed)
        for trees in ((want, got), (want_grads, got_grads)):
            (a, structure), (b, other) = map(td.tree.flatten, trees)
            assert structure == other
            for x, y in zip(a, b, strict=True):
                if isinstance(x, td.Tensor):
                    assert x.dtype is y.dtype and x.requires_grad == y.requires_grad
                    same(x, y)
                else:
                    assert x == y
    assert compiled.traces == traces
    inside = td.compile(lambda *a: gradients(f, a, closed)[1])
    for x, y in zip(want_grads, inside(*clones(list(args))), strict=True):
        same(x, y)
    graph = td.graph(f, *args)
    assert verify(parse(str(verify(graph)))).nodes
    return graph


def control(graph):
    """Names of all control ops in a graph and in those inside."""
    out = []
    for n in graph.nodes:
        for g in n.attrs.values():
            out += control(g) if isinstance(g, td.ir.graph.Graph) else []
        out += [n.op.name] if n.op.tier == "control" else []
    return out


def leaf(*shape):
    return td.randn(*shape).requires_grad_()


# ---- cond ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cond(sign):
    w, x = leaf(3), td.full((3,), sign).requires_grad_()

    def f(x):
        a, b = td.cond(x.sum() > 0, lambda v: (v * w, {"k": v.sum()}), lambda v: ((v - w).exp(), {"k": v.prod()}), x)
        return a, b["k"]

    assert control(check(f, x, closed=[w])) == ["cond"]


def test_cond_chooses_at_every_call():
    f = td.compile(lambda x: td.cond(x[0], lambda: 1 * x[1:], lambda: -x[1:]))
    assert f(td.tensor([1.0, 2.0])).tolist() == [2] and f(td.tensor([0.0, 2.0])).tolist() == [-2] and f.traces == 1


def test_only_the_branch_that_is_taken_runs():
    table = td.arange(3.0)

    def f(i):
        return td.cond(i < 3, lambda i: table[i], lambda i: td.zeros(()), i)

    compiled = td.compile(f)
    assert compiled(td.tensor(2)).item() == 2 and compiled(td.tensor(7)).item() == 0


def test_cond_with_a_python_bool_is_an_if():
    assert control(td.graph(lambda x: td.cond(True, lambda v: v + 1, lambda v: v.tolist(), x), td.ones(2))) == []


def test_cond_returns_what_comes_from_outside():
    w = td.ones(2, requires_grad=True)
    check(lambda x: td.cond(x.sum() > 0, lambda v: (v, w, 3), lambda v: (w, w * 2, 3), x), leaf(2), closed=[w])


def test_a_branch_without_gradient():
    """A result requires grad if that of one branch does; through the other its gradient is zero."""
    x = td.full((2,), 2.0).requires_grad_()
    for constant in (lambda v: td.ones(2), lambda v: v.detach()):
        f = td.compile(lambda x, c=constant: td.cond(x.sum() > 0, c, lambda v: v * 2, x))
        x.grad = None
        f(x).sum().backward()
        assert x.grad.tolist() == [0, 0]
        check(lambda x, c=constant: td.cond(x.sum() < 0, c, lambda v: v * 2, x), x)
    assert not td.compile(lambda x: td.cond(x.sum() > 0, lambda v: v.detach(), lambda v: td.ones(2), x))(
        x
    ).requires_grad


def test_what_the_tape_says_holds_in_a_branch():
    """Detached values, no_grad, hooks and functions with a gradient of their own are not differentiated through."""

    @td.custom_vjp
    def straight(x):
        return x.round()

    straight.defvjp(lambda x: (x.round(), None), lambda _, g: (g * 10,))

    def f(v):
        with td.no_grad():
            scale = v.abs().max()
        y = straight(v * 3) / scale + v * (v * v).detach()
        y.register_hook(lambda g: g * 2)
        return y.sin()

    check(lambda x: td.cond(x.sum() > 0, f, f, x), leaf(4))
    check(lambda x: td.scan(lambda c, x: (f(c) + x, c), x[0], x), leaf(3, 4))


def test_nested_conds_and_closures_over_each_level():
    w = leaf(3)

    def f(x):
        y = x * 2

        def inner(v):
            z = v * y
            return td.cond(z[0] > 0, lambda: z * w + y, lambda: z - w)

        return td.cond(x[1] > 0, inner, lambda v: v * w, y + 1)

    for x in ([1.0, 1.0, 2.0], [-0.2, 1.0, 2.0], [1.0, -1.0, 2.0]):
        check(f, td.tensor(x).requires_grad_(), closed=[w])


def test_random_numbers_in_a_branch():
    f = td.compile(lambda x: td.cond(x.sum() > 0, lambda v: F.dropout(v, 0.5), lambda v: v, x))
    draws = {tuple(f(td.ones(32)).tolist()) for _ in range(3)}
    assert len(draws) == 3 and all(set(d) == {0.0, 2.0} for d in draws)
    assert f(-td.ones(32)).tolist() == [-1] * 32 and f.traces == 1


# ---- scan ----------------------------------------------------------------------------------------------------------
def cell(w, u, b):
    def step(h, x):
        h = (x @ w + h @ u + b).tanh()
        return h, h.sum(-1)

    return step


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n", [1, 5])
def test_rnn_with_parameters_closed_over(n, reverse):
    w, u, b = leaf(3, 4), leaf(4, 4), leaf(4)

    def f(h, xs):
        return td.scan(cell(w, u, b), h, xs, reverse=reverse)

    graph = check(f, leaf(2, 4), leaf(n, 2, 3), closed=[w, u, b])
    assert control(graph) == ["scan"]


def test_a_module_as_body():
    layer, out = nn.Linear(7, 4), nn.Linear(4, 2)

    def f(xs):
        def step(h, x):
            h = layer(td.cat([h, x], -1)).tanh()
            return h, out(h)

        return td.scan(step, td.zeros(2, 4), xs)[1]

    check(f, leaf(4, 2, 3), closed=[*layer.parameters(), *out.parameters()])


def test_trees_everywhere():
    def step(carry, x):
        a, rest = carry["a"] + x["p"][0], carry["n"] + 1
        return {"a": a * x["q"], "n": rest, "name": "c"}, (a, [None, rest])

    def f(a, p, q):
        return td.scan(step, {"a": a, "n": td.tensor(0), "name": "c"}, {"p": [p], "q": q})

    check(f, leaf(2), leaf(3, 2), leaf(3))


def test_length_only_and_no_carry():
    w = leaf(2)
    check(lambda x: td.scan(lambda c, _: (c * w, c), x, length=3), leaf(2), closed=[w])
    check(lambda x: td.scan(lambda c, x: (c, x * w), None, x)[1], leaf(3, 2), closed=[w])
    check(lambda x: td.scan(lambda c, x: (c + x, None), td.zeros(2), x), leaf(3, 2))
    check(lambda x: (td.scan(lambda c, _: (c, td.ones(2)), None, length=3)[1], x * 2), leaf(2))


def test_carries_that_are_handed_on():
    """A carry that becomes another one, a slice or something captured is memory of its own in the end."""
    w = td.ones(2)

    def f(a, b, c, xs):
        return td.scan(lambda k, x: ((k[1], x, k[2], w), (k[0], k[2])), (a, b, c, c), xs)

    args = [td.randn(2) for _ in range(3)] + [td.randn(4, 2)]
    before, compiled = clones(args), td.compile(f)
    for _ in range(2):
        got = tensors(compiled(*args))
        for x, y in zip(tensors(f(*args)), got, strict=True):
            same(x, y)
        for x in got:
            x.zero_()
    for x, y in zip(args, before, strict=True):
        same(x, y)
    assert w.tolist() == [1, 1]


def test_zero_length():
    w = leaf(2)

    def f(c, xs):
        return td.scan(lambda c, x: (c * w, {"y": (c + x).sum(), "c": c, "none": None}), c, xs)

    for run in (f, td.compile(f)):
        c = td.ones(2, requires_grad=True)
        carry, ys = run(c, td.zeros(0, 2))
        assert carry.tolist() == [1, 1] and ys["y"].shape == (0,) and ys["c"].shape == (0, 2) and ys["none"] is None
        carry.sum().backward()
        assert c.grad.tolist() == [1, 1]
    g = td.compile(lambda x: td.scan(lambda c, _: (c + 1, c), x, length=0))
    assert g(td.ones(2))[1].shape == (0, 2)


def test_a_carry_that_loses_its_gradient():
    check(lambda x, xs: td.scan(lambda c, x: (c.detach() + x, c), x, xs), leaf(2), leaf(3, 2))
    check(lambda x, xs: td.scan(lambda c, x: (c.detach() * x.detach(), c * x), x, xs), leaf(2), leaf(3, 2))


def test_integers_beside_floats():
    def step(carry, x):
        i, total = carry
        return (i + 1, total + x * i), i

    check(lambda xs: td.scan(step, (td.tensor(0), td.zeros(2)), xs), leaf(4, 2))


def test_scan_in_cond_and_cond_in_scan():
    w = leaf(2)

    def step(c, x):
        c = td.cond(x.sum() > 0, lambda c: c * w + x, lambda c: c - x * w, c)
        return c, c

    def f(x, xs):
        return td.cond(x.sum() > 0, lambda x: td.scan(step, x, xs), lambda x: td.scan(step, x * w, xs, reverse=True), x)

    for sign in (1, -1):
        graph = check(f, (td.ones(2) * sign).requires_grad_(), leaf(5, 2), closed=[w])
    assert sorted(control(graph)) == ["cond"] * 3 + ["scan"] * 2


def test_scan_in_scan():
    w = leaf(3)

    def f(x, xs):
        def row(c, x):
            return td.scan(lambda d, e: (d * w + e * c, d.sum()), x, td.stack([x, c]))

        return td.scan(row, x, xs)

    assert sorted(control(check(f, leaf(3), leaf(4, 3), closed=[w]))) == ["scan", "scan"]


def test_gradients_inside_a_body():
    """A few steps of gradient descent as a scan, differentiated with respect to their learning rate."""
    target = td.randn(3)

    def f(lr, x):
        def step(x, _):
            g = td.grad(lambda v: ((v.sin() - target) ** 2).sum())(x)
            return x - lr * g, (g**2).sum()

        return td.scan(step, x, length=4)

    check(f, td.tensor(0.1, requires_grad=True), leaf(3))
    w = leaf(3)

    def closed(x):
        def step(c, x):
            return c + td.autograd.grad((w * x).sin().sum(), [w], create_graph=True)[0], None

        return td.scan(step, td.zeros(3), x)[0]

    check(closed, leaf(2, 3), closed=[w])


def test_second_order():
    w = td.randn(2, 2)

    def scanned(x):
        return (td.scan(lambda c, x: ((c @ w + x).tanh(), c * x), x[0], x)[1] ** 2).sum()

    def branched(x):
        return td.cond(x.sum() > 0, lambda v: (v**3 * w).sum(), lambda v: (v.sin() * w).sum(), x)

    def bounded(x):
        return td.while_loop(lambda c: c.sum() < 3, lambda c: c * c * w.abs() + 1, x, max_steps=6).sin().sum()

    for f in (scanned, branched, bounded):

        def twice(x, f=f):
            return td.grad(lambda v: (td.grad(f)(v) ** 2).sum())(x)

        for x in (td.rand(2, 2), -td.rand(2, 2)):
            same(td.compile(twice)(x), twice(x), 1e-4, 1e-5)


def test_third_order():
    def f(x):
        return td.scan(lambda c, x: (c * x.sin(), None), x[0], x)[0]

    third = td.grad(td.grad(td.grad(lambda x: f(td.stack([x, x * 2, x**2])))))
    same(td.compile(third)(td.tensor(0.7)), third(td.tensor(0.7)), 1e-4)


def test_any_number_of_steps_with_a_symbolic_length():
    w = leaf(2)
    f = td.compile(lambda x: td.scan(lambda c, x: ((c * w + x).tanh(), c.sum()), td.zeros(2), x)[1].sum(), dynamic=True)
    for n in (3, 5, 2):
        results = []
        for g in (f.f, f):
            w.grad = None
            x = td.randn(n, 2, generator=td.Generator().manual_seed(n)).requires_grad_()
            y = g(x)
            y.backward()
            results.append((y, x.grad, w.grad))
        for a, b in zip(*results, strict=True):
            same(a, b)
    assert f.traces == 1


# ---- while_loop ----------------------------------------------------------------------------------------------------
def collatz(n):
    return td.while_loop(
        lambda c: c[0] != 1,
        lambda c: (td.cond(c[0] % 2 == 0, lambda v: v // 2, lambda v: 3 * v + 1, c[0]), c[1] + 1),
        (n, td.tensor(0)),
    )[1]


def test_a_trip_count_that_depends_on_data():
    f = td.compile(collatz)
    assert [f(td.tensor(n)).item() for n in (1, 6, 7, 27)] == [0, 8, 16, 111] and f.traces == 1
    assert [collatz(td.tensor(n)).item() for n in (1, 6, 7)] == [0, 8, 16]
    verify(td.graph(collatz, td.tensor(3)))


def test_max_steps_ends_a_loop():
    def f(x):
        return td.while_loop(lambda c: td.tensor(True), lambda c: c + 1, x, max_steps=7)

    assert f(td.tensor(0)).item() == td.compile(f)(td.tensor(0)).item() == 7


def test_no_steps_at_all():
    w = leaf(2)
    check(lambda x: td.while_loop(lambda c: c.sum() < 9, lambda c: c * w, x, max_steps=0), leaf(2), closed=[w])


@pytest.mark.parametrize("x", [0.5, 3.0, 500.0])
def test_gradients_with_max_steps(x):
    w = leaf(2)

    def f(x):
        def body(c):
            v, n = c
            return (v * (1 + w.abs()) + v.log(), n + 1)

        return td.while_loop(lambda c: c[0].sum() < 100, body, (x, td.tensor(0)), max_steps=40)

    graph = check(f, td.full((2,), x).requires_grad_(), closed=[w])
    assert control(graph) == ["cond", "scan"]
    with td.no_grad():
        assert control(td.graph(f, td.ones(2))) == ["while_loop"]


def test_steps_after_the_end_do_not_disturb_gradients():
    """The body would divide by zero if it ran again."""

    def f(x):
        return td.while_loop(
            lambda c: c[1] < 3, lambda c: (c[0] / (3.0 - c[1]), c[1] + 1), (x, td.tensor(0.0)), max_steps=9
        )[0]

    check(f, leaf(2))


def test_without_max_steps_only_asking_for_the_gradient_fails():
    w = leaf(2)

    def f(x):
        return td.while_loop(lambda c: c.sum() < 10, lambda c: c * (1 + w.abs()), x), (w * x).sum()

    x = td.ones(2, requires_grad=True)
    y, other = td.compile(f)(x)
    same(y, f(x)[0])
    other.backward()
    same(w.grad, x)
    assert y.requires_grad
    with pytest.raises(td.errors.TraceError, match=r"test_control\.py:\d+ cannot.*max_steps"):
        y.sum().backward()
    with pytest.raises(td.errors.TraceError, match="max_steps"):
        td.compile(lambda x: td.grad(lambda v: f(v)[0].sum())(x))(x)


# ---- under other transforms ----------------------------------------------------------------------------------------
def test_examples_of_a_batch_take_their_own_branch():
    def f(v):
        return td.cond(v.sum() > 0, lambda v: v.exp(), lambda v: v * 2, v)

    x = td.randn(6, 3)
    want = td.stack([f(row) for row in x])
    for g in (td.vmap(f), td.compile(td.vmap(f))):
        same(g(x), want)
    grads = [td.grad(lambda x, g=g: (g(x) ** 2).sum())(x) for g in (lambda x: td.stack([f(r) for r in x]), td.vmap(f))]
    same(*grads)


def test_jacobians_of_loops_and_branches():
    def looped(x):
        return td.scan(lambda c, x: ((c * x).sin() + x, None), x[0], x)[0]

    def branched(x):
        return td.cond(x.sum() > 0, lambda x: x.prod(0) * x[0], lambda x: x.sum(0), x)

    x = td.rand(3, 2)
    for f in (looped, branched):
        same(td.compile(lambda x, f=f: td.jacobian(f)(x))(x), td.jacobian(f)(x))
    for f in (looped, branched):
        same(td.compile(lambda x, f=f: td.jvp(f, (x,), (x * 2,)))(x)[1], td.jvp(f, (x,), (x * 2,))[1])
    same(
        td.compile(lambda x: td.vmap(looped)(x))(td.rand(4, 3, 2, generator=td.Generator())),
        td.vmap(looped)(td.rand(4, 3, 2, generator=td.Generator())),
    )


# ---- whole steps ---------------------------------------------------------------------------------------------------
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.out = nn.Embedding(11, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        def step(h, e):
            h = self.inner(td.cat([h, e], -1)).tanh()
            return h, h.abs().max()

        h, top = td.scan(step, td.zeros(x.shape[1], 8), self.embed(x))
        h = td.cond(top.max() > 0.5, lambda h: h * 0.9, lambda h: h, h)
        return self.out(h)


@pytest.mark.parametrize(
    "make", [lambda p: td.optim.SGD(p, lr=0.5, momentum=0.9), lambda p: td.optim.AdamW(p, lr=0.01)]
)
def test_a_training_step(make):
    x, t = td.randint(0, 11, (7, 12)), td.randint(0, 3, (12,))

    def run(wrap):
        td.manual_seed(1)
        model = Reader()
        opt = make(model.parameters())

        def step(x, t):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), t)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            return loss

        step = wrap(step)
        return [step(x, t).item() for _ in range(12)], model.state_dict(), step

    want, state, _ = run(lambda f: f)
    got, state_got, step = run(td.compile)
    np.testing.assert_allclose(got, want, 1e-4)
    assert got[-1] < got[0] and step.traces == 1
    for k, v in state.items():
        same(v, state_got[k], 1e-3, 1e-4)


def test_a_compiled_model_is_trained_from_outside():
    x, t = td.randint(0, 11, (5, 4)), td.randint(0, 3, (4,))
    model = Reader()
    f = td.compile(lambda x: model(x))
    grads = []
    for g in (model, f):
        model.zero_grad()
        F.cross_entropy(g(x), t).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        same(a, b)


def test_training_and_evaluation_inside_a_body_are_two_traces():
    layer = nn.Dropout(0.5)
    f = td.compile(lambda x: td.cond(x.sum() > 0, layer, lambda v: v, x))
    f(td.ones(4))
    layer.eval()
    assert f(td.ones(4)).tolist() == [1, 1, 1, 1] and f.traces == 2


def test_verified(monkeypatch):
    monkeypatch.setattr("treadle.config.config.verify", True)
    test_scan_in_cond_and_cond_in_scan()


def test_nobody_computes_what_nobody_reads():
    w = td.ones(2, requires_grad=True)

    def f(x):
        (a, b), (ys, zs) = td.scan(lambda c, x: ((c[0] * w, c[1] + x), (x.exp(), c[1])), (x[0], x[1]), x)
        return b, zs

    (node,) = [n for n in td.graph(f, td.ones(3, 2)).nodes if n.op.name == "scan"]
    body = node.attrs["body"]
    assert [n.op.name for n in body.nodes] == ["add"] and len(node.outputs) == 2 and len(body.inputs) == 2

    def g(x):
        return td.cond(x.sum() > 0, lambda v: (v * 2, v.exp() * w), lambda v: (v, v), x)[0]

    (node,) = [n for n in td.graph(g, td.ones(2)).nodes if n.op.name == "cond"]
    assert len(node.inputs[1]) == 1 and [n.op.name for n in node.attrs["then"].nodes] == ["mul"]

    def h(x):
        return td.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] * 2), (x, x.exp()))[0]

    (node,) = td.graph(h, td.tensor(0)).nodes[-1:]
    assert len(node.outputs) == 1 and len(node.attrs["body"].inputs) == 1


def test_one_trace_per_signature():
    f = td.compile(lambda x, n: td.scan(lambda c, v: (c * 2 + v, None), x[0], x, length=n)[0])
    for n in (2, 3, 2, 3):
        f(td.ones(n), n)
    assert f.traces == 2
