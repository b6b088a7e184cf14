"""Static memory planning: when each buffer lives, what may share memory, and where in one arena each lies.

Offsets are chosen greedily, largest buffer first, each into the tightest gap that is free for its whole life (Pisarchyk
and Lee 2020, "Efficient memory management for deep neural net inference": greedy by size).
"""

from itertools import chain
from typing import NamedTuple

from treadle.compiler.lower import Plan

ALIGN = 64


class Life(NamedTuple):
    """A buffer's first and last step, both included, and its size in bytes."""

    first: int
    last: int
    nbytes: int


def lives(plan: Plan) -> dict[int, Life]:
    """When each temporary buffer is in use."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, s in enumerate(plan.steps):
        for b in chain(s.reads(), s.writes()):
            if plan.buffers[b].kind == "temp":
                first.setdefault(b, k)
                last[b] = k
    return {b: Life(first[b], last[b], plan.buffers[b].nbytes) for b in first}


def arena(alive: dict[int, Life]) -> tuple[dict[int, int], int]:
    """(offset of each buffer, size of the arena) such that no two that live at once overlap."""
    placed: list[tuple[int, int, Life]] = []  # offset, end, life
    offsets: dict[int, int] = {}
    for b, life in sorted(alive.items(), key=lambda item: (-item[1].nbytes, item[1].first)):
        size = -(-max(life.nbytes, 1) // ALIGN) * ALIGN
        busy = sorted((o, e) for o, e, other in placed if other.first <= life.last and life.first <= other.last)
        best, at, gap = 0, 0, None
        for start, end in busy:
            if start - at >= size and (gap is None or start - at < gap):
                best, gap = at, start - at
            at = max(at, end)
        offsets[b] = best if gap is not None else at
        placed.append((offsets[b], offsets[b] + size, life))
    return offsets, max((e for _, e, _ in placed), default=0)


def lower_bound(alive: dict[int, Life]) -> int:
    """The most bytes that are alive at one step: no plan can need less."""
    change: dict[int, int] = {}
    for life in alive.values():
        size = -(-max(life.nbytes, 1) // ALIGN) * ALIGN
        change[life.first] = change.get(life.first, 0) + size
        change[life.last + 1] = change.get(life.last + 1, 0) - size
    now = most = 0
    for k in sorted(change):
        now += change[k]
        most = max(most, now)
    return most
