"""Symbolic sizes: the shape of a graph that was traced with a dynamic batch.

A `Dim` is an integer polynomial over named sizes with ranges; floordiv, min and max of polynomials count as further
names. Whatever comes out constant is a plain int, so code that never meets a symbol never meets a Dim.

Equality compares normal forms and is always an answer: `2 * N == N + N`, and `N != 1` although N may be 1 at run time:
shape rules treat a symbolic size as neither 0 nor 1, and what they do then is right for 1 as well. Order is decided by
the ranges; where these leave it open, it raises DimError.
"""

import linecache
import os
import sys
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from treadle.errors import DimError
from treadle.ir import polynomial
from treadle.ir.polynomial import INF, Symbol, Terms

Size = Any  # an int or a Dim
RESERVED = ("floordiv", "max", "min", "mod")
MAX_POWER = 32
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Dim:
    """A size that is a polynomial of named sizes; `Dim("N", low, high)` is the size named N.

    >>> from treadle.ir.dim import Dim
    >>> N, M = Dim("N"), Dim("M", 1, 8)
    >>> 2 * N * M + 3, (4 * N) // 2, (N + 1) // 2, N - N, N + M > 1
    (2*M*N + 3, 2*N, floordiv(N + 1, 2), 0, True)
    """

    __slots__ = ("_bounds", "_hash", "_symbols", "terms")
    __array_ufunc__ = None  # NumPy's integers leave arithmetic to us
    symbolic = True  # how shape functions know us
    terms: Terms
    _bounds: polynomial.Bounds
    _hash: int
    _symbols: dict[str, Symbol]

    def __new__(cls, name: str, low: int = 1, high: int | None = None) -> "Dim":
        return symbol(name, low, high)

    def __reduce__(self) -> Any:
        return _make, (self.terms,)

    def __copy__(self) -> "Dim":
        return self

    def __deepcopy__(self, memo: Any) -> "Dim":
        return self

    # ---- arithmetic: an int where the result is one
    def __add__(self, other: Any) -> Size:
        q = _terms(other)
        return NotImplemented if q is None else _make(polynomial.plus(self.terms, q))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Size:
        q = _terms(other)
        return NotImplemented if q is None else _make(polynomial.minus(self.terms, q))

    def __rsub__(self, other: Any) -> Size:
        q = _terms(other)
        return NotImplemented if q is None else _make(polynomial.minus(q, self.terms))

    def __mul__(self, other: Any) -> Any:
        if other.__class__ is int:
            return _make(polynomial.scaled(self.terms, other)) if other != 1 else self
        q = _terms(other)
        if q is None:
            return Ratio(self, 1) * other if isinstance(other, float) else NotImplemented
        return _make(polynomial.times(self.terms, q))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Size:
        return _floordiv(self, other)

    def __rfloordiv__(self, other: Any) -> Size:
        return _floordiv(other, self)

    def __mod__(self, other: Any) -> Size:
        whole = _floordiv(self, other)
        return whole if whole is NotImplemented else self - other * whole

    def __rmod__(self, other: Any) -> Size:
        whole = _floordiv(other, self)
        return whole if whole is NotImplemented else other - self * whole

    def __truediv__(self, other: Any) -> Any:
        return Ratio(self, other) if isinstance(other, Dim | Integral) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return Ratio(other, self) if isinstance(other, Real) else NotImplemented

    def __pow__(self, exponent: Any) -> Size:
        if not isinstance(exponent, Integral):
            return NotImplemented
        k = int(exponent)
        if not 0 <= k <= MAX_POWER:
            raise DimError(f"{_nested(self)}**{k}: the exponent must be in [0, {MAX_POWER}]")
        return _make(polynomial.power(self.terms, k))

    def __neg__(self) -> Size:
        return _make(polynomial.scaled(self.terms, -1))

    def __pos__(self) -> "Dim":
        return self

    def __abs__(self) -> Size:
        return self if self >= 0 else -self

    def min(self, *others: Size) -> Size:
        """Return the smallest of sizes.

        >>> from treadle.ir.dim import Dim
        >>> N = Dim("N", 1, 100)
        >>> Dim.min(N, 8), Dim.min(N, N + 1), Dim.min(200, N)
        (min(N, 8), N, N)
        """
        return dim_min(self, *others)

    def max(self, *others: Size) -> Size:
        """Return the largest of sizes.

        >>> from treadle.ir.dim import Dim
        >>> Dim.max(Dim("N"), 8), Dim.max(Dim("N"), 1)
        (max(N, 8), N)
        """
        return dim_max(self, *others)

    # ---- comparison
    def __eq__(self, other: object) -> Any:
        if other.__class__ is Dim:
            return self.terms == other.terms  # type: ignore[attr-defined]
        return False if other.__class__ is int or isinstance(other, Real) else NotImplemented

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = hash(frozenset(self.terms.items()))
            return self._hash

    def __ge__(self, other: Any) -> bool:
        return _ordered(self, other, 0, ">=")

    def __gt__(self, other: Any) -> bool:
        return _ordered(self, other, 1, ">")

    def __le__(self, other: Any) -> bool:
        above = _ordered(self, other, 1, "<=")
        return above if above is NotImplemented else not above

    def __lt__(self, other: Any) -> bool:
        above = _ordered(self, other, 0, "<")
        return above if above is NotImplemented else not above

    # ---- what only a number can do
    def __bool__(self) -> bool:
        low, high = self.bounds
        if low > 0 or high < 0:
            return True
        if low == high:
            return False
        raise _refusal(
            f"bool({self})",
            self,
            "the size may be 0",
            f"give it a range without 0, {_suggested(self)}, or a fixed size",
        )

    def __int__(self) -> int:
        raise _not_a_number("int", self)

    def __index__(self) -> int:
        raise _not_a_number("int", self)

    def __float__(self) -> float:
        raise _not_a_number("float", self)

    # ---- what is known of it
    @property
    def bounds(self) -> polynomial.Bounds:
        """Lowest and highest value, which may be infinite."""
        try:
            return self._bounds
        except AttributeError:
            self._bounds = polynomial.bounds(self.terms)
            return self._bounds

    @property
    def low(self) -> int | None:
        """A value that it is never below; None where there is no such value.

        >>> from treadle.ir.dim import Dim
        >>> (2 * Dim("N") + 1).low, (-Dim("N")).low
        (3, None)
        """
        return None if self.bounds[0] == -INF else int(self.bounds[0])

    @property
    def high(self) -> int | None:
        """A value that it is never above; None where there is no such value.

        >>> from treadle.ir.dim import Dim
        >>> (2 * Dim("N", 1, 8)).high, Dim("N").high
        (16, None)
        """
        return None if self.bounds[1] == INF else int(self.bounds[1])

    @property
    def degree(self) -> int:
        """The most sizes that are multiplied in one of its terms.

        >>> from treadle.ir.dim import Dim
        >>> (4 * Dim("N") * Dim("M") + 1).degree
        2
        """
        return max(map(len, self.terms))

    @property
    def symbols(self) -> dict[str, Symbol]:
        """The symbols in it, by name; DimError when two of one name differ in range.

        >>> from treadle.ir.dim import Dim
        >>> sorted((Dim("N") * Dim("M") + 1).symbols)
        ['M', 'N']
        """
        try:
            return self._symbols
        except AttributeError:
            found: dict[str, Symbol] = {}
            for s in polynomial.symbols(self.terms):
                if found.setdefault(s.name, s) != s:
                    raise _refusal(str(self), self, "two sizes of one name differ in range", "give the name one range")
            self._symbols = found
            return found

    def at(self, env: Mapping[str, int]) -> int:
        """Return the value for sizes by name; DimError for a missing name or a size out of range.

        >>> from treadle.ir.dim import Dim
        >>> (3 * Dim("N") + 1).at({"N": 5})
        16
        """
        for name, s in self.symbols.items():
            n = env.get(name)
            if n is None:
                raise DimError(f"{self}: no size is given for {name}: {dict(env)}")
            if n < s.low or (s.high is not None and n > s.high):
                raise DimError(f"{self}: the size {name} = {n} is out of its range: {s.range_text()}")
        try:
            return polynomial.value(self.terms, env)
        except ZeroDivisionError:
            raise DimError(f"{self}: division by zero at {dict(env)}") from None

    def __str__(self) -> str:
        return polynomial.text(self.terms)

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def symbol(name: str, low: int = 1, high: int | None = None) -> Dim:
    """Return the size of a name, which may be anything from low to high (None: no limit), both included.

    >>> from treadle.ir.dim import symbol
    >>> symbol("N"), symbol("N", 1, 8) == symbol("N", 1, 8), symbol("N") == symbol("N", 2)
    (N, True, False)
    """
    if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
        raise DimError(f"Dim: a name must be an identifier other than {', '.join(RESERVED)}: {name!r}")
    for n in (low, low if high is None else high):
        if not isinstance(n, Integral) or n < 0:
            raise DimError(f"Dim: the range of {name} must be whole numbers from 0 up: [{low!r}, {high!r}]")
    if high is not None and high < low:
        raise DimError(f"Dim: the range of {name} is empty: [{low}, {high}]")
    return _dim({(Symbol(name, int(low), None if high is None else int(high)),): 1})


