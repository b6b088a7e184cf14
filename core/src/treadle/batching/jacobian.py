"""Whole derivatives: the pull-back of every unit cotangent (or the push of every unit tangent) at once, under vmap."""

from collections.abc import Callable, Sequence
from typing import Any

from treadle._tensor import Tensor
from treadle.autograd.forward import Linear
from treadle.autograd.grad_mode import recording
from treadle.batching.vmap import vmap
from treadle.creation import eye
from treadle.errors import AutogradError


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function giving the derivatives of every element of f's results by every element of argnums.

    For a result of shape s and an argument of shape t they have shape s + t; results and arguments may be pytrees, that
    of the result is the outer one. Reverse mode: the cost grows with the size of the results. With has_aux f returns
    more, which comes back beside.

    >>> import treadle as td
    >>> td.jacobian(lambda x: x * x)(td.tensor([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        at = _at(f, args, argnums, kwargs, has_aux)
        rows = [_rows(at, y) for y in at.leaves]
        found = at.structure.build(iter([at.shaped(r) for r in rows]))
        return (found, at.value()[1]) if has_aux else found

    return run


def _at(*given: Any) -> Linear:
    at = Linear(*given)
    odd = next((y for y in at.leaves if not isinstance(y, Tensor)), None)
    if odd is not None:
        raise AutogradError(f"jacobian: the function must return tensors: {type(odd).__name__}")
    return at


def _rows(at: Linear, y: Any) -> list[Any]:
    """Derivatives of one result by all variables."""
    shape, size = tuple(y.shape), y.sig.size
    if y.node is None:
        return [v.new_zeros((*shape, *v.shape), dtype=v.dtype) for v in at.variables]
    units = eye(size, dtype=y.dtype, device=y.device).reshape(size, *shape)
    with recording(at.outer):  # what rules do is recorded only for somebody outside
        found = vmap(lambda g: tuple(at.pull(y, g)))(units)
    return [r.reshape(*shape, *v.shape) for r, v in zip(found, at.variables, strict=True)]


def jacfwd(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return the same as `jacobian`, found direction by direction: the cost grows with the size of the arguments.

    >>> import treadle as td
    >>> td.func.jacfwd(lambda x: x * x)(td.tensor([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        at = _at(f, args, argnums, kwargs, has_aux)
        found = [_columns(at, k) for k in range(len(at.variables))]
        by_result = [at.shaped([column[j] for column in found]) for j in range(len(at.leaves))]
        built = at.structure.build(iter(by_result))
        return (built, at.value()[1]) if has_aux else built

    return run


def _columns(at: Linear, k: int) -> list[Any]:
    """Derivatives of all results by one variable."""
    v = at.variables[k]
    units = eye(v.sig.size, dtype=v.dtype, device=v.device).reshape(v.sig.size, *v.shape)
    transposed = at.transposed()
    others = [u.new_zeros(u.shape) for u in at.variables]

    def push(unit: Any) -> tuple[Any, ...]:
        return tuple(transposed.push([unit if j == k else o for j, o in enumerate(others)]))

    with recording(at.outer):
        found = vmap(push, out_dims=-1)(units)
    return [r.reshape(*y.shape, *v.shape) for r, y in zip(found, at.leaves, strict=True)]


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Return a function giving the second derivatives of f's results by argnums, twice.

    >>> import treadle as td
    >>> td.hessian(lambda x: (x**3).sum())(td.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacobian(jacobian(f, argnums), argnums)
