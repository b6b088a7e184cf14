"""3 x 3 convolutions that are large enough for Winograd's method: accuracy, edges, special values, equal bits."""

import numpy as np
import pytest
from calls import FLOATS, normal, on_threads
from test_conv import EPS, NIL, ONE, attrs, check, expected, operands, run, taps

from treadle_backend_cpu.kernels import conv

# image, output channels, padding
CASES = [
    ((2, 16, 8, 8), 16, ONE),  # whole tiles
    ((3, 17, 9, 11), 33, ONE),  # no size a multiple of anything
    ((1, 33, 30, 5), 20, (1, 0)),
    ((2, 64, 28, 28), 64, ONE),
    ((1, 40, 7, 261), 16, ONE),  # lines of tiles in two pieces
    ((12, 20, 13, 14), 48, NIL),  # gradient: outputs that read a single row or column
    ((9, 24, 17, 12), 24, (2, 2)),
    ((9, 24, 17, 20), 24, (2, 1)),
    ((4, 130, 6, 6), 160, ONE),  # more weights than input; two parts
    ((8, 300, 4, 4), 100, ONE),
    ((1, 512, 44, 44), 136, ONE),  # more than one round
]
PASSES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")


def case(op, index, name="float32"):
    image, channels, padding = CASES[index]
    kw, weight = attrs(padding=padding), (channels, image[1], 3, 3)
    return (*operands(op, name, image, weight, kw), image, weight, kw)


@pytest.mark.parametrize("index", range(len(CASES)))
@pytest.mark.parametrize("op", PASSES)
def test_against_float64(op, index):
    ins, out, size, terms, image, weight, kw = case(op, index)
    (got,) = on_threads(lambda: run(conv, op, ins, [out], **size, **kw))
    check(got, op, ins, image, weight, "float32", terms, kw)


@pytest.mark.parametrize("name", [name for name in FLOATS if name != "float32"])
@pytest.mark.parametrize("op", PASSES)
def test_other_dtypes(op, name):
    ins, out, size, terms, image, weight, kw = case(op, 1, name)
    check(run(conv, op, ins, [out], **size, **kw), op, ins, image, weight, name, terms, kw)


@pytest.mark.parametrize("seed", range(40))
def test_random_shapes(seed):
    r = np.random.default_rng(seed)
    image = (int(r.integers(1, 6)), *(int(r.integers(*ends)) for ends in ((16, 80), (1, 24), (1, 24))))
    padding = tuple(int(r.integers(0 if n > 2 else 1, 3)) for n in image[2:])
    weight, kw = (int(r.integers(16, 80)), image[1], 3, 3), attrs(padding=padding)
    for op in PASSES:
        ins, out, size, terms = operands(op, "float32", image, weight, kw)
        check(run(conv, op, ins, [out], **size, **kw), op, ins, image, weight, "float32", terms, kw)


def plain_sums(x, w, kw):
    """Sum the products of conv2d one after another in float32."""
    y = np.zeros((x.shape[0], w.shape[0], *x.shape[2:]), np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), ONE, ONE))
    for i, j, window in taps(w.shape, y.shape, ONE, ONE):
        pixels = padded[:, None][window]
        for channel in range(x.shape[1]):
            y += pixels[:, :, channel] * w[:, channel, i, j].reshape(-1, 1, 1)
    return y


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_error_is_near_that_of_plain_sums(channels):
    image, weight, kw = (2, channels, 16, 16), (32, channels, 3, 3), attrs(padding=ONE)
    (x, w), out, _, terms = operands("conv2d", "float32", image, weight, kw)
    exact = expected("conv2d", x.astype(np.float64), w.astype(np.float64), image, weight, **kw)
    sizes = expected("conv2d", np.abs(x).astype(np.float64), np.abs(w).astype(np.float64), image, weight, **kw)
    got, plain = run(conv, "conv2d", [x, w], [out], **kw), plain_sums(x, w, kw)
    assert np.sqrt(np.mean((got - exact) ** 2)) < 2.5 * np.sqrt(np.mean((plain - exact) ** 2))
    assert (np.abs(got - exact) / sizes).max() < np.sqrt(terms) * EPS["float32"]


@pytest.mark.parametrize("index", [1, 5, 8])
def test_bias(index):
    (x, w), out, _, terms, image, weight, kw = case("conv2d", index)
    bias = normal(weight[:1], "float32", 5)
    got = run(conv, "conv2d", [x, w, bias], [out], **kw).astype(np.float64)
    exact = expected("conv2d", x.astype(np.float64), w.astype(np.float64), image, weight, **kw)
    exact += bias.astype(np.float64).reshape(-1, 1, 1)
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=4 * np.sqrt(terms) * EPS["float32"] * np.abs(exact).max())


def reached(at, size):
    rows, cols = (slice(max(i - 1, 0), min(i + 2, n)) for i, n in zip(at, size, strict=True))
    return (Ellipsis, rows, cols)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_reach_only_what_reads_them(value):
    image, weight, kw = (3, 32, 14, 18), (40, 32, 3, 3), attrs(padding=ONE)
    for op in PASSES[:2]:
        ins, out, size, _ = operands(op, "float32", image, weight, kw)
        plain = run(conv, op, ins, [out], **size, **kw)
        ins[0][1, 3, 5, 17] = value
        got = run(conv, op, ins, [out], **size, **kw)
        reads = np.zeros(image[2:], bool)
        reads[reached((5, 17), image[2:])] = True
        assert (np.isfinite(got[1]) == ~reads).all()
        assert (np.isnan(got[1][:, reads]) == np.isnan(value)).all()
        assert (got[[0, 2]] == plain[[0, 2]]).all()  # other images do not notice


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_reach_only_their_taps(value):
    image, weight, kw = (3, 32, 14, 18), (40, 32, 3, 3), attrs(padding=ONE)
    (g, x), out, size, _ = operands("conv2d_weight_grad", "float32", image, weight, kw)
    x[2, 5, 0, 17] = value
    got = run(conv, "conv2d_weight_grad", [g, x], [out], **size, **kw)
    reads = np.zeros(weight[1:], bool)
    reads[5, :2, 1:] = True  # the last row of a kernel never meets the first row of an image
    assert (np.isfinite(got) == ~reads).all()
    assert (np.isnan(got[:, reads]) == np.isnan(value)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_special_weights(value):
    image, weight, kw = (2, 32, 14, 18), (40, 32, 3, 3), attrs(padding=ONE)
    ins, out, size, _ = operands("conv2d", "float32", image, weight, kw)
    ins[1][7, 3, 0, 2] = value
    got = run(conv, "conv2d", ins, [out], **size, **kw)
    assert np.isfinite(got[:, np.arange(40) != 7]).all()
    assert not np.isfinite(got[:, 7, 1:, :-1]).any()
    assert np.isnan(got[:, 7, 1:, :-1]).all() == np.isnan(value)


def test_large_values_do_not_overflow():
    image, weight, kw = (2, 32, 12, 12), (32, 32, 3, 3), attrs(padding=ONE)
    ins, out, size, terms = operands("conv2d", "float32", image, weight, kw)
    ins[0][:, 4] *= np.float32(1e38) / np.abs(ins[0][:, 4]).max() * 3
    ins[1][:, 4] *= np.float32(1e-3)
    got = run(conv, "conv2d", ins, [out], **size, **kw)
    assert np.isfinite(got).all()
    check(got, "conv2d", ins, image, weight, "float32", terms, kw)
