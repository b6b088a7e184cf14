"""Pictures of a graph: text for Graphviz, which draws it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from treadle.errors import UnsupportedError
from treadle.ir.graph import Graph, Number, Value
from treadle.ir.printer import Printer

COLOURS = {
    "view": "#eeeeee", "copy": "#d9d9d9", "create": "#d9d9d9", "cast": "#d9d9d9", "bits": "#d9d9d9",
    "unary": "#cfe8cf", "binary": "#cfe8cf", "elementwise": "#cfe8cf",
    "reduction": "#fde7a9", "contraction": "#f7c6c0", "lists": "#e3d2f0",
}  # fmt: skip
OTHER = "#cfe2f5"
EDGE = "#bbbbbb"  # inputs, constants and outputs
LONG = 60  # characters of a label


def to_dot(graph: Graph) -> str:
    """Return the graph in Graphviz's language: a box per node, coloured by the category of its op, edges with types.

    >>> from treadle.ir.picture import to_dot
    >>> from treadle.ir.text import parse
    >>> print(to_dot(parse("graph f(%x: float32[2]) { %y: float32[2] = neg(%x) return %y }")))
    digraph "f" {
      node [shape=box, style=filled, fontname="sans-serif", fillcolor="#bbbbbb"];
      edge [fontname="sans-serif", fontsize=10];
      v0 [label="%0: float32[2]", shape=ellipse];
      n0 [label="neg", fillcolor="#cfe8cf"];
      v0 -> n0;
      o0 [label="output 0", shape=ellipse];
      n0 -> o0 [label="%1: float32[2]"];
    }
    """
    return "\n".join(_dot(graph))


def _dot(graph: Graph) -> Iterator[str]:
    p = Printer(graph)
    yield f"digraph {quoted(graph.name)} {{"
    yield f'  node [shape=box, style=filled, fontname="sans-serif", fillcolor="{EDGE}"];'
    yield '  edge [fontname="sans-serif", fontsize=10];'
    at: dict[Any, tuple[str, str]] = {}  # value or number -> (who makes it, what stands at edges)
    for k, x in enumerate([*graph.inputs, *graph.constants, *graph.numbers]):
        at[x] = f"v{k}", ""
        kind = "constant " * (x in graph.constants)
        label = f"#{x.name}" if x.__class__ is Number else kind + p.result(x)  # type: ignore[arg-type]
        yield f"  v{k} [label={quoted(label)}, shape=ellipse];"
    for k, n in enumerate(graph.nodes):
        at |= {v: (f"n{k}", f" [label={quoted(p.result(v))}]") for v in n.results()}
        parts = [n.op.name, *[f"{name}={_short(p.literal(x))}" for name, x in n.attrs.items()]]
        numbers = [p.operand(x) for x in n.inputs if x is not None and x.__class__ not in (Value, tuple, Number)]
        label = "\n".join([*parts, *["operands " + ", ".join(numbers)] * bool(numbers)])
        yield f'  n{k} [label={quoted(label)}, fillcolor="{COLOURS.get(n.op.category, OTHER)}"];'
        for x in dict.fromkeys([*n.operands(), *[x for x in n.inputs if x.__class__ is Number]]):
            yield _edge(at, x, f"n{k}")
    for k, v in enumerate(graph.outputs):
        yield f'  o{k} [label="output {k}", shape=ellipse];'
        yield _edge(at, v, f"o{k}")
    yield "}"


def _edge(at: dict[Any, tuple[str, str]], x: Any, to: str) -> str:
    source, label = at.get(x, ("undefined", ""))
    return f"  {source} -> {to}{label};"


def _short(text: str) -> str:
    return text if len(text) <= LONG else text[:LONG] + "..."


def quoted(text: str) -> str:
    """A string of Graphviz's language; lines are aligned to the left."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ")
    return '"' + (inner.replace("\n", "\\l") + "\\l" * ("\n" in inner)) + '"'


def to_svg(graph: Graph) -> str:
    """Return the graph drawn by Graphviz, as SVG; UnsupportedError where its program `dot` is not installed."""
    dot = shutil.which("dot")
    if dot is None:
        raise UnsupportedError(
            "picture: Graphviz draws graphs, and its `dot` is not on the PATH; install it (apt install graphviz, "
            "brew install graphviz), or give the text of to_dot(graph) to any viewer of it"
        )
    done = subprocess.run([dot, "-Tsvg"], input=to_dot(graph).encode(), capture_output=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"picture: {Path(dot).name} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()
