"""The text of a graph: `to_text` prints one, `parse` reads it again, with nothing lost.

    graph main[N: 1 to inf](%0: float32[N, 3], %1: float32[4, 3], #lr0: float) {
      %2: float32[] = constant [0.5]
      %3: float32[N, 4] = linear(%0, %1, none)
      %4: float32[N, 4], _, _ = layer_norm(%3, none, none) {ndim=1, eps=1e-05}
      return %4
    }

Values are %0, %1, ... in the order in which they are made, `_` a result that nobody wants, #lr0 a number read at every
run, [%1, %2] a list of values. Large constants are the base64 form of their bytes (little-endian), after how many there
are. NaNs other than the usual one show their bits. Symbolic sizes are declared in brackets; as a number one stands as
<2*N + 1>, a quotient as ratio(numerator, denominator, factors ...). A graph may be an attribute of a node and shares no
names with the one around it. A `#` that no name follows begins a comment. What `Number.read` does, and the lines that
nodes came from, are no part of the text.
"""

from treadle.ir.graph import TEXT, Graph
from treadle.ir.parser import Parser
from treadle.ir.printer import Printer


def to_text(graph: Graph, lines: bool = False) -> str:
    """Return the text of a graph; lines: with the user's line that each node came from, as a comment.

    Any graph can be printed: what should not be in one is shown with a question mark, which `parse` refuses.

    >>> from treadle.ir.text import parse, to_text
    >>> g = parse("graph double(%x: float32[2]) { %y: float32[2] = mul(%x, 2.0) return %y }")
    >>> print(to_text(g))
    graph double(%0: float32[2]) {
      %1: float32[2] = mul(%0, 2.0)
      return %1
    }
    """
    return Printer(graph, lines).graph()


def parse(text: str) -> Graph:
    """Return the graph that a text describes; it holds what `verify` (treadle.ir.verify) checks.

    FormatError names line and column, what was expected and what is there.

    >>> from treadle.ir.text import parse
    >>> parse("graph f(%x: float32[2]) { %y: float32[3] = neg(%x) return %y }")
    Traceback (most recent call last):
    treadle.errors.FormatError: line 1, column 27: %y is declared float32[3], but neg gives float32[2]
    """
    return Parser(text).only()


TEXT.append(to_text)
