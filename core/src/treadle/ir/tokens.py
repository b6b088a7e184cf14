"""Tokens of a graph's text, and errors that say where they are."""

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import NoReturn

from treadle.errors import FormatError

SPACE = re.compile(r"(?:\s+|#(?![^\W\d])[^\n]*)*")
TOKEN = re.compile(
    r"""(?P<value>%\w+)
    |(?P<live>\#[^\W\d]\w*)
    |(?P<hexfloat>0x[0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?p[+-]?[0-9]+)
    |(?P<bits>0x[0-9a-fA-F]+)
    |(?P<float>[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)
    |(?P<int>[0-9]+)
    |(?P<name>[^\W\d]\w*)
    |(?P<string>"[^"\\\n]*(?:\\.[^"\\\n]*)*")
    |(?P<sign>[-(){}\[\]<>,:=])
    |(?P<end>\Z)""",
    re.VERBOSE,
)
SHOWN = 30  # characters of a token in an error


class Tokens:
    """`token` of a `kind` is the next one and starts at `start`; `advance` goes on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.breaks = [m.start() for m in re.finditer("\n", text)]
        self.start = self.stop = 0
        self.kind = self.token = ""
        self.advance()

    def advance(self) -> str:
        """Go to the next token and return the one gone by."""
        gone = self.token
        space = SPACE.match(self.text, self.stop)
        self.start = space.end() if space else self.stop
        m = TOKEN.match(self.text, self.start)
        if m is None:
            self.fail(f"unknown character {self.text[self.start]!r}")
        self.kind, self.token, self.stop = m.lastgroup or "", m[0], m.end()
        return gone

    def line(self, start: int) -> int:
        return bisect_right(self.breaks, start - 1) + 1

    def fail(self, problem: str, start: int | None = None) -> NoReturn:
        """FormatError that names a place, here if none is given."""
        at = self.start if start is None else start
        line = self.line(at)
        column = at - (self.breaks[line - 2] if line > 1 else -1)
        raise FormatError(f"line {line}, column {column}: {problem}")

    def wrong(self, expected: str) -> NoReturn:
        found = self.token[:SHOWN] + "..." * (len(self.token) > SHOWN)
        self.fail(f"expected {expected}, found {found or 'the end of the text'}")

    def expect(self, sign: str) -> None:
        if self.token != sign:
            self.wrong(sign)
        self.advance()

    def have(self, sign: str) -> bool:
        """Go past a sign if it is there."""
        if self.token != sign:
            return False
        self.advance()
        return True

    def take(self, kind: str, expected: str) -> str:
        if self.kind != kind:
            self.wrong(expected)
        return self.advance()

    def each(self, opening: str, item: Callable[[], object], closing: str) -> None:
        """Read items between signs, with commas between them and perhaps after the last."""
        self.expect(opening)
        while self.token != closing:
            item()
            if self.token != closing:
                if self.token != ",":
                    self.wrong(f", or {closing}")
                self.advance()
        self.advance()

    def raw(self, stops: str) -> tuple[str, int]:
        """The text from the present token up to one of some signs outside of parentheses, and where it starts."""
        begin = at = self.start
        depth = 0
        while at < len(self.text) and (depth or self.text[at] not in stops) and self.text[at] not in '\n"{}':
            depth += {"(": 1, ")": -1}.get(self.text[at], 0)
            at += 1
        if at == len(self.text) or self.text[at] not in stops:
            self.fail(f"expected {' or '.join(stops)} after this", begin)
        self.stop = at
        self.advance()
        return self.text[begin:at].strip(), begin
