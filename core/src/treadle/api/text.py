"""How tensors print: PyTorch's form, number for number."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from treadle import dtypes
from treadle._tensor import Tensor, is_leaf_node
from treadle.api.convert import numpy_copy
from treadle.runtime.device import get_default_device

PREFIX = "tensor("


class _Options:
    precision, threshold, edgeitems, linewidth = 4, 1000, 3, 80
    sci_mode: bool | None = None


def set_printoptions(
    precision: int | None = None,
    threshold: int | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    *,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print: digits, when to summarise, how many items to show at the ends, the width, and whether with
    exponents.

    >>> import treadle as td
    >>> td.set_printoptions(precision=4)
    """
    for name, value in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if value is not None:
            setattr(_Options, name, int(value))
    _Options.sci_mode = sci_mode


class _Numbers:
    """How the numbers of one tensor are written: the same form and width for all that are shown."""

    def __init__(self, shown: list[Any], floating: bool) -> None:
        self.width = 1
        self.write: Callable[[Any], str] = str
        if floating:
            shown = self._choose([v for v in shown if v and np.isfinite(v)])
        self.width = max([1, *(len(self.write(v)) for v in shown)])

    def _choose(self, finite: list[float]) -> list[float]:
        """Pick whole numbers, decimals or exponents from the finite nonzero values; return those that set the width."""
        digits = _Options.precision
        low, high = (min(map(abs, finite)), max(map(abs, finite))) if finite else (1.0, 1.0)
        whole = all(v == int(v) for v in finite)
        wide = high / low > 1000 or high > 1e8 or (low < 1e-4 and not whole)
        if wide if _Options.sci_mode is None else _Options.sci_mode and bool(finite):
            self.write = lambda v: f"{v:.{digits}e}"
        elif whole:
            self.write = lambda v: f"{v:.0f}." if np.isfinite(v) else str(v)
        else:
            self.write = lambda v: f"{v:.{digits}f}"
        return finite

    def __call__(self, value: Any) -> str:
        return self.write(value).rjust(self.width)


def _body(array: Any, indent: int, short: bool, number: _Numbers) -> str:
    """The nested brackets of an array; `short` leaves out the middle of long axes."""
    edge = _Options.edgeitems
    if array.ndim == 0:
        return number(array.item())
    cut = short and array.shape[0] > 2 * edge
    parts: list[Any] = [*array[:edge], None, *array[-edge:]] if cut and edge else [None] if cut else list(array)
    if array.ndim > 1:
        rows = ["..." if p is None else _body(p, indent + 1, short, number) for p in parts]
        return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(rows) + "]"
    words = iter([" ..." if p is None else number(p.item()) for p in parts])
    per_line = max(1, (_Options.linewidth - indent) // (number.width + 2))
    lines = []
    while line := list(itertools.islice(words, per_line)):
        lines.append(", ".join(line))
    return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"


def _shown(array: Any, short: bool) -> list[Any]:
    """The elements that will be printed."""
    edge = _Options.edgeitems
    if short:
        for axis, n in enumerate(array.shape):
            if n > 2 * edge:
                array = np.delete(array, slice(edge, n - edge), axis)
    return array.reshape(-1).tolist()  # type: ignore[no-any-return]


def __repr__(x: Tensor) -> str:
    array = numpy_copy(x.detach())
    floating = x.dtype.kind == "f"
    if floating:
        array = array.astype(np.float64)
    short = array.size > _Options.threshold
    body = _body(array, len(PREFIX), short, _Numbers(_shown(array, short), floating)) if array.size else "[]"
    out = [PREFIX + body]
    room = _Options.linewidth - len(out[0]) + out[0].rfind("\n") - 1
    for suffix in _suffixes(x):
        room -= len(suffix) + 2
        if room < 0:
            out.append(",\n" + " " * len(PREFIX) + suffix)
            room = _Options.linewidth - len(PREFIX) - len(suffix)
        else:
            out.append(", " + suffix)
    return "".join(out) + ")"


def _suffixes(x: Tensor) -> list[str]:
    """What else a tensor says of itself: where it differs from the defaults."""
    empty, default = x.sig.size == 0, dtypes.get_default_dtype()
    out = []
    if x.device is not get_default_device():
        out.append(f"device='{x.device}'")
    if empty and x.ndim != 1:
        out.append(f"size={tuple(x.shape)}")
    if x.dtype is not default and (empty or x.dtype not in (dtypes.int64, dtypes.bool_)):
        out.append(f"dtype={x.dtype!r}")
    node = x.node
    if node is not None:
        out.append(
            "requires_grad=True"
            if is_leaf_node(node)
            else f"grad_fn=<{(node[0] if node.__class__ is tuple else node)[1].name}>"
        )
    return out


def __format__(x: Tensor, spec: str) -> str:
    return format(x.item(), spec) if x.ndim == 0 else object.__format__(x, spec)


METHODS = {"__repr__": __repr__, "__format__": __format__}
