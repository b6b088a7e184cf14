"""Print a graph: the writing half of the text form (treadle.ir.text)."""

import base64
import json
import math
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from treadle.dtypes import DType
from treadle.ir import polynomial
from treadle.ir.dim import Dim, Ratio
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.polynomial import Symbol
from treadle.spec import Spec

FEW = 16  # elements of a constant that is printed as numbers
WIDTH = 120  # of a header that stands on one line
NAN = 0x7FF8000000000000  # the bits of float("nan")
INDENT = "  "


class Printer:
    """The text of one graph, all of it or a node at a time."""

    def __init__(self, graph: Graph, lines: bool = False, indent: str = "") -> None:
        self.g, self.lines, self.indent = graph, lines, indent
        made = [v for n in graph.nodes for v in n.results()]
        order = dict.fromkeys([*graph.inputs, *graph.constants, *made])
        self.names = {v: f"%{k}" for k, v in enumerate(order)}

    def graph(self) -> str:
        """The whole text."""
        g, pad = self.g, "\n" + self.indent + INDENT
        body = [f"{self.result(v)} = constant {self.constant(x, v.spec)}" for v, x in g.constants.items()]
        body += [self.node(n) + self._comment(n) for n in g.nodes]
        body.append(f"return {', '.join(map(self.name, g.outputs))}".rstrip())
        return f"{self.header()} {{{''.join([pad + line for line in body])}\n{self.indent}}}"

    def _comment(self, n: Node) -> str:
        return f"  # {' '.join(n.line.split())}" if self.lines and n.line else ""

    def header(self) -> str:
        """Name, symbolic sizes, inputs and numbers."""
        g = self.g
        name = g.name if g.name.isidentifier() and g.name.isascii() else string(g.name)
        declared = [f"{s.name}: {s.low} to {'inf' if s.high is None else s.high}" for s in symbols(g)]
        given = [self.result(v) for v in g.inputs] + [f"#{n.name}: {n.kind.__name__}" for n in g.numbers]
        start = f"graph {name}" + (f"[{', '.join(declared)}]" if declared else "")
        line = f"{start}({', '.join(given)})"
        if len(self.indent + line) < WIDTH:
            return line
        pad = "\n" + self.indent + INDENT * 2
        return f"{start}({pad}{(',' + pad).join(given)}\n{self.indent})"

    def name(self, v: Any) -> str:
        return self.names.get(v, "%?")

    def result(self, v: Value) -> str:
        return f"{self.name(v)}: {v.spec}"

    def node(self, n: Node) -> str:
        """One node, which is one line unless an attribute is a graph."""
        made = [self._unwanted(n, k) if v is None else self.result(v) for k, v in enumerate(n.outputs)]
        attrs = ", ".join([f"{name}={self.literal(x)}" for name, x in n.attrs.items()])
        call = f"{n.op.name}({', '.join(map(self.operand, n.inputs))})"
        return f"{', '.join(made) or '()'} = {call}{f' {{{attrs}}}' if attrs else ''}"

    def _unwanted(self, n: Node, k: int) -> str:
        """`_`, with its type where that does not always follow from the operands."""
        return "_" if len(n.outputs) > 1 or k >= len(n.specs) else f"_: {n.specs[k]}"

    def operand(self, x: Any) -> str:
        if x.__class__ is Value:
            return self.name(x)
        if x.__class__ is tuple:
            return f"[{', '.join(map(self.name, x))}]"
        return f"#{x.name}" if x.__class__ is Number else self.literal(x)

    def constant(self, x: Any, spec: Spec) -> str:
        """The elements of an array, row-major, or a number that depends on symbolic sizes."""
        return self.literal(x) if isinstance(x, (Dim, Ratio)) else elements(x, spec)

    def literal(self, x: Any) -> str:
        """A number, none, or what attributes may be else."""
        if isinstance(x, tuple):
            inner = ", ".join(map(self.literal, x))
            return f"({inner},)" if len(x) == 1 else f"({inner})"
        if isinstance(x, Graph):
            return Printer(x, self.lines, self.indent + INDENT).graph()
        if x is None or isinstance(x, bool):
            return str(x).lower()
        if isinstance(x, int):
            return int.__repr__(x)
        if isinstance(x, float):
            return number(x)
        if isinstance(x, str):
            return string(x)
        if isinstance(x, Ratio):
            return f"ratio({', '.join(map(self.literal, (x.numerator, x.dim, *x.factors)))})"
        return f"<{x}>" if isinstance(x, Dim) else x.name if isinstance(x, DType) else f"?{x!r}"


def string(s: str) -> str:
    return json.dumps(s)


def number(x: float) -> str:
    """A float such that reading it gives the same bits."""
    if x == x:
        return float.__repr__(x)
    bits = int.from_bytes(struct.pack("<d", x), "little")
    return "nan" if bits == NAN else f"nan({bits:#x})"


# ---- symbolic sizes ------------------------------------------------------------------------------------------------
def symbols(graph: Graph) -> list[Symbol]:
    """The symbols of all sizes in a graph, sorted; graphs in attributes declare their own."""
    found: set[Symbol] = set()
    for x in _parts(graph):
        if isinstance(x, Dim):
            found.update(polynomial.symbols(x.terms))
    return sorted(found)


def _parts(graph: Graph) -> Iterator[Any]:
    """Everything a graph holds that is or might be a size."""
    todo: list[Any] = [v.shape for v in (*graph.inputs, *graph.constants)]
    todo += [x for x in graph.constants.values() if isinstance(x, (Dim, Ratio))]
    for n in graph.nodes:
        todo += [n.inputs, *n.attrs.values(), *[s.shape for s in n.specs]]
        todo += [v.shape for v in n.results()]
    while todo:
        x = todo.pop()
        if isinstance(x, tuple):
            todo += x
        elif isinstance(x, Ratio):
            todo += [x.numerator, x.dim]
        else:
            yield x


# ---- constants -----------------------------------------------------------------------------------------------------
def elements(array: Any, spec: Spec) -> str:
    """Few as numbers, many as bytes."""
    array = np.asarray(array)
    if array.size <= FEW:
        return f"[{', '.join([element(x, spec.dtype) for x in array.reshape(-1)])}]"
    data = little(np.ascontiguousarray(array)).tobytes()
    return f'base64[{len(data)}] "{base64.b64encode(data).decode()}"'


def little(array: Any) -> Any:
    """An array of which the bytes are little-endian, or that of such bytes."""
    return array if sys.byteorder == "little" else array.byteswap()


def element(x: Any, kind: DType) -> str:
    """One element of a constant: the shortest text that gives the same bits, or the hexadecimal one."""
    if kind.kind == "b":
        return "true" if x else "false"
    if kind.kind != "f":
        return str(int(x))
    value = float(x)
    if math.isnan(value):
        usual = bits_of(np.array(math.nan, kind.np))
        return "nan" if bits_of(x) == usual else f"nan({bits_of(x):#x})"
    short = str(x)  # some types write 1 for 1.0
    short += ".0" * short.lstrip("-").isdecimal()
    return short if bits_of(rounded(float(short), kind)) == bits_of(x) else value.hex()


def bits_of(x: Any) -> int:
    return int.from_bytes(x.tobytes(), sys.byteorder)


def rounded(value: float, kind: DType) -> Any:
    """A float in another type, as a 0-d array; too large is infinite."""
    with np.errstate(over="ignore"):
        return np.array(value).astype(kind.np)
