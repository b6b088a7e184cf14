"""grad, value_and_grad, vjp and the tree they work on; Function and custom_vjp; gradcheck; anomaly mode."""

import collections
import threading
import warnings

import numpy as np
import pytest

import treadle as td
from treadle.errors import ArgumentError, AutogradError

Point = collections.namedtuple("Point", "x y")


def f64(*values):
    return td.tensor(list(values), dtype=td.float64)


# ---- grad, value_and_grad, vjp -------------------------------------------------------------------------------------
def test_grad_of_several_arguments():
    f = lambda a, b, c: (a * b).sum() + c.sum()  # noqa: E731
    a, b, c = f64(1, 2), f64(3, 4), f64(5)
    assert td.grad(f)(a, b, c).tolist() == [3, 4]
    assert td.grad(f, argnums=1)(a, b, c).tolist() == [1, 2]
    ga, gc = td.grad(f, argnums=(0, 2))(a, b, c)
    assert ga.tolist() == [3, 4] and gc.tolist() == [1]
    assert td.grad(f, argnums=-1)(a, b, c).tolist() == [1]
    assert a.grad is None and not a.requires_grad


def test_results_are_plain_tensors():
    value, g = td.value_and_grad(lambda x: (x * x).sum())(f64(1, 2))
    assert not g.requires_grad and not value.requires_grad and value.item() == 5


def test_pytrees():
    params = {"w": f64(1, 2), "layers": [f64(3), (f64(4), Point(f64(5), f64(6)))]}

    def loss(p):
        w, (a, (b, point)) = p["w"], p["layers"]
        return (w * w).sum() * a.sum() + (b * point.x * point.y).sum()

    value, g = td.value_and_grad(loss)(params)
    assert value.item() == 15 + 120
    assert g["w"].tolist() == [6, 12] and g["layers"][0].tolist() == [5] and g["layers"][1][0].tolist() == [30]
    assert isinstance(g["layers"][1][1], Point) and g["layers"][1][1].y.tolist() == [20]


def test_has_aux():
    value, g = td.value_and_grad(lambda x: ((x * x).sum(), {"twice": x * 2}), has_aux=True)(f64(1, 2))
    assert value[0].item() == 5 and value[1]["twice"].tolist() == [2, 4] and g.tolist() == [2, 4]
    g, aux = td.grad(lambda x: ((x * x).sum(), "note"), has_aux=True)(f64(3))
    assert g.tolist() == [6] and aux == "note"


def test_nesting():
    x = f64(2.0)
    cube = lambda x: (x**3).sum()  # noqa: E731
    assert td.grad(cube)(x).item() == 12
    assert td.grad(lambda x: td.grad(cube)(x).sum())(x).item() == 12
    assert td.grad(lambda x: td.grad(lambda y: td.grad(cube)(y).sum())(x).sum())(x).item() == 6
    # an inner gradient with respect to one variable, an outer one with respect to another, as argument and from a
    # closure
    assert td.grad(lambda b: td.grad(lambda a: (a * a * b).sum())(x).sum())(f64(5.0)).item() == 4
    inner = lambda a, b: (a * a * b).sum()  # noqa: E731
    assert td.grad(lambda b: td.grad(inner)(x, b).sum())(f64(5.0)).item() == 4


def test_transforms_inside_a_recorded_computation():
    w = td.tensor([2.0], dtype=td.float64, requires_grad=True)
    g = td.grad(lambda x: (x * x * w).sum())(f64(3.0))
    g.sum().backward()
    assert g.tolist() == [12.0] and w.grad.tolist() == [6.0]


def test_unused_arguments_have_zero_gradients():
    g = td.grad(lambda a, b: (a * 2).sum(), argnums=(0, 1))(f64(1), f64(1, 2))
    assert g[0].tolist() == [2] and g[1].tolist() == [0, 0]
    assert td.grad(lambda a: f64(3.0).sum())(f64(1, 2)).tolist() == [0, 0]


def test_keyword_arguments_are_passed():
    assert td.grad(lambda x, *, k: (x * k).sum())(f64(1, 2), k=5).tolist() == [5, 5]


