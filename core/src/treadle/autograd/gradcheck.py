"""Numeric checks of gradients by central differences in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from treadle import creation
from treadle._tensor import Tensor
from treadle.autograd.backward import grad_of
from treadle.autograd.grad_mode import enable_grad
from treadle.errors import AutogradError


def gradcheck(
    f: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Return whether the gradients of f at float64 inputs agree with central differences, element by element.

    f returns a tensor or a tuple of tensors. AutogradError (or False, without raise_exception) says which element
    differs.

    >>> import treadle as td
    >>> td.autograd.gradcheck(lambda x: x.sin(), td.rand(3, dtype=td.float64, requires_grad=True))
    True
    """
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise AutogradError("gradcheck: at least one input must require grad")
    if any(x.dtype.name != "float64" for x in checked):
        raise AutogradError(f"gradcheck: inputs must be float64: {[x.dtype.name for x in checked]}")
    try:
        for k, y in enumerate(_outputs(f(*xs))):
            if y.node is not None:
                _check_output(f, xs, checked, k, y, eps, atol, rtol)
    except AutogradError:
        if raise_exception:
            raise
        return False
    return True


def _outputs(out: Any) -> list[Any]:
    return [
        y for y in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(y, Tensor) and y.dtype.kind == "f"
    ]


def _check_output(
    f: Any, xs: list[Any], checked: list[Tensor], k: int, y: Tensor, eps: float, atol: float, rtol: float
) -> None:
    weights = np.random.default_rng(k).standard_normal(y.shape)
    g = creation.from_array(weights, y.device)
    analytic = grad_of((y,), checked, (g,), retain_graph=True, allow_unused=True)
    for n, (x, a) in enumerate(zip(checked, analytic, strict=True)):
        exact = np.zeros(x.shape) if a is None else a.detach().numpy_copy()
        numeric = _numeric(f, xs, x, k, weights, eps)
        bad = ~np.isclose(exact, numeric, rtol, atol, equal_nan=True)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise AutogradError(
                f"gradcheck: output {k}, input {n}, element {at}: backward gives {exact[at]:.9g}, "
                f"differences give {numeric[at]:.9g}"
            )


def _numeric(f: Any, xs: list[Any], x: Tensor, k: int, weights: Any, eps: float) -> Any:
    """d(sum(weights * output k)) / dx by central differences."""
    base = x.detach().numpy_copy()
    out = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        sides = []
        for step in (eps, -eps):
            moved = base.copy()
            moved[at] += step
            given = [creation.from_array(moved, x.device, True) if z is x else z for z in xs]
            with enable_grad():  # f may take gradients itself
                sides.append(float((_outputs(f(*given))[k].detach().numpy_copy() * weights).sum()))
        out[at] = (sides[0] - sides[1]) / (2 * eps)
    return out


def gradgradcheck(
    f: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Return whether second-order gradients of f agree with differences of its gradients.

    >>> import treadle as td
    >>> td.autograd.gradgradcheck(lambda x: x.sin(), td.rand(2, dtype=td.float64, requires_grad=True))
    True
    """
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [k for k, x in enumerate(xs) if isinstance(x, Tensor) and x.requires_grad]
    shapes = [y.shape for y in _outputs(f(*xs))]
    rng = np.random.default_rng(7)
    seeds = [creation.from_array(rng.standard_normal(shape), xs[checked[0]].device, True) for shape in shapes]

    def first(*args: Any) -> Any:
        given, gs = list(args[: len(xs)]), args[len(xs) :]
        for k in checked:
            if given[k].node is None:
                given[k] = given[k].detach().requires_grad_()
        ys = _outputs(_enabled(f, given))
        pairs: Sequence[Any] = [(y, g) for y, g in zip(ys, gs, strict=True) if y.node is not None]
        with_graph = grad_of(
            [y for y, _ in pairs],
            [given[k] for k in checked],
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
        return tuple(g for g in with_graph if g is not None)

    return gradcheck(first, [*xs, *seeds], eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)


def _enabled(f: Any, given: Any) -> Any:
    with enable_grad():
        return f(*given)