def dim_min(*sizes: Size) -> Size:
    """Return the smallest of sizes, ints or Dims.

    >>> from treadle.ir.dim import Dim, dim_min
    >>> dim_min(3, 2), dim_min(Dim("N"), 8, Dim("N") + 1)
    (2, min(N, 8))
    """
    return _extreme("min", sizes)


def dim_max(*sizes: Size) -> Size:
    """Return the largest of sizes, ints or Dims.

    >>> from treadle.ir.dim import Dim, dim_max
    >>> dim_max(3, 2), dim_max(Dim("N") - 1, 0)
    (3, N - 1)
    """
    return _extreme("max", sizes)


class Ratio:
    """A quotient with a symbolic size in it: a number that is known at run time. It can be multiplied by floats.

    It is computed in the order it was written, with Python's floats, so it has the bits that eager code gets. Over 0 it
    is inf or nan, as IEEE says.

    >>> from treadle.ir.dim import Dim
    >>> r = 1.0 / Dim("N")
    >>> r, r * 0.5, (r * 0.5).at({"N": 4})
    (1.0 / N, 1.0 / N * 0.5, 0.125)
    """

    __slots__ = ("dim", "factors", "numerator")
    __array_ufunc__ = None

    def __init__(self, numerator: Any, dim: Size, factors: tuple[float, ...] = ()) -> None:
        self.numerator, self.dim, self.factors = numerator, dim, factors

    def __mul__(self, other: Any) -> "Ratio":
        if not isinstance(other, Real):
            return NotImplemented
        return Ratio(self.numerator, self.dim, (*self.factors, float(other)))

    __rmul__ = __mul__

    def __neg__(self) -> "Ratio":
        return self * -1.0

    def at(self, env: Mapping[str, int]) -> float:
        """Return the value for sizes by name.

        >>> from treadle.ir.dim import Dim
        >>> ((Dim("N") + 1) / Dim("N")).at({"N": 2})
        1.5
        """
        top, bottom = substitute(self.numerator, env), substitute(self.dim, env)
        if bottom:
            out = top / bottom
        else:
            out = top * INF if top else float("nan")
        for f in self.factors:
            out *= f
        return float(out)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ratio):
            return NotImplemented
        return (self.numerator, self.dim, self.factors) == (other.numerator, other.dim, other.factors)

    def __hash__(self) -> int:
        return hash((self.numerator, self.dim, self.factors))

    def __float__(self) -> float:
        raise _not_a_number("float", self)

    __int__ = __float__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return " * ".join([f"{_nested(self.numerator)} / {_nested(self.dim)}", *map(repr, self.factors)])