def test_wrong_use_of_grad():
    with pytest.raises(AutogradError, match="scalar"):
        td.grad(lambda x: x * 2)(f64(1, 2))
    with pytest.raises(AutogradError, match="floating"):
        td.grad(lambda x: x.sum())(td.tensor([1, 2]))
    with pytest.raises(ArgumentError, match="tensor"):
        td.grad(lambda x: x)(1.0)
    with pytest.raises(ArgumentError, match="argnums"):
        td.grad(lambda x: x.sum(), argnums=3)(f64(1))


def test_grad_works_without_ambient_recording():
    with td.no_grad():
        assert td.grad(lambda x: (x * x).sum())(f64(3.0)).item() == 6
        assert not td.is_grad_enabled()


def test_the_same_tensor_twice():
    x = f64(3.0)
    ga, gb = td.grad(lambda a, b: (a * a * b).sum(), argnums=(0, 1))(x, x)
    assert ga.item() == 18 and gb.item() == 9


def test_vjp():
    y, pull = td.vjp(lambda a, b: (a * b, a.sum()), f64(1, 2), f64(3, 4))
    assert y[0].tolist() == [3, 8] and not y[0].requires_grad
    ga, gb = pull((f64(1, 10), td.tensor(100.0, dtype=td.float64)))
    assert ga.tolist() == [103, 140] and gb.tolist() == [1, 20]
    again = pull((f64(1, 0), td.tensor(0.0, dtype=td.float64)))
    assert again[0].tolist() == [3, 0]
    with pytest.raises(ArgumentError, match="structure"):
        pull(f64(1, 1))


def test_vjp_of_trees():
    y, pull = td.vjp(lambda p: {"s": p["a"] + p["b"][0]}, {"a": f64(1), "b": [f64(2)]})
    (g,) = pull({"s": f64(5)})
    assert y["s"].tolist() == [3] and g["a"].tolist() == [5] and g["b"][0].tolist() == [5]


def test_jvp_by_double_vjp():
    """The transpose of the transpose is the Jacobian itself."""
    f = lambda x: (x.sin() * x).cumsum(0)  # noqa: E731
    x, v = f64(0.3, 0.7, 1.1), f64(1.0, -2.0, 0.5)
    dummy = td.zeros(3, dtype=td.float64, requires_grad=True)
    _, pull = td.vjp(f, x)
    (g,) = pull(dummy)
    (forward,) = td.autograd.grad(g, dummy, v)
    eps = 1e-6
    np.testing.assert_allclose(forward.numpy(), ((f(x + v * eps) - f(x - v * eps)) / (2 * eps)).numpy(), rtol=1e-7)


# ---- trees ---------------------------------------------------------------------------------------------------------
def test_trees():
    tree = {"b": [1, (2, None)], "a": Point(3, {"z": 4}), "c": []}
    leaves, structure = td.tree.flatten(tree)
    assert leaves == [3, 4, 1, 2, None]
    assert td.tree.unflatten(structure, leaves) == tree
    assert td.tree.map(lambda x: x if x is None else x + 1, tree) == {
        "b": [2, (3, None)],
        "a": Point(4, {"z": 5}),
        "c": [],
    }
    assert td.tree.map(lambda a, b: a + b, [1, (2,)], [10, (20,)]) == [11, (22,)]
    assert td.tree.leaves({1: "x", "k": "y", (2,): "z"}) and td.tree.leaves(td.ones(2)) is not None
    same = td.tree.flatten({"a": Point(0, {"z": 0}), "b": [0, (0, 0)], "c": []})[1]
    assert same == structure and hash(same) == hash(structure)
    with pytest.raises(ArgumentError, match="structures differ"):
        td.tree.map(lambda a, b: a, [1], [1, 2])
    with pytest.raises(ArgumentError, match="leaves"):
        td.tree.unflatten(structure, [1])
    with pytest.raises(ArgumentError, match="leaves"):
        td.tree.unflatten(structure, [1] * 9)


def test_trees_of_other_dicts():
    tree = collections.OrderedDict(b=1, a=2)
    leaves, structure = td.tree.flatten(tree)
    assert leaves == [2, 1] and td.tree.unflatten(structure, leaves) == {"a": 2, "b": 1}


