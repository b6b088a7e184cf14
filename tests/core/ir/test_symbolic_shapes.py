"""The shape functions and layout classes on symbolic sizes: what they decide is what they decide on the sizes themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle import dtypes, shapes, sig
from treadle.errors import ArgumentError, DimError, ShapeError
from treadle.ir.dim import Dim, substitute

N, M, Z = Dim("N"), Dim("M", 1, 8), Dim("Z", 0)


def examples(count):
    return settings(max_examples=count, deadline=None, database=None, derandomize=True)


def test_shapes_without_symbols_have_none():
    for x in (
        shapes.numel((2, 3)),
        *shapes.dense_strides((2, 3)),
        *shapes.sizes("f", (2, np.int64(3))),
        *shapes.integers("f", (2, True)),
    ):
        assert x.__class__ is int


def test_strides():
    assert shapes.numel((N, 4, M)) == 4 * N * M == shapes.Size((N, 4, M)).numel()
    assert shapes.dense_strides((N, 4, M, 2)) == (8 * M, 2 * M, 2, 1)
    assert shapes.dense_strides((N, Z, 2)) == (2 * Z, 2, 1) and shapes.dense_strides((0, N)) == (N, 1)
    assert shapes.is_dense((N, 4, M), (4 * M, M, 1)) and not shapes.is_dense((4, N), (1, 4))
    assert shapes.is_dense((N, Z), (Z, 1)) and shapes.is_dense((1, N), (7, 1))
    assert shapes.extent((N, 4), (4, 1)) == (0, 4 * N) and shapes.extent((N, M), (-M, 1)) == (M - N * M, M)
    assert shapes.extent((N, Z), (Z, 1)) == (0, N * Z) and shapes.extent((0, N), (N, 1)) == (0, 0)
    assert shapes.expand_strides((1, 4), (4, 1), (N, M, 4)) == (0, 0, 1)
    assert shapes.expand_strides((N, 1), (1, 1), (N, M)) == (1, 0)


def test_overlaps():
    assert not shapes.overlaps((N, M, 4), (4 * M, 4, 1)) and not shapes.overlaps((M, N, 4), (4, 4 * M, 1))
    assert not shapes.overlaps((M, N), (1, M)) and not shapes.overlaps((N, M), (-2 * M, 2))
    assert shapes.overlaps((N, M), (0, 1)) and shapes.overlaps((3, N), (0, 1)) and not shapes.overlaps((0, N), (0, 1))
    with pytest.raises(DimError, match="N - 1 >= 1: not decided"):
        shapes.overlaps((N, 3), (1, 1))  # they do unless N is 1


def test_broadcast():
    assert shapes.broadcast("add", (N, 4), (4,), (N, 1)) == (N, 4) == shapes.broadcast("add", (1, 4), (N, 1))
    assert shapes.equal("f", (N, 4), (Dim("N"), 4)) == (N, 4)
    for a, b in ((N, M), (N, 3), (N, N + 1)):
        with pytest.raises(ShapeError, match="sizes .* differ at axis -2"):
            shapes.broadcast("add", (a, 4), (b, 4))
    with pytest.raises(ShapeError, match=r"sizes \[9, 10\] differ"):
        shapes.broadcast("add", (10, 4), (9, 4))


def test_sizes():
    assert shapes.integers("reshape", (N, -1)) == (N, -1) == shapes.integers("reshape", ((N, -1),))
    assert shapes.integers("reshape", (N,)) == (N,) and shapes.sizes("zeros", (N, M, Z)) == (N, M, Z)
    assert shapes.reduced((N, 4, M), (1,), True) == (N, 1, M) and shapes.reduced((N, 4, M), (0,), False) == (4, M)
    shapes.check_count("zeros", (N, Z, 4))
    shapes.check_count("zeros", (0, N, 4))
    with pytest.raises(ShapeError, match="more than any memory"):
        shapes.check_count("zeros", (N, 1 << 57))
    with pytest.raises(ShapeError, match="must not be negative"):
        shapes.sizes("zeros", (N, M - 9))
    with pytest.raises(DimError, match="M - 3 < 0: not decided"):
        shapes.sizes("zeros", (M - 3,))
    with pytest.raises(DimError, match="symbolic"):
        shapes.axis("sum", N, 2)
    with pytest.raises(ArgumentError):
        shapes.integers("reshape", (N, "a"))


@pytest.mark.parametrize(
    "shape, target, want",
    [
        ((N, 4, 4), (N, -1), (N, 16)), ((N, 12), (-1, 4), (3 * N, 4)), ((N, 12, M), (M, -1, N), (M, 12, N)),
        ((N, 4), (4 * N,), (4 * N,)), ((N, 4), (-1,), (4 * N,)), ((N, 4), (2, -1), (2, 2 * N)), ((Z, 4), (-1, 2), (2 * Z, 2)),
        ((Z, 4), (Z, -1), (Z, 4)), ((N + 1, 6), (-1, 3), (2 * N + 2, 3)), ((N, M + 1), (M + 1, -1), (M + 1, N)),
    ],
)  # fmt: skip
def test_infer_size(shape, target, want):
    assert shapes.infer_size("reshape", target, shapes.numel(shape)) == want


@pytest.mark.parametrize("shape, target", [((N,), (-1, 4)), ((N, 4), (N, 5)), ((N, 4), (M, -1)), ((N, 4), (-1, 0))])
def test_infer_size_refuses(shape, target):
    with pytest.raises(ShapeError, match="elements do not fit shape"):
        shapes.infer_size("reshape", target, shapes.numel(shape))


@pytest.mark.parametrize(
    "shape, strides, target, want",
    [
        ((N, 4, 4), (16, 4, 1), (N, 16), (16, 1)), ((N, 12), (12, 1), (3 * N, 4), (4, 1)), ((N * M,), (1,), (N, M), (M, 1)),
        ((4, N), (1, 4), (4 * N,), None), ((N, M, 4), (4 * M, 4, 1), (1, N, M * 4, 1), (4 * M * N, 4 * M, 1, 1)),
        ((N, 12), (1, N), (4 * N, 3), None), ((N, 12), (1, N), (N, 3, 4), (1, 4 * N, N)), ((N, 1, M), (0, 0, 1), (N, M), (0, 1)),
        ((Z, 4), (4, 1), (4 * Z,), (1,)), ((2, 2 * N), (2 * N, 1), (N, 4), (4, 1)), ((N, 4), (8, 1), (2 * N, 2), None),
        ((N, 4), (8, 1), (N, 2, 2), (8, 2, 1)), ((1, N), (5, 1), (N,), (1,)), ((N,), (1,), (N, 1, 1), (1, 1, 1)),
    ],
)  # fmt: skip
def test_reshape_strides(shape, strides, target, want):
    got = shapes.reshape_strides(shape, strides, target)
    assert (got is None) is (want is None)
    if want is not None:
        assert all(g == w for g, w, n in zip(got, want, target, strict=True) if n != 1)


@examples(150)
@given(
    st.lists(st.sampled_from([N, M, 2, 3, 4, 2 * N]), max_size=4),
    st.randoms(use_true_random=False),
    st.integers(2, 9),
    st.integers(2, 8),
)
def test_reshape_strides_agree_with_ints(factors, random, n, m):
    """What is decided on symbols is what the same call decides on their sizes."""
    axes = list(range(len(factors)))
    random.shuffle(axes)
    dense = shapes.dense_strides(factors)
    shape, strides = tuple(factors[a] for a in axes), tuple(dense[a] for a in axes)
    target, env = [1], {"N": n, "M": m}
    for f in factors:
        if random.random() < 0.5:
            target[-1] *= f
        else:
            target.append(f)
    got = shapes.reshape_strides(shape, strides, tuple(target))
    want = shapes.reshape_strides(*(substitute(x, env) for x in (shape, strides, tuple(target))))
    if got is not None:
        concrete = substitute(tuple(target), env)
        assert [s for s, k in zip(substitute(got, env), concrete) if k != 1] == [
            s for s, k in zip(want, concrete) if k != 1
        ]


@examples(150)
@given(
    st.lists(st.sampled_from([N, M, 1, 3, 2 * N]), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
    st.integers(2, 9),
    st.integers(2, 8),
)
def test_layout_class_agrees_with_ints(factors, random, n, m):
    axes, dense = list(range(len(factors))), shapes.dense_strides(factors)
    random.shuffle(axes)
    step = random.choice([1, 1, 2, 0])
    shape = tuple(factors[a] for a in axes)
    strides = tuple(dense[a] * (step if k == 0 else 1) for k, a in enumerate(axes))
    env = {"N": n, "M": m}
    got, want = sig.layout_class(shape, strides), sig.layout_class(substitute(shape, env), substitute(strides, env))
    assert got == want or got == "strided"


def test_layout_class():
    classes = {
        "dense": ((N, 4), (4, 1)), "matrix_t": ((4, N), (1, 4)), "broadcast0": ((N, M), (0, 1)), "dense_inner": ((N, M), (2 * M, 1)),
    }  # fmt: skip
    for name, (shape, strides) in classes.items():
        assert sig.layout_class(shape, strides) == name
    assert sig.layout_class((N, M), (-M, 1)) == "strided" == sig.layout_class((N, M), (N, 1))  # N >= M is open


def test_sigs_are_interned():
    a, b = (sig.dense_sig(dtypes.float32, (n, 4), "device") for n in (N, Dim("N")))
    assert a is b and a.size == 4 * N and a.nbytes == 16 * N and a.layout == "dense" and "[N, 4]" in repr(a)
    assert sig.dense_sig(dtypes.float32, (Dim("N", 1, 8), 4), "device") is not a
    assert sig.sig_of(dtypes.float32, (4, N), (1, 4), "device").layout == "matrix_t"
