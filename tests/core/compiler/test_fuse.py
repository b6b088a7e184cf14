"""Fusion: which nodes become one, that values and memory stay what they are, and what is left alone."""

import functools
import random

import numpy as np
import pytest

import treadle as td
import treadle.nn.functional as F
from treadle import nn
from treadle.compiler import memory, passes
from treadle.compiler.lower import Plan
from treadle.compiler.passes import optimize
from treadle.compiler.passes.regions import MAX_INPUTS, MAX_OPS
from treadle.ir.rewrite import duplicate
from treadle.ir.text import parse
from treadle.ir.verify import verify

ROWS, COLUMNS = td.TensorSpec((4, 6), td.float32), td.TensorSpec((6,), td.float32)


def optimized(f, *args, device="cpu"):
    """The graph of a function as it will run."""
    with td.device(device):
        graph = duplicate(td.graph(f, *args))[0]
        return verify(optimize(graph, td.ones(1).device))


def ops(graph):
    """Names of the nodes, in their order; views left out."""
    return [n.op.name for n in graph.nodes if n.op.tier != "view"]


def bodies(graph):
    return [n.attrs["body"] for n in graph.nodes if n.op.name == "fused"]


def bits(x):
    """The bits of a tensor's elements, with one kind of NaN."""
    a = x.detach().numpy().copy()
    a[a != a] = np.nan if a.dtype.kind != "b" else False
    return a.view(f"u{a.itemsize}")


def assert_same(got, want):
    for a, b in zip(td.tree.leaves(got), td.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))
        assert a.dtype is b.dtype


def compared(f, *args):
    """What a compiled function gives, after comparing it with eager."""
    got = td.compile(f)(*args)
    assert_same(got, f(*args))
    return got


def gelu_chain(x, b):
    return F.gelu(x * 1.1 + b, approximate="tanh")


# ---- which nodes become one ----------------------------------------------------------------------------------------
def test_a_chain_before_and_after():
    assert str(td.graph(gelu_chain, ROWS, COLUMNS)) == (
        "graph gelu_chain(%0: float32[4, 6], %1: float32[6]) {\n"
        "  %2: float32[4, 6] = mul(%0, 1.1)\n"
        "  %3: float32[4, 6] = expand(%1) {to=(4, 6)}\n"
        "  %4: float32[4, 6] = add(%2, %3)\n"
        "  %5: float32[4, 6] = gelu_tanh(%4)\n"
        "  return %5\n"
        "}"
    )
    after = str(optimized(gelu_chain, ROWS, COLUMNS))
    assert after == (
        "graph gelu_chain(%0: float32[4, 6], %1: float32[6]) {\n"
        "  %2: float32[4, 6] = expand(%1) {to=(4, 6)}\n"
        '  %3: float32[4, 6] = fused([%0, %2]) {body=(("mul", 0, 1.1), ("add", 2, 1), ("gelu_tanh", 3)), results=(4,)}\n'
        "  return %3\n"
        "}"
    )
    assert str(parse(after)) == after


def test_a_backend_without_the_kernel_keeps_the_ops():
    assert ops(optimized(gelu_chain, ROWS, COLUMNS, device="reference")) == ["mul", "add", "gelu_tanh"]


def test_what_is_read_elsewhere_is_an_additional_result():
    def f(x):
        y = x.exp()
        return y * y.sum(), y - 1

    graph = optimized(f, ROWS)
    assert ops(graph) == ["fused", "sum", "mul"]
    assert bodies(graph) == [(("exp", 0), ("sub", 1, 1.0))] and graph.nodes[0].attrs["results"] == (1, 2)


def test_no_circle():
    """What reads both a region and something that depends on it cannot join it."""

    def f(x):
        y = x * 2 + 1
        z = (y - y.mean()).exp() * y
        return z / z.sum()

    assert ops(optimized(f, ROWS)) == ["fused", "sum", "mul", "fused", "sum", "true_div"]


def test_one_op_stays_itself():
    assert ops(optimized(lambda x: x.exp().sum(1), ROWS)) == ["exp", "sum"]


def test_two_shapes_are_two_regions():
    def f(x, b):
        return (x * 2 + 1) * (b.exp() + 1).log()

    assert [len(b) for b in bodies(optimized(f, ROWS, COLUMNS))] == [3, 3]


