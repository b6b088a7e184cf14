"""td.checkpoint: the gradients of the plain call, less memory, and kept when it is compiled."""

import gc

import numpy as np
import pytest

import treadle as td
from treadle import nn
from treadle.compiler.memory import arena, lives
from treadle.errors import ArgumentError, AutogradError
from treadle.utils.checkpoint import checkpoint, checkpoint_sequential


def batch(*shape, seed=0):
    return td.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def blocks(n=4, width=16, p=0.3):
    td.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(p)) for _ in range(n)])


def plain(model, x):
    return model(x)


def each(model, x):
    for block in model:
        x = checkpoint(block, x)
    return x


WAYS = {
    "each": each,
    "sequential": lambda m, x: checkpoint_sequential(m, 2, x),
    "nested": lambda m, x: checkpoint(lambda v: each(m, v), x),
    "closed over": lambda m, x: checkpoint(lambda: m(x)),
    "keyword": lambda m, x: checkpoint(lambda *, given: m(given["x"]), given={"x": x}),
}


def trained(forward, compiled=False):
    """Loss and gradients (of the input too) after one backward from a known seed."""
    model, x = blocks(), batch(8, 16)
    x.requires_grad_()
    td.manual_seed(7)

    def step():
        y = forward(model, x * 1.0)
        loss = (y * y).sum()
        loss.backward()
        return loss

    loss = (td.compile(step) if compiled else step)()
    return [loss.detach().numpy(), x.grad.numpy(), *[p.grad.numpy() for p in model.parameters()]]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_and_masks_are_those_of_the_plain_call(way, compiled):
    for a, b in zip(trained(WAYS[way], compiled), trained(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_stream_goes_on_as_after_one_run():
    x = batch(4, 4)
    x.requires_grad_()
    td.manual_seed(1)
    checkpoint(nn.Dropout(0.5), x).sum().backward()
    after = td.get_rng_state().tolist()
    td.manual_seed(1)
    nn.Dropout(0.5)(x)
    assert td.get_rng_state().tolist() == after


def test_other_masks_without_preserve_rng_state():
    x = td.ones(64, requires_grad=True)
    y = checkpoint(nn.Dropout(0.5), x, preserve_rng_state=False)
    y.sum().backward()
    assert not np.array_equal(y.detach().numpy() > 0, x.grad.numpy() > 0)


def test_a_generator_of_the_user_and_a_compiled_function_inside():
    g = td.Generator().manual_seed(3)
    drop = td.compile(lambda v: nn.functional.dropout(v, 0.5))
    x = td.ones(64, requires_grad=True)
    y = checkpoint(lambda v: drop(v) * td.rand(64, generator=g), x)
    y.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), x.grad.numpy())


def f(x):
    return (x * x).exp().sin().sum()


def checked(x):
    return checkpoint(f, x)


def test_transforms():
    x = batch(3)
    for a, b in [
        (td.grad(checked)(x), td.grad(f)(x)),
        (td.hessian(checked)(x), td.hessian(f)(x)),
        (td.grad(lambda v: td.grad(checked)(v).sum())(x), td.grad(lambda v: td.grad(f)(v).sum())(x)),
        (td.vmap(td.grad(checked))(batch(5, 3)), td.vmap(td.grad(f))(batch(5, 3))),
        (
            td.grad(lambda v: td.vmap(checked)(v).sum())(batch(5, 3)),
            td.grad(lambda v: td.vmap(f)(v).sum())(batch(5, 3)),
        ),
        (td.jacobian(lambda v: checkpoint(td.sin, v))(x), td.jacobian(td.sin)(x)),
        (td.compile(td.grad(checked))(x), td.grad(f)(x)),
        (td.jvp(checked, (x,), (x,))[1], td.jvp(f, (x,), (x,))[1]),
    ]:
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_create_graph_through_backward():
    x = batch(3)
    x.requires_grad_()
    (g,) = td.autograd.grad(checked(x), x, create_graph=True)
    g.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), td.hessian(f)(x.detach()).sum(1).numpy(), rtol=1e-5)


def test_a_retained_graph_is_gone_through_twice():
    x = td.ones(2, requires_grad=True)
    y = checked(x)
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once)


