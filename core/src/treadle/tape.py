"""The tape: what the nodes behind a result form. It dies with its output; nothing global is kept.

A node is a plain list, for speed: [id, rule, edge, edge, ..., saved, saved, ...]. Ids fall, so the smallest is the latest. An
edge is None (no gradient wanted), a node, or (node, k) for result k of an op with several. A leaf's node is [0, LEAF, Leaf].
"""

import itertools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from treadle.errors import AutogradError

next_id = itertools.count(-1, -1).__next__
GRAD_MODE: ContextVar[bool] = ContextVar("treadle_grad", default=True)
grad_enabled = GRAD_MODE.get
EDGES = 2  # where edges begin in a node


class Rule:
    """How a node's gradient is computed: run(node, g) -> one gradient (or None) per edge.

    g is a tensor, or for an op with several results a list with None where no gradient arrived. `results` maps a result's
    index to the slot of its saved bytes, so that writing over a result can mark it stale.
    """

    __slots__ = ("count", "name", "results", "run", "saves", "several")

    def __init__(self, name: str, count: int, run: Callable[[list[Any], Any], Any], saves: bool, several: int = 0, results: dict[int, int] | None = None) -> None:
        self.name, self.count, self.run, self.saves, self.several = name, count, run, saves, several
        self.results = results or {}


class Leaf:
    """Where gradients of a leaf tensor collect. Separate from the tensor, so that node and tensor form no cycle."""

    __slots__ = ("grad", "hooks", "lock")

    def __init__(self) -> None:
        self.grad: Any = None
        self.hooks: dict[int, Any] | None = None
        self.lock = threading.Lock()


class Stale:
    """Takes the place of saved bytes that an in-place write has destroyed."""


STALE = Stale()


def _freed(node: list[Any], g: Any) -> Any:
    raise AutogradError(
        "backward: the values this graph saved were freed by an earlier backward; "
        "pass retain_graph=True to the first one to go through it twice"
    )


LEAF = Rule("leaf", 0, lambda node, g: (), False)


def freed(rule: Rule) -> Rule:
    return Rule(rule.name, rule.count, _freed, False, rule.several)


def leaf_node() -> list[Any]:
    return [0, LEAF, Leaf()]


def modified(op: str, what: str) -> AutogradError:
    return AutogradError(
        f"{op}: its saved {what} was modified by an in-place operation, so its gradient can no longer be computed; "
        "write to a clone, or use the functional form"
    )


def mark_stale(node: Any) -> None:
    """An in-place write is about to destroy the bytes of the result this node (or edge) stands for."""
    if node is not None:
        owner, k = node if node.__class__ is tuple else (node, 0)
        slot = owner[1].results.get(k)
        if slot is not None and slot < len(owner):
            owner[slot] = STALE
