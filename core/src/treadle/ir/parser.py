"""Read a graph: the reading half of the text form (treadle.ir.text), by recursive descent.

Every node is checked against the declaration of its op where it stands, so an error names the place in the text.
"""

import base64
import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from treadle import dtypes
from treadle.dtypes import DType
from treadle.errors import DimError, GraphError, TreadleError
from treadle.ir import dim_text, rules
from treadle.ir.dim import Dim, Ratio
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.printer import little, rounded
from treadle.ir.tokens import Tokens
from treadle.op import REQUIRED, Op, op_named
from treadle.spec import Spec

DTYPES = {d.name: d for d in dtypes.ALL}
WORDS = {"none": None, "true": True, "false": False}
KINDS: dict[str, type] = {"int": int, "float": float}
NESTING = 40
DIGITS = 4000  # of an integer


class Result(NamedTuple):
    """What stands left of an =: a name, or None for an unwanted result; its type, or None; where that stands."""

    name: str | None
    spec: Spec | None
    start: int


class Scope:
    """What the names of one graph mean."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[str, Value] = {}
        self.numbers: dict[str, Number] = {}
        self.sizes: dict[str, Dim] = {}


class Parser(Tokens):
    """Reads one text."""

    def __init__(self, text: str) -> None:
        self.scope = Scope(Graph())
        self.depth = 0
        super().__init__(text)

    def only(self) -> Graph:
        """The whole text as a graph."""
        graph = self.graph()
        if self.kind != "end":
            self.wrong("the end of the text")
        return graph

    def nested(self, read: Callable[[], Any]) -> Any:
        self.depth += 1
        if self.depth > NESTING:
            self.fail(f"nested deeper than {NESTING}")
        found = read()
        self.depth -= 1
        return found

    # ---- graphs ----------------------------------------------------------------------------------------------------
    def graph(self) -> Graph:
        outer = self.scope
        if self.token != "graph":
            self.wrong("graph")
        self.advance()
        if self.kind not in ("name", "string"):
            self.wrong("the name of the graph")
        name = self.string() if self.kind == "string" else self.advance()
        self.scope = Scope(Graph(name))
        if self.token == "[":
            self.each("[", self.size, "]")
        self.each("(", self.parameter, ")")
        self.expect("{")
        while self.token != "return":
            self.statement()
        self.advance()
        graph = self.scope.graph
        while self.token != "}":
            graph.outputs.append(self.value())
            if self.token != "}" and not self.have(","):
                self.wrong(", or }")
        self.advance()
        self.scope = outer
        return graph

    def size(self) -> None:
        """`N: 1 to 8`, or `to inf`."""
        start, name = self.start, self.take("name", "the name of a size")
        if name in self.scope.sizes:
            self.fail(f"the size {name} is declared twice", start)
        self.expect(":")
        low = self.whole()
        self.word("to")
        high = None if self.token == "inf" else self.whole()
        if high is None:
            self.advance()
        try:
            self.scope.sizes[name] = Dim(name, low, high)
        except DimError as e:
            self.fail(str(e), start)

    def word(self, word: str) -> None:
        if self.token != word:
            self.wrong(word)
        self.advance()

    def parameter(self) -> None:
        """An input or a number."""
        start, kind = self.start, self.kind
        if kind not in ("value", "live"):
            self.wrong("an input such as %0, or a number such as #lr")
        name = self.advance()
        self.expect(":")
        if kind == "value":
            self.define(name, self.scope.graph.input(self.type()), start)
        elif self.token not in KINDS:
            self.wrong("int or float")
        elif name in self.scope.numbers:
            self.fail(f"{name} is declared twice", start)
        else:
            made = self.scope.numbers[name] = Number(name[1:], KINDS[self.advance()])
            self.scope.graph.numbers.append(made)

    def type(self) -> Spec:
        start = self.start
        if self.token not in DTYPES:
            self.wrong("a dtype such as float32")
        kind, shape = DTYPES[self.advance()], []
        self.each("[", lambda: shape.append(self.dim(",]")), "]")
        try:
            rules.check_shape("type", shape)
        except TreadleError as e:
            self.fail(str(e), start)
        return Spec(tuple(shape), kind)

    def dim(self, stops: str) -> Any:
        """A size, a symbolic one too."""
        if self.kind == "int" and self.text[self.stop : self.stop + 1] in stops:
            return self.whole()
        text, start = self.raw(stops)
        try:
            return dim_text.parse(text, self.scope.sizes)
        except DimError as e:
            return self.fail(str(e), start)

    # ---- values ----------------------------------------------------------------------------------------------------
    def define(self, name: str, v: Value, start: int) -> None:
        if name in self.scope.values:
            self.fail(f"{name} is defined twice", start)
        self.scope.values[name] = v

    def value(self) -> Value:
        if self.kind != "value":
            self.wrong("a value such as %0")
        if self.token not in self.scope.values:
            self.fail(f"{self.token} is not defined here")
        return self.scope.values[self.advance()]

    def operand(self) -> Any:
        if self.kind == "value":
            return self.value()
        if self.token == "[":
            values: list[Value] = []
            self.each("[", lambda: values.append(self.value()), "]")
            return tuple(values)
        if self.kind == "live":
            if self.token not in self.scope.numbers:
                self.fail(f"{self.token} is not declared in the head of the graph")
            return self.scope.numbers[self.advance()]
        if self.have("none"):
            return None
        return self.number()

    # ---- nodes -----------------------------------------------------------------------------------------------------
    def statement(self) -> None:
        start, made = self.start, self.results()
        self.expect("=")
        if self.token == "constant":
            self.constant(made)
            return
        op = op_named(self.token)
        if op is None:
            self.fail(f"unknown op {self.token}" if self.kind == "name" else "expected an op after =")
        at, inputs = self.start, list[Any]()
        self.advance()
        self.each("(", lambda: inputs.append(self.operand()), ")")
        attrs = self.attributes(op)
        specs = self.checked(op, tuple(inputs), attrs, made, at)
        line = f"text:{self.line(start)}"
        node = Node(op, tuple(inputs), attrs, specs, line, [r.name is not None for r in made])
        self.scope.graph.add(node)
        for r, v in zip(made, node.outputs, strict=True):
            if r.name is not None and v is not None:
                self.define(r.name, v, r.start)

    def results(self) -> list[Result]:
        """What stands before an =; () where an op over empty lists gives nothing."""
        if self.have("("):
            self.expect(")")
            return []
        made = [self.result()]
        while self.have(","):
            made.append(self.result())
        return made

    def result(self) -> Result:
        start = self.start
        if self.have("_"):
            return Result(None, self.type() if self.have(":") else None, start)
        if self.kind != "value":
            self.wrong("a value such as %0, _ or return")
        name = self.advance()
        self.expect(":")
        return Result(name, self.type(), start)

    def checked(self, op: Op, inputs: Any, attrs: dict[str, Any], made: list[Result], at: int) -> tuple[Spec, ...]:
        """The specs that the op's rules give, which are those declared."""
        try:
            specs = rules.results_of(op, inputs, attrs, [r.spec for r in made])
        except GraphError as e:
            self.fail(str(e), at)
        if len(specs) != len(made):
            aux = f", or {len(specs) + len(op.aux_names)}" if op.aux_names and len(specs) == len(op.results) else ""
            self.fail(f"{op.name} has {len(specs)} results{aux}, not {len(made)}", at)
        for r, spec in zip(made, specs, strict=True):
            if r.spec is not None and r.spec != spec:
                self.fail(f"{r.name or '_'} is declared {r.spec}, but {op.name} gives {spec}", r.start)
        return specs

    def attributes(self, op: Op) -> dict[str, Any]:
        """{axis=1, ...} in the op's order; those that are not there have their defaults."""
        given: dict[str, Any] = {}

        def one() -> None:
            if self.kind != "name":
                self.wrong("the name of an attribute")
            if self.token not in op.attrs:
                self.fail(f"{op.name} has no attribute {self.token}; it has {', '.join(op.attrs) or 'none'}")
            if self.token in given:
                self.fail(f"attribute {self.token} is given twice")
            name = self.advance()
            self.expect("=")
            given[name] = self.literal()

        at = self.start
        if self.token == "{":
            self.each("{", one, "}")
        for name, default in op.attrs.items():
            if given.setdefault(name, default) is REQUIRED:
                self.fail(f"attribute {name} of {op.name} is missing", at)
        return {name: given[name] for name in op.attrs}

    # ---- what stands for itself ------------------------------------------------------------------------------------
    def literal(self) -> Any:
        """The value of an attribute."""
        if self.kind == "string":
            return self.string()
        if self.token == "(":
            items: list[Any] = []
            self.nested(lambda: self.each("(", lambda: items.append(self.literal()), ")"))
            return tuple(items)
        if self.token == "graph":
            return self.nested(self.graph)
        if self.token in WORDS:
            return WORDS[self.advance()]
        if self.token in DTYPES:
            return DTYPES[self.advance()]
        return self.number()

    def string(self) -> str:
        start = self.start
        try:
            return str(json.loads(self.advance()))
        except ValueError as e:
            return self.fail(f"not a string: {e}", start)

    def whole(self) -> int:
        if self.kind != "int":
            self.wrong("a whole number")
        if len(self.token) > DIGITS:
            self.fail(f"an integer of more than {DIGITS} digits")
        return int(self.advance())

    def number(self) -> Any:
        """An int, a float, a symbolic size or a quotient with one."""
        if self.have("<"):
            size = self.dim(">")
            self.expect(">")
            return size
        if self.token == "ratio":
            return self.ratio()
        negative = self.have("-")
        x = self.whole() if self.kind == "int" else float(self.real(dtypes.float64))
        return -x if negative else x

    def ratio(self) -> Ratio:
        start, parts = self.start, list[Any]()
        self.advance()
        self.nested(lambda: self.each("(", lambda: parts.append(self.number()), ")"))
        kinds = [x.__class__ for x in parts]
        if len(parts) < 2 or Dim not in kinds[:2] or Ratio in kinds or kinds[1] is float or {*kinds[2:]} - {float}:
            self.fail("expected ratio(numerator, denominator, factors ...) with a symbolic size, then floats", start)
        return Ratio(parts[0], parts[1], tuple(parts[2:]))

    def real(self, kind: DType) -> Any:
        """A floating-point number without its sign, as a 0-d array of a type."""
        start = self.start
        if self.have("inf"):
            return rounded(math.inf, kind)
        if self.have("nan"):
            return self.bits(kind) if self.token == "(" else rounded(math.nan, kind)
        if self.kind not in ("float", "hexfloat", "int"):
            self.wrong("a number")
        read = float.fromhex if self.kind == "hexfloat" else float
        try:
            x = rounded(read(self.advance()), kind)
        except (OverflowError, ValueError):  # only hexadecimal ones; others are infinite
            x = math.inf
        if math.isinf(x):
            self.fail(f"too large for {kind.name}", start)
        return x

    def bits(self, kind: DType) -> Any:
        """A NaN by its bits."""
        start = self.start
        self.expect("(")
        bits = int(self.take("bits", "hexadecimal bits"), 16)
        self.expect(")")
        size = kind.itemsize
        x = np.frombuffer((bits % (1 << 8 * size)).to_bytes(size, sys.byteorder), kind.np).reshape(())
        if bits >> 8 * size or not math.isnan(x):
            self.fail(f"these are not the bits of a NaN of type {kind.name}", start)
        return x

    # ---- constants -------------------------------------------------------------------------------------------------
    def constant(self, made: list[Result]) -> None:
        (name, spec, start), *more = made or [Result(None, None, self.start)]
        if more or name is None or spec is None:
            self.fail("a constant has one result with a name and a type")
        if any(isinstance(n, Dim) for n in spec.shape):
            self.fail("a constant has no symbolic sizes", start)
        self.advance()
        data = self.data(spec)
        problem = rules.constant_problem(data, spec)
        if problem:
            self.fail(problem, start)
        self.define(name, self.scope.graph.constant(data, spec), start)

    def data(self, spec: Spec) -> Any:
        """An array, or a number that depends on symbolic sizes."""
        if self.token in ("<", "ratio"):
            return self.number()
        array = self.packed(spec) if self.token == "base64" else self.elements(spec)
        return array.reshape(spec.shape)

    def elements(self, spec: Spec) -> Any:
        start, found = self.start, list[bytes]()
        self.each("[", lambda: found.append(self.element(spec.dtype).tobytes()), "]")
        if len(found) != spec.size:
            self.fail(f"{len(found)} elements for {spec}, which has {spec.size}", start)
        return np.frombuffer(b"".join(found), spec.dtype.np)

    def element(self, kind: DType) -> Any:
        start = self.start
        if kind.kind == "b":
            if self.token not in ("true", "false"):
                self.wrong("true or false")
            return np.array(self.advance() == "true")
        negative = self.have("-")
        if kind.kind == "f":
            x = self.real(kind)
            return -x if negative else x
        n = -self.whole() if negative else self.whole()
        limits = np.iinfo(kind.np)
        if not limits.min <= n <= limits.max:
            self.fail(f"out of range for {kind.name}", start)
        return np.array(n, kind.np)

    def packed(self, spec: Spec) -> Any:
        """base64[16] "...": the bytes of all elements."""
        self.advance()
        self.expect("[")
        start, count = self.start, self.whole()
        self.expect("]")
        at, data = self.start, b""
        text = self.take("string", "a string")
        try:
            data = base64.b64decode(text[1:-1], validate=True)
        except ValueError as e:
            self.fail(f"not base64: {e}", at)
        if len(data) != count:
            self.fail(f"{len(data)} bytes, not {count}", at)
        if count != spec.nbytes:
            self.fail(f"{count} bytes for {spec}, which has {spec.nbytes}", start)
        if spec.dtype.kind == "b" and data.strip(b"\0\1"):
            self.fail("a bool that is neither 0 nor 1", at)
        return little(np.frombuffer(data, spec.dtype.np))
