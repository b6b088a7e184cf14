"""Arrays in and out: shared memory with NumPy, DLPack, __array__, copies and pickles."""

import copy
import pickle
import weakref

import ml_dtypes
import numpy as np
import pytest

import treadle as td
from treadle.errors import ArgumentError, AutogradError, DTypeError, ShapeError

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64".split()
host = pytest.mark.skipif(not td.get_default_device().backend.host, reason="memory is shared on host devices only")


def layouts(a):
    """Views of an array with every kind of strides that can be shared."""
    return {
        "dense": a,
        "transposed": a.T,
        "strided": a[::2, 1:],
        "column": a[:, 1],
        "row": a[1],
        "scalar": a[1, 1, ...],
        "new axis": a[None, :, None],
        "stepped": a.reshape(-1)[3::4],
    }


@host
@pytest.mark.parametrize("name", DTYPES)
def test_from_numpy_shares(name):
    kind = getattr(td, name)
    for label, a in layouts(np.arange(12).reshape(3, 4).astype(kind.np)).items():
        if label == "scalar":
            a = a.reshape(())
        x = td.from_numpy(a)
        assert x.dtype is kind and x.shape == a.shape and x.tolist() == a.tolist(), label
        a[...] = 1
        assert np.all(x.numpy() == a), label
        x.fill_(0)
        assert not a.any(), label
        assert x.stride() == tuple(s // a.itemsize for s in a.strides) or 1 in a.shape or not a.ndim


@host
def test_numpy_shares():
    x = td.arange(24, dtype=td.float32).reshape(2, 3, 4)
    for view in (
        x,
        x[1],
        x[:, 1:, ::2],
        x.permute(2, 0, 1),
        x[0, 0, 0],
        x.reshape(6, 4)[::2],
        x.unsqueeze(0),
        x.detach(),
        x.expand(5, 2, 3, 4),
    ):
        a = view.numpy()
        assert a.shape == view.shape and a.tolist() == view.tolist()
        if 0 not in view.stride():
            a[...] = 7
            assert (view == 7).all()
            view.zero_()
            assert not a.any()
    assert x.expand(5, 2, 3, 4).numpy().strides[0] == 0


@host
def test_memory_outlives_either_side():
    a = np.arange(1000.0)
    x = td.from_numpy(a)
    y = x[10:20]
    ref = weakref.ref(a)
    del a, x
    assert y.tolist() == list(range(10, 20)) and ref() is not None
    del y
    z = td.arange(1000)
    n = z[5:].numpy()
    del z
    td.zeros(1000)
    assert n[0] == 5 and n[-1] == 999
    big = np.ones(1 << 20, np.uint8)
    ref = weakref.ref(big)
    td.from_numpy(big)
    del big
    assert ref() is None


@host
def test_what_cannot_be_shared_is_copied():
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    x = td.from_numpy(frozen)
    x.add_(1)
    assert frozen.tolist() == [0, 1, 2]
    a = np.arange(6.0)
    x = td.from_numpy(a[::-1])
    assert x.tolist() == [5, 4, 3, 2, 1, 0]
    x.zero_()
    assert a.sum() == 15
    assert td.from_numpy(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]
    assert td.from_numpy(np.frombuffer(bytearray(13), np.uint8)[1:].view(np.float32)).tolist() == [0, 0, 0]
    assert td.from_numpy(np.ones(4, dtype=[("a", "f4"), ("b", "i2")])["a"]).tolist() == [1] * 4
    assert td.from_numpy(np.broadcast_to(np.arange(3), (2, 3))).tolist() == [[0, 1, 2]] * 2
    assert td.from_numpy(np.zeros((0, 3))).shape == (0, 3)
    flipped = td.arange(4).flip(0)
    n = flipped.numpy()
    n[0] = 9
    assert flipped.tolist() == [3, 2, 1, 0] and n.tolist() == [9, 2, 1, 0]


def test_what_cannot_be_converted():
    for bad in (
        np.zeros(2, complex),
        np.zeros(2, [("a", "i4")]),
        np.array(["a"]),
        np.array([None]),
        np.zeros(1, "M8[D]"),
        np.zeros(2, np.longdouble),
    ):
        for f in (td.from_numpy, td.tensor, td.as_tensor):
            with pytest.raises(DTypeError):
                f(bad)
    for bad in ([1, 2], 3, td.ones(2), None):
        with pytest.raises(ArgumentError, match="ndarray"):
            td.from_numpy(bad)


def test_tensor_copies():
    a = np.arange(3)
    x = td.tensor(a)
    a[0] = 9
    assert x.tolist() == [0, 1, 2]
    y = td.tensor(x)
    y[0] = 5
    assert x.tolist() == [0, 1, 2]


@host
def test_as_tensor_shares_where_it_can():
    a = np.arange(3.0)
    x = td.as_tensor(a)
    a[0] = 9
    assert x[0].item() == 9 and td.as_tensor(x) is x and td.asarray(x) is x
    assert td.as_tensor(a, dtype=td.float32).dtype is td.float32 and td.as_tensor([1, 2]).dtype is td.int64
    assert str(td.as_tensor(x, device="reference").device) == "reference:0"
    y, z = td.asarray(a, copy=False), td.asarray(a, copy=True)
    a[1] = 8
    assert y[1].item() == 8 and z[1].item() != 8 and td.asarray([1.0], requires_grad=True).requires_grad
    for call in (lambda: td.asarray([1], copy=False), lambda: td.asarray(a, dtype=td.float32, copy=False)):
        with pytest.raises(ArgumentError, match="a copy is needed"):
            call()


def test_array_protocol():
    x = td.tensor([[1.5, 2.5], [3.5, 4.5]])
    assert np.asarray(x).dtype == np.float32 and np.array(x).tolist() == x.tolist()
    assert np.asarray(x, dtype=np.float64).dtype == np.float64 and np.asarray(x, np.int64).tolist() == [[1, 2], [3, 4]]
    copied = np.array(x, copy=True)
    copied[:] = 0
    assert x.sum().item() == 12
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype=np.float64, copy=False)
    assert np.stack([x, x]).shape == (2, 2, 2) and np.concatenate([x, x]).shape == (4, 2)
    assert np.asarray(td.ones(2, dtype=td.bfloat16)).dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(x, [[1.5, 2.5], [3.5, 4.5]])
    assert (
        float(np.float64(2) * td.tensor(3.0)) == 6
        and isinstance(np.float32(2) * x, td.Tensor)
        and isinstance(np.int64(2) + x, td.Tensor)
    )
    with pytest.raises(TypeError):
        np.ones(2) + td.ones(2)
    with pytest.raises(TypeError):
        td.ones(2) + np.ones(2)
    w = td.ones(2, requires_grad=True)
    for f in (np.asarray, lambda w: w.numpy(), np.array):
        with pytest.raises(AutogradError, match="detach"):
            f(w)
    assert w.numpy(force=True).tolist() == w.detach().numpy().tolist() == [1, 1]


