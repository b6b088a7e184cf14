"""Backward: accumulation, modes, hooks, what is computed and what is not, and what raises."""

import gc
import threading
import weakref

import numpy as np
import pytest

import treadle as td
from treadle.errors import AutogradError, ShapeError


def leaf(*values, dtype=td.float64):
    return td.tensor(list(values), dtype=dtype, requires_grad=True)


# ---- accumulation --------------------------------------------------------------------------------------------------
def test_gradients_add_up_over_calls():
    w = leaf(1.0, 2.0)
    for k in range(1, 4):
        (w * w).sum().backward()
        assert w.grad.tolist() == [2.0 * k, 4.0 * k]
    w.grad = None
    (w * 3).sum().backward()
    assert w.grad.tolist() == [3.0, 3.0]


def test_a_grad_that_was_handed_out_does_not_change_later():
    w = leaf(1.0, 2.0)
    (w * w).sum().backward()
    first = w.grad
    (w * w).sum().backward()
    assert first.tolist() == [2.0, 4.0] and w.grad.tolist() == [4.0, 8.0]


def test_a_tensor_used_many_times():
    w = leaf(2.0)
    y = w * w + w * 3 + w / w + w - w
    y.sum().backward()
    assert w.grad.item() == pytest.approx(2 * 2 + 3)


def same_memory(a, b):
    return np.shares_memory(a.detach().numpy(), b.detach().numpy())


def test_gradients_of_leaves_never_share_memory():
    seed = td.ones(3, dtype=td.float64)
    a, b, c = leaf(1.0, 2.0, 3.0), leaf(1.0, 2.0, 3.0), leaf(1.0, 2.0, 3.0)
    d = leaf(1.0, 2.0, 3.0)
    y = a + b + c.reshape(3) + d.expand(1, 3)[0]
    y.backward(seed)
    grads = [x.grad for x in (a, b, c, d)]
    for k, g in enumerate(grads):
        assert not same_memory(g, seed)
        assert not any(same_memory(g, h) for h in grads[k + 1 :])
    a.grad.zero_()
    assert seed.tolist() == [1.0] * 3 and b.grad.tolist() == [1.0] * 3


def test_gradients_do_not_share_memory_with_saved_or_returned_ones():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    gx, gw = td.autograd.grad((x + w).sum(), [x, w])
    gx.zero_()
    assert gw.tolist() == [1.0, 1.0]
    y = (x * 1.0).sum()
    y.backward(retain_graph=True)
    x.grad.zero_()
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0]
    seed = td.ones(2, dtype=td.float64)
    (g,) = td.autograd.grad(x, x, seed)
    assert g.tolist() == [1.0, 1.0] and not same_memory(g, seed)


def test_captured_gradients_are_independent():
    x = leaf(1.0, 2.0)
    y = x * 2
    z = y + 0
    gy, gz = td.autograd.grad(z.sum(), [y, z])
    gy.zero_()
    assert gz.tolist() == [1.0, 1.0]


def test_gradient_has_the_leaf_s_shape_dtype_and_device():
    x = td.ones(3, 1, dtype=td.float32, requires_grad=True)
    (x * td.ones(2, 3, 4, dtype=td.float64)).sum().backward()
    assert x.grad.shape == (3, 1) and x.grad.dtype is td.float32 and x.grad.tolist() == [[8.0]] * 3
    h = td.ones(2, dtype=td.bfloat16, requires_grad=True)
    (h * td.ones(2)).sum().backward()
    assert h.grad.dtype is td.bfloat16


def test_complicated_broadcasts():
    rng = np.random.default_rng(0)
    for sa, sb in (
        ((2, 3), (3,)),
        ((1, 3), (2, 1)),
        ((), (2, 2)),
        ((2, 1, 3), (4, 1)),
        ((1,), (1, 1, 1)),
        ((0, 3), (3,)),
        ((3,), (0, 3)),
    ):
        a, b = (td.tensor(rng.standard_normal(s), requires_grad=True) for s in (sa, sb))
        (a * b).sum().backward()
        na, nb = np.broadcast_arrays(a.detach().numpy(), b.detach().numpy())
        for x, other in ((a, nb), (b, na)):
            want = other.sum(axis=tuple(range(other.ndim - x.ndim)), keepdims=False)
            over = tuple(d for d, n in enumerate(x.shape) if n == 1)
            want = want.sum(axis=over, keepdims=True).reshape(x.shape) if over else want
            np.testing.assert_allclose(x.grad.numpy(), want)


