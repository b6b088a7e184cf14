"""Result types: all pairs of dtypes, as tensors with dimensions, 0-d tensors and Python numbers, against PyTorch.

Where PyTorch has no rule (uint16, uint32 and uint64 mixed with others) the array API's holds.
"""

import itertools
import operator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64".split()
WIDE = {"uint16", "uint32", "uint64"}
OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow,
    "==": operator.eq, "<": operator.lt, "&": operator.and_, "<<": operator.lshift, "maximum": None, "atan2": None,
    "where": None,
}  # fmt: skip


def apply(lib, name, a, b):
    if name == "where":
        return lib.where(lib.ones(2, dtype=lib.bool), a, b)
    return OPERATORS[name](a, b) if OPERATORS[name] else getattr(lib, name)(a, b)


def kind_of(lib, name, a, b):
    """The name of the result's dtype, or None when the call raises."""
    try:
        return str(apply(lib, name, a, b).dtype).split(".")[-1]
    except (RuntimeError, TypeError):
        return None


@pytest.fixture(scope="module")
def operands():
    return {
        (lib, n, shape): lib.ones(shape, dtype=getattr(lib, n))
        for lib in (torch, td)
        for n in NAMES
        for shape in ((2,), ())
    }


def may_differ(op, a, b):
    """bool - anything is refused by PyTorch only; bool ** True gives bool there."""
    return (op == "-" and "bool" in (a, b)) or (op == "**" and {a, b} <= {"bool"})


@pytest.mark.parametrize("op", OPERATORS)
def test_two_tensors(op, operands):
    compared = 0
    for (a, sa), (b, sb) in itertools.product(itertools.product(NAMES, ((2,), ())), repeat=2):
        theirs = kind_of(torch, op, operands[torch, a, sa], operands[torch, b, sb])
        ours = kind_of(td, op, operands[td, a, sa], operands[td, b, sb])
        if theirs is None:
            assert ours is None or may_differ(op, a, b) or {a, b} & WIDE, (a, sa, b, sb, ours)
        else:
            compared += 1
            assert ours == theirs, (a, sa, b, sb)
    assert compared > 90


@pytest.mark.parametrize("op", [o for o in OPERATORS if OPERATORS[o]])
def test_tensor_and_python_number(op, operands):
    for name, shape, number in itertools.product(NAMES, ((2,), ()), (True, 2, 1.5)):
        for swap in (False, True):
            theirs, ours = (
                kind_of(
                    lib, op, *((number, operands[lib, name, shape]) if swap else (operands[lib, name, shape], number))
                )
                for lib in (torch, td)
            )
            if not may_differ(op, name, type(number).__name__):
                assert ours == theirs or theirs is None, (name, shape, number, swap)


def array_api(a, b):
    """The standard's table for integers of mixed signs; None where it has no rule."""
    sizes = {n: int(n.strip("uint")) for n in (a, b)}
    if a[0] == b[0]:
        return max((a, b), key=sizes.get)
    unsigned, signed = (a, b) if a[0] == "u" else (b, a)
    if sizes[signed] > sizes[unsigned]:
        return signed
    return None if unsigned == "uint64" else f"int{2 * sizes[unsigned]}"


def test_wide_unsigned_types_follow_the_array_api():
    integers = [n for n in NAMES if "int" in n]
    for a, b in itertools.product(integers, integers):
        want = array_api(a, b)
        x, y = td.ones(2, dtype=getattr(td, a)), td.ones(2, dtype=getattr(td, b))
        if want is None:
            with pytest.raises(td.errors.DTypeError, match="no integer type holds both"):
                x + y
        else:
            assert (x + y).dtype.name == (y + x).dtype.name == td.promote_types(x.dtype, y.dtype).name == want, (a, b)
    for a, f in itertools.product(integers, ("float16", "bfloat16", "float32", "float64")):
        assert (td.ones(2, dtype=getattr(td, a)) * td.ones(2, dtype=getattr(td, f))).dtype.name == f


def test_promote_types():
    for a, b in itertools.product(NAMES, NAMES):
        if not {a, b} & WIDE:
            assert (
                td.promote_types(getattr(td, a), getattr(td, b)).name
                == str(torch.promote_types(getattr(torch, a), getattr(torch, b))).split(".")[-1]
            )


@pytest.mark.parametrize("default", ["float32", "float64"])
def test_default_dtype(default):
    torch.set_default_dtype(getattr(torch, default))
    td.set_default_dtype(default)
    try:
        for f in (lambda m: m.tensor(1.5), lambda m: m.tensor([1]) * 1.5, lambda m: m.ones(2),
                lambda m: m.tensor([1, 2]) / 2, lambda m: m.arange(0, 1, 0.5), lambda m: m.sqrt(m.tensor(4)),
                  lambda m: m.full((2,), 1.0), lambda m: m.linspace(0, 1, 3), lambda m: m.rand(2), lambda m: m.eye(2),
                  lambda m: m.tensor([]), lambda m: m.tensor(np.float32(1))):  # fmt: skip
            assert f(td).dtype.name == str(f(torch).dtype).split(".")[-1]
    finally:
        torch.set_default_dtype(torch.float32)
        td.set_default_dtype(td.float32)


