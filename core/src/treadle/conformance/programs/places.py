"""How an input of a program lies in memory: an array to begin with, and a view of it, as text and in NumPy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEAD = 2  # elements before an offset input
GAP = 1  # elements between rows


class Place(NamedTuple):
    """base: the array that a tensor is made of; text: what reads the input's elements from it; view: in NumPy."""

    least_rank: int
    base: Callable[[Any], Any]
    text: Callable[[Any], str]
    view: Callable[[Any, Any], Any]


def _spaced(a: Any) -> Any:
    wide = np.ones((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
    wide[..., 1::2] = a
    return wide


def _repeated(a: Any) -> Any:
    return np.ascontiguousarray(a[:1])


def _expanded(base: Any, a: Any) -> Any:
    return np.lib.stride_tricks.as_strided(base, a.shape, (0, *base.strides[1:]))


PLACES: dict[str, Place] = {
    "dense": Place(0, lambda a: a, lambda a: "", lambda base, a: base),
    "transposed": Place(
        2,
        lambda a: np.ascontiguousarray(a.T),
        lambda a: f".permute({', '.join(map(str, range(a.ndim)[::-1]))})",
        lambda base, a: base.T,
    ),
    "offset": Place(
        1,
        lambda a: np.concatenate([np.ones((LEAD, *a.shape[1:]), a.dtype), a]),
        lambda a: f"[{LEAD}:]",
        lambda base, a: base[LEAD:],
    ),
    "rows": Place(
        2,
        lambda a: np.concatenate([a, np.ones((*a.shape[:-1], GAP), a.dtype)], -1),
        lambda a: f"[..., :{a.shape[-1]}]",
        lambda base, a: base[..., : a.shape[-1]],
    ),
    "spaced": Place(1, _spaced, lambda a: "[..., 1::2]", lambda base, a: base[..., 1::2]),
    "flipped": Place(
        1, lambda a: np.ascontiguousarray(a[::-1]), lambda a: "[::-1]", lambda base, a: base[::-1]
    ),
    "expanded": Place(1, _repeated, lambda a: f".expand{a.shape}", _expanded),
}  # fmt: skip


def fits(place: str, a: Any) -> bool:
    """Whether an array can lie in this way and be told from a dense one."""
    if a.ndim < PLACES[place].least_rank or (a.size == 0 and place != "dense"):
        return False
    return place != "expanded" or (a.shape[0] > 1 and bool((a == a[:1]).all()))


def placed(a: Any, place: str) -> Any:
    """The array in memory of its own, lying as said."""
    chosen = PLACES[place]
    return chosen.view(chosen.base(a).copy(), a)
