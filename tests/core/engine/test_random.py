"""Random numbers: streams, states, the same bits on every device, and the distributions they claim."""

import numpy as np
import pytest

import treadle as td
from treadle.errors import ArgumentError, ShapeError

DEVICES = sorted({str(td.get_default_device()), "reference:0"})


def bits(x):
    return x.numpy().tobytes()


DRAWS = {
    "rand": lambda d: td.rand(37, 3, device=d),
    "rand float64": lambda d: td.rand(33, dtype=td.float64, device=d),
    "rand float16": lambda d: td.rand(33, dtype=td.float16, device=d),
    "rand bfloat16": lambda d: td.rand(33, dtype=td.bfloat16, device=d),
    "randn": lambda d: td.randn(1001, device=d),
    "randn float64": lambda d: td.randn(501, dtype=td.float64, device=d),
    "randn float16": lambda d: td.randn(33, dtype=td.float16, device=d),
    "randn 0-d": lambda d: td.randn((), device=d),
    "randn empty": lambda d: td.randn(0, 3, device=d),
    "randint": lambda d: td.randint(-5, 1000, (99,), device=d),
    "randint wide": lambda d: td.randint(-(2**62), 2**62, (99,), device=d),
    "randint uint8": lambda d: td.randint(0, 256, (99,), dtype=td.uint8, device=d),
    "randperm": lambda d: td.randperm(101, device=d),
    "bernoulli": lambda d: td.bernoulli(td.linspace(0, 1, 50, device=d)),
    "dropout": lambda d: td.nn.functional.dropout(td.ones(77, device=d), 0.3),
    "normal": lambda d: td.normal(1.0, 2.0, (50,), device=d),
    "multinomial": lambda d: td.multinomial(td.tensor([0.1, 0.2, 0.7], device=d), 20, replacement=True),
    "uniform_": lambda d: td.empty(40, device=d).uniform_(-1, 1),
    "normal_": lambda d: td.empty(40, device=d).normal_(3, 2),
    "bernoulli_": lambda d: td.empty(40, device=d).bernoulli_(0.2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_bits_everywhere_and_again(name):
    made = {}
    for device in [*DEVICES, DEVICES[0]]:
        td.manual_seed(1234)
        x = DRAWS[name](device)
        assert str(x.device) == device
        made.setdefault(device, []).append(bits(x))
    assert len({b for each in made.values() for b in each}) == 1
    td.manual_seed(1235)
    if x.numel() > 8:
        assert bits(DRAWS[name](DEVICES[0])) != made[DEVICES[0]][0]


def test_calls_follow_each_other():
    td.manual_seed(7)
    a, b = td.rand(5), td.rand(5)
    assert not td.equal(a, b)
    td.manual_seed(7)
    assert td.equal(td.rand(5), a) and td.equal(td.rand(5), b)
    td.manual_seed(7)
    assert not td.equal(td.randn(5), a)


def test_the_first_numbers_of_a_longer_draw_are_the_same():
    """Element i depends on the seed, the call and i alone."""
    td.manual_seed(3)
    long = td.rand(1000)
    td.manual_seed(3)
    assert td.equal(td.rand(10), long[:10])


def test_dropout_uses_the_generator_and_gives_the_same_mask_in_backward():
    td.manual_seed(0)
    x = td.ones(1000, requires_grad=True)
    y = td.nn.functional.dropout(x, 0.4)
    y.sum().backward()
    assert td.equal(x.grad, y.detach())
    assert abs((y == 0).float().mean().item() - 0.4) < 0.05


def test_state():
    td.manual_seed(5)
    td.rand(3)
    state = td.get_rng_state()
    a = td.rand(4)
    td.set_rng_state(state)
    assert td.equal(td.rand(4), a)
    assert state.dtype is td.uint32 and state.shape == (4,)
    with pytest.raises(ArgumentError):
        td.set_rng_state(td.zeros(4))
    with pytest.raises(ArgumentError):
        td.set_rng_state(td.zeros(3, dtype=td.uint32))
    with pytest.raises(ArgumentError):
        td.set_rng_state([1, 2, 3, 4])


def test_generators_are_independent():
    g = td.Generator()
    assert g.manual_seed(9) is g and g.initial_seed() == 9
    td.manual_seed(1)
    a = td.rand(3)
    td.manual_seed(1)
    first = td.rand(3, generator=g)
    assert td.equal(td.rand(3), a)
    h = td.Generator().manual_seed(9)
    assert td.equal(td.rand(3, generator=h), first)
    h.set_state(g.get_state())
    assert td.equal(td.randn(4, generator=h), td.randn(4, generator=g))
    for f in (lambda g: td.randint(0, 99, (5,), generator=g), lambda g: td.randperm(9, generator=g),
            lambda g: td.bernoulli(td.full((9,), 0.5), generator=g),
              lambda g: td.normal(0.0, 1.0, (3,), generator=g),
              lambda g: td.multinomial(td.ones(5), 3, generator=g)):  # fmt: skip
        assert td.equal(f(td.Generator().manual_seed(4)), f(td.Generator().manual_seed(4)))


def test_seeds():
    for seed in (0, -1, 2**63, 2**64 - 1, 2**70, np.int64(3)):
        td.manual_seed(seed)
        a = td.rand(2)
        td.manual_seed(seed)
        assert td.equal(td.rand(2), a)
    td.manual_seed(-1)
    a = td.rand(2)
    td.manual_seed(2**64 - 1)
    assert td.equal(td.rand(2), a)
    assert td.initial_seed() == 2**64 - 1
    one, two = td.seed(), td.seed()
    assert one != two and td.initial_seed() == two
    td.manual_seed(0)


def kolmogorov(x, cdf):
    """The largest distance between the sample's distribution and the claimed one."""
    x = np.sort(x)
    n = len(x)
    f = cdf(x)
    return max(np.abs(f - np.arange(1, n + 1) / n).max(), np.abs(f - np.arange(n) / n).max())


def normal_cdf(x):
    import math

    return np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])


