"""What users see as `td.autograd`: PyTorch's names for differentiation."""

from typing import Any

from treadle._tensor import Tensor
from treadle.autograd import backward as walk
from treadle.autograd.anomaly import detect_anomaly as detect_anomaly
from treadle.autograd.function import Function as Function
from treadle.autograd.function import FunctionCtx as FunctionCtx
from treadle.autograd.grad_mode import enable_grad as enable_grad
from treadle.autograd.grad_mode import inference_mode as inference_mode
from treadle.autograd.grad_mode import no_grad as no_grad
from treadle.autograd.grad_mode import set_grad_enabled as set_grad_enabled
from treadle.autograd.gradcheck import gradcheck as gradcheck
from treadle.autograd.gradcheck import gradgradcheck as gradgradcheck
from treadle.autograd.transforms import autograd_grad as grad

__all__ = [
    "Function",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_grad_enabled",
]


def backward(
    tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Compute gradients of several outputs at once and add them to the `.grad` of all leaves.

    >>> import treadle as td
    >>> x = td.ones(1, requires_grad=True)
    >>> td.autograd.backward([x * 2, x * 3])
    >>> x.grad
    tensor([5.])
    """
    ys = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    gs = [grad_tensors] * len(ys) if grad_tensors is None or isinstance(grad_tensors, Tensor) else list(grad_tensors)
    walk.backward(ys, gs, retain_graph, create_graph)
