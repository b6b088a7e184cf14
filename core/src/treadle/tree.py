"""Pytrees: nested lists, tuples, named tuples and dicts with anything at the leaves."""

from collections.abc import Callable
from typing import Any

from treadle.errors import ArgumentError


class TreeDef:
    """The shape of a pytree: how its leaves are put together again."""

    __slots__ = ("children", "kind", "meta")

    def __init__(self, kind: Any, meta: Any, children: tuple["TreeDef", ...]) -> None:
        self.kind, self.meta, self.children = kind, meta, children

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeDef) and (self.kind, self.meta, self.children) == (
            other.kind,
            other.meta,
            other.children,
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.meta, self.children))

    def __repr__(self) -> str:
        return str(self.build(iter("*" * self.count())))

    def count(self) -> int:
        """The number of leaves."""
        return 1 if self.kind is None else sum(c.count() for c in self.children)

    def build(self, leaves: Any) -> Any:
        """Put leaves (an iterator) together."""
        if self.kind is None:
            return next(leaves)
        items = [c.build(leaves) for c in self.children]
        if self.kind is dict:
            return dict(zip(self.meta, items, strict=True))
        return self.kind(*items) if self.meta else self.kind(items)


LEAF = TreeDef(None, None, ())


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """Return (leaves, structure); dicts in order of their sorted keys, None as a leaf.

    >>> import treadle as td
    >>> td.tree.flatten({"b": 1, "a": [2, 3]})[0]
    [2, 3, 1]
    """
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> TreeDef:
    cls = tree.__class__
    if cls is list or cls is tuple:
        return TreeDef(cls, None, tuple(_flatten(x, leaves) for x in tree))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return TreeDef(cls, tree._fields, tuple(_flatten(x, leaves) for x in tree))
    if isinstance(tree, dict):
        keys = tuple(sorted(tree, key=repr))
        return TreeDef(dict, keys, tuple(_flatten(tree[k], leaves) for k in keys))
    leaves.append(tree)
    return LEAF


def unflatten(structure: TreeDef, leaves: Any) -> Any:
    """Put leaves back into a structure; ArgumentError when their number differs.

    >>> import treadle as td
    >>> leaves, structure = td.tree.flatten((1, [2]))
    >>> td.tree.unflatten(structure, [10, 20])
    (10, [20])
    """
    leaves = list(leaves)
    if len(leaves) != structure.count():
        raise ArgumentError(f"tree.unflatten: the structure has {structure.count()} leaves, given are {len(leaves)}")
    return structure.build(iter(leaves))


def leaves(tree: Any) -> list[Any]:
    """Return the leaves.

    >>> import treadle as td
    >>> td.tree.leaves((1, {"a": 2}))
    [1, 2]
    """
    return flatten(tree)[0]


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Return the tree with f applied to each leaf (and the corresponding leaves of further trees).

    >>> import treadle as td
    >>> td.tree.map(lambda a, b: a + b, [1, (2,)], [10, (20,)])
    [11, (22,)]
    """
    first, structure = flatten(tree)
    others = []
    for other in rest:
        more, same = flatten(other)
        if same != structure:
            raise ArgumentError(f"tree.map: structures differ: {structure!r} and {same!r}")
        others.append(more)
    return structure.build(iter([f(*xs) for xs in zip(first, *others, strict=True)]))