def test_limits():
    def long(x):
        for k in range(MAX_OPS + 8):
            x = x * 1.5 - float(k)
        return x

    def wide(*xs):
        return sum(xs[1:], xs[0])

    graph = optimized(long, ROWS)
    assert set(ops(graph)) == {"fused"} and max(map(len, bodies(graph))) <= MAX_OPS and len(graph.nodes) == 3
    graph = optimized(wide, *[ROWS] * 12)
    assert max(len(n.inputs[0]) for n in graph.nodes) == MAX_INPUTS and ops(graph) == ["fused", "fused"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [("int32", ["mul", "add"]), ("float64", ["fused"]), ("bfloat16", ["fused"]), ("bool", ["bit_not", "bit_and"])],
)
def test_dtypes(kind, names):
    spec = td.TensorSpec((4, 6), getattr(td, kind))
    f = (lambda x: ~x & x) if kind == "bool" else (lambda x: x * 2 + 1)
    assert ops(optimized(f, spec)) == names


def test_float32_and_float64_do_not_mix():
    graph = optimized(lambda x: ((x * 2 + 1).double() * 3 - 1).float(), ROWS)
    assert all(len({v.dtype for v in n.operands()} | {s.dtype for s in n.specs}) <= 2 for n in graph.nodes)
    compared(lambda x: ((x * 2 + 1).double() * 3 - 1).float() * 0.5 + 1, td.randn(40, 3))


def test_numbers_keep_their_sign_and_exactness():
    big = 2**60 + 1  # no float holds it: such an op stays by itself
    compared(lambda x: (x * -0.0 + -0.0, x * big + 1, (x * 0.0).maximum(td.tensor(-0.0))), td.randn(50))
    assert ops(optimized(lambda x: x * big + 1 - 2, ROWS)) == ["mul", "fused"]


# ---- effects -------------------------------------------------------------------------------------------------------
def test_not_across_a_change_in_place():
    def f(x, b):
        y = x * 2 + b
        y[:, 1] = 5.0
        x.add_(1)
        z = y.exp() * x
        x[0] = b
        return z - x

    assert [n for n in ops(optimized(f, ROWS, COLUMNS)) if n in ("fused", "write")] == [
        "fused",
        "write",
        "fused",
        "write",
    ]
    x, b = td.randn(4, 6), td.randn(6)
    mine, want = x.clone(), x.clone()
    compiled = td.compile(f)
    for _ in range(3):
        assert_same(compiled(mine, b), f(want, b))
        assert_same(mine, want)


def test_old_and_new_content_of_an_argument():
    """A region that reads what is overwritten later reads it before."""

    def f(x, w):
        before = w.exp() + 1
        w.sub_(x.sigmoid() * 0.1)
        return before * w, before - x

    x, w, v = td.randn(30, 40), td.ones(30, 40), td.ones(30, 40)
    compiled = td.compile(f)
    for _ in range(3):
        assert_same(compiled(x, w), f(x, v))
        assert_same(w, v)


# ---- values --------------------------------------------------------------------------------------------------------
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-40, 3e38, -3e38, 1.0, -1.0, 1e-310]


@pytest.mark.parametrize("kind", [td.float32, td.float64, td.float16, td.bfloat16], ids=lambda d: d.name)
def test_special_values(kind):
    x = td.tensor(SPECIAL, dtype=td.float64).to(kind)
    a, b = x[:, None] + td.zeros(12, 12, dtype=kind), x[None, :] + td.zeros(12, 12, dtype=kind)

    def f(a, b):
        c = (a * b - a).relu() + a.abs().sqrt()
        return c, td.where(a > b, c.tanh(), -b).clamp(-1.0, 2.0), (a / b).sigmoid() * 0.3, a.maximum(b) % 2.0

    compared(f, a, b)


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (7,), (128,), (33, 65), (2, 3, 5, 7), (40_000,), (600, 300)])
def test_broadcasts_of_any_rank(shape):
    x = td.randn(*shape)
    small = [td.randn(*[n if k % 2 == way else 1 for k, n in enumerate(shape)]) for way in (0, 1)]
    last = td.randn(*shape[-1:])

    def f(x, a, b, c, scalar):
        return ((x * a + b) * scalar - c).tanh() * a, (a + b + x).exp() * 1e-3

    for kind in (td.float32, td.float64):
        compared(f, *[v.to(kind) for v in (x, *small, last, td.tensor(0.7))])


