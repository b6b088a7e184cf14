"""What a pass puts in place of nodes, written as a function of tensors and traced into nodes."""

from collections.abc import Callable, Sequence
from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.compiler.device import TRACE, Cell, cell_of, read, traced
from treadle.compiler.trace import Trace
from treadle.ir.graph import Graph, Node, Value
from treadle.op import Interpreter
from treadle.sig import dense_sig


def emit(
    graph: Graph, device: Any, line: str, f: Callable[..., Sequence[Tensor]], operands: Sequence[Any]
) -> tuple[list[Node], list[Value]]:
    """Trace f(*operands) for a device: (its nodes, what stands for its results). The graph gets their constants.

    operands: those of a Node (Values, Python numbers, Numbers, None, tuples of Values); f sees tensors for Values.
    line: where the user wrote it.
    """
    t = Trace()
    t.graph.numbers = graph.numbers
    t.line = lambda: line  # type: ignore[method-assign]
    home = traced(device)
    token, grad = TRACE.set(t), tape.GRAD_MODE.set(False)
    try:
        made = [_value(y) for y in f(*[_tensor(t, x, home) for x in operands])]
    finally:
        TRACE.reset(token)
        tape.GRAD_MODE.reset(grad)
    graph.constants.update(t.graph.constants)
    return t.graph.nodes, made


def _value(y: Tensor) -> Value:
    cell, offset = cell_of(y.storage)
    layout = (tuple(y.shape), tuple(y.sig.strides), offset // y.dtype.itemsize)
    return read(cell, y.dtype, layout)


def _tensor(t: Interpreter, x: Any, home: Any) -> Any:
    if x.__class__ is tuple:
        return [_tensor(t, v, home) for v in x]
    if x.__class__ is not Value:
        return x
    return Tensor(Cell(t, x.spec.nbytes, x), dense_sig(x.dtype, tuple(x.shape), home))