# ---- only what is needed -------------------------------------------------------------------------------------------
def ops_of(f):
    """Names of the ops that f runs, views left out."""
    return [op for _, op, _, how in td.explain(f).rows if how != "view"]


def test_only_needed_gradients_are_computed():
    x, w = td.ones(4, 3), td.ones(3, 5, requires_grad=True)
    loss = (x @ w).sum()
    assert ops_of(loss.backward).count("matmul") == 1  # for w; none for the input
    a = td.ones(3, requires_grad=True)
    y = (a * 5).sum()
    assert ops_of(y.backward).count("mul") == 1
    y = (a + td.ones(3)).sum()
    assert "mul" not in ops_of(y.backward)


def test_autograd_grad_walks_only_towards_its_inputs():
    x, w = td.ones(4, 4, requires_grad=True), td.ones(4, 4, requires_grad=True)
    h = x
    for _ in range(5):
        h = (h @ td.ones(4, 4)).tanh()
    y = (h * w).sum()
    names = ops_of(lambda: td.autograd.grad(y, w, retain_graph=True))
    assert "tanh_grad" not in names and "matmul" not in names
    assert ops_of(lambda: td.autograd.grad(y, h, retain_graph=True)).count("matmul") == 0
    assert ops_of(lambda: td.autograd.grad(y, x)).count("matmul") == 5


def test_nothing_is_recorded_without_need():
    x = td.ones(3)
    y = x * 2 + 1
    assert y.node is None and not y.requires_grad and y.is_leaf and y.grad_fn is None
    w = td.ones(3, requires_grad=True)
    with td.no_grad():
        assert (w * 2).node is None
    assert (
        (w > 0).node is None
        and (w * 2).int().node is None
        and w.argmax().node is None
        and w.max(0).indices.node is None
    )


def test_constants_keep_nothing_alive():
    w, x = td.ones(1000, requires_grad=True), td.ones(1000)
    ref = weakref.ref(x)
    y = w + x  # an addition saves shapes only
    del x
    assert ref() is None and y.requires_grad


# ---- modes ---------------------------------------------------------------------------------------------------------
def test_modes_as_context_and_decorator():
    w = leaf(1.0)
    with td.no_grad():
        assert not td.is_grad_enabled()
        with td.enable_grad():
            assert (w * 2).requires_grad
        assert not (w * 2).requires_grad
    assert td.is_grad_enabled()

    @td.no_grad()
    def plain(x):
        return x * 2

    @td.no_grad
    def bare(x):
        return x * 2

    @td.enable_grad()
    def with_grad(x):
        return x * 2

    assert not plain(w).requires_grad and not bare(w).requires_grad and td.is_grad_enabled()
    with td.no_grad():
        assert with_grad(w).requires_grad
    assert plain.__name__ == "plain"


def test_no_grad_is_left_when_an_error_passes():
    with pytest.raises(ShapeError):
        with td.no_grad():
            td.ones(2) + td.ones(3)
    assert td.is_grad_enabled()


def test_a_decorated_generator_or_recursive_function():
    @td.no_grad()
    def down(x, n):
        return x if n == 0 else down(x * 2, n - 1)

    assert not down(leaf(1.0), 5).requires_grad and td.is_grad_enabled()


def test_set_grad_enabled():
    w = leaf(1.0)
    with td.set_grad_enabled(False):
        assert not (w * 2).requires_grad
    assert (w * 2).requires_grad
    td.set_grad_enabled(False)
    try:
        assert not (w * 2).requires_grad
    finally:
        td.set_grad_enabled(True)
    assert (w * 2).requires_grad


def test_inference_mode():
    w = leaf(1.0)
    with td.inference_mode():
        assert td.is_inference_mode_enabled() and not td.is_grad_enabled() and not (w * 2).requires_grad
        with td.inference_mode(False):
            assert not td.is_inference_mode_enabled()
    assert not td.is_inference_mode_enabled() and td.is_grad_enabled()

    @td.inference_mode()
    def f(x):
        return x * 2

    assert not f(w).requires_grad