def test_results_that_are_no_new_tensors_pass_through():
    x, t = td.ones(2, requires_grad=True), td.arange(3)
    a, b, c, d, e = checkpoint(lambda v: (v * 2, v, "text", t, v.reshape(2, 1)), x)
    assert b is x and c == "text" and d is t
    (a.sum() + b.sum() + e.sum()).backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_a_result_that_is_returned_twice_or_not_used():
    x = td.ones(2, requires_grad=True)
    a, b, _ = checkpoint(lambda v: (y := v * 3, y, v * 5), x)
    assert a is b
    a.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_intermediate_tensors_and_hooks():
    """A tensor that is neither leaf nor argument; hooks of it and of a parameter run once."""
    w, seen = td.ones(2, requires_grad=True), []
    h = w * 2
    h.register_hook(lambda g: seen.append("h"))
    w.register_hook(lambda g: seen.append("w"))
    checkpoint(lambda: (h * h + w + h).sum()).backward()
    assert w.grad.tolist() == [11.0, 11.0] and seen == ["h", "w"]


def test_grad_of_a_tensor_on_the_way():
    x = td.ones(2, requires_grad=True)
    h = x * 2
    y = checkpoint(lambda: (h * h).sum())
    assert td.autograd.grad(y, h)[0].tolist() == [4.0, 4.0]


def test_without_gradients_it_is_the_plain_call():
    with td.no_grad():
        assert checkpoint(lambda x: x + 1, td.ones(1)).tolist() == [2.0]
    assert not checkpoint(lambda x: x + 1, td.ones(1)).requires_grad


def test_an_argument_that_was_written_over():
    x = td.ones(2, requires_grad=True) * 1
    y = checkpoint(lambda v: v.exp().sum(), x)
    x.add_(1)
    with pytest.raises(AutogradError, match="checkpoint: its saved argument was modified"):
        y.backward()


def test_a_function_that_does_something_else_the_second_time():
    x, calls = td.ones(2, requires_grad=True), []

    def unsteady(v):
        calls.append(v)
        return (v * 2).sum() if len(calls) == 1 else v * 2

    with pytest.raises(AutogradError, match="other tensors"):
        checkpoint(unsteady, x).backward()

    def greedy(v):
        calls.append(v)
        return sum(nn.functional.dropout(v) for _ in calls).sum()

    with pytest.raises(AutogradError, match="more random numbers"):
        checkpoint(greedy, x).backward()


def test_segments():
    assert checkpoint_sequential([td.sin, td.cos], 1, td.zeros(1)).tolist() == [1.0]
    with pytest.raises(ArgumentError, match="3 segments of 2 functions"):
        checkpoint_sequential([td.sin, td.cos], 3, td.zeros(1))


def high_water(forward):
    """Bytes above those of model and input that forward and backward need at most, in eager."""
    with td.device("cpu"):
        model, x, backend = blocks(8, 256, 0.0), batch(512, 256), td.device("cpu").backend
        x = x.to("cpu")
        x.requires_grad_()

        def step():
            loss = forward(model, x).sum()
            loss.backward()
            for p in [x, *model.parameters()]:
                p.grad = None

        step()
        gc.collect()
        before = backend.memory_stats(reset_peak=True)["live"]
        step()
        return backend.memory_stats()["peak"] - before


def test_eager_memory_falls():
    assert high_water(each) < 0.75 * high_water(plain)


def test_the_tape_inside_is_dropped():
    x = td.ones(1000, requires_grad=True)
    y = checkpoint(lambda v: v.exp().sin().cos().reshape(10, 100), x)
    assert not isinstance(y, td._tensor.View) and y.node[1].name == "checkpoint"


def planned(forward):
    """Bytes of the arena of a compiled step."""
    model, x = blocks(8, 64, 0.0), batch(256, 64)

    @td.compile
    def step(x):
        loss = forward(model, x).sum()
        loss.backward()
        return loss

    step(x)
    [entry] = next(iter(step.entries.values()))
    return arena(lives(entry.forward.plan)[0])[1]


def test_compiled_memory_falls():
    assert planned(lambda m, x: checkpoint_sequential(m, 4, x)) < 0.75 * planned(plain)


def test_the_second_computation_is_in_the_graph_behind_barriers():
    def loss_and_grad(x):
        return td.value_and_grad(lambda v: checkpoint(lambda u: u.exp().sin(), v).sum())(x)

    g = td.graph(loss_and_grad, td.TensorSpec((3,), td.float32))
    names = [n.op.name for n in g.nodes]
    assert names.count("exp") == 2 and names.count("barrier") == 1
    value, gradient = g.run(td.zeros(3))
    np.testing.assert_allclose(value.item(), 3 * np.sin(1.0), rtol=1e-6)
    np.testing.assert_allclose(gradient.numpy(), np.full(3, np.cos(1.0), np.float32), rtol=1e-6)
