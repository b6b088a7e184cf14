"""The tape: what the nodes behind a result form. It dies with its output; nothing global is kept.

A node is a plain list, for speed: [id, rule, edge, edge, ..., saved, saved, ...]. Ids fall, so the smallest is the
latest. An edge is None (no gradient wanted), a node, or (node, k) for result k of an op with several. A leaf's node is
[0, LEAF, Leaf].
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
# What no_grad and enable_grad blocks inside the innermost function under vmap say, for the tapes outside of it.
ASKED: ContextVar[bool | None] = ContextVar("treadle_grad_asked", default=None)
EDGES = 2  # where edges begin in a node


class Rule:
    """How a node's gradient is computed: run(node, g) -> one gradient (or None) per edge.

    g is a tensor, or for an op with several results a list with None where no gradient arrived. `results` maps a
    result's index to the slot of its saved bytes, so that writing over a result can mark it stale.
    """

    __slots__ = ("count", "gone", "name", "results", "run", "saves", "several")

    def __init__(
        self,
        name: str,
        count: int,
        run: Callable[[list[Any], Any], Any],
        saves: bool,
        several: int = 0,
        results: dict[int, int] | None = None,
    ) -> None:
        self.name, self.count, self.run, self.saves, self.several = name, count, run, saves, several
        self.results = results or {}
        self.gone: Rule | None = None  # what takes its place when the saved values are freed


Hooks = dict[int, dict[int, Any]]  # index of a result -> key -> hook


class HookedRule(Rule):
    """A rule with hooks on the gradients of its node's results. Put in the place of the node's rule, so others pay
    nothing.

    before(g) is g after the hooks; inner is what the rule then does; kept holds the gradients that retain_grad asked
    for.
    """

    __slots__ = ("before", "hooks", "inner", "kept")

    def __init__(self, rule: Rule, hooks: Hooks | None = None, kept: dict[int, Any] | None = None) -> None:
        inner = rule.run
        given: Hooks = {} if hooks is None else hooks  # not self: a rule must not form a cycle

        def before(g: Any) -> Any:
            parts = list(g) if rule.several else [g]
            for k, each in given.items():
                if parts[k] is not None:
                    parts[k] = run_hooks(each, parts[k])
            return parts if rule.several else parts[0]

        self.hooks, self.inner, self.before = given, inner, before
        self.kept = {} if kept is None else kept
        super().__init__(
            rule.name, rule.count, lambda node, g: inner(node, before(g)), rule.saves, rule.several, rule.results
        )


def run_hooks(hooks: dict[int, Any], g: Any) -> Any:
    """g after all hooks: what one returns, if anything, takes its place."""
    for hook in list(hooks.values()):
        changed = hook(g)
        g = g if changed is None else changed
    return g


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


def freed_run(node: list[Any], g: Any) -> Any:
    raise AutogradError(
        "backward: the values this graph saved were freed by an earlier backward; "
        "pass retain_graph=True to the first one to go through it twice"
    )


LEAF = Rule("leaf", 0, lambda node, g: (), False)


def freed(rule: Rule) -> Rule:
    """The rule of a node whose saved values are gone; hooks and kept gradients stay."""
    if rule.gone is None:
        empty = Rule(rule.name, rule.count, freed_run, False, rule.several)
        rule.gone = HookedRule(empty, rule.hooks, rule.kept) if isinstance(rule, HookedRule) else empty
    return rule.gone


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
