"""Forward derivatives by reverse mode twice: the pull-back is linear in its cotangent, and its transpose is the push.

(Townsend, "A new trick for calculating Jacobian vector products", 2017.)
"""

from collections.abc import Callable
from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.autograd.backward import grad_of
from treadle.autograd.grad_mode import is_grad_enabled, recording
from treadle.autograd.transforms import _leads_outside, _plain, _shaped, _variable, _variables
from treadle.errors import ArgumentError, DTypeError, ShapeError


class Linear:
    """A function at a point: its value there, and its derivative in both directions.

    outer: whether somebody outside may want to differentiate further.
    """

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], argnums: Any, kwargs: Any, has_aux: bool) -> None:
        outside = is_grad_enabled()
        with recording(True):
            given, self.variables, self.plan = _variables(args, argnums)
            out = f(*given, **kwargs)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise ArgumentError("with has_aux=True the function must return (result, what else it found)")
        self.out: Any
        self.aux: Any
        self.out, self.aux = out if has_aux else (out, None)
        self.leaves, self.structure = tree.flatten(self.out)
        self.outer = outside and _leads_outside(self.leaves, self.variables)

    def value(self) -> tuple[Any, Any]:
        """What the function returned (and its aux), off our own tape."""
        return (self.out, self.aux) if self.outer else (tree.map(_plain, self.out), tree.map(_plain, self.aux))

    def pull(self, y: Tensor, g: Tensor) -> list[Tensor]:
        """Cotangents of the variables for the cotangent g of one result."""
        found = grad_of((y,), self.variables, (g,), True, self.outer, True)
        return [v.new_zeros(v.shape) if r is None else r for r, v in zip(found, self.variables, strict=True)]

    def transposed(self) -> "Transposed":
        """What is needed to push tangents forward."""
        return Transposed(self)

    def shaped(self, grads: list[Any]) -> Any:
        """Values, one per variable, in the structure of the differentiated arguments."""
        return _shaped(grads, self.plan)


class Transposed:
    """The pull-back as a recorded function of its cotangents, to be differentiated once more."""

    def __init__(self, at: Linear) -> None:
        self.at = at
        self.ys = [y for y in at.leaves if isinstance(y, Tensor) and y.node is not None]
        self.dummies = [_variable(y.new_zeros(y.shape)) for y in self.ys]
        self.pulled = grad_of(self.ys, at.variables, self.dummies, True, True, True) if self.ys else []

    def push(self, tangents: list[Tensor]) -> list[Any]:
        """Tangents of all results for tangents of the variables; zeros where a result does not depend on them."""
        pairs = [(p, t) for p, t in zip(self.pulled, tangents, strict=bool(self.ys)) if p is not None and p.node]
        further = self.at.outer or any(t.node is not None for t in tangents)
        found: list[Any] = [None] * len(self.dummies)
        if pairs:
            found = grad_of([p for p, _ in pairs], self.dummies, [t for _, t in pairs], True, further, True)
        rest = iter(found)
        moved = [next(rest) if any(y is x for x in self.ys) else None for y in self.at.leaves]
        return [_zeros(y) if m is None else m for y, m in zip(self.at.leaves, moved, strict=True)]


def _zeros(y: Any) -> Any:
    return y.new_zeros(y.shape) if isinstance(y, Tensor) else y


def jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool = False) -> Any:
    """Return (f(*primals), the derivative of that in the direction of tangents); with has_aux also what else f returns.

    Tangents have the structure, shapes and dtypes of the primals (ArgumentError, ShapeError, DTypeError).

    >>> import treadle as td
    >>> y, dy = td.jvp(lambda x: x * x, (td.tensor([1.0, 2.0]),), (td.tensor([1.0, 10.0]),))
    >>> dy.tolist()
    [2.0, 40.0]
    """
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise ArgumentError("jvp: primals and tangents must be tuples, one entry per argument")
    given, structure = tree.flatten(primals)
    moves, same = tree.flatten(tangents)
    if same != structure:
        raise ArgumentError(f"jvp: the tangents have structure {same!r}, the primals {structure!r}")
    for x, t in zip(given, moves, strict=True):
        if not isinstance(t, Tensor) or not isinstance(x, Tensor):
            raise ArgumentError(f"jvp: tensors are expected: {type(x).__name__}, {type(t).__name__}")
        if t.shape != x.shape:
            raise ShapeError(
                f"jvp: a tangent of shape {tuple(t.shape)} does not fit a primal of shape {tuple(x.shape)}"
            )
        if t.dtype is not x.dtype:
            raise DTypeError(f"jvp: a tangent of type {t.dtype.name} does not fit a primal of type {x.dtype.name}")
    at = Linear(f, primals, tuple(range(len(primals))), {}, has_aux)
    moved = at.structure.build(iter(at.transposed().push(moves)))
    value, aux = at.value()
    return (value, moved, aux) if has_aux else (value, moved)
