"""Views share memory and versions; writes show through all of them; dtypes and their limits."""

import threading

import numpy as np
import pytest

import treadle as td
from treadle.errors import AutogradError, DTypeError

VIEWS = {
    "slice": lambda x: x[1:, ::2], "item": lambda x: x[1], "negative item": lambda x: x[-1], "none": lambda x: x[None],
    "ellipsis": lambda x: x[..., 1], "t": lambda x: x.t(), "T": lambda x: x.T, "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(1, 0), "transpose": lambda x: x.transpose(0, 1),
    "expand": lambda x: x[:1].expand(4, 6), "broadcast_to": lambda x: x[:1].broadcast_to((3, 6)),
    "flip": lambda x: x.flip(0), "flip both": lambda x: x.flip(0, 1),
    "reverse": lambda x: x[::-1, ::-2], "reshape": lambda x: x.reshape(2, 2, 6), "view": lambda x: x.view(-1),
    "flatten": lambda x: x.flatten(), "ravel": lambda x: x.ravel(), "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "narrow": lambda x: x.narrow(1, 2, 3), "select": lambda x: x.select(1, 2), "split": lambda x: x.split(2)[1],
    "chunk": lambda x: x.chunk(2, 1)[0], "unbind": lambda x: x.unbind(1)[3], "unfold": lambda x: x.unfold(1, 2, 2),
    "diagonal of slices": lambda x: x[1:3][:, 1:],
    "detach": lambda x: x.detach(), "data": lambda x: x.data, "swapaxes": lambda x: x.swapaxes(0, 1),
    "movedim": lambda x: x.movedim(0, 1), "view of a view": lambda x: x.t()[1:].flip(0).unsqueeze(0),
    "unflatten": lambda x: x.unflatten(1, (2, 3)), "iter": lambda x: list(x)[2],
}  # fmt: skip
COPIES = {"clone": lambda x: x.clone(), "index": lambda x: x[[0, 1]], "mask": lambda x: x[x > 2],
    "contiguous": lambda x: x.t().contiguous(), "reshape of t": lambda x: x.t().reshape(-1),
    "gather": lambda x: x.gather(0, td.zeros(1, 6, dtype=td.int64)),
          "cat": lambda x: td.cat([x]), "repeat": lambda x: x.repeat(1, 1), "to": lambda x: x.to(td.float64),
          "roll": lambda x: x.roll(1, 0), "sort": lambda x: x.sort().values, "plus": lambda x: x + 0,
          "tril": lambda x: x.tril()}  # fmt: skip


def fresh():
    return td.arange(24, dtype=td.float32).reshape(4, 6)


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory_and_versions(name):
    x = fresh() * 1
    v = VIEWS[name](x)
    before = v.tolist()
    assert v.is_view and v._version == x._version == 0
    x.add_(100)
    assert np.array_equal(np.array(v.tolist()), np.array(before) + 100) and v._version == x._version == 1
    if 0 not in v.stride() or 1 in v.shape:
        if not any(s == 0 and n > 1 for s, n in zip(v.stride(), v.shape)):
            v.zero_()
            assert x.sum().item() < 24 * 100 + 276 and v._version == x._version == 2 and not np.any(v.tolist())


@pytest.mark.parametrize("name", COPIES)
def test_copies_do_not(name):
    x = fresh() * 1
    v = COPIES[name](x)
    before = v.tolist()
    x.zero_()
    assert v.tolist() == before and v._version == 0 and x._version == 1


@pytest.mark.parametrize("name", VIEWS)
def test_gradients_of_views_against_numpy(name):
    """d(sum(w * view))/dx by writing index numbers through the same view."""
    x = fresh().to(td.float64).requires_grad_()
    if name in ("detach", "data"):
        assert not VIEWS[name](x).requires_grad
        return
    v = VIEWS[name](x)
    w = np.random.default_rng(0).standard_normal(v.shape)
    v.backward(td.tensor(w))
    places = np.array(VIEWS[name](td.arange(24).reshape(4, 6)).tolist())
    want = np.zeros(24)
    np.add.at(want, places, w)
    np.testing.assert_allclose(x.grad.numpy().reshape(-1), want)
    assert VIEWS[name](x.detach()).requires_grad is False


@pytest.mark.parametrize("name", [n for n in VIEWS if n not in ("expand", "broadcast_to", "detach", "data")])
def test_gradients_of_writes_through_views(name):
    w = fresh().to(td.float64).requires_grad_()
    x = w * 1
    v = VIEWS[name](x)
    v.mul_(3)
    (x * x).sum().backward()
    scale = np.ones(24)
    scale[np.array(VIEWS[name](td.arange(24).reshape(4, 6)).tolist())] = 3
    np.testing.assert_allclose(w.grad.numpy().reshape(-1), 2 * np.arange(24) * scale**2)


