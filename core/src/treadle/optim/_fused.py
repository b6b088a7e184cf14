"""The one place where optimizers and clipping reach the engine's in-place list ops."""

from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.eager import run_inplace_list
from treadle.op import Live, outside

Tensors = list[Tensor]


def sgd_step_(params: Tensors, grads: Tensors, bufs: Tensors, lr_momentum: Live, **attrs: Any) -> None:
    """Step params and momentum buffers in place; no buffers with momentum 0."""
    run_inplace_list(ops.sgd_step, [params, grads, bufs], lr_momentum, attrs)


def adam_step_(params: Tensors, grads: Tensors, means: Tensors, squares: Tensors, numbers: Live, **attrs: Any) -> None:
    """Step params and the running means of the gradients and their squares in place. numbers: lr, step, beta1."""
    run_inplace_list(ops.adam_step, [params, grads, means, squares], numbers, attrs)


def fresh_zeros(p: Tensor) -> Tensor:
    """Zeros like p that outlive the step, also where it is being traced."""
    with outside():
        return creation.zeros_like(p)


def clip_by_global_norm_(tensors: Tensors, max_norm: float) -> Tensor:
    """Scale tensors in place so that their common norm is at most max_norm; return the norm."""
    return run_inplace_list(ops.clip_by_global_norm, [tensors], [max_norm], {})
