"""conv2d and its gradients against NumPy in float64: odd shapes, strides, dilation, groups, threads, special values."""

from types import SimpleNamespace

import numpy as np
import pytest
from calls import FLOATS, array, factory, normal, numpy_dtype, on_threads, storage, wide

from treadle.dtypes import dtype
from treadle.spec import Spec
from treadle_backend_cpu.kernels import conv

EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
COMPUTE_EPS = EPS | {"float16": 2.0**-24, "bfloat16": 2.0**-24}
ONE, NIL = (1, 1), (0, 0)


def spec(shape, name):
    return Spec(tuple(int(n) for n in shape), dtype(name))


def bind(module, op, ins, outs, want=None, **attrs):
    """Return the bound kernel for dense arrays and result specs; None where the factory declines."""
    want = (True,) * len(outs) if want is None else want
    call = SimpleNamespace(
        op=SimpleNamespace(name=op),
        ins=tuple(spec(x.shape, x.dtype.name) for x in ins),
        outs=tuple(outs),
        attrs=attrs,
        want=want,
    )
    return factory(module, op)(None, call)


def run(module, op, ins, outs, want=None, **attrs):
    """Bind and run; returns an array per result, None for what is not wanted, without a tuple around a single one."""
    made = bind(module, op, ins, outs, want, **attrs)(*(storage(x) for x in ins))
    made = made if isinstance(made, tuple) else (made,)
    results = tuple(None if m is None else array(m, o) for m, o in zip(made, outs, strict=True))
    return results if len(results) > 1 else results[0]


def attrs(stride=ONE, padding=NIL, dilation=ONE, groups=1):
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


# image, weight, attributes
CASES = [
    ((2, 3, 7, 8), (4, 3, 3, 3), attrs(padding=(1, 1))),
    ((1, 64, 14, 14), (64, 64, 3, 3), attrs(padding=(1, 1))),  # hot path: whole tiles
    ((2, 33, 9, 15), (47, 33, 3, 3), attrs(padding=(1, 1))),  # no size a multiple of anything
    ((3, 130, 4, 4), (70, 130, 3, 3), attrs(padding=(1, 1))),  # several parts of the input channels
    ((5, 20, 2, 3), (96, 20, 3, 3), attrs(padding=(1, 1))),  # pixels gathered over images
    ((1, 300, 1, 1), (100, 300, 3, 3), attrs(padding=(1, 1))),
    ((2, 48, 6, 7), (80, 48, 1, 1), attrs()),  # in place
    ((2, 48, 7, 7), (40, 48, 1, 1), attrs(stride=(2, 2))),
    ((1, 3, 40, 37), (64, 3, 7, 7), attrs(stride=(2, 2), padding=(3, 3))),
    ((2, 1, 28, 28), (32, 1, 3, 3), attrs(padding=(1, 1))),  # first layer
    ((2, 16, 11, 13), (32, 16, 3, 3), attrs(stride=(2, 3), padding=(1, 2))),
    ((2, 4, 9, 70), (6, 2, 3, 2), attrs(stride=(2, 1), groups=2)),
    ((2, 8, 12, 20), (8, 1, 3, 3), attrs(padding=(1, 1), groups=8)),  # depthwise
    ((1, 5, 12, 33), (15, 1, 5, 3), attrs(stride=(2, 2), padding=(2, 1), groups=5)),
    ((1, 40, 9, 9), (80, 20, 3, 3), attrs(padding=(2, 2), dilation=(2, 2), groups=2)),
    ((1, 3, 8, 8), (3, 1, 3, 3), attrs(padding=(2, 1), dilation=(2, 1), groups=3)),
    ((2, 6, 3, 50), (20, 6, 1, 9), attrs(padding=(0, 4))),  # one row
    ((2, 6, 50, 3), (20, 6, 9, 1), attrs(padding=(4, 0), stride=(2, 1))),
    ((1, 4, 3, 3), (5, 4, 7, 7), attrs(padding=(3, 3))),  # kernel larger than the input
    ((2, 4, 9, 9), (17, 4, 2, 2), attrs(stride=(4, 5))),  # stride beyond the kernel: some inputs are not read
    ((1, 20, 12, 9), (33, 20, 3, 3), attrs(padding=(4, 3))),  # more padding than the kernel reaches
    ((1, 17, 9, 8), (40, 17, 3, 3), attrs(padding=(3, 3), dilation=(7, 6))),
]
PASSES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")


