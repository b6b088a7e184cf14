"""A compiled function does what the function does: same values, same effects, one trace."""

import copy

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn

DEVICES = [pytest.param("cpu"), pytest.param("reference")]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def same(a, b):
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def windows(x):
    y = x * 2
    y[:, 1] = 5.0
    z = y.t()[1:]
    z += x[0, 0]
    y[0].neg_()
    return y, z.reshape(-1), y.flip(0)[::2], y.max(1)


def slices(x):
    a, b = x.split(2, 0)[0], x[:, None, 1:]
    return td.cat([a, a]), td.stack([a, a], 1), b.expand(4, 3, 3), F.pad(x, (1, 1)), x.sum(), x[x[:, 0].argmax()]


def inner_gradient(x):
    return td.grad(lambda v: (v.sin() * v).sum())(x), td.value_and_grad(lambda v: (v**3).sum())(x)


def second_order(x):
    return td.grad(lambda v: (td.grad(lambda u: (u**3).sum())(v) ** 2).sum())(x)


def created(x):
    return (
        x + td.ones(4),
        td.zeros_like(x) + td.arange(4),
        td.tensor([1.0, 2.0, 3.0, 4.0]) * x,
        td.full((2,), 3),
        td.eye(4) @ x.t(),
    )


@pytest.mark.parametrize("f", [windows, slices, inner_gradient, second_order, created], ids=lambda f: f.__name__)
def test_values(f):
    compiled = td.compile(f)
    for seed in range(3):
        x = td.randn(4, 4, generator=td.Generator().manual_seed(seed))
        want, got = td.tree.leaves(f(x.clone())), td.tree.leaves(compiled(x.clone()))
        for a, b in zip(want, got, strict=True):
            same(a, b)
    assert compiled.traces == 1


def test_arguments_are_written_in_place():
    def f(x, y):
        x.mul_(2)
        y[0] += x.sum()
        return x

    x, y = td.ones(3), td.zeros(2)
    result = td.compile(f)(x, y)
    assert result is x and x.tolist() == [2, 2, 2] and y.tolist() == [6, 0]


def test_what_the_function_closes_over_is_an_input():
    w, count = td.ones(2), td.zeros((), dtype=td.int64)

    @td.compile
    def f(x):
        count.add_(1)
        w.mul_(0.5)
        return x * w

    assert f(td.ones(2)).tolist() == [0.5, 0.5]
    w.fill_(4.0)
    assert f(td.ones(2)).tolist() == [2, 2] and count.item() == 2 and f.traces == 1


def build(seed=0):
    td.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.25), nn.Linear(16, 3))


STEPPERS = {
    "sgd": lambda p: td.optim.SGD(p, lr=0.1),
    "momentum": lambda p: td.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: td.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: td.optim.AdamW(p, lr=1e-2),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", STEPPERS)
def test_a_training_step(name, seed):
    """Forward, backward, clipping, optimizer, schedule, batch statistics and dropout masks: as in eager, one trace."""
    td.manual_seed(seed)
    x, t = td.randn(20, 6), td.randint(0, 3, (20,))

    def run(wrap):
        model = build(seed)
        opt = STEPPERS[name](model.parameters())
        schedule = td.optim.lr_scheduler.CosineAnnealingLR(opt, 20)

        def step(x, t):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), t, label_smoothing=0.1)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            opt.step()
            return loss

        step = wrap(step)
        td.manual_seed(1)
        losses = []
        for _ in range(20):
            losses.append(step(x, t).item())
            schedule.step()
        return losses, model.state_dict(), step

    losses, state, _ = run(lambda f: f)
    got, state_got, step = run(td.compile)
    assert got == losses and losses[-1] < losses[0]
    for k, v in state.items():
        same(v, state_got[k])
    assert step.traces == 1


