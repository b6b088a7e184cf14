"""View functions that remember how a call answered for a signature and arguments: the next one is a look-up."""

import functools
from collections.abc import Callable
from typing import Any

from treadle._tensor import Tensor, View, make_view
from treadle.op import STATE

MAX_ENTRIES = 4096  # of one function at one signature


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function whose result is a view that follows from x's signature and integer arguments alone."""
    row = f"view_{function.__name__}"

    @functools.wraps(function)
    def call(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not STATE.special and not kwargs:
            try:
                sig, offset = input.sig.__dict__[row][args]
            except (KeyError, TypeError, AttributeError):
                pass
            else:
                return make_view(input, sig, offset)
        y = function(input, *args, **kwargs)
        if not kwargs and all(map(_constant, args)):
            remember(row, input, args, y)
        return y

    return call


def _constant(a: Any) -> bool:
    """Whether an argument may be part of a key: integers and tuples of them, nothing whose value may change."""
    return a.__class__ is int or (isinstance(a, tuple) and all(n.__class__ is int for n in a))


def remember(row: str, x: Tensor, args: tuple[Any, ...], y: Any) -> None:
    """Keep the signature and offset of y under row and arguments, if it is a view of x (and not of a copy)."""
    if y.__class__ is not View:
        return
    if y.base is x:
        offset = y.offset
    elif isinstance(x, View) and x.base is not None and y.base is x.base:
        offset = y.offset - x.offset
    else:
        return
    table: dict[Any, Any] = vars(x.sig).setdefault(row, {})
    if len(table) >= MAX_ENTRIES:
        table.clear()
    table[args] = (y.sig, offset)