def test_modes_do_not_leak_into_other_threads():
    seen = []
    with td.no_grad():
        t = threading.Thread(target=lambda: seen.append(td.is_grad_enabled()))
        t.start()
        t.join()
    assert seen == [True]


# ---- hooks, retain_grad --------------------------------------------------------------------------------------------
def test_leaf_hooks():
    w, seen = leaf(1.0, 2.0), []
    first = w.register_hook(lambda g: seen.append(g.tolist()))
    second = w.register_hook(lambda g: g * 10)
    (w * 3).sum().backward()
    assert seen == [[3.0, 3.0]] and w.grad.tolist() == [30.0, 30.0]
    first.remove()
    second.remove()
    second.remove()
    (w * 3).sum().backward()
    assert len(seen) == 1 and w.grad.tolist() == [33.0, 33.0]


def test_a_leaf_hook_sees_the_whole_gradient_once():
    """Used twice in one graph: the hook runs once, with the sum, as in PyTorch."""
    w, seen = leaf(1.0), []
    w.register_hook(lambda g: seen.append(g.item()))
    (w * 2 + w * 3).sum().backward()
    assert seen == [5.0] and w.grad.item() == 5.0


def test_inner_hooks_change_what_flows():
    w = leaf(1.0, 2.0)
    y = w * 2
    handle = y.register_hook(lambda g: g * 5)
    (y * y).sum().backward(retain_graph=True)
    assert w.grad.tolist() == [40.0, 80.0]
    handle.remove()
    w.grad = None
    (y * y).sum().backward()
    assert w.grad.tolist() == [8.0, 16.0]


def test_hooks_run_with_autograd_grad():
    w = leaf(1.0)
    y = w * 2
    y.register_hook(lambda g: g * 7)
    (g,) = td.autograd.grad(y * 1, w, td.ones(1, dtype=td.float64), retain_graph=True)
    assert g.item() == 14.0
    (g,) = td.autograd.grad(y * 1, y, td.ones(1, dtype=td.float64))
    assert g.item() == 7.0


def test_leaf_hooks_run_with_autograd_grad():
    w = leaf(1.0)
    w.register_hook(lambda g: g * 7)
    (g,) = td.autograd.grad(w * 2, w, td.ones(1, dtype=td.float64))
    assert g.item() == 14.0 and w.grad is None


def test_hook_on_one_of_several_results():
    x = leaf(3.0, 1.0, 2.0)
    values, indices = x.sort()
    values.register_hook(lambda g: g * 2)
    (values * td.tensor([1.0, 2.0, 3.0], dtype=td.float64)).sum().backward()
    assert x.grad.tolist() == [6.0, 2.0, 4.0] and not indices.requires_grad


def test_retain_grad():
    w = leaf(1.0, 2.0)
    y = w * 2
    z = y * 3
    y.retain_grad()
    y.retain_grad()
    assert y.grad is None and z.grad is None
    z.sum().backward()
    assert y.grad.tolist() == [3.0, 3.0] and z.grad is None and w.grad.tolist() == [6.0, 6.0]
    w.retain_grad()  # nothing to do for a leaf
    v = w[0:1]
    v.retain_grad()
    (v * 5).sum().backward()
    assert v.grad.tolist() == [5.0]


def test_retained_grads_survive_and_are_their_own():
    w = leaf(1.0, 2.0)
    y = w * w  # saves its operands, which backward frees
    z = y + 0
    y.retain_grad()
    z.sum().backward()
    assert y.grad.tolist() == [1.0, 1.0]
    w.grad.zero_()
    assert y.grad.tolist() == [1.0, 1.0]
    seen = []
    v = leaf(1.0)
    v.register_hook(seen.append)
    (v + 0).sum().backward()
    v.grad.zero_()
    assert seen[0].item() == 1.0


def test_hooks_form_no_cycles():
    gc.collect()
    gc.disable()
    try:
        w = leaf(1.0)
        y = w * 2
        y.register_hook(lambda g: g * 2)
        y.retain_grad()
        big = td.ones(10, dtype=td.float64)
        z = (y * big).sum()
        ref = weakref.ref(big)
        del big, y
        assert ref() is not None
        del z
        assert ref() is None
    finally:
        gc.enable()


