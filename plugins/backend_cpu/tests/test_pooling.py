"""Maximum and average pooling with their gradients against NumPy: window by window."""

import numpy as np
import pytest
from calls import FLOATS, close, normal, numpy_dtype, on_threads, storage
from test_conv import bind, run, spec

from treadle_backend_cpu.kernels import pooling

ONE, NIL = (1, 1), (0, 0)


def attrs(kernel_size, stride, padding=NIL, dilation=ONE):
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}


# image, attributes, how many windows more than fit (as ceil_mode makes)
CASES = [
    ((2, 3, 6, 8), attrs((2, 2), (2, 2)), NIL),
    ((3, 2, 7, 9), attrs((2, 2), (2, 2)), NIL),  # a row and a column are left over
    ((1, 5, 14, 66), attrs((2, 2), (2, 2)), NIL),
    ((2, 2, 7, 35), attrs((2, 2), (2, 2)), (1, 1)),
    ((1, 3, 15, 40), attrs((3, 3), (2, 2), (1, 1)), NIL),
    ((1, 2, 7, 6), attrs((2, 3), (2, 2)), (1, 1)),
    ((2, 1, 9, 9), attrs((2, 2), (1, 2), NIL, (2, 3)), NIL),
    ((1, 2, 12, 20), attrs((3, 2), (1, 1), (1, 1), (2, 1)), NIL),
    ((1, 2, 10, 37), attrs((3, 3), (3, 3)), NIL),
    ((2, 4, 5, 5), attrs((5, 5), (5, 5)), NIL),  # global
    ((1, 1, 1, 30), attrs((1, 4), (1, 3)), NIL),
    ((1, 3, 20, 17), attrs((2, 2), (5, 4)), NIL),  # stride beyond the window
]
NAMES = FLOATS