def test_python_numbers():
    assert (
        td.tensor(3).item() == 3
        and isinstance(td.tensor(3).item(), int)
        and isinstance(td.tensor(True).item(), bool)
        and isinstance(td.tensor(2.5).item(), float)
    )
    assert (
        float(td.tensor([2.5])) == 2.5
        and int(td.tensor(2.9)) == 2
        and bool(td.tensor([[1]]))
        and not td.tensor(0.0)
        and complex(td.tensor(2.0)) == 2
    )
    assert td.tensor([2**63], dtype=td.uint64).item() == 2**63 and td.tensor(2**53 + 1).item() == 2**53 + 1
    assert (
        td.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
        and td.tensor(1.5).tolist() == 1.5
        and td.zeros(0, 2).tolist() == []
    )
    for wrong in (
        lambda: td.ones(2).item(),
        lambda: bool(td.ones(2)),
        lambda: bool(td.ones(0)),
        lambda: float(td.ones(0)),
        lambda: int(td.ones(3)),
    ):
        with pytest.raises(ArgumentError):
            wrong()
    with pytest.raises(TypeError):
        [1, 2][td.tensor(0.0)]
    with pytest.raises(TypeError):
        len(td.tensor(1))


# ---- DLPack --------------------------------------------------------------------------------------------------------
@host
@pytest.mark.parametrize("name", [n for n in DTYPES if n != "bfloat16"])
def test_dlpack_with_numpy(name):
    x = td.arange(6).to(getattr(td, name)).reshape(2, 3)
    for view in (x, x.t(), x[:, 1:], x[0], x[1, 1]):
        a = np.from_dlpack(view)
        assert a.tolist() == view.tolist() and a.dtype == x.dtype.np
        assert np.shares_memory(a, view.numpy())
    a = np.arange(6).astype(x.dtype.np).reshape(2, 3)
    y = td.from_dlpack(a.T)
    a[0, 0] = 1
    assert y.tolist() == a.T.tolist() and y.dtype is x.dtype
    assert td.from_dlpack(y).tolist() == y.tolist()
    assert x.__dlpack_device__() == (1, 0)


