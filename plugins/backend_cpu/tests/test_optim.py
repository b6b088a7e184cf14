"""Optimizer steps and clipping over lists of tensors against PyTorch's formulas in float64."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from calls import FLOATS, array, factory, numpy_dtype, on_threads, sig, spec, storage

from treadle_backend_cpu.kernels import optim as module

SHAPES = [(3, 4), (), (5,), (0, 2), (257,), (100, 333), (1,), (17, 9)]
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-6, "float64": 1e-14}


def least_denormal(name):
    return float(ml_dtypes.finfo(numpy_dtype(name)).smallest_subnormal)


def tensors(name, seed, shapes=SHAPES, positive=False):
    rng = np.random.default_rng(seed)
    made = [np.asarray(rng.standard_normal(s)).astype(numpy_dtype(name)) for s in shapes]
    return [np.abs(x) for x in made] if positive else made


def described(op, ins, outs, attrs):
    want = (True,) * len(outs)
    return SimpleNamespace(op=SimpleNamespace(name=op), ins=tuple(ins), outs=tuple(outs), attrs=attrs, want=want)


def call(op, lists, numbers, n_outs, norm=False, **attrs):
    """Run a list op in new storages, then over its own operands; both must agree bit for bit.

    momentum and beta1 are numbers, the last ones.
    """
    numbers = [*numbers, *[attrs.pop(k) for k in ("momentum", "beta1") if k in attrs]]
    flat = [x for xs in lists for x in xs]
    name = flat[0].dtype.name
    outs = [spec(x.shape, name) for xs in (lists[:1] + lists[2:])[:n_outs] for x in xs]
    outs += [spec((), name)] * norm
    attrs = {**attrs, "n": len(lists[0])}
    ins = (*(sig(x) for x in flat), *(type(v) for v in numbers))
    kernel = factory(module, op)(None, described(op, ins, outs, attrs))
    made = kernel(*(storage(x) for x in flat), *numbers)
    made = made if isinstance(made, tuple) else (made,)
    results = [array(m, o) for m, o in zip(made, outs, strict=True)]
    held = [storage(x.copy()) for x in flat]
    count = len(lists[0])
    targets = (held[:count] + held[2 * count :])[: n_outs * count]
    targets += [storage(np.zeros(8, np.uint8))] * norm
    assert kernel(*held, *numbers, *targets) is None
    for target, out, result in zip(targets, outs, results, strict=True):
        assert array(target, out).tobytes() == result.tobytes()
    return tuple(results)


def agree(got, expected, name):
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape
        tolerance = TOLERANCE[name]
        np.testing.assert_allclose(g.astype(np.float64), e, rtol=tolerance, atol=tolerance)


def wide(lists):
    return [[x.astype(np.float64) for x in xs] for xs in lists]


def expected_sgd(lists, lr, momentum, dampening, nesterov, weight_decay, maximize, first):
    ps, gs, *rest = wide(lists)
    new, bufs = [], []
    for k, (p, g) in enumerate(zip(ps, gs, strict=True)):
        g = (-g if maximize else g) + weight_decay * p
        if momentum:
            buf = g if first else momentum * rest[0][k] + (1 - dampening) * g
            bufs.append(buf)
            g = g + momentum * buf if nesterov else buf
        new.append(p - lr * g)
    return [*new, *bufs]


SGD_ATTRS = {
    "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0,
    "maximize": False, "first": False,
}  # fmt: skip
SGD = [
    {}, {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "first": True, "maximize": True}, {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.5, "first": True, "nesterov": True, "weight_decay": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("given", SGD)
def test_sgd(given, name):
    attrs = {**SGD_ATTRS, **given}
    lists = [tensors(name, seed) for seed in range(3 if attrs["momentum"] else 2)]
    got = on_threads(lambda: call("sgd_step", lists, [0.1], len(lists) - 1, **attrs))
    agree(got, expected_sgd(lists, 0.1, **attrs), name)


ADAM_ATTRS = {
    "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0,
    "decoupled": False, "maximize": False,
}  # fmt: skip
ADAM = [
    {}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True},
    {"maximize": True, "eps": 1e-3},
]  # fmt: skip


def expected_adam(lists, lr, step, beta1, beta2, eps, weight_decay, decoupled, maximize):
    new, ms, vs = [], [], []
    for p, g, m, v in zip(*wide(lists), strict=True):
        g = -g if maximize else g
        p, g = (p * (1 - lr * weight_decay), g) if decoupled else (p, g + weight_decay * p)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        new.append(p - lr / (1 - beta1**step) * m / (np.sqrt(v) / np.sqrt(1 - beta2**step) + eps))
        ms.append(m)
        vs.append(v)
    return [*new, *ms, *vs]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("given", ADAM)
def test_adam(given, step, name):
    attrs = {**ADAM_ATTRS, **given}
    lists = [tensors(name, 0), tensors(name, 1), tensors(name, 2), tensors(name, 3, positive=True)]
    got = on_threads(lambda: call("adam_step", lists, [0.01, step], 3, **attrs))
    agree(got, expected_adam(lists, 0.01, step, **attrs), name)


def test_adam_handles_infinities_and_nan_as_arithmetic_does():
    p, g = np.zeros(4, np.float32), np.array([np.inf, np.nan, 1e30, 0], np.float32)
    new, m, v = call("adam_step", [[p], [g], [p], [p]], [0.1, 1], 3, **ADAM_ATTRS)
    assert np.isnan(new[:2]).all() and new[2] == 0 and new[3] == 0
    assert np.isinf(m[0]) and np.isnan(m[1]) and np.isinf(v[0]) and np.isinf(v[2]) and v[3] == 0


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_moments_never_become_denormal_and_the_mode_of_the_processor_is_restored(name):
    tiny = np.finfo(name).tiny
    lists = [[np.full(40, v, name)] for v in (1.0, 0.0, tiny, tiny)]
    new, m, v = call("adam_step", lists, [0.1, 500], 3, **ADAM_ATTRS)
    assert np.all((m == 0) | (m == tiny)) and np.all(v == 0) and np.all(new == 1)
    new, buf = call("sgd_step", lists[:3], [0.1], 2, **{**SGD_ATTRS, "momentum": 0.5})
    assert np.all(buf == 0) and np.all(new == 1)
    assert np.all(lists[2][0] * np.full(40, 0.25, name) > 0)


def test_without_eps_denormal_moments_are_kept():
    x = [np.full(40, v, np.float32) for v in (1.0, 0.0, 1e-38, 1e-38)]
    _, m, v = call("adam_step", [[a] for a in x], [0.1, 500], 3, **{**ADAM_ATTRS, "eps": 0.0})
    assert np.all(m > 0) and np.all(v > 0)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_steps_take_denormal_parameters_and_gradients_for_zero(name):
    tiny = np.finfo(name).tiny
    lists = [[np.full(40, v, name)] for v in (tiny / 2, tiny / 2, 0.0, 0.0)]
    for x in call("adam_step", lists, [0.1, 500], 3, **ADAM_ATTRS):
        assert np.all(x == 0)
    for x in call("sgd_step", lists[:3], [0.1], 2, **{**SGD_ATTRS, "momentum": 0.5}):
        assert np.all(x == 0)


@pytest.mark.parametrize("name", FLOATS)
def test_sgd_without_momentum_keeps_denormals(name):
    lists = [[np.full(40, v, np.float64).astype(numpy_dtype(name))] for v in (2 * least_denormal(name), 0.0)]
    (new,) = call("sgd_step", lists, [0.1], 1, **{**SGD_ATTRS, "momentum": 0.0, "weight_decay": 0.0})
    assert new.tobytes() == lists[0][0].tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_steps_of_the_half_types_keep_denormals(name):
    small = 16 * least_denormal(name)
    lists = [[np.full(40, v, np.float64).astype(numpy_dtype(name))] for v in (small, 0.0, small, small)]
    new, m, v = call("adam_step", lists, [0.0, 500], 3, **ADAM_ATTRS)
    assert np.all(new == lists[0][0]) and np.all(m > 0) and np.all(v > 0)
    new, buf = call("sgd_step", lists[:3], [0.0], 2, **{**SGD_ATTRS, "momentum": 0.5})
    assert np.all(new == lists[0][0]) and np.all(buf > 0)


def test_many_small_tensors_are_done_in_one_call():
    shapes = [(k % 7,) for k in range(200)]
    lists = [tensors("float32", s, shapes, positive=s == 3) for s in range(4)]
    got = on_threads(lambda: call("adam_step", lists, [0.01, 3], 3, **ADAM_ATTRS))
    agree(got, expected_adam(lists, 0.01, 3, **ADAM_ATTRS), "float32")


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip(max_norm, name):
    lists = [tensors(name, 0)]
    *got, norm = on_threads(lambda: call("clip_by_global_norm", lists, [max_norm], 1, norm=True))
    total = np.sqrt(sum(np.sum(x**2) for x in wide(lists)[0]))
    np.testing.assert_allclose(float(norm), total, rtol=TOLERANCE[name])
    agree(got, [x * min(1, max_norm / (total + 1e-6)) for x in wide(lists)[0]], name)


def test_clip_of_values_whose_squares_overflow():
    x = np.full(1000, 1e30, np.float32)
    got, norm = call("clip_by_global_norm", [[x]], [1.0], 1, norm=True)
    assert np.isclose(norm, 1e30 * np.sqrt(1000)) and np.allclose(got, 1 / np.sqrt(1000))


@pytest.mark.parametrize(("bad", "rest"), [(np.nan, np.nan), (np.inf, 0)])
def test_clip_of_numbers_that_are_not_finite(bad, rest):
    x = np.array([1, bad, 2], np.float32)
    got, norm = call("clip_by_global_norm", [[x]], [1.0], 1, norm=True)
    np.testing.assert_array_equal(got, [rest, np.nan, rest])
    np.testing.assert_array_equal(norm, np.float32(bad))


def test_clip_of_zeros():
    got, norm = call("clip_by_global_norm", [[np.zeros(5, np.float32)]], [1.0], 1, norm=True)
    assert norm == 0 and np.all(got == 0)


def test_lists_of_several_dtypes_are_declined():
    pair = [sig(np.zeros(3, np.float32)), sig(np.zeros(3, np.float64))]
    call = described("sgd_step", [*pair, *pair, float, float], pair, {**SGD_ATTRS, "n": 2})
    assert factory(module, "sgd_step")(None, call) is None
