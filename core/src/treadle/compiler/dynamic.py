"""Batches of any size: the first axis of every argument gets a symbolic size, and a trace is made concrete per size."""

from typing import Any

from treadle._tensor import Tensor
from treadle.compiler.trace import Traced
from treadle.ir.dim import Dim
from treadle.ir.rewrite import specialise


def symbolic(leaves: list[Any]) -> tuple[list[Any], dict[str, int]]:
    """(shapes to trace with, None where a leaf has no symbolic size; what the symbols stand for in this call).

    Sizes that are equal in this call are one symbol. A size of 1 stays: it broadcasts.
    """
    names: dict[int, Dim] = {}
    shapes: list[Any] = []
    for x in leaves:
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] < 2:
            shapes.append(None)
            continue
        size = names.setdefault(x.shape[0], Dim(f"N{len(names)}", 2))
        shapes.append((size, *x.shape[1:]))
    return shapes, {str(d): n for n, d in names.items()}


def signed(leaves: list[Any]) -> list[Any]:
    """(leaf, signature of its gradient or None)."""
    return [(leaf, None if g is None else g.sig) for leaf, g in leaves]


def sized(found: Traced, env: dict[str, int]) -> Traced:
    """A trace with its symbolic sizes replaced."""
    graph, now = specialise(found.graph, env)
    effects = [e if e.value is None else e._replace(value=now[e.value]) for e in found.effects]
    backward = found.backward
    if backward is not None:
        backward = backward._replace(graph=specialise(backward.graph, env)[0])
    return found._replace(graph=graph, effects=effects, backward=backward)