VALUES = [
    lambda m: m.tensor([1, 255], dtype=m.uint8) + 300, lambda m: m.tensor([1, 255], dtype=m.uint8) + (-1),
    lambda m: m.tensor([1, 255], dtype=m.uint8) < -1,
    lambda m: m.tensor([1, 255], dtype=m.uint8) - 2, lambda m: -m.tensor([1, 255], dtype=m.uint8),
    lambda m: 2 - m.tensor([1, 255], dtype=m.uint8),
    lambda m: m.tensor([1, -7]) + 2**62, lambda m: m.tensor([1, -7]) < 0.5, lambda m: m.tensor([1, -7]) / 0,
    lambda m: m.tensor([1, -7]) // 2, lambda m: m.tensor([1, -7]) % 3,
    lambda m: -7 // m.tensor([1, -7]), lambda m: 7 % m.tensor([2, -3]), lambda m: m.tensor([5.5, -5.5]) // 2,
    lambda m: m.tensor([5.5, -5.5]) % -2, lambda m: m.tensor([1.0, -1.0, 0.0]) // 0,
    lambda m: m.tensor([1.0, -1.0, 0.0]) % 0, lambda m: m.tensor([float("inf"), -3.0]) // 2,
    lambda m: m.tensor([-3.0, 3.0]) % float("inf"), lambda m: m.tensor([-3.0, 3.0]) // float("inf"),
    lambda m: m.tensor([0.3]) // 0.1, lambda m: m.tensor([-0.0, 1e30]) // 3, lambda m: m.tensor([3e38]) // 1e-5,
    lambda m: 7.5 // m.tensor([2.0, -2.0, 0.0]), lambda m: m.tensor([7.5, -7.5]) // m.tensor([2.0, 0.0]),
    lambda m: m.tensor([1, -7]) ** 2, lambda m: 2.0 ** m.tensor([1, -7]), lambda m: m.tensor([1, 7]) ** 0.5,
    lambda m: (-1) ** m.tensor([3, 4]), lambda m: m.tensor([0.0, 2.0]) ** 0,
    lambda m: m.tensor([0.0, 2.0]) ** -1, lambda m: m.tensor([-8.0]) ** (1 / 3),
    lambda m: m.tensor([2, 3]) ** m.tensor([3, -1]), lambda m: m.tensor([1, -7]) << 2, lambda m: m.tensor([1, -7]) >> 1,
    lambda m: 1 << m.tensor([3, 70]), lambda m: 6 | m.tensor([1, -7]), lambda m: m.tensor([1, -7]) ^ True,
    lambda m: m.tensor([-128], dtype=m.int8) // -1, lambda m: abs(m.tensor([-128], dtype=m.int8)),
    lambda m: m.tensor([1.5]) + np.float32(2), lambda m: np.float64(2) + m.tensor([1.5]),
    lambda m: np.float32(2) * m.tensor([1.5]), lambda m: m.tensor([1], dtype=m.int8) + np.int64(2),
    lambda m: np.int64(3) - m.tensor([1]), lambda m: np.float32(3) / m.tensor([2.0]),
    lambda m: np.float64(3) ** m.tensor([2.0]), lambda m: np.int64(3) < m.tensor([2.0, 4.0]),
    lambda m: np.float32(3) == m.tensor([3.0]),
    lambda m: m.tensor([3.9, -3.9, 300.0]).to(m.int16), lambda m: m.tensor([3.9, 200.0]).to(m.uint8),
    lambda m: m.tensor([0.0, -0.0, 1e-30, float("nan")]).to(m.bool), lambda m: m.tensor([300, -1]).to(m.uint8),
    lambda m: m.tensor([1.0, 65504.0, 1e-8, 70000.0]).to(m.float16).to(m.float32),
    lambda m: m.tensor([1.00390625, 3e38, 1e-40]).to(m.bfloat16).to(m.float32),
    lambda m: m.tensor([2**53 + 1]).to(m.float64),
    lambda m: m.tensor([True, False]).to(m.float32), lambda m: m.tensor([1e-45]).to(m.float64),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_values_at_the_edges(number):
    ours, theirs = VALUES[number](td), VALUES[number](torch)
    assert ours.dtype.name == str(theirs.dtype).split(".")[-1]
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("f", [lambda m: m.tensor([1, 2]) // 0, lambda m: m.tensor([1, 2]) % m.tensor([1, 0]),
    lambda m: m.tensor([1]) ** -1, lambda m: m.tensor([1]) + "a", lambda m: m.tensor([1.0]) + None,
                               lambda m: m.tensor([1.0]) + [1], lambda m: m.tensor([1.0]) @ 2,
                               lambda m: m.tensor([1.5]) & 1, lambda m: m.tensor([1]) << 1.0,
                               lambda m: ~m.tensor([1.5]), lambda m: m.tensor([1]) + 2**64])  # fmt: skip
def test_what_raises_there_raises_here(f):
    for lib in (torch, td):
        with pytest.raises((RuntimeError, TypeError, ZeroDivisionError, OverflowError, ValueError)) as caught:
            f(lib)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
