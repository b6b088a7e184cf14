"""Read sizes from text: the inverse of `str` on a Dim."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from treadle.errors import DimError
from treadle.ir.dim import Size, dim_max, dim_min

TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[^\W\d]\w*)|(?P<sign>\*\*|//|[-+*%(),])|(?P<end>\Z))")
FUNCTIONS: dict[str, Callable[..., Size]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": dim_min,
    "max": dim_max,
}
BINARY = ("floordiv", "mod")  # the functions of exactly two sizes
MAX_DIGITS = 30
MAX_NESTING = 50


def parse(text: str, symbols: Mapping[str, Size]) -> Size:
    """Return the size that a text describes: numbers, names, + - * // % **, floordiv, mod, min, max and parentheses.

    DimError names the line and column where the text is at fault.

    >>> from treadle.ir.dim import Dim
    >>> from treadle.ir.dim_text import parse
    >>> N = Dim("N")
    >>> parse("2*N + floordiv(N + 1, 2)", {"N": N}) == 2 * N + (N + 1) // 2
    True
    """
    reader = _Reader(text, symbols)
    out = reader.sum()
    if reader.kind != "end":
        reader.fail(f"expected an operator or the end, not {reader.token!r}")
    return out


class _Reader:
    """Recursive descent; `token` of a `kind` is the next one, and starts at `start`."""

    def __init__(self, text: str, symbols: Mapping[str, Size]) -> None:
        self.text, self.symbols = text, symbols
        self.start = self.stop = self.depth = 0
        self.kind = self.token = ""
        self.advance()

    def advance(self) -> str:
        """Go to the next token and return the one gone by."""
        gone = self.token
        m = TOKEN.match(self.text, self.stop)
        if m is None:
            self.start = len(self.text) - len(self.text[self.stop :].lstrip())
            self.fail(f"unknown character {self.text[self.start]!r}")
        self.kind = m.lastgroup or ""
        self.start, self.stop = m.span(self.kind)
        self.token = m[self.kind]
        return gone

    def fail(self, problem: str, start: int | None = None) -> NoReturn:
        before = self.text[: self.start if start is None else start]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise DimError(f"parse: {problem} at line {line}, column {column} of {self.text!r}")

    def expect(self, sign: str) -> None:
        if self.token != sign:
            self.fail(f"expected {sign!r}, not {self.token!r}" if self.token else f"expected {sign!r}, not the end")
        self.advance()

    def apply(self, start: int, f: Callable[..., Size], *args: Size) -> Size:
        """f(*args), with the place in the text where it is refused."""
        try:
            return f(*args)
        except (DimError, ZeroDivisionError) as e:
            return self.fail(str(e), start)

    def sum(self) -> Size:
        out = self.product()
        while self.token in ("+", "-"):
            sign, right = self.advance(), self.product()
            out = out + right if sign == "+" else out - right
        return out

    def product(self) -> Size:
        out = self.signed()
        while self.token in ("*", "//", "%"):
            start, sign = self.start, self.advance()
            right = self.signed()
            f: Any = {"*": lambda a, b: a * b, "//": FUNCTIONS["floordiv"], "%": FUNCTIONS["mod"]}[sign]
            out = self.apply(start, f, out, right)
        return out

    def signed(self) -> Size:
        negative = False
        while self.token == "-":
            self.advance()
            negative = not negative
        out = self.power()
        return -out if negative else out

    def power(self) -> Size:
        start, out = self.start, self.one()
        if self.token != "**":
            return out
        self.advance()
        if self.kind != "number":
            self.fail("expected a whole number as the exponent")
        exponent = self.number()
        return self.apply(start, lambda: _power(out, exponent))

    def one(self) -> Size:
        """A number, a name, a call, or a sum in parentheses."""
        if self.kind == "number":
            return self.number()
        start, token = self.start, self.token
        if self.kind == "name":
            self.advance()
            if token in FUNCTIONS:
                return self.call(token, start)
            if token not in self.symbols:
                known = ", ".join(sorted(self.symbols)) or "none"
                self.fail(f"unknown name {token!r} (names here: {known})", start)
            return self.symbols[token]
        if token != "(":
            self.fail(f"expected a size, not {token!r}" if token else "expected a size, not the end")
        return self.nested()[0]

    def number(self) -> int:
        if len(self.token) > MAX_DIGITS:
            self.fail(f"a number of more than {MAX_DIGITS} digits")
        return int(self.advance())

    def call(self, name: str, start: int) -> Size:
        args = self.nested(several=True)
        if name in BINARY and len(args) != 2:
            self.fail(f"{name} takes two sizes, not {len(args)}", start)
        return self.apply(start, FUNCTIONS[name], *args)

    def nested(self, several: bool = False) -> list[Size]:
        """What stands in parentheses."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"parentheses nested deeper than {MAX_NESTING}")
        self.expect("(")
        out = [self.sum()]
        while several and self.token == ",":
            self.advance()
            out.append(self.sum())
        self.expect(")")
        self.depth -= 1
        return out


def _power(base: Size, exponent: int) -> Size:
    if isinstance(base, int) and exponent > MAX_DIGITS:
        raise DimError(f"{base}**{exponent}: the exponent must be in [0, {MAX_DIGITS}]")
    return base**exponent
