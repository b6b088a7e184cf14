"""td.graph: a function as a Graph, without running it."""

from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.compiler.compiled import Entry
from treadle.compiler.dynamic import sized
from treadle.compiler.passes.prune import prune
from treadle.compiler.trace import trace
from treadle.creation import _place
from treadle.errors import ShapeError
from treadle.ir.dim import solve
from treadle.ir.graph import Graph
from treadle.ir.rewrite import duplicate
from treadle.sig import dense_sig
from treadle.spec import Spec


class FunctionGraph(Graph):
    """The Graph of a function as it was traced, before any optimisation. `run` executes it.

    Sizes may be symbolic (`td.Dim`); then it runs for every size that fits. Inputs are the tensors among the arguments,
    then what the function closes over; outputs are its results, then new contents of tensors it writes into.
    """

    def __init__(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(getattr(f, "__name__", type(f).__name__))
        self.leaves, self.structure = tree.flatten(_placeholders((args, kwargs)))
        self.found = trace(f, self.leaves, self.structure, outer=False)
        duplicate(prune(self.found.graph), self)
        self.entries: dict[Any, Entry] = {}  # one per assignment of sizes

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns for arguments like those that it was traced with; ShapeError for others."""
        leaves, structure = tree.flatten((args, kwargs))
        if structure != self.structure:
            raise ShapeError(f"graph: arguments are put together as {structure!r}, traced was {self.structure!r}")
        env: dict[str, int] = {}
        for k, (x, seen) in enumerate(zip(leaves, self.leaves, strict=True)):
            if isinstance(seen, Tensor):
                fits = isinstance(x, Tensor) and x.ndim == seen.ndim and x.dtype is seen.dtype
                if fits:
                    env = _solved(seen, x, env, k)
            else:
                fits = x.__class__ is seen.__class__ and x == seen
            if not fits:
                raise ShapeError(f"graph: argument leaf {k} is {_said(x)}, traced was {_said(seen)}")
        key = tuple(env.items())
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = Entry(sized(self.found, env), leaves)
        return entry.run(leaves)


def _solved(seen: Tensor, x: Tensor, env: dict[str, int], k: int) -> dict[str, int]:
    """env with the symbolic sizes that this argument decides; ShapeError where it does not fit."""
    try:
        return {**env, **solve(seen.shape, x.shape, env)}
    except ShapeError as e:
        raise ShapeError(f"graph: argument leaf {k} is {_said(x)}, traced was {_said(seen)}: {e}") from None


def _said(x: Any) -> str:
    return f"{x.dtype.name}{list(x.shape)}" if isinstance(x, Tensor) else repr(x)


def _placeholders(x: Any) -> Any:
    """Specs as tensors without data, on the default device."""
    if isinstance(x, Spec):
        return Tensor(None, dense_sig(x.dtype, tuple(x.shape), _place(None)))
    if x.__class__ in (list, tuple):
        return x.__class__(_placeholders(y) for y in x)
    return {k: _placeholders(v) for k, v in x.items()} if isinstance(x, dict) else x


def graph(f: Any, *args: Any, **kwargs: Any) -> FunctionGraph:
    """Return the Graph of a function or Module for arguments given as tensors or TensorSpecs; nothing is computed.

    >>> import treadle as td
    >>> g = td.graph(lambda x: x @ x, td.TensorSpec((2, 2), td.float32))
    >>> len(g.nodes), g.run(td.ones(2, 2)).tolist()
    (1, [[2.0, 2.0], [2.0, 2.0]])
    """
    return FunctionGraph(f, args, kwargs)
