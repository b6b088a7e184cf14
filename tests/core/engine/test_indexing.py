"""Subscripts against NumPy: hundreds of random expressions, read, written and differentiated; and what must raise."""

import numpy as np
import pytest

import treadle as td

SHAPES = [(5,), (4, 5), (3, 4, 5), (2, 3, 1, 4), (1, 1), (0, 3), (3, 0, 2), ()]


def random_slice(rng, n):
    ends = [None, *range(-n - 2, n + 3)]
    start, stop = (ends[rng.integers(len(ends))] for _ in range(2))
    return slice(start, stop, [None, 1, 2, 3, -1, -2, -3][rng.integers(7)])


def random_basic(rng, shape):
    """A key of integers, slices, None and Ellipsis."""
    key = []
    count = int(rng.integers(0, len(shape) + 1))
    for n in shape[:count]:
        kind = rng.integers(4)
        if kind == 0 and n:
            key.append(int(rng.integers(-n, n)))
        elif kind == 1:
            key += [None, slice(None)]
        else:
            key.append(random_slice(rng, n))
    if count < len(shape) and rng.integers(2):
        key.append(Ellipsis)
        if rng.integers(2):
            key.append(random_slice(rng, shape[-1]))
    return tuple(key) if rng.integers(3) or len(key) != 1 else key[0]


def random_advanced(rng, shape):
    """A key of index arrays and masks that broadcast together, with slices between.

    No integers: NumPy counts them as arrays.
    """
    lead = [(), (1,), (3,), (2, 3)][rng.integers(4)]
    key, axis, chosen = [], 0, False
    while axis < len(shape):
        n, kind = shape[axis], rng.integers(6)
        if kind <= 1 and n:
            size = tuple(1 if rng.integers(4) == 0 else s for s in lead)
            key.append(rng.integers(-n, n, size or (1,)))
            chosen = True
        elif kind == 2 and not chosen:
            rank = int(rng.integers(1, len(shape) - axis + 1))
            mask = rng.integers(0, 2, shape[axis : axis + rank]).astype(bool)
            key.append(mask)
            lead, axis, chosen = (int(mask.sum()),), axis + rank, True
            continue
        elif kind == 3:
            key += [None, slice(None)]
        else:
            key.append(random_slice(rng, n))
        axis += 1
    return tuple(key)


def ours(key):
    """The same key with tensors for half of its arrays."""
    items = key if isinstance(key, tuple) else (key,)
    out = [td.tensor(i) if isinstance(i, np.ndarray) and i.size % 2 else i for i in items]
    return tuple(out) if isinstance(key, tuple) else out[0]


def cases(make, count, seed):
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < count:
        shape = SHAPES[rng.integers(len(SHAPES))]
        key = make(rng, shape)
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        try:
            array[key]
        except IndexError:
            continue  # masks and arrays that do not broadcast
        out.append((array, key, rng))
    return out


@pytest.mark.parametrize("make", [random_basic, random_advanced])
def test_reads_what_numpy_reads(make):
    for array, key, _ in cases(make, 400, 1):
        got = td.tensor(array)[ours(key)]
        want = array[key]
        assert got.shape == want.shape, key
        np.testing.assert_array_equal(got.numpy(), want, err_msg=str(key))


@pytest.mark.parametrize("make", [random_basic, random_advanced])
def test_reads_of_views(make):
    """The same on a transposed, flipped, strided tensor."""
    for array, key, _ in cases(make, 200, 2):
        wide = np.zeros(tuple(2 * n for n in array.shape[::-1]), np.float32)
        step = tuple(slice(None, None, -2) for _ in array.shape)
        wide[step] = array.T
        x = td.tensor(wide)[step].permute(*range(array.ndim)[::-1])
        np.testing.assert_array_equal(x.numpy(), array)
        np.testing.assert_array_equal(x[ours(key)].numpy(), array[key], err_msg=str(key))


