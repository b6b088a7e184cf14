"""Layouts of a batch: any chain of views, read and written, against the same for every example."""

import numpy as np
import pytest

import treadle as td
from treadle.batching import layout


def chain(rng, x):
    """A random view of x, as a list of steps that can be taken again."""
    steps = []
    for _ in range(rng.integers(1, 5)):
        shape = x.shape
        axis = int(rng.integers(len(shape))) if shape else 0
        kind = rng.choice(["slice", "permute", "flip", "reshape", "expand", "new", "pick", "windows"])
        if kind == "slice" and shape:
            n = shape[axis]
            start, step = int(rng.integers(0, n)) if n else 0, int(rng.integers(1, 4))
            key = (slice(None),) * axis + (slice(start, None, step),)
            take = lambda v, key=key: v[key]
        elif kind == "permute" and shape:
            axes = tuple(int(a) for a in rng.permutation(len(shape)))
            take = lambda v, axes=axes: v.permute(*axes)
        elif kind == "flip" and shape:
            take = lambda v, axis=axis: v.flip(axis)
        elif kind == "reshape" and shape:
            sizes = [n for n in (2, 3, 4) if shape[axis] % n == 0 and shape[axis]]
            if not sizes:
                continue
            n = int(rng.choice(sizes))
            to = (*shape[:axis], n, shape[axis] // n, *shape[axis + 1 :])
            take = lambda v, to=to: v.reshape(to)
        elif kind == "expand":
            take = lambda v: v.expand(2, *v.shape)
        elif kind == "new":
            take = lambda v, axis=axis: v.unsqueeze(axis)
        elif kind == "pick" and len(shape) > 1 and shape[axis]:
            key = (slice(None),) * axis + (int(rng.integers(shape[axis])),)
            take = lambda v, key=key: v[key]
        elif kind == "windows" and shape and shape[axis] > 2:
            take = lambda v, axis=axis: td.ops.windows(v, axis, 2, 1, 1)
        else:
            continue
        x = take(x)
        steps.append(take)
    return steps


def taken(steps, x):
    for take in steps:
        x = take(x)
    return x


SHAPES = [(12,), (4, 6), (6, 4), (2, 3, 4), (5, 7), (1, 6, 2), (4, 0), (3, 1, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chains_of_views(shape):
    rng = np.random.default_rng(sum(shape))
    for trial in range(40):
        x = td.tensor(rng.standard_normal((3, *shape)))
        source = x.permute(0, *range(len(shape), 0, -1)) if trial % 3 == 0 else x
        steps = chain(rng, source[0])
        f = lambda v, steps=steps: taken(steps, v * 1.0 if trial % 2 else v)
        got = td.vmap(f)(source)
        want = td.stack([f(v) for v in source])
        np.testing.assert_array_equal(got.numpy_copy(), want.numpy_copy())
        slope = td.grad(lambda s: (td.vmap(f)(s) ** 2).sum())(source)
        plain = td.grad(lambda s: (td.stack([f(v) for v in s]) ** 2).sum())(source)
        np.testing.assert_allclose(slope.numpy_copy(), plain.numpy_copy(), 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_writes_through_chains_of_views(shape):
    rng = np.random.default_rng(sum(shape) + 1)
    written = 0
    for trial in range(40):
        x = td.tensor(rng.standard_normal((3, *shape)))
        steps, own = chain(rng, x[0]), trial % 2

        def f(v, u, steps=steps, own=own):
            whole = v * 1.0 if own else v
            taken(steps, whole).mul_(3.0).add_(u)
            return whole * 1.0

        u = td.tensor([1.0, 2.0, 3.0], dtype=td.float64)
        try:
            want = td.stack([f(v, w) for v, w in zip(x.clone(), u, strict=True)])
        except td.errors.AutogradError:  # elements that share memory
            continue
        written += 1
        np.testing.assert_array_equal(td.vmap(f)(x.clone(), u).numpy_copy(), want.numpy_copy())
        if not own:
            y = x.clone()
            td.vmap(f)(y, u)
            np.testing.assert_array_equal(y.numpy_copy(), want.numpy_copy())
    assert written > 5


def test_most_layouts_need_no_strides():
    """What slices, regroupings and orders of axes made is found again as such."""
    dense = layout.dense_strides
    for root, shape, strides, offset in (
        ((4, 6), (6, 4), (1, 6), 0),  # transposed
        ((4, 6), (2, 3), (12, 2), 1),  # sliced
        ((4, 6), (4, 2, 3), (6, 3, 1), 0),  # regrouped
        ((4, 6), (3, 4, 2), (1, 6, 3), 0),  # regrouped, then reordered
        ((4, 6), (6,), (-1,), 23),  # one row backwards
        ((2, 3, 4), (4, 5), (1, 0), 8),  # repeated
        ((24,), (), (), 7),  # one element
    ):
        assert layout.steps(root, (shape, strides, offset)) is not None, (root, shape, strides)
    assert layout.steps((8,), ((7, 2), (1, 1), 0)) is None  # windows overlap
    assert dense((2, 3)) == (3, 1)