def test_a_step_with_clipping_is_one_call(device):
    """A result that nobody reads (the norm) must not keep a kernel from being used."""
    model = build()
    opt = td.optim.SGD(model.parameters(), lr=0.1)

    @td.compile
    def step(x):
        opt.zero_grad()
        model(x).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()

    step(td.randn(4, 6))
    steps = next(iter(step.entries.values()))[0].forward.plan.steps
    assert device == "reference" or all(s.call is None or s.bound is not None for s in steps)


def test_training_and_evaluation_are_two_traces():
    model = build()
    f = td.compile(lambda x: model(x).detach())
    x = td.randn(5, 6)
    f(x)
    model.eval()
    same(f(x), model(x))
    f(x)
    model.train()
    f(x)
    assert f.traces == 2


def test_gradients_are_left_where_eager_leaves_them():
    w = td.ones(3, requires_grad=True)

    @td.compile
    def f(x):
        (w * x).sum().backward()

    f(td.ones(3))
    assert w.grad.tolist() == [1, 1, 1]
    f(td.ones(3))
    assert w.grad.tolist() == [2, 2, 2]
    w.grad = None
    f(td.ones(3) * 5)
    assert w.grad.tolist() == [5, 5, 5] and f.traces == 2


def test_trees_of_arguments_and_results():
    @td.compile
    def f(batch, *, scale):
        return {"sum": batch["a"] + batch["b"][0], "n": 3, "same": batch["a"]}

    batch = {"a": td.ones(2), "b": [td.zeros(2)]}
    out = f(batch, scale=2)
    assert out["sum"].tolist() == [1, 1] and out["n"] == 3 and out["same"] is batch["a"]
    f(batch, scale=3)
    assert f.traces == 2


def test_random_numbers_follow_the_generator():
    f = td.compile(lambda x: x + td.rand(3) + td.randn(3))
    td.manual_seed(5)
    got = [f(td.zeros(3)), f(td.zeros(3))]
    td.manual_seed(5)
    want = [f.f(td.zeros(3)), f.f(td.zeros(3))]
    for a, b in zip(got, want, strict=True):
        same(a, b)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.sum() > 0),
        lambda x: x.numpy(),
        lambda x: str(x),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
    ],
)
def test_reading_a_value_names_the_line(read):
    with pytest.raises(td.errors.TraceError, match=r"test_compile\.py:\d+"):
        td.compile(lambda x: read(x))(td.ones(3))
    assert td.ones(2).sum().item() == 2


def test_a_tensor_that_escapes_is_caught_with_its_line():
    kept = []

    @td.compile
    def f(x):
        kept.append(x * 2)
        return x + 1

    f(td.ones(2))
    with pytest.raises(td.errors.TraceError, match=r"test_compile\.py:\d+|after its function"):
        kept[0] + 1
    assert (td.ones(2) + 1).tolist() == [2, 2]


def test_an_error_inside_leaves_everything_as_it_was():
    w = td.ones(2, requires_grad=True)

    @td.compile
    def f(x):
        (w * x).sum().backward()
        raise KeyError("mine")

    with pytest.raises(KeyError):
        f(td.ones(2))
    assert w.grad is None and (w + 1).tolist() == [2, 2]


def test_a_model_copied_after_tracing_is_a_model():
    model = nn.Linear(2, 2)
    f = td.compile(lambda x: model(x).detach())
    f(td.ones(1, 2))
    other = copy.deepcopy(model)
    assert td.equal(other.weight, model.weight)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_compiled_model_is_trained_from_outside(dropout):
    """Only the model is compiled: loss, backward and optimizer stay eager."""
    x, t = td.randn(20, 6), td.randint(0, 3, (20,))

    def run(wrap):
        model = build()
        model[3].p = dropout
        opt = td.optim.AdamW(model.parameters(), lr=1e-2)
        f = wrap(lambda x: model(x))
        td.manual_seed(3)
        losses = []
        for _ in range(6):
            loss = F.cross_entropy(f(x), t)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return losses, f

    want, _ = run(lambda f: f)
    got, f = run(td.compile)
    assert got == want and f.traces == 1


