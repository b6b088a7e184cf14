"""Embedding look-up and the gradient of its table."""

import numpy as np
import pytest
from calls import FLOATS, bind, close, normal, on_threads, run, spec, wide

from treadle_backend_cpu.kernels import embedding as module

CASES = [
    (5, 3, (4,)),
    (9, 4, (2, 3)),
    (5, 3, (0,)),
    (5, 3, ()),
    (1000, 256, (1024,)),
    (300, 33, (40, 50)),
    (3, 700, (90,)),
]


def indices(shape, n, kind="int64"):
    return np.random.default_rng(1).integers(0, n, shape).astype(kind)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("n", "width", "shape"), CASES)
def test_embedding(n, width, shape, name, kind):
    w, i = normal((n, width), name), indices(shape, n, kind)
    (y,) = on_threads(lambda: run(module, "embedding", [w, i], [spec((*shape, width), name)], padding_idx=1))
    assert y.tobytes() == w[i].tobytes()


@pytest.mark.parametrize("padding", [-1, 1])
@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("n", "width", "shape"), CASES)
def test_gradient(n, width, shape, name, kind, padding):
    g, i, out = normal((*shape, width), name), indices(shape, n, kind), spec((n, width), name)
    attrs = {"num_embeddings": n, "padding_idx": padding}
    (gw,) = on_threads(lambda: run(module, "embedding_grad", [g, i], [out], **attrs))
    want = np.zeros((n, width))
    np.add.at(want, i.reshape(-1), wide(g)[0].reshape(-1, width) * (i.reshape(-1, 1) != padding))
    close(gw, want, name, 4)


def test_gradient_adds_in_the_order_of_the_indices():
    g = np.array([[1e8], [1], [-1e8], [1]], np.float32)
    i = np.array([1, 1, 1, 1])
    gw = run(module, "embedding_grad", [g, i], [spec((3, 1), "float32")], num_embeddings=3, padding_idx=-1)
    assert gw.tolist() == [[0], [1], [0]]


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
def test_indices_outside_are_an_index_error(bad, kind):
    i = np.array([0, 4, bad, 2], kind)
    with pytest.raises(IndexError, match=rf"index {bad} is outside \[0, 5\)"):
        run(module, "embedding", [normal((5, 3), "float32"), i], [spec((4, 3), "float32")], padding_idx=-1)
    with pytest.raises(IndexError, match=rf"index {bad} is outside \[0, 5\)"):
        g, out = normal((4, 3), "float32"), spec((5, 3), "float32")
        run(module, "embedding_grad", [g, i], [out], num_embeddings=5, padding_idx=-1)


@pytest.mark.parametrize(("n", "width", "count"), [(0, 3, 0), (3, 0, 2), (0, 0, 0)])
def test_nothing(n, width, count):
    w, i = np.empty((n, width), np.float32), np.zeros(count, np.int64)
    y = run(module, "embedding", [w, i], [spec((count, width), "float32")], padding_idx=-1)
    gw = run(module, "embedding_grad", [y, i], [spec((n, width), "float32")], num_embeddings=n, padding_idx=-1)
    assert y.shape == (count, width) and gw.shape == (n, width)


def test_other_index_types_are_declined():
    w, i = normal((5, 3), "float32"), np.zeros(2, np.int16)
    assert bind(module, "embedding", [w, i], [spec((2, 3), "float32")], padding_idx=-1) is None