@pytest.mark.parametrize("make", [random_basic, random_advanced])
def test_writes_what_numpy_writes(make):
    for array, key, rng in cases(make, 400, 3):
        want, x = array.copy(), td.tensor(array)
        shape = want[key].shape
        value = rng.standard_normal(shape[int(rng.integers(0, len(shape) + 1)) :]).astype(np.float32)
        if rng.integers(3) == 0:
            value = value[..., :1] if value.ndim else value
        if rng.integers(4) == 0:
            value = np.float32(7)
        if _repeats(array, key) and value.size > 1:
            continue  # which of several values for one place stays is not defined
        want[key] = value
        x[ours(key)] = td.tensor(value) if rng.integers(2) else value
        np.testing.assert_array_equal(x.numpy(), want, err_msg=str(key))


def _repeats(array, key):
    places = np.arange(array.size).reshape(array.shape)[key]
    return len(np.unique(places)) != places.size


@pytest.mark.parametrize("make", [random_basic, random_advanced])
def test_gradients_of_reads(make):
    for array, key, rng in cases(make, 150, 4):
        x = td.tensor(array, requires_grad=True)
        y = x[ours(key)]
        g = rng.standard_normal(y.shape).astype(np.float32)
        want = np.zeros_like(array)
        np.add.at(want, key, g)
        y.backward(td.tensor(g))
        np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-6, atol=1e-6, err_msg=str(key))


@pytest.mark.parametrize("make", [random_basic, random_advanced])
def test_gradients_of_writes(make):
    """What is overwritten gets no gradient; the values get those of their places."""
    for array, key, rng in cases(make, 150, 5):
        if _repeats(array, key):
            continue
        shape = array[key].shape
        x, v = (
            td.tensor(array, requires_grad=True),
            td.tensor(rng.standard_normal(shape), dtype=td.float32, requires_grad=True),
        )
        y = x * 1
        y[ours(key)] = v
        g = rng.standard_normal(array.shape).astype(np.float32)
        y.backward(td.tensor(g))
        gx = g.copy()
        gx[key] = 0
        np.testing.assert_array_equal(x.grad.numpy(), gx, err_msg=str(key))
        np.testing.assert_array_equal(v.grad.numpy(), g[key], err_msg=str(key))


def test_basic_keys_are_views_and_others_are_not():
    x = td.zeros(4, 5)
    for key in (0, slice(1, 3), (slice(None), 2), (..., None, 1), slice(None, None, -1), None, ...):
        x.zero_()
        x[key].fill_(1.0)
        assert x.sum().item() > 0, key
    for key in ([0, 1], td.tensor([True, False, True, False]), (slice(None), [0])):
        x.zero_()
        x[key].fill_(1.0)
        assert x.sum().item() == 0, key


def test_more_kinds_of_index():
    x, a = td.arange(24).reshape(2, 3, 4), np.arange(24).reshape(2, 3, 4)
    for key in (
        np.int64(1),
        np.array(1),
        True,
        False,
        (True, 0),
        (slice(None), True),
        np.bool_(True),
        [True, False],
        [],
        [1, 0],
    ):
        np.testing.assert_array_equal(
            x[key].numpy(), a[np.array(key, np.int64) if key == [] else key] if isinstance(key, list) else a[key]
        )
    assert x[range(2)].tolist() == a.tolist() and x[[[]]].shape == (1, 0, 3, 4)
    assert x[td.tensor(1)].tolist() == a[1].tolist() and x[td.tensor(1) :].tolist() == a[1:].tolist()
    assert x[td.tensor(True)].shape == (1, 2, 3, 4) and x[td.tensor(False)].shape == (0, 2, 3, 4)
    assert (
        td.tensor(5)[()].item() == td.tensor(5)[...].item() == 5
        and td.tensor(5)[None].tolist() == [5]
        and td.tensor(5)[td.tensor(True)].tolist() == [5]
    )
    for kind in (td.int8, td.int16, td.int32, td.uint8, td.uint16, td.uint32):
        assert x[td.tensor([1, 0], dtype=kind)].tolist() == a[[1, 0]].tolist()
    assert [1, 2, 3][td.tensor(1)] == 2
    assert [t.item() for t in td.arange(3)] == [0, 1, 2]