@host
def test_dlpack_edges():
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    assert td.from_dlpack(frozen).tolist() == [0, 1, 2]
    assert np.from_dlpack(td.arange(3).flip(0)).tolist() == [2, 1, 0] and np.from_dlpack(td.zeros(0, 3)).shape == (0, 3)
    with pytest.raises(ArgumentError, match="__dlpack__"):
        td.from_dlpack([1, 2])
    with pytest.raises(AutogradError):
        np.from_dlpack(td.ones(2, requires_grad=True))
    with pytest.raises(BufferError):
        td.ones(2, dtype=td.bfloat16).__dlpack__()
    x = td.arange(3)
    capsule = x.__dlpack__()
    del x, capsule


# ---- making --------------------------------------------------------------------------------------------------------
def test_tensor_of_python_values():
    assert (
        td.tensor([1, 2]).dtype is td.int64
        and td.tensor([1, 2.0]).dtype is td.float32
        and td.tensor([True]).dtype is td.bool
        and td.tensor([]).dtype is td.float32
    )
    assert (
        td.tensor([td.tensor(1.0), td.tensor(2.0)]).tolist() == [1, 2]
        and td.tensor([np.float32(1), 2]).tolist() == [1, 2]
        and td.tensor((1, (2,)[0])).tolist() == [1, 2]
    )
    assert td.tensor([[td.ones(2)], [td.zeros(2)]]).shape == (2, 1, 2) and td.tensor(range(3)).tolist() == [0, 1, 2]
    assert (
        td.tensor(1.7, dtype=td.int32).item() == 1
        and td.tensor([0, 2], dtype=bool).tolist() == [False, True]
        and td.tensor(2**63, dtype=td.uint64).item() == 2**63
    )
    for bad in (None, "a", {}, object(), [1, "a"], [None], 1j, b"ab"):
        with pytest.raises(DTypeError):
            td.tensor(bad)
    for bad in ([[1], [1, 2]], [1, [2]], [[1, 2], 3]):
        with pytest.raises(ShapeError):
            td.tensor(bad)
    for bad, kind in ((300, td.uint8), (-1, td.uint64), (2**40, td.int32), ([2**63], td.int64)):
        with pytest.raises((ArgumentError, DTypeError), match="fit"):
            td.tensor(bad, dtype=kind)
    with pytest.raises(DTypeError, match="64 bits"):
        td.tensor(2**70)