def substitute(x: Any, env: Mapping[str, int]) -> Any:
    """Return x with numbers for its symbolic sizes, within tuples, lists, dicts and slices too; all else as it is.

    DimError names a symbol that has no size in env, or one out of its range.

    >>> from treadle.ir.dim import Dim, substitute
    >>> N = Dim("N")
    >>> substitute((N, 4 * N, 7, slice(0, N)), {"N": 2})
    (2, 8, 7, slice(0, 2, None))
    """
    if isinstance(x, Dim | Ratio):
        return x.at(env)
    if isinstance(x, tuple):
        items = [n if n.__class__ is int else substitute(n, env) for n in x]
        return x._make(items) if hasattr(x, "_make") else x.__class__(items)
    if isinstance(x, list):
        return [substitute(n, env) for n in x]
    if isinstance(x, dict):
        return {k: substitute(n, env) for k, n in x.items()}
    if isinstance(x, slice):
        return slice(substitute(x.start, env), substitute(x.stop, env), substitute(x.step, env))
    return x


def solve(pattern: Iterable[Size], actual: Iterable[int], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the sizes by name for which a symbolic shape is the actual one.

    Each name must be found from one axis that it stands in linearly, given the others; names in `known` (from other
    arguments) are taken as they are. DimError where the shapes do not match, or leave a name open.

    >>> from treadle.ir.dim import Dim, solve
    >>> N, M = Dim("N"), Dim("M")
    >>> solve((N * M, 784, 2 * N), (6, 784, 4))
    {'N': 2, 'M': 3}
    """
    pattern, actual, env = tuple(pattern), tuple(actual), dict(known or {})
    if len(pattern) != len(actual):
        raise DimError(f"solve: shape {actual} has {len(actual)} dimensions, not {len(pattern)} as {pattern}")
    names = {name: s for p in pattern if isinstance(p, Dim) for name, s in p.symbols.items()}
    todo = [axis for axis, p in enumerate(pattern) if isinstance(p, Dim)]
    while todo:
        left = [axis for axis in todo if not _bind(pattern, actual, axis, env)]
        if left == todo:
            break
        todo = left
    missing = [name for name in names if name not in env]
    if missing:
        raise DimError(
            f"solve: {', '.join(missing)} cannot be told from shape {actual} for {pattern}; give an argument in "
            f"which {missing[0]} is an axis of its own"
        )
    for axis, p in enumerate(pattern):
        try:
            n = substitute(p, env)
        except DimError as e:
            raise DimError(f"solve: shape {actual} does not match {pattern}: {e}") from None
        if n != actual[axis]:
            why = f", which is {n} for {_assigned(p, env)}" if isinstance(p, Dim) else ""
            raise DimError(
                f"solve: shape {actual} does not match {pattern}: axis {axis} is {actual[axis]}, not {p}{why}"
            )
    return env


def _bind(pattern: Any, actual: Any, axis: int, env: dict[str, int]) -> bool:
    """Find the one symbol of an axis that is not in env yet; False where there is more to be found."""
    rest: Terms = {}  # what is left of the size when the known names have their values
    for m, c in pattern[axis].terms.items():
        unknown = []
        for atom in m:
            if all(s.name in env for s in polynomial.symbols({(atom,): 1})):
                try:
                    c *= atom.at(env)
                except ZeroDivisionError:
                    return True  # reported when all names are known
            else:
                unknown.append(atom)
        rest = polynomial.plus(rest, {tuple(unknown): c} if c else {})
    k = rest.pop((), 0)
    if not rest:
        return True
    (m, c), *more = rest.items()
    if more or len(m) != 1 or not isinstance(m[0], Symbol):
        return False
    n, odd = divmod(actual[axis] - k, c)
    if odd:
        given = f" with {_assigned(pattern[axis], env)}" if env else ""
        raise DimError(
            f"solve: shape {actual} does not match {pattern}: axis {axis} is {actual[axis]}, which is "
            f"{pattern[axis]} for no whole {m[0].name}{given}"
        )
    env[m[0].name] = n
    return True


def _assigned(p: Any, env: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {env[name]}" for name in p.symbols if name in env)


# ---- inside ----------------------------------------------------------------------------------------------------------
def _dim(terms: Terms) -> Dim:
    out: Dim = object.__new__(Dim)
    out.terms = terms
    return out


def _make(terms: Terms) -> Size:
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return _dim(terms)


def _terms(x: Any) -> Terms | None:
    """The polynomial of a Dim or whole number; None for what else may stand beside a Dim."""
    if x.__class__ is Dim:
        terms: Terms = x.terms
        return terms
    if x.__class__ is int or isinstance(x, Integral):
        return {(): int(x)} if x else {}
    return None


def _floordiv(a: Any, b: Any) -> Size:
    p, q = _terms(a), _terms(b)
    if p is None or q is None:
        return NotImplemented
    if not q:
        raise ZeroDivisionError(f"{a} // 0: division by zero")
    exact, rest = polynomial.divide(p, q)
    if not rest:
        return _make(exact)
    if polynomial.least(q, 0) < 0:  # x // -y == -x // y
        p, q = polynomial.scaled(p, -1), polynomial.scaled(q, -1)
        if polynomial.least(q, 0) < 0:
            raise _refusal(
                f"{_nested(a)} // {_nested(b)}",
                b,
                "the divisor may be of either sign",
                f"give it a range that decides, {_suggested(b)}",
            )
    return _make(polynomial.floordiv(p, q))


def _extreme(kind: str, sizes: Any) -> Size:
    args = [_terms(n) for n in sizes]
    if not args or None in args:
        raise DimError(f"dim_{kind}: sizes must be whole numbers or Dims, one at least: {sizes}")
    return _make(polynomial.extreme(kind, [p for p in args if p is not None]))


def _ordered(a: Dim, b: Any, least: int, sign: str) -> bool:
    """Whether a - b >= least, for an error that says `a sign b`."""
    if b.__class__ is int:
        low, high = a.bounds
        if low >= b + least or high < b + least:
            return low >= b + least
    else:
        q = _terms(b)
        if q is None:
            return NotImplemented
        difference = polynomial.minus(a.terms, q)
        if polynomial.least(difference, least) >= least:
            return True
        if polynomial.most(difference, least - 1) < least:
            return False
    raise _refusal(
        f"{a} {sign} {b}",
        (a, b),
        "not decided by the ranges of its sizes",
        f"give one that decides it, {_suggested(a)}, or use a fixed size; Dim.min and Dim.max need no decision",
    )


def _nested(x: Any) -> str:
    """The text of an operand."""
    return f"({x})" if isinstance(x, Dim) and not str(x).isidentifier() else repr(x)


# ---- refusals --------------------------------------------------------------------------------------------------------
def _not_a_number(function: str, x: Any) -> DimError:
    remedy = "use a fixed size, or an op on tensors in place of Python's arithmetic"
    return _refusal(
        f"{function}({x})",
        (x.numerator, x.dim) if isinstance(x, Ratio) else x,
        "the size is symbolic in this graph, not a number",
        remedy + ("; whole quotients are written with //" if isinstance(x, Ratio) else ""),
    )


def _refusal(what: str, sizes: Any, problem: str, remedy: str) -> DimError:
    """A DimError with the ranges of the symbols concerned and the line of the user's that asked."""
    found: dict[Symbol, str] = {}
    for x in sizes if isinstance(sizes, tuple) else (sizes,):
        if isinstance(x, Dim):
            found |= {s: s.range_text() for s in polynomial.symbols(x.terms)}
    return DimError(f"{what}: {problem}: {', '.join(found.values())}; {remedy}{_user_line()}")


def _suggested(x: Any) -> str:
    found = list(polynomial.symbols(x.terms)) if isinstance(x, Dim) else []
    names = [s.name for s in found if s.high is None] or [s.name for s in found] or ["N"]  # the most open one
    return f'as td.Dim("{names[0]}", low, high)'


def _user_line() -> str:
    """` (file:line: text)` of the innermost frame outside of this package."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_PACKAGE, "<op ")):
            source = linecache.getline(path, frame.f_lineno, frame.f_globals).strip()
            return f" ({path}:{frame.f_lineno}{f': {source}' if source else ''})"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