# ---- Function ------------------------------------------------------------------------------------------------------
class Cube(td.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x * x * 3


class Scaled(td.autograd.Function):
    """Two tensors and a number in, two tensors out, attributes on the context."""

    @staticmethod
    def forward(ctx, a, b, scale=2.0):
        ctx.scale = scale
        ctx.save_for_backward(a, b)
        return a * b * scale, a + b

    @staticmethod
    def backward(ctx, g, h):
        a, b = ctx.saved_tensors
        g = td.zeros_like(a) if g is None else g
        h = td.zeros_like(a) if h is None else h
        assert ctx.needs_input_grad == (True, False, False) or ctx.needs_input_grad[:2] == (True, True)
        return g * b * ctx.scale + h, g * a * ctx.scale + h, None


def leaf(*values):
    return td.tensor(list(values), dtype=td.float64, requires_grad=True)


def test_function():
    x = leaf(2.0, 3.0)
    y = Cube.apply(x)
    assert y.requires_grad and not y.is_leaf
    y.sum().backward()
    assert x.grad.tolist() == [12.0, 27.0]
    assert not Cube.apply(f64(2.0)).requires_grad
    with td.no_grad():
        assert not Cube.apply(x).requires_grad
    assert td.autograd.gradcheck(Cube.apply, [x]) and td.autograd.gradgradcheck(Cube.apply, [x])


def test_function_of_several():
    a, b = leaf(2.0), leaf(5.0)
    p, q = Scaled.apply(a, b, 10.0)
    (p * 1).backward(retain_graph=True)
    assert a.grad.item() == 50.0 and b.grad.item() == 20.0
    a.grad = b.grad = None
    (p + q).backward()
    assert a.grad.item() == 51.0
    c = leaf(1.0)
    p, _ = Scaled.apply(c, f64(3.0), 1.0)
    p.backward()
    assert c.grad.item() == 3.0


def test_function_that_returns_its_input_or_saves_its_output():
    class Straight(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 7

    class Exp(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return g * y

    x = leaf(1.0)
    y = Straight.apply(x)
    assert y is not x and x.is_leaf
    y.backward()
    assert x.grad.item() == 7.0
    y = Exp.apply(leaf(0.0))
    y.add_(1)
    with pytest.raises(AutogradError, match="modified by an in-place"):
        y.backward()


def test_straight_through_rounding():
    class Round(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, g):
            return g

    x = leaf(0.4, 1.6)
    (Round.apply(x) * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_function_with_integer_and_marked_outputs():
    class WithIndex(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            count = x > 1
            extra = x * 2
            ctx.mark_non_differentiable(extra)
            return x * 3, count, extra

        @staticmethod
        def backward(ctx, g, unused, also):
            return g * 3

    x = leaf(1.0, 2.0)
    y, count, extra = WithIndex.apply(x)
    assert count.dtype is td.bool and not count.requires_grad and not extra.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_wrong_functions():
    class Few(td.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a * b

        @staticmethod
        def backward(ctx, g):
            return g

    class Broken(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            raise KeyError("mine")

    class WrongShape(td.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return td.ones(5, dtype=td.float64)

    with pytest.raises(AutogradError, match="2 gradients expected"):
        Few.apply(leaf(1.0), leaf(2.0)).backward()
    with pytest.raises(KeyError, match="mine"):
        Broken.apply(leaf(1.0)).backward()
    with pytest.raises(td.errors.TreadleError, match="WrongShape"):
        WrongShape.apply(leaf(1.0)).backward()
    with pytest.raises(NotImplementedError):
        td.autograd.Function.apply(leaf(1.0))


def test_saved_tensors_notice_writes():
    x = leaf(1.0) * 1
    y = Cube.apply(x)
    x.add_(1)
    with pytest.raises(AutogradError, match="modified by an in-place"):
        y.backward()


def test_custom_vjp():
    calls = []

    @td.custom_vjp
    def clipped(x, limit):
        return x * limit

    clipped.defvjp(
        lambda x, limit: (x * limit, (x, limit)), lambda res, g: (calls.append(1) or g.clamp(-1, 1) * res[1], None)
    )
    x = leaf(2.0, 3.0)
    (clipped(x, 5.0) * 100).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0] and calls == [1]
    assert td.grad(lambda x: clipped(x, 2.0).sum())(f64(1.0)).tolist() == [2.0]
    plain = td.custom_vjp(lambda x: x * 2)
    assert plain(f64(1.0)).tolist() == [2.0]


# ---- gradcheck -----------------------------------------------------------------------------------------------------
class WrongFirst(td.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0] * 2.01


class WrongSecond(td.autograd.Function):
    """The first order is right; the second is lost, because the saved value is treated as a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach() * 2


def test_gradcheck_catches_a_wrong_rule():
    x = leaf(0.5, -1.5)
    with pytest.raises(AutogradError, match=r"output 0, input 0, element \(0,\)"):
        td.autograd.gradcheck(WrongFirst.apply, [x])
    assert not td.autograd.gradcheck(WrongFirst.apply, x, raise_exception=False)
    assert td.autograd.gradcheck(WrongSecond.apply, [x])
    with pytest.raises(AutogradError):
        td.autograd.gradgradcheck(WrongSecond.apply, [x])


def test_gradcheck_of_library_functions():
    rng = np.random.default_rng(0)
    x = td.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    w = td.tensor(rng.standard_normal((4, 2)), requires_grad=True)
    for f in (
        lambda x, w: x @ w,
        lambda x, w: (x.softmax(1) @ w, x.sum(0)),
        lambda x, w: (x[:, None, :] * w.t()).logsumexp(2),
        lambda x, w: td.cat([x, w.t()]).var(1),
    ):
        assert td.autograd.gradcheck(f, [x, w]) and td.autograd.gradgradcheck(f, [x, w])
    with pytest.raises(AutogradError, match="float64"):
        td.autograd.gradcheck(lambda x: x, td.ones(2, requires_grad=True))
    with pytest.raises(AutogradError, match="require grad"):
        td.autograd.gradcheck(lambda x: x, f64(1.0))


# ---- anomaly -------------------------------------------------------------------------------------------------------
def test_anomaly_mode_names_the_line():
    x = td.zeros(1, requires_grad=True)
    with td.autograd.detect_anomaly():
        y = (x * 1).sqrt()  # the culprit
        with pytest.raises(AutogradError, match=r"test_transforms\.py:\d+.*the culprit"):
            y.sum().backward()
    y = (x * 1).sqrt()
    y.sum().backward()  # off again


def test_anomaly_mode_adds_the_line_to_errors_of_backward():
    with td.autograd.detect_anomaly():
        x = leaf(1.0)
        y = x.exp()  # written over below
        y.add_(1)
        with pytest.raises(AutogradError, match="modified") as caught:
            y.sum().backward()
        assert any("written over below" in note for note in caught.value.__notes__)
        assert (x * 2).sum().item() == 2.0


def test_anomaly_mode_leaves_right_programs_alone():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 3))

    def run():
        x, w = td.tensor(data, requires_grad=True), td.tensor(data.T.copy(), requires_grad=True)
        y = (x @ w).softmax(1) * 2
        y[0].mul_(2)
        (y * y).sum().backward()
        return x.grad.tolist(), w.grad.tolist()

    plain = run()
    with td.autograd.detect_anomaly():
        assert run() == plain


def test_decorators_are_safe_across_threads():
    @td.no_grad()
    def f(x):
        for _ in range(50):
            x = x * 1
        return x.requires_grad or td.is_grad_enabled()

    bad = []
    w = leaf(1.0)
    threads = [threading.Thread(target=lambda: [bad.append(1) for _ in range(20) if f(w)]) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not bad and td.is_grad_enabled()


def test_a_generator_under_no_grad():
    @td.no_grad()
    def numbers(w):
        for k in range(3):
            yield (w * k).requires_grad

    w = leaf(1.0)
    seen = []
    for inside in numbers(w):
        seen += [inside, (w * 2).requires_grad]
    assert seen == [False, True] * 3


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_gradient_of_atan2_beside_large_integers(device):
    """Their squares fit no integer type."""
    x = td.tensor([0.5, -2.0], dtype=td.float64, device=device, requires_grad=True)
    n = td.tensor([4_000_000_000, 3_000_000_000], dtype=td.uint32, device=device)
    for f, want in (
        (td.atan2(n, x), lambda a, b: -a / (a * a + b * b)),
        (td.atan2(x, n), lambda a, b: a / (a * a + b * b)),
    ):
        (g,) = td.autograd.grad(f.sum(), x)
        np.testing.assert_allclose(g.numpy(), want(n.numpy().astype(float), x.detach().numpy()), rtol=1e-12)
