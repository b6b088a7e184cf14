"""Static memory planning: when each buffer lives, what may share memory, and where in one arena each lies.

Offsets are chosen greedily, largest buffer first, each into the tightest gap that is free for its whole life (Pisarchyk
and Lee 2020, "Efficient memory management for deep neural net inference": greedy by size); where that wastes memory,
other orders are tried too.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from treadle.compiler.lower import Place, Plan, Step

ALIGN = 64


class Life(NamedTuple):
    """A buffer's first and last step, both included, and its size in bytes."""

    first: int
    last: int
    nbytes: int

    def at(self, step: int) -> bool:
        """Whether it is in use at a step."""
        return self.first <= step <= self.last


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
                    by_position = s.call is not None and s.call.op.category == "lists"
                    _take(s.ins[n : n + 1] if by_position else s.ins, s, k, y, owner, last)
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
    """(offset of each buffer, size of the arena) such that no two that live at once overlap.

    Of several orders in which buffers are placed the first that reaches the lower bound is taken, else the best.
    """
    least = lower_bound(alive)
    best: tuple[dict[int, int], int] | None = None
    for order in _orders(alive):
        found = _placed(alive, order)
        if best is None or found[1] < best[1]:
            best = found
        if best[1] == least:
            break
    return best or ({}, 0)


def _orders(alive: dict[int, Life]) -> Iterator[list[int]]:
    """By size; by size times duration; those at the fullest step first; by when they begin or end; by duration."""
    by_size = sorted(alive, key=lambda b: (-alive[b].nbytes, alive[b].first))
    yield by_size
    yield sorted(by_size, key=lambda b: -alive[b].nbytes * (alive[b].last - alive[b].first + 1))
    full = max({x.first for x in alive.values()}, key=lambda k: sum(_size(x) for x in alive.values() if x.at(k)))
    yield sorted(by_size, key=lambda b: not alive[b].at(full))
    yield sorted(by_size, key=lambda b: (not alive[b].at(full), abs(alive[b].first - full)))
    yield sorted(by_size, key=lambda b: alive[b].first)
    yield sorted(by_size, key=lambda b: -alive[b].last)
    yield sorted(by_size, key=lambda b: alive[b].first - alive[b].last)


def _size(life: Life) -> int:
    return -(-max(life.nbytes, 1) // ALIGN) * ALIGN


def _placed(alive: dict[int, Life], order: list[int]) -> tuple[dict[int, int], int]:
    placed: list[tuple[int, int, Life]] = []  # offset, end, life
    offsets: dict[int, int] = {}
    for b in order:
        life = alive[b]
        size = _size(life)
        busy = sorted((o, e) for o, e, other in placed if other.first <= life.last and life.first <= other.last)
        best, at, gap = 0, 0, None
        for start, end in busy:
            if start - at >= size and (gap is None or start - at < gap):
                best, gap = at, start - at
            at = max(at, end)
        offsets[b] = best if gap is not None else at
        placed.append((offsets[b], offsets[b] + size, life))
    return offsets, max((e for _, e, _ in placed), default=0)


def rooms(alive: dict[int, Life], offsets: dict[int, int], size: int, steps: int) -> list[tuple[int, int]]:
    """For each step, (offset, bytes) of the largest part of an arena that nothing uses then: room for its scratch."""
    busy: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    for b, life in alive.items():
        for k in range(life.first, life.last + 1):
            busy[k].append((offsets[b], offsets[b] + _size(life)))
    out = []
    for taken in busy:
        best, at = (0, 0), 0
        for start, end in [*sorted(taken), (size, size)]:
            if start - at > best[1]:
                best = (at, start - at)
            at = max(at, end)
        out.append(best)
    return out


def lower_bound(alive: dict[int, Life]) -> int:
    """The most bytes that are alive at one step: no plan can need less."""
    change: dict[int, int] = {}
    for life in alive.values():
        size = _size(life)
        change[life.first] = change.get(life.first, 0) + size
        change[life.last + 1] = change.get(life.last + 1, 0) - size
    now = most = 0
    for k in sorted(change):
        now += change[k]
        most = max(most, now)
    return most