def test_hooks_and_retained_grads_need_a_tape():
    with pytest.raises(AutogradError):
        td.ones(2).register_hook(print)
    with pytest.raises(AutogradError):
        td.ones(2).retain_grad()


# ---- graphs --------------------------------------------------------------------------------------------------------
def test_backward_frees_what_was_saved():
    w = leaf(1.0, 2.0)
    y = (w * w).sum()
    y.backward()
    with pytest.raises(AutogradError, match="retain_graph=True"):
        y.backward()
    assert w.grad.tolist() == [2.0, 4.0]
    (w * 2).sum().backward()
    assert w.grad.tolist() == [4.0, 6.0]


def test_graphs_without_saved_values_can_be_walked_again():
    w = leaf(1.0, 2.0)
    y = (w + 1).sum()
    y.backward()
    y.backward()
    assert w.grad.tolist() == [2.0, 2.0]


def test_create_graph():
    x = leaf(2.0)
    y = x**3
    (g,) = td.autograd.grad(y, x, td.ones(1, dtype=td.float64), create_graph=True)
    (h,) = td.autograd.grad(g, x, td.ones(1, dtype=td.float64), create_graph=True)
    (k,) = td.autograd.grad(h.sum(), x)
    assert [v.item() for v in (g, h, k)] == [12.0, 12.0, 6.0]
    assert not k.requires_grad


def test_backward_with_create_graph_gives_grads_on_the_tape():
    x = leaf(2.0)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    x.grad.sum().backward()
    assert x.grad.item() == 12.0 + 12.0


def test_gradient_penalty():
    rng = np.random.default_rng(0)
    w = td.tensor(rng.standard_normal((3, 3)), requires_grad=True)
    x = td.tensor(rng.standard_normal((4, 3)), requires_grad=True)

    def penalty(w):
        (g,) = td.autograd.grad((x @ w).tanh().sum(), x, create_graph=True)
        return (g * g).sum()

    assert td.autograd.gradcheck(penalty, [w])


def test_outputs_of_several_kinds():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    td.autograd.backward([a * 2, (b * b).sum()], [td.tensor([1.0, 10.0], dtype=td.float64), None])
    assert a.grad.tolist() == [2.0, 20.0] and b.grad.tolist() == [6.0, 8.0]
    y = a * 1
    td.autograd.backward([y, y], [td.ones(2, dtype=td.float64)] * 2)
    assert a.grad.tolist() == [4.0, 22.0]
    gs = td.autograd.grad([(a * b).sum(), a.sum()], [a, b])
    assert [g.tolist() for g in gs] == [[4.0, 5.0], [1.0, 2.0]]


def test_unused_inputs():
    a, b = leaf(1.0), leaf(2.0)
    with pytest.raises(AutogradError, match="allow_unused"):
        td.autograd.grad((a * 2).sum(), [a, b])
    ga, gb = td.autograd.grad((a * 2).sum(), [a, b], allow_unused=True)
    assert ga.item() == 2.0 and gb is None
    _, gb = td.autograd.grad((a * 2).sum(), [a, b], materialize_grads=True)
    assert gb.tolist() == [0.0]


def test_autograd_grad_leaves_grad_alone():
    a = leaf(1.0)
    b = a * 2
    (g,) = td.autograd.grad((b * b).sum(), b)
    assert g.item() == 4.0 and a.grad is None and b.grad is None
    (g,) = td.autograd.grad(a.sum(), a)
    assert g.item() == 1.0
    (g,) = td.autograd.grad((a * 1)[0], a)
    assert g.tolist() == [1.0]


def test_gradients_through_views_as_inputs():
    w = leaf(1.0, 2.0, 3.0)
    v = w[1:]
    (g,) = td.autograd.grad((v * v).sum(), v)
    assert g.tolist() == [4.0, 6.0]