WRONG = [2, -3, (0, 3), (0, 0, 0, 0), (..., ...), 1.0, "a", td.tensor([0.5]), [5], [-3], td.tensor([True, False, True]),
    td.tensor([[True, False], [False, True]]),
         {1}, ([0, 1], [0, 1, 2]), (0, [7]), (slice(None), td.tensor([9, 0])), "no index"]  # fmt: skip


@pytest.mark.parametrize("key", WRONG, ids=str)
def test_wrong_keys_raise_index_error(key):
    x = td.arange(24).reshape(2, 3, 4)
    with pytest.raises(IndexError) as caught:
        x[key]
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    with pytest.raises(IndexError):
        x[key] = 1
    assert x.tolist() == np.arange(24).reshape(2, 3, 4).tolist()  # nothing was written


def test_wrong_slices_and_values():
    x = td.zeros(2, 3)
    with pytest.raises(ValueError, match="step"):
        x[::0]
    with pytest.raises(ValueError, match="slice"):
        x[0.5:]
    with pytest.raises(td.errors.ShapeError):
        x[0] = td.ones(2)
    with pytest.raises(td.errors.ShapeError):
        x[[0, 1]] = td.ones(3, 3)
    with pytest.raises(td.errors.ShapeError):
        x[x == 0] = td.ones(5)
    with pytest.raises(IndexError):
        td.tensor(5)[0]
    with pytest.raises(TypeError):
        iter(td.tensor(5))
    with pytest.raises(TypeError):
        x[0] = "a"
    with pytest.raises(TypeError):
        x[0] = None
    assert x.tolist() == [[0.0] * 3] * 2


def test_assignment_of_values_of_other_types():
    x = td.zeros(2, 3, dtype=td.int32)
    x[0] = 2.9  # truncated, as PyTorch
    x[1] = [4, 5, 6]
    assert x.tolist() == [[2, 2, 2], [4, 5, 6]]
    x[0, 0], x[0, 1:] = True, np.array([7, 8])
    x[x > 5] = -1
    assert x.tolist() == [[1, -1, -1], [4, 5, -1]]
    y = td.zeros(3)
    y[1], y[2] = np.float64(2.5), td.tensor(3)
    assert y.tolist() == [0, 2.5, 3] and y.dtype is td.float32
    y[td.tensor([True, False, True])] = td.tensor([9, 8])
    assert y.tolist() == [9, 2.5, 8]
    y[:] = y.flip(0)
    assert y.tolist() == [8, 2.5, 9]
    y[1:] = y[:-1]  # the source overlaps the target
    assert y.tolist() == [8, 8, 2.5]


def test_augmented_assignment_writes_through():
    x = td.zeros(3, 2)
    x[:, 0] += 1
    x[0] *= 5
    x[[1, 2], [1, 1]] -= 2
    assert x.tolist() == [[5, 0], [1, -2], [1, -2]]


def test_index_put_and_accumulate():
    x = td.zeros(3, 2)
    x.index_put_((td.tensor([0, 0, 2]),), td.ones(3, 2), accumulate=True)
    assert x.tolist() == [[2, 2], [0, 0], [1, 1]]
    x.index_put_((td.tensor([1]), td.tensor([0])), td.tensor(9.0))
    assert x.tolist() == [[2, 2], [9, 0], [1, 1]]


def test_many_different_keys_do_not_fill_memory():
    x = td.zeros(20000)
    for i in range(len(x)):
        x[i : i + 1]
    assert max((len(v) for v in vars(x.sig).values() if isinstance(v, dict)), default=0) <= 5000
