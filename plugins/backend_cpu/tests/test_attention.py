"""Attention and its gradient against float64."""

import numpy as np
import pytest
from calls import FLOATS, HALVES, close, normal, on_threads, run, spec, statistic, wide

import treadle as td
from treadle_backend_cpu.kernels import attention as module

# (B, H, M, N, D, E)
SHAPES = [
    (2, 3, 4, 6, 5, 7),
    (1, 2, 7, 7, 4, 4),
    (1, 1, 1, 1, 1, 1),
    (2, 2, 33, 65, 32, 16),
    (1, 3, 70, 130, 17, 33),
    (1, 2, 128, 128, 32, 32),
    (1, 1, 300, 200, 64, 64),
    (1, 2, 1, 500, 48, 80),
]
MASKS = ["none", "bool", "float", "keys", "blocked"]


def operands(sizes, name):
    b, h, m, n, d, e = sizes
    return normal((b, h, m, d), name, 1), normal((b, h, n, d), name, 2), normal((b, h, n, e), name, 3)


def make_mask(kind, sizes, name):
    b, h, m, n = sizes[:4]
    if kind == "none":
        return None
    if kind == "float":
        mask = normal((b, h, m, n), name, 4)
        mask[..., ::3] = -np.inf
        return mask
    if kind == "keys":  # (B, 1, 1, N) broadcast
        return np.broadcast_to(normal((b, 1, 1, n), name, 4), (b, h, m, n))
    mask = np.random.default_rng(4).random((1, 1, m, n)) < 0.7
    if kind == "blocked":  # some queries see nothing
        mask[:, :, ::5] = False
    return (
        np.broadcast_to(mask, (b, h, m, n))
        if kind == "bool"
        else np.ascontiguousarray(np.broadcast_to(mask, (b, h, m, n)))
    )


def probabilities(q, k, mask, scale, causal):
    s = q @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask.astype(np.float64)
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    top = s.max(-1, keepdims=True)
    top = np.where(top == -np.inf, 0, top)
    p = np.exp(s - top)
    total = p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return p / np.where(total == 0, 1, total), top + np.log(total)


def gradients(g, q, k, v, p, scale):
    y = p @ v
    ds = p * (g @ v.swapaxes(-1, -2) - (g * y).sum(-1, keepdims=True)) * scale
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_attention(sizes, kind, causal, name):
    q, k, v = operands(sizes, name)
    mask, scale = make_mask(kind, sizes, name), 0.3
    b, h, m, n, d, e = sizes
    outs = [spec((b, h, m, e), name), spec((b, h, m, 1), statistic(name))]
    y, lse = on_threads(lambda: run(module, "attention", [q, k, v, mask], outs, scale=scale, causal=causal))
    q, k, v = wide(q, k, v)
    p, want = probabilities(q, k, mask, scale, causal)
    close(y, p @ v, name, 4)
    close(lse, want, statistic(name), 4)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_gradient(sizes, kind, causal, name):
    q, k, v = operands(sizes, name)
    mask, scale = make_mask(kind, sizes, name), 0.3
    b, h, m, n, d, e = sizes
    g = normal((b, h, m, e), name, 5)
    p, lse = probabilities(*wide(q, k), mask, scale, causal)
    y, lse = (p @ wide(v)[0]).astype(q.dtype), lse.astype(statistic(name))
    outs = [spec(x.shape, name) for x in (q, k, v)]
    got = on_threads(
        lambda: run(module, "attention_grad", [g, q, k, v, mask, y, lse], outs, scale=scale, causal=causal)
    )
    for one, want in zip(got, gradients(*wide(g, q, k, v), p, scale), strict=True):
        close(one, want, name, 16, floor=0.1)


@pytest.mark.parametrize("name", HALVES)
def test_gradients_of_half_operands_lose_little_more_than_their_rounding(name):
    operands = [normal((2, 3, 70, 32), name, k) for k in range(3)] + [normal((2, 3, 70, 70), name, 3)]
    g = normal((2, 3, 70, 32), name, 4)

    def gradients_in(dtype):
        leaves = [td.tensor(x.astype(np.float64)).to(getattr(td, dtype)).requires_grad_() for x in operands]
        y = td.nn.functional.scaled_dot_product_attention(*leaves[:3], attn_mask=leaves[3])
        y.backward(td.tensor(g.astype(np.float64)).to(y.dtype))
        return [x.grad.to(td.float64).numpy() for x in leaves]

    for one, want in zip(gradients_in(name), gradients_in("float64"), strict=True):
        rounding = np.square(want.astype(normal(0, name).dtype) - want).sum()
        assert np.square(one - want).sum() < 1.3 * rounding


