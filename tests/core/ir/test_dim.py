"""Symbolic sizes: normal form, order by range, text, substitution and solving."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from treadle import shapes
from treadle.errors import DimError, ShapeError
from treadle.ir.dim import Dim, Ratio, dim_max, dim_min, solve, substitute, symbol
from treadle.ir.dim_text import parse

N, M, K, Z = Dim("N"), Dim("M", 1, 8), Dim("K", 3, 5), Dim("Z", 0)
NAMES = {"N": N, "M": M, "K": K, "Z": Z}
ENVS = st.fixed_dictionaries(
    {
        "N": st.one_of(st.integers(1, 9), st.integers(1, 10**6)),
        "M": st.integers(1, 8),
        "K": st.integers(3, 5),
        "Z": st.one_of(st.integers(0, 3), st.integers(0, 1000)),
    }
)


def examples(count):
    return settings(max_examples=count, deadline=None, database=None, derandomize=True)


# ---- expression trees, evaluated in two ways: as Dims and as ints
LEAVES = st.one_of(st.sampled_from(sorted(NAMES)), st.integers(-9, 9))
BINARY = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": dim_min,
    "max": dim_max,
}
TREES = st.recursive(
    LEAVES,
    lambda t: st.tuples(st.sampled_from(sorted(BINARY)), t, t) | st.tuples(st.just("**"), t, st.integers(0, 3)),
    max_leaves=7,
)


def evaluate(tree, names):
    if isinstance(tree, str):
        return names[tree]
    if isinstance(tree, int):
        return tree
    f, a, b = tree
    if f == "**":
        return evaluate(a, names) ** b
    return BINARY[f](evaluate(a, names), evaluate(b, names))


def as_dim(tree):
    """The Dim of a tree; trees that divide by what may have either sign are set aside."""
    try:
        return evaluate(tree, NAMES)
    except ZeroDivisionError:
        return assume(False)
    except DimError as e:
        assert "either sign" in str(e)
        return assume(False)


def number(tree, env):
    try:
        return evaluate(tree, env)
    except ZeroDivisionError:
        return assume(False)


@examples(600)
@given(TREES, st.lists(ENVS, min_size=1, max_size=4))
def test_normal_form_has_the_value_of_the_tree(tree, envs):
    d = as_dim(tree)
    for env in envs:
        want = number(tree, env)  # first: it sets divisions by zero aside
        assert substitute(d, env) == want


@examples(300)
@given(TREES, ENVS)
def test_bounds_hold(tree, env):
    d = as_dim(tree)
    assume(isinstance(d, Dim))
    low, high = d.bounds
    assert low <= number(tree, env) <= high
    assert d.low is None or d.low.__class__ is int


@examples(300)
@given(
    TREES,
    TREES,
    st.sampled_from([operator.lt, operator.le, operator.gt, operator.ge]),
    st.lists(ENVS, min_size=1, max_size=4),
)
def test_a_decided_comparison_holds_everywhere(left, right, compare, envs):
    a, b = as_dim(left), as_dim(right)
    try:
        decided = compare(a, b)
    except DimError:
        return
    assert decided.__class__ is bool
    for env in envs:
        assert compare(number(left, env), number(right, env)) is decided


@examples(300)
@given(TREES)
def test_text_is_read_back(tree):
    d = as_dim(tree)
    again = parse(str(d), NAMES)
    assert again == d and str(again) == str(d) and hash(again) == hash(d)


@examples(200)
@given(TREES, TREES, ENVS)
def test_equal_dims_have_equal_values_hashes_and_texts(left, right, env):
    a, b = as_dim(left), as_dim(right)
    if a == b:
        assert hash(a) == hash(b) and str(a) == str(b)
        assert number(left, env) == number(right, env)
    assert (a != b) is not (a == b)


@examples(200)
@given(TREES, TREES, TREES)
def test_ring_laws_hold_in_normal_form(x, y, z):
    a, b, c = as_dim(x), as_dim(y), as_dim(z)
    assert a + b == b + a and a * b == b * a
    assert (a + b) + c == a + (b + c) and a * (b + c) == a * b + a * c
    assert a - a == 0 and a + (-a) == 0 and -(-a) == a


@examples(100)
@given(TREES)
def test_copies_are_equal(tree):
    d = as_dim(tree)
    assert pickle.loads(pickle.dumps(d)) == d and copy.deepcopy(d) == d and copy.copy(d) == d


# ---- normal form, by example
@pytest.mark.parametrize(
    "got, want",
    [
        ((4 * N) // 2, 2 * N),
        ((N * 6 + 3) // 3, 2 * N + 1),
        ((8 * N + 7) // 8, N),
        ((8 * N + M - 1) // 8, N),
        ((4 * N + Z) // 4, N + Z // 4),
        ((N * M + N) // (M + 1), N),
        (N**2 // (N + 1), N - 1),
        ((N * M) // (N * Z), M // Z),
        ((2 * N) // (4 * M), N // (2 * M)),
        ((4 * N + 2) // 8, N // 2),
        ((N // 2) // 3, N // 6),
        (((N + 1) // 2 + 1) // 2, (N + 3) // 4),
        (7 // (N + 7), 0),
        ((K - 1) // 5, 0),
        ((K + 5) // 8, 1),
        (-1 // N, -1),
        (-N // -M, N // M),
        (N // -2, -N // 2),
        (N // N, 1),
        (N * M % M, 0),
        ((4 * N + 3) % 4, 3),
        (10 % (N + 10), 10),
        (K % 6, K),
        (N * 0, 0),
        (N - N, 0),
        (N**0, 1),
        (N + 1 - N, 1),
        (True * N + np.int64(1), N + 1),
        (np.int64(3) * N, 3 * N),
        (Dim.min(N, N + 1), N),
        (Dim.min(8, M), M),
        (Dim.max(0, N), N),
        (Dim.max(M, 9), 9),
        (Dim.min(Dim.min(N, Z), 7), dim_min(7, Z, N)),
        (Dim.max(N, Dim.min(N, Z)), N),
        (Dim.min(N // 2, N), N // 2),
        (Dim.min(N * M, N), N),
        (abs(-N), N),
        (abs(N), N),
        (+N, N),
    ],
)
def test_normal_form(got, want):
    assert got == want
    assert got.__class__ is want.__class__


def test_constants_are_ints():
    for x in (N - N, N // N, N * 0, N % 1, Dim.min(K, 1), 0 * N + 3, (K + 5) // 8):
        assert x.__class__ is int


def test_equality_is_by_normal_form():
    assert N == Dim("N") and N == symbol("N") and hash(N) == hash(Dim("N")) and {N: 1}[Dim("N")] == 1
    assert N != 1 and not N == 1 and N != 0 and N != M and N != "N" and N != None and N != 1.0  # noqa: E711
    assert Dim("N", 1, 8) != N and Dim("N", 2) != N
    assert (N, 4) == (Dim("N"), 4) and (N, 4) != (1, 4) and 1 not in (N, M)
    assert (N == np.int64(1)) is False and (np.int64(1) == N) is False


def test_order_by_ranges():
    assert N > 0 and N >= 1 and not N < 1 and not N <= 0 and 0 < N and M < 9 and M <= 8 and 9 > M
    assert N + 1 > N and N * M >= N and N * N >= N and 2 * N > N and N * M * 4 > M * 4 - 1 and Z * N <= Z * N * M
    assert N // 2 < N and N % 4 < 4 and N % M < M and N % M >= 0 and (N // M) * M <= N and -(-N // 2) >= N // 2
    assert Dim.min(N, M) <= 8 and Dim.min(N, Z) <= N and Dim.max(N, Z) + 1 > Z and N - Dim.min(N, Z) >= 0
    assert max(N, 1) == N and min(N, N + 1) == N and sorted([3 * N, N, 2 * N]) == [N, 2 * N, 3 * N]


def test_bounds():
    assert (N.low, N.high) == (1, None) and (M.low, M.high) == (1, 8) and (-N).low is None and (-N).high == -1
    assert ((2 * M + 1).low, (2 * M + 1).high) == (3, 17) and (M - K).bounds == (-4, 5)
    assert ((M // 3).low, (M // 3).high) == (0, 2) and (M % 3).bounds == (0, 2) and (N - M).bounds == (-7, math.inf)
    assert (Z * (K - 4)).bounds == (-math.inf, math.inf) and (N * 10**400).high is None
    assert (N * M + M).degree == 2 and sorted((N // M + Z).symbols) == ["M", "N", "Z"]


def test_bounds_of_quotients_within_quotients():
    """A remainder stands for one thing only, however often its quotient comes up while bounds are sought."""
    d = (Z % 10) // -3
    assert d.bounds == (-3, 0) and {d.at({"Z": z}) for z in range(20)} == {-3, -2, -1, 0}


def test_quotients_are_joined_only_where_the_sign_of_the_divisor_stays_known():
    d = ((5 - K) // (Dim.max(N, Z, K * M) - N)) // N
    assert parse(str(d), NAMES) == d and d.at({"N": 2, "M": 2, "K": 3, "Z": 0}) == 0


# ---- refusals
REFUSALS = {
    "N < 8": (
        lambda: N < 8,
        r"N < 8: not decided .*N in \[1, inf\); give one that decides it, as td\.Dim\(\"N\", low, high\)",
    ),
    "8 > N": (lambda: 8 > N, "N < 8: not decided"),
    "M >= N": (lambda: M >= N, r"M >= N: not decided .*M in \[1, 8\], N in \[1, inf\)"),
    "max": (lambda: max(N, 8), "Dim.max"),
    "int": (lambda: int(N), r"int\(N\): the size is symbolic .*N in \[1, inf\).*fixed size.*op on tensors"),
    "range": (lambda: range(2 * N), r"int\(2\*N\)"),
    "list": (lambda: [0] * N, "symbolic"),
    "index": (lambda: [1, 2][N], "symbolic"),
    "float": (lambda: float(N), r"float\(N\): the size is symbolic"),
    "sqrt": (lambda: math.sqrt(N), "symbolic"),
    "bool": (lambda: bool(Z), r"bool\(Z\): the size may be 0: Z in \[0, inf\)"),
    "bool difference": (lambda: bool(N - 1), "may be 0"),
    "sign": (lambda: M // (N - 3), "either sign"),
    "float ratio": (lambda: float(1 / N), r"float\(1 / N\).*written with //"),
    "power": (lambda: N**-1, "exponent"),
    "power 99": (lambda: N**99, "exponent"),
    "abs": (lambda: abs(N - 3), "not decided"),
    "min of text": (lambda: dim_min(N, "a"), "whole numbers"),
    "min of nothing": (lambda: dim_min(), "one at least"),
    "name": (lambda: Dim("2N"), "identifier"),
    "name min": (lambda: Dim("min"), "identifier other than"),
    "empty range": (lambda: Dim("N", 3, 2), r"empty: \[3, 2\]"),
    "negative range": (lambda: Dim("N", -1), "from 0 up"),
    "range of floats": (lambda: Dim("N", 1.5), "whole numbers"),
    "one name twice": (lambda: (N + Dim("N", 2)).symbols, "differ in range"),
    "missing": (lambda: substitute((N, M), {"N": 3}), "no size is given for M"),
    "out of range": (lambda: substitute(2 * M, {"M": 9}), r"M = 9 is out of its range: M in \[1, 8\]"),
    "below": (lambda: substitute(N, {"N": 0}), "N = 0 is out of its range"),
    "zero": (lambda: substitute(M // Z, {"M": 3, "Z": 0}), "division by zero"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    f, text = REFUSALS[case]
    with pytest.raises(DimError, match=text) as e:
        f()
    assert isinstance(e.value, ShapeError)


def test_error_names_the_line_that_asked():
    with pytest.raises(DimError) as e:
        if N < 8:  # the line
            pass
    assert "test_dim.py:" in str(e.value) and "if N < 8:  # the line" in str(e.value)
    with pytest.raises(DimError) as e:
        shapes.sizes("zeros", (M - 3,))  # through the package
    assert "# through the package" in str(e.value)


def test_other_types_are_refused_by_python():
    for f in (lambda: N + "a", lambda: N < "a", lambda: N - 0.5, lambda: N // 2.0, lambda: N ** (0.5), lambda: N / "a"):
        with pytest.raises(TypeError):
            f()
    with pytest.raises(ZeroDivisionError):
        N // 0
    with pytest.raises(ZeroDivisionError):
        N % 0


def test_other_objects_may_take_over():
    class Other:
        def __radd__(self, x):
            return "radd"

        def __gt__(self, x):
            return "gt"

        def __eq__(self, x):
            return "eq"

        def __rmul__(self, x):
            return "rmul"

    assert N + Other() == "radd" and (N < Other()) == "gt" and (N == Other()) == "eq" and (1 / N) * Other() == "rmul"


def test_bool_of_what_cannot_be_zero():
    assert N and 2 * N + 1 and -N and not Dim("P", 0, 0)


# ---- ratios
def test_ratio_has_the_bits_of_eager():
    r = 1.0 / N
    assert isinstance(r, Ratio) and repr(r) == "1.0 / N" and r == 1.0 / Dim("N") and hash(r) == hash(1.0 / N)
    for n in (1, 3, 7, 49, 10**6 + 3):
        assert r.at({"N": n}) == 1.0 / n
        assert (0.3 * r * 0.7).at({"N": n}) == 1.0 / n * 0.3 * 0.7
        assert (-r).at({"N": n}) == -(1.0 / n)
        assert (N * 0.3).at({"N": n}) == n * 0.3
        assert (N / (N + 1)).at({"N": n}) == n / (n + 1)
        assert (5 / (N * M)).at({"N": n, "M": 3}) == 5 / (n * 3)
        assert substitute((r, 2), {"N": n}) == (1.0 / n, 2)
    assert repr((N + 1) / (2 * N) * 0.5) == "(N + 1) / (2*N) * 0.5" and r != 2.0 / N and r != 1.0


def test_ratio_over_zero():
    r = N / (N - 1)
    assert r.at({"N": 1}) == math.inf and (-1.0 / Z).at({"Z": 0}) == -math.inf and math.isnan((0.0 / Z).at({"Z": 0}))


# ---- substitution and solving
def test_substitute_goes_into_containers():
    env = {"N": 3, "M": 2}
    x = {"a": (N, [M, 1], slice(N, None, M)), "b": None, "c": "text", "d": 2.5, "e": ((1, (N * M,)),)}
    assert substitute(x, env) == {
        "a": (3, [2, 1], slice(3, None, 2)),
        "b": None,
        "c": "text",
        "d": 2.5,
        "e": ((1, (6,)),),
    }
    size = substitute(shapes.Size((N, 4)), env)
    assert size == (3, 4) and isinstance(size, shapes.Size)
    assert substitute(7, {}) == 7 and N.at({"N": np.int64(4)}) == 4


@examples(100)
@given(ENVS)
def test_solve_finds_what_was_substituted(env):
    pattern = (2 * N, 784, N * M + 1, K + M, Z * N, N // 2, Dim.min(N, 8))
    assert solve(pattern, substitute(pattern, env)) == env


def test_solve():
    assert solve((N, 784), (3, 784)) == {"N": 3} and solve((), ()) == {} and solve((2, 3), (2, 3)) == {}
    assert solve((M, N * M), (2, 6)) == {"M": 2, "N": 3} == solve((N * M,), (6,), {"M": 2})


@pytest.mark.parametrize(
    "pattern, actual, text",
    [
        ((N, 784), (3, 783), r"shape \(3, 783\) does not match \(N, 784\): axis 1 is 783, not 784"),
        ((N, N), (3, 4), r"shape \(3, 4\) does not match \(N, N\): axis 1 is 4, not N, which is 3 for N = 3"),
        ((2 * N,), (3,), r"axis 0 is 3, which is 2\*N for no whole N"),
        ((M, 2), (9, 2), r"\(9, 2\) does not match \(M, 2\): .*M = 9 is out of its range"),
        ((N + 1,), (1,), "N = 0 is out of its range"),
        ((N, 2), (3,), r"shape \(3,\) has 1 dimensions, not 2 as \(N, 2\)"),
        ((N * M,), (9,), r"M, N cannot be told from shape \(9,\)"),
        ((N // 2,), (9,), "N cannot be told"),
        ((Z, Z * N), (0, 0), "N cannot be told"),
        ((N, M * N), (4, 7), r"axis 1 is 7, which is M\*N for no whole M with N = 4"),
        ((M, Z, M // Z), (4, 0, 1), "division by zero"),
    ],
)
def test_solve_refuses(pattern, actual, text):
    with pytest.raises(DimError, match=text):
        solve(pattern, actual)


# ---- text
def test_text():
    assert str(2 * N * M + N + 3) == "2*M*N + N + 3" == repr(3 + N + M * N * 2) == f"{N * M * 2 + N + 3}"
    assert str(N // 2 - 4) == "floordiv(N, 2) - 4" and str(-N) == "-N" and str(N**2 * M - 1) == "M*N**2 - 1"
    assert (
        str(Dim.min(8, N)) == "min(N, 8)"
        and str(
            Dim.max(
                Z,
                N,
            )
        )
        == "max(N, Z)"
        and f"{N:>3}" == "  N"
    )


@pytest.mark.parametrize(
    "text, want",
    [
        ("12", 12), (" - 3 ", -3), ("N", N), ("2*(N+1)", 2 * N + 2), ("N*-2", -2 * N), ("--N", N), ("N**2*M", N * N * M),
        ("-N**2", -(N * N)), ("N//2*3", N // 2 * 3), ("N % 4", N % 4), ("mod(N, 4)", N % 4), ("N - M - 1", N - M - 1),
        ("max(1,\n min(N, 8, M))", dim_max(1, dim_min(N, 8, M))), ("min(3)", 3), ("7//2", 3), ("2**10", 1024),
    ],
)  # fmt: skip
def test_parse(text, want):
    assert parse(text, NAMES) == want


@pytest.mark.parametrize(
    "text, problem, line, column",
    [
        ("", "expected a size, not the end", 1, 1), ("N +", "expected a size, not the end", 1, 4),
        ("2*X + 1", r"unknown name 'X' \(names here: K, M, N, Z\)", 1, 3), ("N 2", "expected an operator or the end", 1, 3),
        ("(N + 1", r"expected '\)', not the end", 1, 7), ("N\n+ 2 $", r"unknown character '\$'", 2, 5),
        ("floordiv(N)", "takes two sizes, not 1", 1, 1), ("1 +\n  N // 0", "division by zero", 2, 5),
        ("N**M", "whole number as the exponent", 1, 4), ("N**40", r"exponent must be in \[0, 32\]", 1, 1),
        ("M // (N - 3)", "either sign", 1, 3), ("min(N,)", r"expected a size, not '\)'", 1, 7),
        ("1" * 31, "more than 30 digits", 1, 1), ("(" * 60, "nested deeper", 1, 51), ("2**99", "exponent", 1, 1),
        ("min N", r"expected '\(', not 'N'", 1, 5), ("9" * 30 + "**2**2", "expected an operator", 1, 34),
    ],
)  # fmt: skip
def test_parse_names_the_place(text, problem, line, column):
    with pytest.raises(DimError, match=rf"parse: .*{problem}.* at line {line}, column {column} of "):
        parse(text, NAMES)


@examples(300)
@given(st.text("NMX01 +-*/%(),\nminfloordiv$", max_size=20))
def test_parse_raises_nothing_else(text):
    try:
        out = parse(text, NAMES)
    except DimError:
        return
    assert parse(str(out), NAMES) == out