def test_strides_offsets_and_layouts():
    x = fresh()
    assert (
        x.stride() == (6, 1)
        and x.t().stride() == (1, 6)
        and x.flip(1).stride() == (6, -1)
        and x[:1].expand(4, 6).stride() == (0, 1)
        and x[1:, 2:].storage_offset() == 8
    )
    assert (
        x.is_contiguous()
        and not x.t().is_contiguous()
        and x[1:].is_contiguous()
        and not x[:, 1:].is_contiguous()
        and x[:, :1].reshape(4).stride() == (6,)
    )
    assert (
        x.t().reshape(6, 4).is_contiguous() is False
        and x.t().reshape(-1).is_contiguous()
        and x.view(2, 12)[:, ::3].stride() == (12, 3)
    )


def test_overlapping_targets_are_refused():
    for v in (td.zeros(1).expand(3), td.zeros(5).unfold(0, 3, 1), td.zeros(3, 1).expand(3, 4)[1:]):
        for write in (
            lambda v: v.add_(1),
            lambda v: v.zero_(),
            lambda v: v.copy_(td.ones(v.shape)),
            lambda v: v.__setitem__(..., 1.0),
            lambda v: v.exp_(),
        ):
            with pytest.raises(AutogradError, match="share one memory"):
                write(v)
    v = td.zeros(3, 1).expand(3, 4)[:, 0]
    v.add_(1)
    assert v.tolist() == [1, 1, 1]


def test_writes_whose_source_overlaps_the_target():
    x = td.arange(6.0)
    x[1:].copy_(x[:-1])
    assert x.tolist() == [0, 0, 1, 2, 3, 4]
    x = td.arange(6.0)
    x.copy_(x.flip(0))
    assert x.tolist() == [5, 4, 3, 2, 1, 0]
    x[::-1] = x
    assert x.tolist() == [0, 1, 2, 3, 4, 5]
    m = td.arange(4.0).reshape(2, 2)
    m.copy_(m.t())
    assert m.tolist() == [[0, 2], [1, 3]]
    m.add_(m.t())
    assert m.tolist() == [[0, 3], [3, 6]]
    m[0] += m[1]
    m[:, 0].mul_(m[0])
    assert m.tolist() == [[9, 9], [27, 6]]
    y = td.arange(4.0)
    y[:2].sub_(y[1:3])
    assert y.tolist() == [-1, -1, 2, 3]


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_gradients_of_views_of_a_leaf_that_runs_backwards(device):
    """Its first element is not the first in memory, and so it must be in the gradient."""
    x = td.tensor(np.arange(6.0).reshape(3, 2), device=device)[::-1].requires_grad_()
    part = x[1:]
    assert td.autograd.grad((part * part).sum(), x)[0].tolist() == [[0, 0], [4, 6], [0, 2]]
    corner = td.ops.flip(x[:2, 1:], axes=(0,))
    assert td.autograd.grad((corner * corner).sum(), x)[0].tolist() == [[0, 10], [0, 6], [0, 0]]


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_every_element_of_an_expanded_leaf_has_its_own_gradient(device):
    base = td.tensor([2.0], device=device)
    x = base.expand(4).requires_grad_()
    assert x.tolist() == [2, 2, 2, 2] and x.is_contiguous()
    for view in (x[::2], td.ops.reshape(x, to=(2, 2))[:, 0]):
        assert td.autograd.grad((view * view).sum(), x)[0].tolist() == [4, 0, 4, 0]
    with td.no_grad():
        x[1] = 5.0
    assert x.tolist() == [2, 5, 2, 2] and base.tolist() == [2]