def test_wrong_use():
    w = leaf(1.0, 2.0)
    with pytest.raises(AutogradError, match="one-element"):
        (w * 2).backward()
    with pytest.raises(ShapeError):
        (w * 2).backward(td.ones(3))
    with pytest.raises(AutogradError, match="does not require grad"):
        td.ones(2).sum().backward()
    with pytest.raises(AutogradError, match="does not require grad"):
        td.autograd.grad(w.sum(), td.ones(2))
    with pytest.raises(AutogradError, match="floating"):
        td.ones(2, dtype=td.int64, requires_grad=True)
    with pytest.raises(AutogradError, match="leaf"):
        (w * 2).requires_grad_(False)
    with pytest.raises(AutogradError, match="expected a tensor of shape"):
        w.grad = td.ones(3)
    with pytest.raises(td.errors.DTypeError):
        w.grad = 3
    with pytest.raises(AutogradError):
        (w * 2).grad = w
    with pytest.raises(td.errors.DTypeError):
        (w * 2).backward(1.0)
    with pytest.raises(AutogradError, match="modified by an in-place"):
        y = w.exp()
        y.add_(1)
        y.sum().backward()
    assert (w * 2).sum().item() == 6.0


def test_nan_and_inf_flow_as_ieee_says():
    x = td.tensor([0.0, -1.0, float("inf"), float("nan")], dtype=td.float64, requires_grad=True)
    x.sqrt().sum().backward()
    assert (
        np.isinf(x.grad[0].item())
        and np.isnan(x.grad[1].item())
        and x.grad[2].item() == 0.0
        and np.isnan(x.grad[3].item())
    )
    y = td.tensor([float("inf"), float("nan"), 1.0], requires_grad=True)
    y[[2, 2]].sum().backward()  # what was not picked gets zero, whatever it is
    assert y.grad.tolist() == [0.0, 0.0, 2.0]
    y.grad = None
    y.sort().values[0].backward()
    assert y.grad.tolist() == [0.0, 0.0, 1.0]


# ---- depth, memory, threads ----------------------------------------------------------------------------------------
def test_ten_thousand_deep():
    w = leaf(1.0)
    y = w
    for _ in range(10000):
        y = y + 1
    y.sum().backward()
    assert w.grad.item() == 1.0
    z = w
    for _ in range(10000):
        z = z * 1.0001
    (g,) = td.autograd.grad(z.sum(), w)
    assert g.item() == pytest.approx(1.0001**10000)
    del z  # takes the whole chain apart, without recursion


def test_ten_thousand_deep_is_freed_without_backward():
    for op in (
        lambda y: y * 2,
        lambda y: y[0:1],
        lambda y: y.sin(),
        lambda y: td.cat([y]),
        lambda y: y.sort().values,
        lambda y: y.add_(1),
    ):
        y = leaf(1.0) * 1
        for _ in range(10000):
            y = op(y)
        del y
    y = leaf(1.0, 2.0) * 1
    for _ in range(3000):
        y[0:1].mul_(1.5)
    y.sum().backward()


def test_deep_graph_with_create_graph():
    w = leaf(1.0)
    y = w
    for _ in range(3000):
        y = y.sin()
    (g,) = td.autograd.grad(y.sum(), w, create_graph=True)
    del y
    g.sum().backward()
    assert np.isfinite(w.grad.item())


def test_wide_graph():
    w = leaf(1.0)
    total = sum([w * k for k in range(2000)])
    total.sum().backward()
    assert w.grad.item() == sum(range(2000))


def test_tape_dies_with_its_output():
    gc.collect()
    gc.disable()
    try:
        w = leaf(1.0, 2.0)
        hidden = w * 2
        refs = [weakref.ref(hidden)]
        y = (hidden * hidden).sum()
        del hidden
        assert refs[0]() is not None  # saved for backward
        del y
        assert refs[0]() is None
        hidden = w * 2
        refs = [weakref.ref(hidden)]
        y = (hidden * hidden).sum()
        del hidden
        y.backward()
        assert refs[0]() is None  # freed by backward, though y lives
    finally:
        gc.enable()


def test_backward_from_several_threads():
    w = td.ones(64, 64, dtype=td.float64, requires_grad=True)
    errors = []

    def work():
        try:
            for _ in range(20):
                (w * w).sum().backward()
        except Exception as e:  # noqa: BLE001
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and w.grad.tolist() == [[2.0 * 80] * 64] * 64


def test_threads_with_graphs_of_their_own():
    results = {}

    def work(k):
        w = leaf(float(k))
        y = w
        for _ in range(200):
            y = (y * 1.01).sin()
        y.sum().backward()
        results[k] = w.grad.item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(6):
        expected = results[k]
        work(k)
        assert results[k] == expected
