"""Verify: what must hold in every graph, whoever made it. That costs time: it is for tests and for finding faults."""

from typing import Any, NoReturn

from treadle.errors import GraphError
from treadle.ir import rules
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.printer import Printer, symbols
from treadle.op import op_named


def verify(graph: Graph) -> Graph:
    """Return the graph if all holds that must; GraphError names the node and what does not.

    Values are defined once and before they are read, by an input, a constant or a node of this graph. Operands and
    attributes are those that the op declares, results have the shapes and dtypes that its rules give. Graphs in
    attributes are checked too.

    >>> from treadle.ir.text import parse
    >>> from treadle.ir.verify import verify
    >>> g = parse("graph f(%x: float32[2]) { %y: float32[2] = neg(%x) return %y }")
    >>> verify(g) is g
    True
    >>> g.nodes.clear()
    >>> verify(g)
    Traceback (most recent call last):
    treadle.errors.GraphError: graph f: output 0 is not defined in this graph
    """
    _Verifier(graph).all()
    return graph


class _Verifier:
    def __init__(self, graph: Graph) -> None:
        self.g = graph
        self.known: set[Value] = set()
        self.numbers: set[Number] = set()
        self.node: Node | None = None  # the one that is looked at

    def fail(self, problem: str) -> NoReturn:
        n = self.node
        if n is None:
            raise GraphError(f"graph {self.g.name}: {problem}")
        where = f" (from {n.line})" if n.line else ""
        raise GraphError(f"graph {self.g.name}: {problem}\n  in {Printer(self.g).node(n)}{where}")

    def all(self) -> None:
        self.head()
        for n in self.g.nodes:
            self.node = n
            self.check(n)
        self.node = None
        for k, v in enumerate(self.g.outputs):
            if v not in self.known:
                self.fail(f"output {k} is not defined in this graph")
        self.sizes()

    def head(self) -> None:
        """Inputs, constants and numbers."""
        for v in [*self.g.inputs, *self.g.constants]:
            if v.node is not None:
                self.fail(f"an input or constant is the result of {v.node.op.name}")
            self.define(v)
            rules.check_shape(f"graph {self.g.name}", v.shape)
        for v, data in self.g.constants.items():
            problem = rules.constant_problem(data, v.spec)
            if problem:
                self.fail(problem)
        names = [n.name for n in self.g.numbers]
        for n in self.g.numbers:
            if names.count(n.name) > 1 or not n.name.isidentifier() or n.kind not in (int, float):
                self.fail(f"the number {n.name!r} of kind {n.kind} needs a name of its own, and to be int or float")
        self.numbers.update(self.g.numbers)

    def define(self, v: Value) -> None:
        if v in self.known:
            self.fail(f"{Printer(self.g).name(v)} is defined twice")
        self.known.add(v)

    def check(self, n: Node) -> None:
        if op_named(n.op.name) is not n.op:
            self.fail(f"{n.op.name} is not an op of the catalogue")
        for x in n.inputs:
            self.operand(x)
        for x in n.attrs.values():
            self.graphs(x)
        try:
            specs = rules.results_of(n.op, n.inputs, n.attrs, n.specs)
        except GraphError as e:
            self.fail(str(e))
        if len(n.specs) != len(specs) or len(n.outputs) != len(specs):
            self.fail(f"{n.op.name} has {len(specs)} results, not {len(n.outputs)} (of {len(n.specs)} specs)")
        for k, (v, have, spec) in enumerate(zip(n.outputs, n.specs, specs, strict=True)):
            if have != spec or (v is not None and v.spec != spec):
                self.fail(f"result {k} is said to be {have if v is None else v.spec}, but {n.op.name} gives {spec}")
            if v is not None:
                if v.node is not n or v.index != k:
                    self.fail(f"result {k} does not say that it is that")
                self.define(v)

    def operand(self, x: Any) -> None:
        for v in x if x.__class__ is tuple else (x,):
            if v.__class__ is Value and v not in self.known:
                late = any(v is y for n in self.g.nodes for y in n.outputs)
                self.fail("an operand is used before it is made" if late else "an operand belongs to no node before it")
            if v.__class__ is Number and v not in self.numbers:
                self.fail(f"the number {v.name} is not declared in this graph")

    def graphs(self, x: Any) -> None:
        """Graphs in an attribute."""
        if isinstance(x, Graph):
            try:
                verify(x)
            except GraphError as e:
                self.fail(str(e))
        for y in x if isinstance(x, tuple) else ():
            self.graphs(y)

    def sizes(self) -> None:
        """A name stands for one symbolic size."""
        seen: dict[str, Any] = {}
        for s in symbols(self.g):
            if seen.setdefault(s.name, s) != s:
                self.fail(f"two sizes are called {s.name}: {seen[s.name].range_text()} and {s.range_text()}")