def test_gradients_reach_arguments_and_what_made_them():
    w = td.randn(4, 4, requires_grad=True)
    f = td.compile(lambda x, y: ((x @ w).tanh() * y, x.sum()))
    results = []
    for g in (f.f, f):
        w.grad = None
        a = td.ones(3, 4, requires_grad=True)
        y = td.arange(4.0).requires_grad_()
        u, v = g(a * 2, y)
        (u.sum() * v).backward()
        results.append((w.grad, a.grad, y.grad))
    for p, q in zip(*results, strict=True):
        same(p, q)


def test_a_result_that_nobody_differentiates_costs_no_gradient():
    f = td.compile(lambda x: (x * 2, x.detach() * 3))
    x = td.ones(2, requires_grad=True)
    a, b = f(x)
    assert a.requires_grad and not b.requires_grad
    with td.no_grad():
        assert not f(x)[0].requires_grad


def test_a_saved_argument_that_was_overwritten_is_noticed():
    x = td.ones(2, requires_grad=True)
    y = td.ones(2)
    z = td.compile(lambda x, y: x * y)(x, y)
    y.mul_(2)
    with pytest.raises(td.errors.AutogradError, match="modified"):
        z.sum().backward()


def test_a_compiled_module_is_used_like_the_module():
    model = td.compile(build())
    x = td.randn(5, 6)
    assert len(list(model.parameters())) == 6 and model.training
    model.eval()
    same(model(x), model.f(x))
    model(x).sum().backward()
    assert model.f[0].weight.grad is not None


def test_a_compiled_method():
    class Scaler:
        def __init__(self, k):
            self.k = td.tensor(k)

        @td.compile
        def scale(self, x):
            return x * self.k

    assert Scaler(2.0).scale(td.ones(2)).tolist() == [2, 2] and Scaler(3.0).scale(td.ones(2)).tolist() == [3, 3]


def test_why_it_is_traced_again(monkeypatch, capsys):
    monkeypatch.setattr("treadle.config.config.log", "recompiles")
    model = nn.Dropout(0.5)
    f = td.compile(lambda x, k: model(x) * k)
    f(td.ones(3), 1.0)
    f(td.ones(4), 1.0)
    f(td.ones(4), 2)
    model.eval()
    f(td.ones(4), 2)
    text = capsys.readouterr().err
    assert "float32[4]" in text and "float32[3]" in text and "2, before 1.0" in text.replace("'", "")
    assert "training of Dropout is False, before True" in text and f.traces == 4


def test_dynamic_false_refuses_other_shapes():
    f = td.compile(dynamic=False)(lambda x: x + 1)
    f(td.ones(3))
    with pytest.raises(td.errors.ArgumentError, match=r"float32\[4\].*before.*float32\[3\]"):
        f(td.ones(4))
    assert f(td.ones(3)).tolist() == [2, 2, 2]


def test_zero_and_minus_zero_are_two_signatures():
    f = td.compile(lambda x, k: x * k)
    assert np.signbit(f(td.ones(1), -0.0).numpy())[0] and not np.signbit(f(td.ones(1), 0.0).numpy())[0]