def y_shape(image, weight, stride, padding, dilation, groups):
    sizes = zip(image[2:], weight[2:], stride, padding, dilation, strict=True)
    return (image[0], weight[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes))


def taps(weight, y, stride, dilation):
    """Yield each kernel position with the slices of the padded image that it reads."""
    for i in range(weight[2]):
        for j in range(weight[3]):
            at = (i * dilation[0], j * dilation[1])
            rows, cols = (slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(at, y[2:], stride, strict=True))
            yield i, j, (slice(None), slice(None), slice(None), rows, cols)


def expected(op, a, b, image, weight, stride, padding, dilation, groups):
    """Compute a pass in float64, tap by tap; a and b are the operands."""
    n, o, oh, ow = y = y_shape(image, weight, stride, padding, dilation, groups)
    padded = np.zeros((n, groups, image[1] // groups, image[2] + 2 * padding[0], image[3] + 2 * padding[1]))
    inner = (slice(None),) * 3 + tuple(slice(p, p + size) for p, size in zip(padding, image[2:], strict=True))
    split = (groups, o // groups, *weight[1:])
    if op != "conv2d_input_grad":
        padded[inner] = (a if op == "conv2d" else b).reshape(n, groups, -1, *image[2:])
    if op == "conv2d":
        out, w = np.zeros((n, groups, o // groups, oh, ow)), b.reshape(split)
        for i, j, window in taps(weight, y, stride, dilation):
            out += np.einsum("ngchw,goc->ngohw", padded[window], w[..., i, j], optimize=True)
        return out.reshape(y)
    g = a.reshape(n, groups, o // groups, oh, ow)
    if op == "conv2d_weight_grad":
        out = np.zeros(split)
        for i, j, window in taps(weight, y, stride, dilation):
            out[..., i, j] = np.einsum("ngohw,ngchw->goc", g, padded[window], optimize=True)
        return out.reshape(weight)
    w = b.reshape(split)
    for i, j, window in taps(weight, y, stride, dilation):
        padded[window] += np.einsum("ngohw,goc->ngchw", g, w[..., i, j], optimize=True)
    return padded[inner].reshape(image)


def operands(op, name, image, weight, kw):
    """Return the operands of a pass, its result's spec and size attribute, and how many products an element sums."""
    x, w, g = normal(image, name, 0), normal(weight, name, 1), normal(y_shape(image, weight, **kw), name, 2)
    if op == "conv2d":
        return (x, w), spec(g.shape, name), {}, np.prod(weight[1:])
    if op == "conv2d_input_grad":
        return (g, w), spec(image, name), {"input_size": image}, np.prod(weight[2:]) * weight[0] // kw["groups"]
    return (g, x), spec(weight, name), {"weight_size": weight}, image[0] * g.shape[2] * g.shape[3]


def check(got, op, ins, image, weight, name, terms, kw):
    exact = expected(op, *wide(*ins), image, weight, **kw)
    size = expected(op, *(np.abs(x) for x in wide(*ins)), image, weight, **kw)
    bound = 4 * np.sqrt(terms) * COMPUTE_EPS[name] * size + EPS[name] * np.abs(exact) + 1e-30
    bound += 2.0**-24 if name == "float16" else 0  # subnormal results
    error = np.abs(got.astype(np.float64) - exact)
    assert np.all(error <= bound), (error / bound).max()


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("op", PASSES)
def test_against_float64(op, case, name):
    image, weight, kw = CASES[case]
    ins, out, size, terms = operands(op, name, image, weight, kw)
    (got,) = on_threads(lambda: run(conv, op, ins, [out], **size, **kw))
    check(got, op, ins, image, weight, name, terms, kw)


@pytest.mark.parametrize("seed", range(60))
def test_random_shapes(seed):
    r = np.random.default_rng(seed)
    pick = lambda *sizes: int(r.choice(sizes))
    groups = pick(1, 1, 1, 2, 3)
    weight = (groups * pick(1, 3, 8, 17, 32, 65), pick(1, 2, 5, 16, 33), pick(1, 2, 3, 3, 5), pick(1, 2, 3, 3, 5))
    kw = attrs(
        (pick(1, 1, 2, 3), pick(1, 1, 2, 3)), (pick(0, 1, 2), pick(0, 1, 2)), (pick(1, 1, 2), pick(1, 1, 2)), groups
    )
    image = (pick(1, 2, 5), groups * weight[1], *(int(r.integers(9, 20)) for _ in range(2)))
    for op in PASSES:
        ins, out, size, terms = operands(op, "float32", image, weight, kw)
        check(run(conv, op, ins, [out], **size, **kw), op, ins, image, weight, "float32", terms, kw)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("case", [0, 1, 2, 4, 6, 9, 12])
def test_bias(case, name):
    image, weight, kw = CASES[case]
    (x, w), out, _, terms = operands("conv2d", name, image, weight, kw)
    bias = normal(weight[:1], name, 5)
    got = run(conv, "conv2d", [x, w, bias], [out], **kw).astype(np.float64)
    exact = expected("conv2d", *wide(x, w), image, weight, **kw) + bias.astype(np.float64).reshape(-1, 1, 1)
    scale = np.abs(exact).max() * (EPS[name] + 4 * terms * COMPUTE_EPS[name])
    np.testing.assert_allclose(got, exact, rtol=EPS[name], atol=scale)


def test_large_batches_use_every_partial_sum():
    image, weight, kw = (37, 3, 20, 20), (40, 3, 3, 3), attrs(padding=(1, 1))
    for op in PASSES:
        ins, out, size, terms = operands(op, "float32", image, weight, kw)
        (got,) = on_threads(lambda ins=ins, out=out, size=size, op=op: run(conv, op, ins, [out], **size, **kw))
        check(got, op, ins, image, weight, "float32", terms, kw)


@pytest.mark.parametrize("shape", [(64, 8), (64, 64), (1, 4)])
def test_nan_and_infinity_reach_only_what_reads_them(shape):
    out_channels, in_channels = shape
    x, w = normal((2, in_channels, 9, 20), "float32"), normal((out_channels, in_channels, 3, 3), "float32", 1)
    x[0, 1, 4, 7], x[1, 2, 0, 19] = np.nan, np.inf
    y = run(conv, "conv2d", [x, w], [spec((2, out_channels, 9, 20), "float32")], **attrs(padding=(1, 1)))
    reads = np.zeros((2, 9, 20), bool)
    reads[0, 3:6, 6:9] = reads[1, 0:2, 18:20] = True
    assert (np.isfinite(y) == ~reads[:, None]).all()
    assert np.isnan(y[0, :, 3:6, 6:9]).all()


@pytest.mark.parametrize("channels", [1, 40])
def test_weight_gradient_ignores_what_no_output_read(channels):
    x, g = normal((1, channels, 8, 9), "float32"), normal((1, 40, 3, 3), "float32", 1)
    x[..., 7, :] = x[..., :, 8] = np.nan  # a kernel of 3 with stride 2 and 3 outputs reads rows and columns 0 to 6
    gw = run(
        conv,
        "conv2d_weight_grad",
        [g, x],
        [spec((40, channels, 3, 3), "float32")],
        weight_size=(40, channels, 3, 3),
        **attrs(stride=(2, 2)),
    )
    assert np.isfinite(gw).all()


def test_declines_what_it_does_not_compute():
    x, w = normal((1, 2, 5, 5), "float32"), normal((3, 2, 3, 3), "float64")
    assert bind(conv, "conv2d", [x, w], [spec((1, 3, 3, 3), "float32")], **attrs()) is None
    empty, w = np.zeros((0, 2, 5, 5), numpy_dtype("float32")), w.astype("float32")
    assert bind(conv, "conv2d", [empty, w], [spec((0, 3, 3, 3), "float32")], **attrs()) is None
