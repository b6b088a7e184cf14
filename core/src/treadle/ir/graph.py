"""Graph: the finished list of Nodes between inputs and outputs; a Value is a named result in it.

Ops, attributes and shape rules are those of eager execution. Every Value is a row-major tensor without a place in
memory: views are ops here, and what becomes of them is decided when the Graph is lowered.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from treadle.op import Op
from treadle.spec import Spec


class Value:
    """The result of a Node, an input or a constant: shape and dtype, and who makes it."""

    __slots__ = ("index", "node", "spec")

    def __init__(self, spec: Spec, node: "Node | None" = None, index: int = 0) -> None:
        self.spec = spec
        self.node = node  # None for inputs and constants
        self.index = index  # which of the node's results

    @property
    def shape(self) -> Any:
        return self.spec.shape

    @property
    def dtype(self) -> Any:
        return self.spec.dtype

    def __repr__(self) -> str:
        return f"<{self.spec} of {self.node.op.name if self.node else 'an input'}>"


class Number:
    """A Python number that is read anew at every run: a learning rate, a step count."""

    __slots__ = ("kind", "name", "read")

    def __init__(self, name: str, kind: type, read: Any = None) -> None:
        self.name, self.kind, self.read = name, kind, read

    def __repr__(self) -> str:
        return f"<number {self.name}>"


class Node:
    """One application of an Op. Operands are Values, Python numbers, Numbers, None (absent), or tuples of Values.

    `outputs` holds results and, for a recorded call, aux values; None stands for a result nobody wanted.
    """

    __slots__ = ("attrs", "inputs", "line", "op", "outputs", "specs")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Any, ...],
        attrs: dict[str, Any],
        specs: Iterable[Spec],
        line: str = "",
        want: Sequence[bool] | None = None,
    ) -> None:
        self.op, self.inputs, self.attrs, self.line = op, inputs, attrs, line
        self.specs = tuple(specs)
        self.outputs: tuple[Value | None, ...] = tuple(
            Value(s, self, k) if want is None or want[k] else None for k, s in enumerate(self.specs)
        )

    def operands(self) -> Iterator[Value]:
        """All Values that this node reads."""
        for x in self.inputs:
            if x.__class__ is Value:
                yield x
            elif x.__class__ is tuple:
                yield from x

    def results(self) -> Iterator[Value]:
        """All Values that this node makes."""
        return (v for v in self.outputs if v is not None)

    def __repr__(self) -> str:
        return f"<node {self.op.name}>"


class Graph:
    """Inputs, nodes in an order in which they can run, outputs; constants are Values with data.

    A pass makes a new Graph or edits one that it owns; `verify` (treadle.ir.verify) checks what must hold.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []
        self.constants: dict[Value, Any] = {}  # Value -> NumPy array
        self.numbers: list[Number] = []

    def input(self, spec: Spec) -> Value:
        """Add an input."""
        v = Value(spec)
        self.inputs.append(v)
        return v

    def constant(self, array: Any, spec: Spec) -> Value:
        """Add a constant."""
        v = Value(spec)
        self.constants[v] = array
        return v

    def add(self, node: Node) -> Node:
        """Append a node."""
        self.nodes.append(node)
        return node

    def users(self) -> dict[Value, list[Node]]:
        """Which nodes read each Value (once per node)."""
        out: dict[Value, list[Node]] = {}
        for n in self.nodes:
            for v in dict.fromkeys(n.operands()):
                out.setdefault(v, []).append(n)
        return out

    def __str__(self) -> str:
        return TEXT[0](self)

    def __repr__(self) -> str:
        return f"<graph {self.name}: {len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs>"


TEXT: list[Callable[[Graph], str]] = []  # how a Graph is printed: treadle.ir.text puts it here