def test_creation_functions():
    assert (
        td.full((2, 2), 3).dtype is td.int64
        and td.full((), 2.5).item() == 2.5
        and td.full(3, True).dtype is td.bool
        and td.full([2], td.tensor(4)).tolist() == [4, 4]
    )
    assert (
        td.arange(5).tolist() == [0, 1, 2, 3, 4]
        and td.arange(1, 2, 0.25).tolist() == [1, 1.25, 1.5, 1.75]
        and td.arange(5, 0, -2).tolist() == [5, 3, 1]
        and td.arange(3, 3).shape == (0,)
    )
    assert (
        td.arange(0, 1, 0.1).shape == (10,)
        and td.arange(3, dtype=td.float16).dtype is td.float16
        and td.arange(td.tensor(3)).tolist() == [0, 1, 2]
    )
    np.testing.assert_allclose(td.linspace(-1, 1, 7).numpy(), np.linspace(-1, 1, 7), rtol=1e-6)
    assert td.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]] and td.eye(0).shape == (0, 0)
    assert (
        td.zeros((2, 3)).shape == td.zeros([2, 3]).shape == td.zeros(2, 3).shape == td.zeros(td.Size((2, 3))).shape
        and td.ones(()).shape == ()
    )
    assert (
        td.zeros_like(td.ones(2, dtype=td.int8)).dtype is td.int8
        and td.full_like(td.ones(2), 3).tolist() == [3, 3]
        and td.empty_like(td.ones(2, 3)).shape == (2, 3)
    )
    x = td.ones(2, dtype=td.float64)
    assert (
        x.new_zeros(3).dtype is td.float64
        and x.new_zeros((2, 2)).shape == (2, 2)
        and x.new_full((2,), 7).tolist() == [7, 7]
        and x.new_tensor([1, 2]).dtype is td.float64
    )
    for f in (td.zeros, td.ones, td.empty, td.rand):
        assert f(2, requires_grad=True).requires_grad


# ---- copies --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DTYPES)
def test_copies_keep_the_type(name):
    x = td.tensor([0, 1, 1]).to(getattr(td, name))
    for f in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.clone(), copy.copy):
        y = f(x)
        assert y.dtype is x.dtype and y.tolist() == x.tolist() and str(y.device) == str(x.device)


def test_deepcopy_and_pickle():
    w = td.tensor([1.0, 2.0], requires_grad=True)
    w.grad = td.ones(2)
    deep = copy.deepcopy(w)
    assert deep.requires_grad and deep.is_leaf and deep.grad.tolist() == [1, 1] and deep.grad is not w.grad
    deep.detach().zero_()
    assert w.tolist() == [1, 2]
    back = pickle.loads(pickle.dumps(w))
    assert back.requires_grad and back.is_leaf and back.tolist() == [1, 2]
    tree = {"a": w, "b": [w]}
    for f in (copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))):
        again = f(tree)
        assert again["a"] is again["b"][0] and again["a"] is not w
    view = td.arange(12).reshape(3, 4).t()[1:]
    for f in (copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))):
        y = f(view)
        assert y.tolist() == view.tolist() and y.is_contiguous() and type(y) is td.Tensor
        y.zero_()
    assert view.sum().item() > 0
    for f in (copy.deepcopy, pickle.dumps):
        with pytest.raises(AutogradError):
            f(w * 2)
    for thing in (td.float32, td.bool, td.device("reference"), td.Size((2, 3))):
        assert pickle.loads(pickle.dumps(thing)) == thing == copy.deepcopy(thing)
    assert pickle.loads(pickle.dumps(td.bfloat16)) is td.bfloat16


def test_shallow_copies_share():
    x = td.ones(2)
    y = copy.copy(x)
    y.add_(1)
    assert y is not x and x.tolist() == [2, 2]
    w = td.ones(2, requires_grad=True)
    c = copy.copy(w)
    (c * 2).sum().backward()
    assert c.grad.tolist() == [2, 2] and w.grad is None
    p = copy.copy(td.nn.Parameter(td.ones(2)))
    assert isinstance(p, td.nn.Parameter) and p.requires_grad


def test_clone_and_contiguous():
    w = td.ones(2, 3, requires_grad=True)
    c = w.t().clone()
    (c * td.arange(6).reshape(3, 2)).sum().backward()
    assert w.grad.tolist() == [[0, 2, 4], [1, 3, 5]] and c.is_contiguous()
    x = td.arange(6).reshape(2, 3)
    assert x.contiguous() is x and x.t().contiguous() is not x and x.t().contiguous().stride() == (2, 1)