def y_shape(image, extra, kernel_size, stride, padding, dilation):
    sizes = zip(image[2:], kernel_size, stride, padding, dilation, extra, strict=True)
    return (*image[:2], *((n + 2 * p - d * (k - 1) - 1) // s + 1 + e for n, k, s, p, d, e in sizes))


def window(image, i, j, kernel_size, stride, padding, dilation):
    """Return the rows and columns of the image in window (i, j)."""
    tops = (i * stride[0] - padding[0], j * stride[1] - padding[1])
    for top, k, d, n in zip(tops, kernel_size, dilation, image[2:], strict=True):
        yield [at for at in range(top, top + k * d, d) if 0 <= at < n]


def expected_max(x, out, kw):
    planes = x.reshape(-1, *x.shape[2:])
    y, index = np.empty((len(planes), *out[2:])), np.empty((len(planes), *out[2:]), np.int64)
    for i in range(out[2]):
        for j in range(out[3]):
            rows, cols = window(x.shape, i, j, **kw)
            values = planes[:, rows][:, :, cols].reshape(len(planes), -1)
            best = values.argmax(1)  # the first; NaN wins
            y[:, i, j] = values[np.arange(len(planes)), best]
            index[:, i, j] = np.array(rows)[best // len(cols)] * x.shape[3] + np.array(cols)[best % len(cols)]
    return y.reshape(out), index.reshape(out)


def expected_max_grad(g, index, image):
    gx = np.zeros((image[0] * image[1], image[2] * image[3]))
    for plane, at, values in zip(gx, index.reshape(len(gx), -1), g.reshape(len(gx), -1), strict=True):
        np.add.at(plane, at, values)
    return gx.reshape(image)


def average_matrix(image, out, count_padding, kw):
    """Return the (OH, OW, H, W) weights of every input in every window."""
    matrix = np.zeros((*out[2:], *image[2:]))
    for i in range(out[2]):
        for j in range(out[3]):
            rows, cols = window(image, i, j, **kw)
            counts = [len(rows), len(cols)]
            if count_padding:
                starts = (i * kw["stride"][0] - kw["padding"][0], j * kw["stride"][1] - kw["padding"][1])
                sizes = zip(starts, kw["kernel_size"], image[2:], kw["padding"], strict=True)
                counts = [min(top + k, n + p) - top for top, k, n, p in sizes]
            matrix[i, j, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = 1 / (counts[0] * counts[1])
    return matrix


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("values", ["normal", "ties", "special"])
def test_maximum(case, name, values):
    image, kw, extra = CASES[case]
    x, out = normal(image, name), y_shape(image, extra, **kw)
    if values == "ties":
        x = np.round(x.astype(np.float64)).astype(x.dtype)
    if values == "special":
        chosen = np.random.default_rng(1).integers(0, 4, image)
        x = np.choose(chosen, [x.astype(np.float64), np.nan, -np.inf, -np.inf]).astype(x.dtype)
    outs = [spec(out, name), spec(out, "int64")]
    y, index = on_threads(lambda: run(pooling, "max_pool2d", [x], outs, **kw))
    want_y, want_index = expected_max(x.astype(np.float64), out, kw)
    np.testing.assert_array_equal(y.astype(np.float64), want_y)
    np.testing.assert_array_equal(index, want_index)
    only_y, nothing = run(pooling, "max_pool2d", [x], outs, want=(True, False), **kw)
    assert nothing is None
    assert only_y.tobytes() == y.tobytes()
    assert run(pooling, "max_pool2d_indices", [x], outs[1:], **kw).tobytes() == index.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_maximum_gradient(case, name):
    image, kw, extra = CASES[case]
    out = y_shape(image, extra, **kw)
    g, index = normal(out, name, 3), expected_max(normal(image), out, kw)[1]
    (gx,) = on_threads(lambda: run(pooling, "max_pool2d_grad", [g, index], [spec(image, name)], input_size=image))
    close(gx, expected_max_grad(g.astype(np.float64), index, image), name)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("image", [(2, 2, 6, 8), (1, 2, 7, 41), (1, 2, 5, 64)])
def test_maximum_gradient_of_any_indices(image, name):
    out = (*image[:2], image[2] // 2, image[3] // 2)
    index = np.random.default_rng(0).integers(0, image[2] * image[3], out)  # not in the windows of 2 x 2
    g = normal(out, name)
    gx = run(pooling, "max_pool2d_grad", [g, index], [spec(image, name)], input_size=image)
    close(gx, expected_max_grad(g.astype(np.float64), index, image), name, 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [-1, 48, 2**31 + 1, 2**32, 2**32 + 1, -(2**62), -(2**63)])
@pytest.mark.parametrize("out", [(1, 9, 3, 4), (1, 9, 4, 4)])
def test_an_index_outside_its_plane_is_refused_before_anything_is_written(out, wrong, name):
    index = np.zeros(out, np.int64)
    index[0, 8, 2, 3] = wrong  # in the last plane
    image = (1, 9, 6, 8)
    operands = [normal(out, name), index]
    kernel = bind(pooling, "max_pool2d_grad", operands, [spec(image, name)], input_size=image)
    gx = np.full(image, 7, numpy_dtype(name))
    with pytest.raises(IndexError, match="max_pool2d_grad"):
        kernel(*(storage(x) for x in operands), storage(gx))
    assert (gx == 7).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [k for k, (_, kw, _) in enumerate(CASES) if kw["dilation"] == ONE])
@pytest.mark.parametrize("count_padding", [True, False])
def test_average(case, name, count_padding):
    image, kw, extra = CASES[case]
    out = y_shape(image, extra, **kw)
    weights = average_matrix(image, out, count_padding, kw)
    x, g = normal(image, name), normal(out, name, 1)
    kw = {k: v for k, v in kw.items() if k != "dilation"} | {"count_include_pad": count_padding}
    (y,) = on_threads(lambda: run(pooling, "avg_pool2d", [x], [spec(out, name)], **kw))
    close(y, np.einsum("nchw,ijhw->ncij", x.astype(np.float64), weights), name, 4)
    (gx,) = on_threads(lambda: run(pooling, "avg_pool2d_grad", [g], [spec(image, name)], input_size=image, **kw))
    close(gx, np.einsum("ncij,ijhw->nchw", g.astype(np.float64), weights), name, 4)


def test_empty_batches_and_planes():
    kw = attrs((2, 2), (2, 2))
    none = np.zeros((0, 3, 4, 4), numpy_dtype("float32"))
    y, index = run(pooling, "max_pool2d", [none], [spec((0, 3, 2, 2), "float32"), spec((0, 3, 2, 2), "int64")], **kw)
    assert y.shape == index.shape == (0, 3, 2, 2)
    flat = np.zeros((1, 3, 0, 4), numpy_dtype("float32"))
    assert (
        bind(pooling, "max_pool2d", [flat], [spec((1, 3, 0, 2), "float32"), spec((1, 3, 0, 2), "int64")], **kw) is None
    )
