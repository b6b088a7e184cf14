"""How tensors print: the same text as PyTorch's, but for the library's name."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

LITERALS = [
    1, 1.5, True, [1, 2], [1.5, 2], [[1, 2], [3, 4]], [[1.5, -2], [3, 4e5]], [], [[]], [[], []], [float("nan"), 1.0],
    [float("inf"), -1.5], [float("inf"), float("nan")], [1e-5, 1.0], [1e5, 1.0],
    [1e9, 1], [1e8], [123456789.0], [0.1, 1000.0], [0.001, 100.1], [1e-4], [1e-3, 1.5], [12345.678], [1.0, 2.0, 3.0],
    [-0.0, 0.0], [True, False], [-1, 20, 300], [[[1.5]]], [0.0], [99999999.0],
    [1e10], [1e-10], [1.5e10, 2], [1e38], [1000.0, 0.5], [1001.0, 1.0], [0.00011, 0.5],
]  # fmt: skip
SHAPES = [
    (3, 4),
    (2, 3, 4),
    (1, 1, 5),
    (20,),
    (30,),
    (5, 20),
    (2, 0, 3),
    (1001,),
    (2000, 2),
    (40, 40),
    (12, 100),
    (3, 3, 3, 3),
    (1000,),
    (11, 11, 11),
    (7, 300),
    (1, 7, 1),
]


def text(x):
    """Without the library's name, and with suffixes on one line: the names differ in length."""
    return re.sub(r",\s+(dtype|size)=", r", \1=", repr(x).replace("torch.", "").replace("treadle.", ""))


def arrays():
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        x = rng.standard_normal(shape)
        yield from (
            x,
            x.astype(np.float32),
            np.round(x * 10).astype(np.float32),
            (x * 1e6).astype(np.float32),
            (x * 100).astype(np.int64),
            x > 0,
            (x * 50).astype(np.int8),
        )


@pytest.mark.parametrize("data", LITERALS, ids=str)
def test_literals(data):
    assert text(td.tensor(data)) == text(torch.tensor(data))
    assert str(td.tensor(data)) == repr(td.tensor(data))


def test_arrays():
    for a in arrays():
        assert text(td.tensor(a)) == text(torch.tensor(a)), a.shape


@pytest.mark.parametrize("name", "int8 uint8 int16 int32 float16 bfloat16 float64 bool".split())
def test_dtypes(name):
    for data in ([1, 2], 3, [[0, 1]], []):
        assert text(td.tensor(data, dtype=getattr(td, name))) == text(torch.tensor(data, dtype=getattr(torch, name)))


def test_requires_grad_and_views():
    for lib in (torch, td):
        x = lib.ones(2, requires_grad=True)
        assert repr(x) == "tensor([1., 1.], requires_grad=True)" and repr(x.detach()) == "tensor([1., 1.])"
        assert "grad_fn=<" in repr(x * 2) and repr(x * 2).startswith("tensor([2., 2.], ")
        assert repr(lib.arange(6).reshape(2, 3).t()) == "tensor([[0, 3],\n        [1, 4],\n        [2, 5]])"


def test_options():
    x = np.random.default_rng(1).standard_normal((3, 30))
    try:
        for options in (
            {"precision": 2},
            {"linewidth": 40},
            {"threshold": 10, "edgeitems": 2},
            {"sci_mode": True},
            {"precision": 6, "linewidth": 120},
        ):
            torch.set_printoptions(profile="default")
            td.set_printoptions(4, 1000, 3, 80)
            torch.set_printoptions(**options)
            td.set_printoptions(**options)
            assert text(td.tensor(x)) == text(torch.tensor(x)), options
            assert text(td.arange(100)) == text(torch.arange(100)), options
    finally:
        torch.set_printoptions(profile="default")
        td.set_printoptions(4, 1000, 3, 80)


def test_format():
    for lib in (torch, td):
        assert f"{lib.tensor(3.14159):.2f} {lib.tensor(3)} {lib.tensor(7):03d} {lib.tensor(True)}" == "3.14 3 007 True"
        assert f"{lib.tensor([1.5])}" == "tensor([1.5000])" and f"{lib.tensor([1, 2])}" == "tensor([1, 2])"
        with pytest.raises(TypeError):
            f"{lib.tensor([1.0]):.2f}"