@pytest.mark.parametrize(
    "want", [(True, False, False), (False, True, False), (False, False, True), (True, True, False)]
)
@pytest.mark.parametrize("sizes", [(1, 1, 300, 200, 24, 24), (4, 8, 40, 40, 16, 8)])
def test_gradient_in_part(sizes, want):
    q, k, v = operands(sizes, "float32")
    b, h, m, n, d, e = sizes
    outs = [spec((b, h, m, e), "float32"), spec((b, h, m, 1), "float32")]
    attrs = {"scale": 0.2, "causal": True}
    y, lse = run(module, "attention", [q, k, v, None], outs, **attrs)
    ins, outs = [normal(y.shape, "float32", 9), q, k, v, None, y, lse], [spec(x.shape, "float32") for x in (q, k, v)]
    whole = run(module, "attention_grad", ins, outs, **attrs)
    part = run(module, "attention_grad", ins, outs, want, **attrs)
    for wanted, one, other in zip(want, part, whole, strict=True):
        assert one.tobytes() == other.tobytes() if wanted else one is None


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [32, 7])
def test_heads_split_from_one_projection(width, name):
    b, h, m = 2, 3, 50
    packed = normal((b, m, 3, h, width), name)
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    dense = [np.ascontiguousarray(x) for x in (q, k, v)]
    outs = [spec((b, h, m, width), name), spec((b, h, m, 1), statistic(name))]
    attrs = {"scale": 0.5, "causal": True}
    y, lse = run(module, "attention", [q, k, v, None], outs, **attrs)
    other = run(module, "attention", [*dense, None], outs, **attrs)
    assert y.tobytes() == other[0].tobytes() and lse.tobytes() == other[1].tobytes()
    outs = [spec(q.shape, name)] * 3
    g = normal((b, m, h, width), name, 1).transpose(0, 2, 1, 3)
    got = run(module, "attention_grad", [g, q, k, v, None, y, lse], outs, **attrs)
    want = run(module, "attention_grad", [np.ascontiguousarray(g), *dense, None, y, lse], outs, **attrs)
    assert [x.tobytes() for x in got] == [x.tobytes() for x in want]


@pytest.mark.parametrize("axes", [(0, 1, 3, 2), (3, 2, 1, 0), (2, 0, 1, 3)])
@pytest.mark.parametrize("kind", ["bool", "float32", "float16"])
def test_mask_strides(axes, kind):
    sizes = (2, 3, 40, 70, 8, 8)
    q, k, v = operands(sizes, "float32")
    base = normal(tuple(np.array(sizes[:4])[list(axes)]), "float32")
    base = base > 0 if kind == "bool" else base.astype(kind)
    mask = base.transpose(np.argsort(axes))
    assert mask.shape == sizes[:4]
    y = run(module, "attention", [q, k, v, mask], [spec((2, 3, 40, 8), "float32")], scale=0.4, causal=False)
    p, _ = probabilities(*wide(q, k), mask, 0.4, False)
    close(y, p @ wide(v)[0], "float32", 4)


def test_large_scores_and_nan():
    q, k, v = operands((1, 1, 5, 9, 8, 8), "float32")
    q[0, 0, 0] *= 1e4
    q[0, 0, 1, 0] = np.nan
    y = run(module, "attention", [q, k, v, None], [spec((1, 1, 5, 8), "float32")], scale=1.0, causal=False)
    p, _ = probabilities(*wide(q, k), None, 1.0, False)
    close(np.delete(y, 1, 2), np.delete(p @ wide(v)[0], 1, 2), "float32", 4)
    assert np.isnan(y[0, 0, 1]).all()


@pytest.mark.parametrize(
    "sizes", [(0, 2, 3, 4, 5, 6), (2, 3, 0, 4, 5, 6), (2, 3, 4, 0, 5, 6), (2, 3, 4, 5, 0, 6), (2, 3, 4, 5, 6, 0)]
)
def test_empty(sizes):
    b, h, m, n, d, e = sizes
    q, k, v = operands(sizes, "float32")
    outs = [spec((b, h, m, e), "float32"), spec((b, h, m, 1), "float32")]
    attrs = {"scale": 1.0, "causal": False}
    y, lse = run(module, "attention", [q, k, v, None], outs, **attrs)
    if n == 0:
        assert (y == 0).all() and (lse == -np.inf).all()
    grads = run(
        module, "attention_grad", [y, q, k, v, None, y, lse], [spec(x.shape, "float32") for x in (q, k, v)], **attrs
    )
    assert all((x == 0).all() for x in grads[:2]) and [x.shape for x in grads] == [q.shape, k.shape, v.shape]