IN_PLACE = {
    "add_": ((2.0,), lambda a: a + 2), "sub_": ((2.0,), lambda a: a - 2), "mul_": ((3,), lambda a: a * 3),
    "div_": ((4.0,), lambda a: a / 4), "pow_": ((2,), lambda a: a**2), "neg_": ((), lambda a: -a), "exp_": ((), np.exp),
    "zero_": ((), lambda a: a * 0),
    "fill_": ((7,), lambda a: a * 0 + 7), "clamp_": ((2, 5), lambda a: a.clip(2, 5)), "sqrt_": ((), np.sqrt),
    "floor_divide_": ((4,), lambda a: a // 4), "remainder_": ((4,), lambda a: a % 4),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("view", ["dense", "slice", "t", "flip", "unfold"])
def test_in_place_on_every_layout(name, view):
    args, expected = IN_PLACE[name]
    x = fresh() * 1
    want = x.numpy().copy()
    target = x if view == "dense" else VIEWS[view](x)
    places = (
        np.array(VIEWS[view](td.arange(24).reshape(4, 6)).tolist()) if view != "dense" else np.arange(24).reshape(4, 6)
    )
    want.reshape(-1)[places] = expected(want.reshape(-1)[places])
    for _ in range(2):  # the second time on the remembered path
        y = fresh() * 1
        t = y if view == "dense" else VIEWS[view](y)
        assert getattr(t, name)(*args) is t
        np.testing.assert_allclose(y.numpy(), want, rtol=1e-6)
    assert target is not None


def test_augmented_assignment_of_python_operators():
    x = td.tensor([7.0, 9.0])
    y = x
    x += 1
    x -= td.tensor([1.0, 2.0])
    x *= 2
    x /= 4
    x **= 2
    x //= 1
    x %= 5
    assert y is x and x.tolist() == [2.0, 1.0]
    i = td.tensor([6, 3])
    i &= 2
    i |= 8
    i ^= 1
    assert i.tolist() == [11, 11]
    i += True
    assert i.tolist() == [12, 12]
    with pytest.raises(DTypeError):
        i += 0.5
    with pytest.raises(DTypeError):
        i /= 2


# ---- dtypes --------------------------------------------------------------------------------------------------------
def test_dtypes_are_values():
    assert (
        td.dtype("float32") is td.float32 is td.float
        and td.dtype(np.float32) is td.float32
        and td.dtype(np.dtype("f4")) is td.float32
        and td.dtype(float) is td.float64
        and td.dtype(int) is td.int64
        and td.dtype(bool) is td.bool
    )
    assert (
        td.half is td.float16
        and td.double is td.float64
        and td.long is td.int64
        and td.short is td.int16
        and repr(td.bfloat16) == "treadle.bfloat16"
    )
    assert (
        td.float16.itemsize == 2
        and td.float16.is_floating_point
        and td.int8.is_signed
        and not td.uint8.is_signed
        and not td.float32.is_complex
    )
    for bad in ("float33", complex, "complex64", 3, None, object):
        with pytest.raises(DTypeError):
            td.dtype(bad)


def test_limits():
    f, i = td.finfo(td.float32), td.iinfo(td.int8)
    assert (
        f.eps == 2**-23
        and f.bits == 32
        and f.max == float(np.finfo(np.float32).max)
        and f.min == -f.max
        and f.tiny == f.smallest_normal == float(np.finfo(np.float32).tiny)
    )
    assert (
        td.finfo(td.bfloat16).eps == 2**-7
        and td.finfo(td.float16).max == 65504
        and td.finfo().dtype is td.float32
        and td.finfo("float64").bits == 64
    )
    assert (i.min, i.max, i.bits) == (-128, 127, 8) and td.iinfo(td.uint64).max == 2**64 - 1
    for wrong in (lambda: td.finfo(td.int32), lambda: td.iinfo(td.float32), lambda: td.iinfo(td.bool)):
        with pytest.raises(DTypeError):
            wrong()


def test_views_of_bits():
    x = td.tensor([1.0, -2.0])
    assert x.view(td.int32).tolist() == [0x3F800000, -0x40000000] and x.view(td.int32).view(td.float32).tolist() == [
        1.0,
        -2.0,
    ]
    with pytest.raises(DTypeError):
        x.view(td.int16)


def test_many_signatures_from_many_threads():
    """Rows are filled by whoever comes first; nobody sees half a row."""
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(150):
            shape = tuple(int(n) for n in rng.integers(1, 5, rng.integers(1, 4)))
            a = rng.standard_normal(shape).astype(np.float32)
            x = td.tensor(a)
            if not np.allclose((x + x * 2 - x.exp()).sum().item(), (a * 3 - np.exp(a)).sum(), atol=1e-3):
                wrong.append(shape)
            if not np.array_equal(x.flip(0).numpy(), a[::-1]) or x.max().item() != a.max():
                wrong.append(shape)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_results_of_a_higher_kind_are_not_stored_in_place(device):
    x = td.tensor([1, 4], device=device)
    for write in (lambda: x.sqrt_(), lambda: x.exp_(), lambda: x.reciprocal_(), lambda: x.pow_(0.5)):
        with pytest.raises(DTypeError, match=r"_: the result type float32 cannot be stored in int64"):
            write()
    assert x.neg_().pow_(2).tolist() == [1, 16]
