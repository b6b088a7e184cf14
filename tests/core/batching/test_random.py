"""Random numbers inside of vmap."""

import pytest

import treadle as td
from treadle.errors import BatchError

F = td.nn.functional


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        yield request.param


def test_different_is_one_draw_with_the_batch_in_front():
    td.manual_seed(3)
    want = td.rand(3, 2), td.randn(3, 4)
    td.manual_seed(3)
    got = td.vmap(lambda _: (td.rand(2), td.randn(4)), randomness="different")(td.zeros(3))
    assert all(td.equal(a, b) for a, b in zip(got, want, strict=True))
    td.manual_seed(3)
    nested = td.vmap(td.vmap(lambda _: td.rand(4), randomness="different"), randomness="different")(td.zeros(3, 2))
    td.manual_seed(3)
    assert td.equal(nested, td.rand(3, 2, 4))


def test_same_is_one_draw_for_all():
    td.manual_seed(3)
    got = td.vmap(lambda _: td.rand(2), randomness="same")(td.zeros(3))
    td.manual_seed(3)
    assert td.equal(got, td.rand(2).expand(3, 2))
    inner, outer = (
        td.vmap(td.vmap(lambda _: td.rand(()), randomness=a), randomness=b)(td.zeros(3, 5))
        for a, b in (("same", "different"), ("different", "same"))
    )
    assert td.equal(inner, inner[:, :1].expand(3, 5)) and len(set(inner[:, 0].tolist())) == 3
    assert td.equal(outer, outer[:1].expand(3, 5)) and len(set(outer[0].tolist())) == 5


def test_error_is_the_default():
    for f in (lambda v: td.rand(2), lambda v: F.dropout(v, 0.5), lambda v: td.randperm(3)):
        with pytest.raises(BatchError, match="randomness='different' or 'same'"):
            td.vmap(f)(td.ones(3, 4))
    assert td.vmap(lambda v: F.dropout(v, 0.5, training=False))(td.ones(3, 4)).sum().item() == 12


def test_dropout_and_its_gradient_use_one_mask():
    x = td.ones(3, 64)
    for randomness in ("different", "same"):
        f = lambda v: F.dropout(v, 0.5).sum()
        value, g = td.vmap(td.value_and_grad(f), randomness=randomness)(x)
        assert td.equal(value, g.sum(1)) and set(g.flatten().tolist()) == {0.0, 2.0}
        assert td.equal(g[0], g[1]) == (randomness == "same")
        value, g = td.value_and_grad(lambda x: td.vmap(f, randomness=randomness)(x).sum())(x)
        assert value.item() == g.sum().item()
    shared = td.vmap(lambda v, w: v.sum() * 0 + F.dropout(w, 0.5), in_dims=(0, None), randomness="different")(x, x[0])
    assert not td.equal(shared[0], shared[1])


def test_other_draws():
    orders = td.vmap(lambda _: td.randperm(8), randomness="different")(td.zeros(4))
    assert all(sorted(row) == list(range(8)) for row in orders.tolist()) and len({*map(tuple, orders.tolist())}) > 1
    p = td.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert td.vmap(lambda p: td.multinomial(p, 1), randomness="different")(p).flatten().tolist() == [1, 0, 1]
    assert td.vmap(td.bernoulli, randomness="different")(p).tolist() == p.tolist()
    assert td.vmap(lambda v: td.randint(0, 9, (5,)) + v, randomness="different")(td.zeros(3)).shape == (3, 5)
    noisy = td.vmap(lambda v: v.clone().normal_(), randomness="different")(td.zeros(3, 50))
    assert 0.5 < noisy.std().item() < 1.5 and not td.equal(noisy[0], noisy[1])


def test_states_as_data():
    """Ops take their state as an operand: a batch of states is a batch of streams."""
    states = td.stack([td.Generator().manual_seed(k).get_state() for k in range(3)])
    got = td.vmap(lambda s: td.ops.random_normal(s, shape=(5,), dtype=td.float32))(states)
    want = [td.randn(5, generator=td.Generator().manual_seed(k)) for k in range(3)]
    assert td.equal(got, td.stack(want))


def test_compiled_draws_are_new_at_every_run():
    f = td.compile(td.vmap(lambda v: F.dropout(v, 0.5), randomness="different"))
    x = td.ones(3, 64)
    a, b = f(x), f(x)
    assert f.traces == 1 and not td.equal(a, b) and not td.equal(a[0], a[1])