def test_threads_may_call_at_once():
    from concurrent.futures import ThreadPoolExecutor

    f = td.compile(lambda x: (x @ x).tanh().sum(0) + 1)
    xs = [td.full((16, 16), i / 100) for i in range(32)]
    want = [f.f(x).tolist() for x in xs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert [y.tolist() for y in pool.map(f, xs)] == want


def test_verify_agrees_with_what_is_right(monkeypatch):
    monkeypatch.setattr("treadle.config.config.verify", True)
    model = build()
    f = td.compile(lambda x: model(x).sum())
    for _ in range(2):
        f(td.randn(8, 6)).backward()


def test_verify_names_the_first_node_that_differs(monkeypatch, device):
    if device == "reference":
        return  # it has no compiler that could be wrong
    monkeypatch.setattr("treadle.config.config.verify", True)
    backend = td.device(device).backend
    right = backend.compile

    def wrong(plan):
        """A compiler that takes tanh for sin."""
        for step in plan.steps:
            if step.call is not None and step.call.op.name == "tanh":
                step.bound = backend.bind(step.call._replace(op=td.ops.sin))
        return right(plan)

    monkeypatch.setattr(backend, "compile", wrong)
    f = td.compile(lambda x: (x @ x).tanh() @ x)
    with pytest.raises(td.errors.VerifyError, match=r"output 0 .*first node.*tanh.*test_compile\.py:\d+"):
        f(td.randn(4, 4))


def test_views_closed_over():
    w = td.randn(4, 3)
    first, row, one = w.detach(), w[1], w[0, 0:1]
    f = td.compile(lambda x: x @ first + row.flip(0) * one)
    x = td.randn(4)
    same(f(x), f.f(x))
    w.mul_(2)
    same(f(x), f.f(x))
    assert f.traces == 1


def test_layouts_that_nobody_named():
    """The gradient of a reversed tensor is a view from strides alone, which is then reshaped there and back."""

    def f(x):
        z = td.cat([x[1:], x[:1]]).flip(0)
        return (z.reshape(3, 1) * x.reshape(1, 3)).mean(0).tanh().sum()

    x = td.randn(3)
    same(td.compile(td.grad(f))(x), td.grad(f)(x))


# ---- arguments that are one tensor, or share memory ------------------------------------------------------------------
def test_arguments_that_are_one_tensor_are_not_taken_for_one_later():
    f, a, b = td.compile(lambda x, y: x * y), td.full((2,), 3.0), td.full((2,), 5.0)
    assert f(a, a).tolist() == [9, 9] and f(a, b).tolist() == [15, 15] and f(b, b).tolist() == [25, 25]
    g = td.compile(lambda x: x * a)
    assert g(a).tolist() == [9, 9] and g(b).tolist() == [15, 15] and g(a).tolist() == [9, 9]
    view = a[:1]
    h = td.compile(lambda x: x + view)
    assert h(a).tolist() == [6, 6] and h(b).tolist() == [8, 8]


def test_one_tensor_twice_where_one_is_written():
    def f(x, y):
        x.add_(1)
        return x * y

    compiled = td.compile(f)
    for twice in (False, True, False):
        a = td.zeros(3)
        b = a if twice else td.full((3,), 4.0)
        assert compiled(a, b).tolist() == 3 * [1 if twice else 4]
        assert a.tolist() == [1, 1, 1]


def test_memory_that_is_written_and_shared_is_refused():
    w, x = td.zeros(4), td.zeros(4)

    def writes(a, b):
        a[1:].add_(1)
        return b * 2

    f = td.compile(writes)
    assert f(x, td.ones(3)).tolist() == [2, 2, 2] and x.tolist() == [0, 1, 1, 1]
    for a, b in ((x, x[1:]), (x[:], x[1:]), (x, x.detach()[1:])):
        with pytest.raises(td.errors.TraceError, match="writes to a tensor whose memory an argument shares"):
            f(a, b)
    assert x.tolist() == [0, 1, 1, 1]

    def closes(a):
        w.add_(1)
        return a + 0

    g = td.compile(closes)
    assert g(td.zeros(4)).tolist() == [0, 0, 0, 0] and g(w).tolist() == [2, 2, 2, 2]  # the tensor itself: traced anew
    with pytest.raises(td.errors.TraceError, match="clone"):
        g(w[1:])
    assert w.tolist() == [2, 2, 2, 2]


def test_a_result_that_depends_on_a_leaf_made_inside():
    def f(x):
        y = x.detach().requires_grad_()
        return td.grad(lambda z: (z * y).sum())(x), y * 2

    x = td.randn(3)
    for a, b in zip(td.compile(f)(x), f(x), strict=True):
        same(a, b)
