"""Small walks over operands and results, which are arrays or tensors, numbers, None, and lists of these."""

from collections.abc import Callable
from typing import Any

import numpy as np


def is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray)


def flat(x: Any) -> list[Any]:
    """The leaves of nested lists and tuples."""
    if x.__class__ in (list, tuple):
        return [leaf for item in x for leaf in flat(item)]
    return [x]


def mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """The same nested lists with f of every leaf."""
    return [mapped(f, item) for item in x] if x.__class__ is list else f(x)


def same_bits(a: Any, b: Any) -> Any:
    """Elementwise: equal bits, or both NaN."""
    if a.dtype.kind in "biu":
        return np.asarray(a == b)
    word = np.dtype(f"u{a.dtype.itemsize}")
    return np.asarray(
        (np.asarray(a, order="C").view(word) == np.asarray(b, order="C").view(word)) | (np.isnan(a) & np.isnan(b))
    )