def test_views_as_operands():
    def f(x):
        a, b, c = x.chunk(3, 1)
        return (a * b.flip(0) + c).sigmoid() * x.t()[:40].t(), (x.t() * 2 - x[0, 0]).exp()

    compared(f, td.randn(90, 120))


def test_any_batch():
    b = td.randn(33)
    compiled = td.compile(lambda x: (x * b + 1).relu() * 0.5, dynamic=True)
    for n in (2, 7, 100):
        x = td.randn(n, 33)
        assert_same(compiled(x), (x * b + 1).relu() * 0.5)
    assert compiled.traces == 1


def program(seed):
    """A random function of three tensors: elementwise ops, now and then a reduction or a product."""
    rnd = random.Random(seed)
    unary = [
        td.tanh,
        td.sigmoid,
        td.sin,
        td.relu,
        td.abs,
        td.square,
        lambda x: x * 0.7,
        lambda x: 1.0 - x,
        F.gelu,
        F.silu,
    ]
    binary = [td.add, td.sub, td.mul, td.maximum, lambda a, b: td.where(a > b, a, b * 0.5)]
    large = [lambda x: x - x.mean(-1, keepdim=True), lambda x: x @ td.ones(9, 9) * 0.1, lambda x: x.softmax(-1)]
    plan = [
        (rnd.choice(unary * 2 + large), rnd.random())
        if rnd.random() < 0.5
        else (rnd.choice(binary), rnd.random(), rnd.random())
        for _ in range(rnd.randint(3, 25))
    ]

    def f(x, y, b):
        values = [x, y, x + b]
        for step, *places in plan:
            values.append(step(*(values[int(p * len(values))] for p in places)))
        return values[-1], values[-2].sum(), values[len(values) // 2] * 2

    return f


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_and_their_gradients(seed):
    f = program(seed)
    td.manual_seed(seed)
    xs = [td.randn(5, 9), td.randn(5, 9), td.randn(9)]

    def step(*xs):
        out = f(*xs)
        loss = sum((o * o).mean() for o in out)
        return out, td.grad(lambda *v: sum((o * o).mean() for o in f(*v)), argnums=(0, 1, 2))(*xs), loss

    compared(step, *xs)


# ---- training ------------------------------------------------------------------------------------------------------
class Norm(nn.Module):
    """A norm that no op of the catalogue is."""

    def __init__(self, n):
        super().__init__()
        self.w, self.b = nn.Parameter(td.ones(n)), nn.Parameter(td.zeros(n))

    def forward(self, x):
        d = x - x.mean(-1, keepdim=True)
        return d / (d.abs().mean(-1, keepdim=True) + 1e-5).sqrt() * self.w + self.b


class Gated(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm, self.up, self.gate, self.down = (
            Norm(n),
            nn.Linear(n, 2 * n),
            nn.Linear(n, 2 * n),
            nn.Linear(2 * n, n),
        )

    def forward(self, x):
        h = self.norm(x)
        return x + self.down(F.silu(self.up(h)) * self.gate(h))


class Recurrent(nn.Module):
    """An LSTM by hand, over the first axis."""

    def __init__(self, n):
        super().__init__()
        self.x, self.h = nn.Linear(n, 4 * n), nn.Linear(n, 4 * n)

    def forward(self, xs):
        h = c = td.zeros(xs.shape[1], xs.shape[2])
        for x in xs.unbind(0):
            i, f, g, o = (self.x(x) + self.h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class Variational(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.encode, self.mean, self.log_var, self.decode = (nn.Linear(n, n) for _ in range(4))

    def forward(self, x):
        h = self.encode(x).relu()
        m, v = self.mean(h), self.log_var(h)
        y = self.decode(m + td.randn(*m.shape) * (0.5 * v).exp()).sigmoid()
        return ((y - x) ** 2).sum() - 0.5 * (1 + v - m**2 - v.exp()).sum()


def focal(z, y):
    p = z.sigmoid()
    return (-((1 - p) ** 2) * y * (p + 1e-6).log() - p**2 * (1 - y) * (1 - p + 1e-6).log()).mean()


def mean_square(model, x):
    return (model(x) ** 2).mean()


MODELS = {
    "gated": (lambda: nn.Sequential(Gated(24), Gated(24)), mean_square, (10, 24)),
    "recurrent": (lambda: Recurrent(16), mean_square, (4, 8, 16)),
    "variational": (lambda: Variational(20), lambda model, x: model(x), (12, 20)),
    "focal": (lambda: nn.Linear(20, 20), lambda model, x: focal(model(x), (x > 0).float()), (12, 20)),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(20, 40), nn.BatchNorm1d(40), nn.GELU(), nn.Dropout(0.2), nn.Linear(40, 20), nn.Tanh()),
        lambda model, x: F.smooth_l1_loss(model(x), x),
        (12, 20),
    ),
    "softplus": (lambda: nn.Linear(20, 20), lambda model, x: F.softplus(model(x) * 2 - 1).clamp(0.1, 3).log().sin().sum(), (9, 20)),
}  # fmt: skip


def trained(name, wrap, steps=4):
    """(losses, parameters, compiled step) after some steps."""
    td.manual_seed(0)
    make, loss, shape = MODELS[name]
    model, x = make(), td.randn(*shape)
    optimizer = td.optim.AdamW(model.parameters(), lr=1e-2)

    def step():
        optimizer.zero_grad()
        value = loss(model, x)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value

    step = wrap(step)
    return [step().item() for _ in range(steps)], list(model.parameters()), step


def plan_of(step):
    (entries,) = step.entries.values()
    return entries[0].forward.plan


def most_in_use(plan):
    """Bytes of inner values that are in memory at once; what the arena takes beyond that is chance."""
    alive = memory.lives(plan)[0].values()
    return max(sum(b.nbytes for b in alive if b.first <= k <= b.last) for k in range(len(plan.steps)))


@pytest.mark.parametrize("name", MODELS)
def test_training_agrees_with_eager_and_takes_no_more_memory(name, monkeypatch):
    compiled = functools.partial(td.compile, memory_budget=1.0)  # nothing is computed again
    want, parameters, _ = trained(name, lambda f: f)
    got, mine, step = trained(name, compiled)
    assert got == want
    assert_same(mine, parameters)
    monkeypatch.setattr(passes, "fuse", lambda graph, device: graph)
    plain, _, apart = trained(name, compiled)
    assert plain == want
    assert len(plan_of(step).steps) < len(plan_of(apart).steps)
    assert most_in_use(plan_of(step)) <= most_in_use(plan_of(apart))


def test_memory_of_a_dying_operand_is_used_again():
    graph = optimized(
        lambda x, w: ((x @ w) * 2 + 1).exp() @ w,
        td.TensorSpec((64, 64), td.float32),
        td.TensorSpec((64, 64), td.float32),
    )
    plan = Plan(graph, td.ones(1).device)
    assert ops(graph) == ["matmul", "fused", "matmul"] and most_in_use(plan) == 64 * 64 * 4


def test_a_loop_and_a_branch_are_fused_inside():
    def f(x):
        def body(c, v):
            c = (c * v + 1).tanh()
            return c, (c - v).exp() * 2

        total, ys = td.scan(body, x[0] * 0, x)
        return td.cond(total.sum() > 0, lambda t: (t * 2 - 1).sigmoid(), lambda t: (t + 3).exp() - 1, total), ys

    compared(f, td.randn(6, 40))


def test_a_region_that_is_computed_again_makes_what_is_needed():
    """With little memory: regions of the forward run a second time in the backward."""

    def step(x, w):
        def f(x, w):
            for _ in range(4):
                h = x @ w
                a = (h * 0.5 + 0.1).tanh()
                x = a * (h - a).sigmoid() + x
            return (x * x).mean()

        return td.value_and_grad(f, argnums=(0, 1))(x, w)

    x, w = td.randn(64, 32), td.randn(32, 32) * 0.2
    whole = td.compile(step)
    want = whole(x, w)
    assert_same(want, step(x, w))
    small = td.compile(step, memory_budget=0.75)
    assert_same(small(x, w), want)
    count = [sum(s.call is not None and s.call.op.name == "fused" for s in plan_of(c).steps) for c in (whole, small)]
    assert small.working_bytes < whole.working_bytes and count[1] > count[0]


def test_numbers_alone_decide_the_dtype_of_a_selection():
    """where(c, 2.0, 3.0) is float32 beside whatever c was made of."""
    x = td.randn(7, 4, dtype=td.float64)

    def f(x):
        return td.ops.where(x * 2 < x + 1, -1.0, -1.5).tanh()

    y = td.compile(f)(x)
    assert y.dtype is td.float32
    assert_same([y], [f(x)])
