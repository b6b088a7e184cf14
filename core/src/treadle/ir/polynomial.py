"""Integer polynomials over atoms, as plain dicts {monomial: coefficient}: the arithmetic under `Dim`.

A monomial is a sorted tuple of atoms, repeated for powers; () is the constant one. An atom is a symbol, or floordiv,
min or max of polynomials. No coefficient is 0, so equal dicts are one polynomial and {} is zero. An atom is a str, its
key, so that monomials are hashed, compared and sorted in C; it knows its range, and its value where symbols have one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INF = math.inf
Bound = float  # an int, or an infinity
Bounds = tuple[Bound, Bound]
Monomial = tuple["Atom", ...]
Terms = dict[Monomial, int]
DEPTH = 3  # function atoms that `least` takes apart on one path
MANY = 30  # monomials above which it does not try


class Atom(str):
    """What a monomial multiplies."""

    __slots__ = ("_bounds",)
    _bounds: Bounds

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest value, both included."""
        try:
            return self._bounds
        except AttributeError:
            self._bounds = self._range()
            return self._bounds

    def _range(self) -> Bounds:
        raise NotImplementedError

    def at(self, env: Mapping[str, int]) -> int:
        raise NotImplementedError

    def parts(self) -> Sequence[Terms]:
        """The polynomials that a function atom is made of."""
        return ()

    def text(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.text()

    __str__ = __repr__


class Symbol(Atom):
    """A named size with an inclusive range; high is None for no limit. Equal when name and range are.

    >>> from treadle.ir.polynomial import Symbol
    >>> Symbol("N", 1, 8), Symbol("N", 1, 8) == Symbol("N", 1, 9)
    (N, False)
    """

    __slots__ = ("high", "low", "name")
    name: str
    low: int
    high: int | None

    def __new__(cls, name: str, low: int = 1, high: int | None = None) -> "Symbol":
        self = str.__new__(cls, f"{name} {low} {high}")
        self.name, self.low, self.high = name, low, high
        self._bounds = low, INF if high is None else high
        return self

    def __reduce__(self) -> Any:
        return Symbol, (self.name, self.low, self.high)

    def at(self, env: Mapping[str, int]) -> int:
        return env[self.name]

    def text(self) -> str:
        return self.name

    def range_text(self) -> str:
        return f"{self.name} in [{self.low}, {'inf)' if self.high is None else f'{self.high}]'}"


class Floor(Atom):
    """p // q for a q that is positive wherever it is not 0."""

    __slots__ = ("p", "q")
    p: Terms
    q: Terms

    def __new__(cls, p: Terms, q: Terms) -> "Floor":
        self = str.__new__(cls, f"~floordiv({key(p)},{key(q)})")  # ~ sorts behind the letters that symbols begin with
        self.p, self.q = p, q
        return self

    def __reduce__(self) -> Any:
        return Floor, (self.p, self.q)

    def _range(self) -> Bounds:
        (low, high), (few, many) = bounds(self.p), self.divisor()
        return _floor(low, many if low >= 0 else few), _floor(high, few if high >= 0 else many)

    def divisor(self) -> Bounds:
        """Range of q where p // q has a value."""
        few = max(1, least(self.q))
        return few, max(few, most(self.q))

    def at(self, env: Mapping[str, int]) -> int:
        return value(self.p, env) // value(self.q, env)

    def parts(self) -> Sequence[Terms]:
        return self.p, self.q

    def text(self) -> str:
        return f"floordiv({text(self.p)}, {text(self.q)})"


class Extreme(Atom):
    """The smallest or largest of several polynomials, none of which is known to be beyond another."""

    __slots__ = ("args", "kind")
    kind: str
    args: tuple[Terms, ...]

    def __new__(cls, kind: str, args: Sequence[Terms]) -> "Extreme":
        ordered = sorted(args, key=key)
        self = str.__new__(cls, f"~{kind}({','.join(map(key, ordered))})")
        self.kind, self.args = kind, tuple(ordered)
        return self

    def __reduce__(self) -> Any:
        return Extreme, (self.kind, self.args)

    def _range(self) -> Bounds:
        pick = min if self.kind == "min" else max
        low, high = zip(*map(bounds, self.args), strict=True)
        return pick(low), pick(high)

    def at(self, env: Mapping[str, int]) -> int:
        return (min if self.kind == "min" else max)(value(p, env) for p in self.args)

    def parts(self) -> Sequence[Terms]:
        return self.args

    def text(self) -> str:
        # numbers last, as one writes them
        return f"{self.kind}({', '.join(map(text, sorted(self.args, key=lambda p: (is_constant(p), key(p)))))})"


# ---- arithmetic ----------------------------------------------------------------------------------------------------
def constant(n: int) -> Terms:
    return {(): n} if n else {}


def is_constant(p: Terms) -> bool:
    return not p or (len(p) == 1 and () in p)


def plus(p: Terms, q: Terms) -> Terms:
    out = p.copy()
    for m, c in q.items():
        c += out.get(m, 0)
        if c:
            out[m] = c
        else:
            del out[m]
    return out


def minus(p: Terms, q: Terms) -> Terms:
    return plus(p, {m: -c for m, c in q.items()})


def scaled(p: Terms, k: int) -> Terms:
    return {m: c * k for m, c in p.items()} if k else {}


def times(p: Terms, q: Terms) -> Terms:
    out: Terms = {}
    for m, c in p.items():
        for n, d in q.items():
            mn = tuple(sorted(m + n)) if m and n else m or n
            k = out.get(mn, 0) + c * d
            if k:
                out[mn] = k
            else:
                del out[mn]
    return out


def power(p: Terms, k: int) -> Terms:
    out: Terms = {(): 1}
    for _ in range(k):
        out = times(out, p)
    return out


def value(p: Terms, env: Mapping[str, int]) -> int:
    total = 0
    for m, c in p.items():
        for atom in m:
            c *= atom.at(env)
        total += c
    return total


def atoms(p: Terms) -> set[Atom]:
    return {atom for m in p for atom in m}


def symbols(p: Terms) -> Iterator[Symbol]:
    """All symbols, those within function atoms too."""
    for atom in sorted(atoms(p)):
        if isinstance(atom, Symbol):
            yield atom
        for part in atom.parts():
            yield from symbols(part)


# ---- text ----------------------------------------------------------------------------------------------------------
def key(p: Terms) -> str:
    return ";".join([f"{c}*{'*'.join([str.__str__(a) for a in m])}" for m, c in sorted(p.items())])


def text(p: Terms) -> str:
    """Monomials of high degree first, then by name: `2*M*N + N - 3`."""
    out = ""
    for m in sorted(p, key=lambda m: (-len(m), m)):
        c = p[m]
        factors = [a.text() if m.count(a) == 1 else f"{a.text()}**{m.count(a)}" for a in dict.fromkeys(m)]
        if abs(c) != 1 or not m:
            factors.insert(0, str(abs(c)))
        sign = (" - " if c < 0 else " + ") if out else ("-" if c < 0 else "")
        out += sign + "*".join(factors)
    return out or "0"


# ---- division ------------------------------------------------------------------------------------------------------
def _order(m: Monomial) -> tuple[int, Monomial]:
    return len(m), m


def _without(m: Monomial, n: Monomial) -> Monomial | None:
    """m / n, or None where n does not divide m."""
    rest = list(m)
    for atom in n:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def divide(p: Terms, q: Terms) -> tuple[Terms, Terms]:
    """(a, r) with p == a*q + r; r is {} where q divides p, and dividing r again gives (0, r)."""
    if len(q) == 1 and () in q:
        k = q[()]
        a = {m: c // k for m, c in p.items() if c // k}
        return a, {m: c % k for m, c in p.items() if c % k}
    lead = max(q, key=_order)
    a, rest, work = {}, {}, p
    while work:  # every round takes away the largest monomial, in an order that products keep
        m = max(work, key=_order)
        cofactor = _without(m, lead)
        k = work[m] // q[lead] if cofactor is not None else 0
        if k and cofactor is not None:
            a[cofactor] = k
            work = minus(work, times({cofactor: k}, q))
        if m in work:
            rest[m] = work[m]
            work = {n: c for n, c in work.items() if n != m}
    return a, rest


def floordiv(p: Terms, q: Terms) -> Terms:
    """p // q in normal form, for a q that `least` knows not to be negative; where q is 0 there is no value."""
    a, rest = divide(p, q)
    return plus(a, _floor_rest(rest, q)) if rest else a


def _floor_rest(p: Terms, q: Terms) -> Terms:
    """p // q where division takes nothing more out of p."""
    k = p.get((), 0)
    rest = {m: c for m, c in p.items() if m}
    common = math.gcd(*rest.values(), *q.values())
    if common > 1:  # (g*x + k) // (g*y) == (x + k // g) // y
        return floordiv(
            plus({m: c // common for m, c in rest.items()}, constant(k // common)),
            {m: c // common for m, c in q.items()},
        )
    if len(rest) == 1:
        (m, c), *_ = rest.items()
        if len(m) == 1 and c == 1 and isinstance(m[0], Floor):  # (a // b + k) // q == (a + k*b) // (b*q)
            product = times(m[0].q, q)
            if least(product, 0) >= 0:
                return floordiv(plus(m[0].p, scaled(m[0].q, k)), product)
    cancelled = _cancelled(p, q)
    if cancelled is not None:
        return floordiv(*cancelled)
    low, high = bounds(p)
    if is_constant(q):
        low, high = _floor(low, q[()]), _floor(high, q[()])
        if low == high:
            return constant(int(low))
    elif low >= 0 and least(minus(q, p), 1) > 0:
        return {}
    elif high < 0 and least(plus(p, q), 0) >= 0:
        return {(): -1}
    return {(Floor(p, q),): 1}


def _cancelled(p: Terms, q: Terms) -> tuple[Terms, Terms] | None:
    """p and q without an atom that is a factor of every monomial of both."""
    if () in p or () in q:
        return None
    for atom in sorted(set.intersection(*(set(m) for m in (*p, *q)))):
        less = tuple({_without(m, (atom,)) or (): c for m, c in r.items()} for r in (p, q))
        if least(less[1], 0) >= 0:
            return less[0], less[1]
    return None


def extreme(kind: str, args: Sequence[Terms]) -> Terms:
    """The min or max of polynomials, without those that another is known to be beyond."""
    flat: list[Terms] = []
    for p in args:
        (m, c), *more = p.items() or [((), 0)]
        inner = m[0] if not more and c == 1 and len(m) == 1 else None
        flat += inner.args if isinstance(inner, Extreme) and inner.kind == kind else [p]
    kept: list[Terms] = []
    for p in flat:
        if any(_beyond(kind, p, q) for q in kept):
            continue
        kept = [q for q in kept if not _beyond(kind, q, p)]
        kept.append(p)
    return kept[0] if len(kept) == 1 else {(Extreme(kind, kept),): 1}


def _beyond(kind: str, p: Terms, q: Terms) -> bool:
    """Whether q makes p unnecessary."""
    return least(minus(p, q) if kind == "min" else minus(q, p), 0) >= 0


# ---- ranges --------------------------------------------------------------------------------------------------------
def bounds(p: Terms) -> Bounds:
    """A range that holds every value of p: not always the tightest."""
    return least(p), most(p)


def most(p: Terms, goal: Bound = -INF) -> Bound:
    """An upper bound; one that reaches the goal is good enough."""
    return -least(scaled(p, -1), -goal)


def least(p: Terms, goal: Bound = INF, depth: int = DEPTH) -> Bound:
    """A lower bound: the best of interval arithmetic and of what is known of the function atoms taken apart.

    One that reaches the goal is good enough.
    """
    low = _interval_low(p)
    if low >= goal or len(p) > MANY or _independent(p):
        return low
    if (moved := _shifted(p)) is not p:
        low = max(low, _interval_low(moved))
    functions = sorted(a for a in atoms(p) if a.__class__ is not Symbol) if low < goal and depth else ()
    if functions:
        atom = functions[0]
        apart = _least_floor if isinstance(atom, Floor) else _least_extreme
        low = max(low, apart(p, atom, goal, depth - 1))
    return low


def _product(a: Bound, b: Bound) -> Bound:
    if not a or not b:
        return 0
    if a.__class__ is float or b.__class__ is float:  # infinite: large ints do not convert to floats
        return INF if (a > 0) == (b > 0) else -INF
    return a * b


def _floor(a: Bound, b: Bound) -> Bound:
    """a // b for b > 0 or infinite."""
    if a in (INF, -INF):
        return a
    return a // b if b != INF else -1 if a < 0 else 0


def _interval_low(p: Terms) -> Bound:
    """The sum of the lowest values of the monomials; those that go without limit together are added up first."""
    total: Bound = 0
    growing: Terms = {}
    for m, c in p.items():
        low: Bound = c
        high: Bound = c
        unlimited = []
        for atom in m:
            a, b = atom.bounds
            if a < 0:
                ends = [_product(x, y) for x in (low, high) for y in (a, b)]
                low, high = min(ends), max(ends)
            elif b == INF:
                unlimited.append(atom)
            else:  # the sign stays: an end is the product of two ends
                low, high = _product(low, a if low >= 0 else b), _product(high, b if high >= 0 else a)
        if unlimited and low != -INF:
            growing = plus(growing, {tuple(unlimited): int(low)} if low else {})
            low = 0
        total = -INF if low == -INF or total == -INF else total + low
    for m, c in growing.items():  # c * (a product that is anything from its lowest value up)
        total = -INF if c < 0 or total == -INF else total + c * math.prod(int(atom.bounds[0]) for atom in m)
    return total


def _independent(p: Terms) -> bool:
    """Whether no symbol is in two places, so that intervals tell all."""
    seen = set()
    for m in p:
        for atom in m:
            if isinstance(atom, Floor) and not is_constant(atom.q):
                return False
            for symbol in (atom,) if atom.__class__ is Symbol else set(symbols({(atom,): 1})):
                if symbol in seen:
                    return False
                seen.add(symbol)
    return True


def _replaced(p: Terms, atom: Atom, numerator: Terms, denominator: Terms) -> tuple[Terms, int]:
    """p * denominator**degree with numerator / denominator in place of the atom, and that degree."""
    degree = max(m.count(atom) for m in p)
    out: Terms = {}
    for m, c in p.items():
        n = m.count(atom)
        part = {tuple(a for a in m if a != atom): c}
        if n:
            part = times(part, power(numerator, n))
        out = plus(out, times(part, power(denominator, degree - n)) if degree > n else part)
    return out, degree


ONE: Terms = {(): 1}


def _shifted(p: Terms) -> Terms:
    """Every atom as its lowest value plus a rest from 0 up: now N*N - N is seen to be no less than 0."""
    for atom in sorted(atoms(p)):
        low, high = atom.bounds
        if low and low != -INF:
            rest = Symbol("~" + atom, 0, None if high == INF else int(high - low))
            p = _replaced(p, atom, {(): int(low), (rest,): 1}, ONE)[0]
    return p


def _least_floor(p: Terms, atom: Any, goal: Bound, depth: int) -> Bound:
    """x // y as (x - r) / y with a remainder r from 0 to y - 1, and as (x - y + 1 + r) / y: the better bound."""
    few, many = atom.divisor()
    limit = None if many == INF else int(many) - 1
    low = -INF
    above: Terms = {(Symbol("~r" + atom, 0, limit),): 1}
    below: Terms = {(Symbol("~s" + atom, 0, limit),): 1}  # names of their own: the atom may come up again further down
    for top in (minus(atom.p, above), plus(minus(plus(atom.p, ONE), atom.q), below)):
        multiple, degree = _replaced(p, atom, top, atom.q)
        found = least(multiple, _goal(goal, few, many, degree), depth)  # of p * y**degree
        if found > 0:
            found = 1 if many == INF else max(1, -(-found // many**degree))
        elif found != -INF:
            found = -(-found // few**degree)
        low = max(low, found)
    return low


def _goal(goal: Bound, few: Bound, many: Bound, degree: int) -> Bound:
    """What p * y**degree must reach for p to reach the goal, y being few to many."""
    if goal in (INF, 0) or not degree:
        return goal
    if goal < 0:
        return goal * few**degree
    if many == INF:
        return 1 if goal == 1 else INF
    return (goal - 1) * many**degree + 1


def _least_extreme(p: Terms, atom: Any, goal: Bound, depth: int) -> Bound:
    """p with each argument in place of the atom: one of them is p; and where the atom is only added or subtracted, p is
    the largest or the smallest of them."""
    lows = [least(_replaced(p, atom, q, ONE)[0], goal, depth) for q in atom.args]
    added = sum(atom in m for m in p) == 1 and p.get((atom,), 0)
    return max(lows) if added and (added < 0) == (atom.kind == "min") else min(lows)
