"""Static memory planning: when each buffer lives, what may share memory, and where in one arena each lies.

Offsets are chosen greedily, largest buffer first, each into the tightest gap that is free for its whole life (Pisarchyk
and Lee 2020, "Efficient memory management for deep neural net inference": greedy by size).
"""

from itertools import chain
from typing import Any, NamedTuple

from treadle.compiler.lower import Place, Plan, Step

ALIGN = 64


class Life(NamedTuple):
    """A buffer's first and last step, both included, and its size in bytes."""

    first: int
    last: int
    nbytes: int


def lives(plan: Plan) -> tuple[dict[int, Life], dict[int, int]]:
    """(when each temporary buffer is in use, which buffer's memory each temporary takes: mostly its own).

    A result whose kernel may write over an operand takes the memory of one that is exactly as large and dies there.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, s in enumerate(plan.steps):
        for b in chain(s.reads(), s.writes()):
            if plan.buffers[b].kind == "temp":
                first.setdefault(b, k)
                last[b] = k
    owner = {b: b for b in first}
    for k, s in enumerate(plan.steps):
        if s.inplace:
            for n, y in enumerate(s.outs):
                if y is not None and y.buffer in owner and first[y.buffer] == k:
                    # of a list op, a result may only lie where the same tensor of the first list does
                    _take(s.ins[n : n + 1] if s.lists else s.ins, s, k, y, owner, last)
    alive: dict[int, Life] = {}
    for b, o in owner.items():
        life = Life(first[b], last[b], plan.buffers[b].nbytes)
        before = alive.get(o, life)  # what lies there may be the beginning of something larger
        alive[o] = Life(min(before.first, life.first), max(before.last, life.last), max(before.nbytes, life.nbytes))
    return alive, owner


def _take(candidates: list[Any], s: Step, k: int, y: Place, owner: dict[int, int], last: dict[int, int]) -> None:
    """Let y lie where a dying operand of step k lies, if there is one."""
    taken = {owner.get(p.buffer) for p in s.outs if p is not None and p is not y}
    for p in candidates:
        if p.__class__ is not Place or p.buffer not in owner or p.offset or p.sig is not y.sig:
            continue
        o = owner[p.buffer]
        dies = all(last[b] <= k for b, other in owner.items() if other == o and b != y.buffer)
        exact = all(q == p for q in s.ins if q.__class__ is Place and owner.get(q.buffer) == o)
        if dies and exact and o not in taken and y.buffer != o:
            owner[y.buffer] = o
            return


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
