"""Limit gradients by their common norm or by value."""

import math
from collections.abc import Iterable

from treadle import creation
from treadle._tensor import Tensor
from treadle.api.shape import stack
from treadle.autograd.grad_mode import no_grad
from treadle.optim._fused import clip_by_global_norm_


def _with_gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    targets = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in targets if p.grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of all elements of the tensors together, 0-d.

    >>> import treadle as td
    >>> td.nn.utils.get_total_norm([td.tensor([3.0]), td.tensor([4.0])]).item()
    5.0
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    p = float(norm_type)
    if not tensors:
        return creation.tensor(0.0)
    with no_grad():
        if p == math.inf:
            norm = stack([t.abs().max() for t in tensors]).max()
        else:
            powers = [(t.abs() ** p).sum() for t in tensors]
            norm = stack(powers).sum() ** (1.0 / p)
    return _checked(norm, error_if_nonfinite, norm_type)


def _checked(norm: Tensor, error_if_nonfinite: bool, norm_type: float) -> Tensor:
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, "
            "so it cannot be clipped. To disable this error and scale the gradients by the "
            "non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    return norm


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale the gradients in place by max_norm / (total_norm + 1e-6) where that is below one.

    >>> import treadle as td
    >>> p = td.zeros(2, requires_grad=True)
    >>> p.grad = td.tensor([3.0, 4.0])
    >>> td.nn.utils.clip_grads_with_norm_([p], 1.0, td.tensor(5.0))
    >>> [round(v, 4) for v in p.grad.tolist()]
    [0.6, 0.8]
    """
    with no_grad():
        scale = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
        for g in _with_gradients(parameters):
            g.mul_(scale)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients in place so that their common norm is at most max_norm; return the norm.

    >>> import treadle as td
    >>> p = td.zeros(2, requires_grad=True)
    >>> p.grad = td.tensor([3.0, 4.0])
    >>> td.nn.utils.clip_grad_norm_([p], max_norm=1.0).item()
    5.0
    """
    targets = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = _with_gradients(targets)
    if not grads:
        return creation.tensor(0.0)
    if float(norm_type) == 2.0 and not error_if_nonfinite:
        return clip_by_global_norm_(grads, float(max_norm))
    norm = get_total_norm(grads, norm_type, error_if_nonfinite)
    clip_grads_with_norm_(targets, max_norm, norm)
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value], in place.

    >>> import treadle as td
    >>> p = td.zeros(2, requires_grad=True)
    >>> p.grad = td.tensor([3.0, -0.5])
    >>> td.nn.utils.clip_grad_value_(p, 1.0)
    >>> p.grad.tolist()
    [1.0, -0.5]
    """
    limit = float(clip_value)
    with no_grad():
        for g in _with_gradients(parameters):
            g.clamp_(-limit, limit)