@pytest.mark.parametrize("dtype", [td.float32, td.float64])
def test_distributions(dtype):
    td.manual_seed(11)
    n = 20000
    limit = 1.95 / np.sqrt(n)  # exceeded by chance once in a thousand seeds
    u, z = td.rand(n, dtype=dtype).numpy(), td.randn(n, dtype=dtype).numpy()
    assert 0 <= u.min() and u.max() < 1 and kolmogorov(u, lambda v: v) < limit
    assert np.isfinite(z).all() and kolmogorov(z, normal_cdf) < limit
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03 and abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.04


def test_uniform_never_reaches_one_in_any_type():
    td.manual_seed(2)
    for dtype in (td.float16, td.bfloat16, td.float32, td.float64):
        x = td.rand(20000, dtype=dtype)
        assert x.max().item() < 1 and x.min().item() >= 0 and abs(x.to(td.float64).mean().item() - 0.5) < 0.02


def test_integers():
    td.manual_seed(12)
    x = td.randint(3, 8, (10000,))
    counts = np.bincount(x.numpy(), minlength=9)
    assert x.dtype is td.int64 and counts[:3].sum() == 0 == counts[8] and counts[3:8].min() > 1800
    assert td.randint(5, (3, 2)).shape == (3, 2) and td.randint(0, 2, (4,), dtype=td.int32).dtype is td.int32
    assert td.randint(7, 8, (3,)).tolist() == [7, 7, 7] and td.randint(0, 5, (0,)).tolist() == []
    wide = td.randint(-(2**63), 2**63 - 1, (1000,)).numpy()
    assert wide.min() < -(2**61) and wide.max() > 2**61
    for bad in (lambda: td.randint(5, 5, (2,)), lambda: td.randint(5, 3, (2,)), lambda: td.randint(0, 2**65, (2,))):
        with pytest.raises(ArgumentError):
            bad()
    with pytest.raises(ShapeError):
        td.randint(0, 5, (-1,))


def test_permutations():
    td.manual_seed(13)
    for n in (0, 1, 2, 10, 1000):
        assert sorted(td.randperm(n).tolist()) == list(range(n))
    first = np.array([td.randperm(4)[0].item() for _ in range(400)])
    assert np.bincount(first, minlength=4).min() > 60
    with pytest.raises(ShapeError):
        td.randperm(-1)


def test_bernoulli_and_multinomial():
    td.manual_seed(14)
    p = td.tensor([0.0, 0.25, 0.5, 1.0]).expand(4000, 4)
    assert np.abs(td.bernoulli(p).mean(0).numpy() - [0, 0.25, 0.5, 1]).max() < 0.03
    assert td.bernoulli(p).dtype is td.float32
    weights = td.tensor([0.0, 1.0, 3.0])
    drawn = td.multinomial(weights, 4000, replacement=True).numpy()
    assert (drawn == 0).sum() == 0 and abs((drawn == 2).mean() - 0.75) < 0.04
    for _ in range(20):
        assert sorted(td.multinomial(weights[1:], 2).tolist()) == [0, 1]
    assert td.multinomial(td.ones(3, 4), 2).shape == (3, 2)
    with pytest.raises(ArgumentError):
        td.multinomial(td.ones(3), 4)


def test_normal_and_in_place():
    td.manual_seed(15)
    x = td.normal(td.tensor([0.0, 100.0]), td.tensor([1.0, 0.1]))
    assert abs(x[1].item() - 100) < 1 and x.shape == (2,)
    y = td.normal(5.0, 0.5, (2000,))
    assert abs(y.mean().item() - 5) < 0.1 and abs(y.std().item() - 0.5) < 0.05
    z = td.empty(2000)
    assert z.normal_(2.0, 3.0) is z and abs(z.std().item() - 3) < 0.3
    assert z.uniform_(2, 4).min().item() >= 2 and z.max().item() < 4
    assert set(z.bernoulli_(0.5).tolist()) == {0.0, 1.0}
    assert td.rand_like(z).shape == z.shape and td.randn_like(z, dtype=td.float64).dtype is td.float64


def test_arguments():
    assert td.rand((2, 3)).shape == td.rand([2, 3]).shape == td.rand(2, 3).shape == (2, 3) and td.rand(()).shape == ()
    assert td.rand(2, requires_grad=True).requires_grad
    for bad in (lambda: td.rand(2, dtype=td.int32), lambda: td.rand(1.5), lambda: td.randn("a")):
        with pytest.raises(ArgumentError):
            bad()
    for bad in (lambda: td.rand(-1), lambda: td.rand(2**60)):
        with pytest.raises(ShapeError):
            bad()


def test_random_numbers_from_threads_are_all_different():
    """The count of calls is shared: no two draws of a stream are the same one."""
    import threading

    td.manual_seed(16)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.extend(td.rand(2).numpy().tobytes() for _ in range(100))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(seen)) == 400
