"""Normalisations as functions."""

from collections.abc import Sequence

from treadle import ops
from treadle._tensor import Tensor
from treadle.autograd.grad_mode import no_grad
from treadle.dtypes import finfo, float32
from treadle.errors import ArgumentError, ShapeError


def _check_training_size(shape: tuple[int, ...]) -> int:
    """Return the number of values per channel; ArgumentError where a variance means nothing."""
    count = 1
    for dim, size in enumerate(shape):
        count *= 1 if dim == 1 else size
    if count == 1:
        raise ArgumentError(f"Expected more than 1 value per channel when training, got {shape}")
    return count


def update_running(running: Tensor, batch: Tensor, momentum: float, factor: float = 1.0) -> None:
    """Move a running statistic towards the batch's: (1 - momentum)·running + momentum·batch."""
    running.mul_(1.0 - momentum).add_(batch * (momentum * factor))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of (N, C, ...), over the batch if training, else by running values.

    In training, running_mean and running_var are updated in place where given.

    >>> import treadle as td
    >>> x = td.tensor([[1.0], [3.0]])
    >>> [round(v, 3) for v, in td.nn.functional.batch_norm(x, None, None, training=True).tolist()]
    [-1.0, 1.0]
    """
    if not training:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm: needs running_mean and running_var if not training")
        return ops.batch_norm_inference(input, running_mean, running_var, weight, bias, eps=eps)
    count = _check_training_size(tuple(input.shape))
    y, mean, var = ops.batch_norm(input, weight, bias, eps=eps)
    if count and (running_mean is not None or running_var is not None):  # an empty batch says nothing
        with no_grad():
            if running_mean is not None:
                update_running(running_mean, mean, momentum)
            if running_var is not None:  # the running variance is the unbiased one
                update_running(running_var, var, momentum, count / (count - 1))
    return y


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions, whose sizes normalized_shape repeats.

    >>> import treadle as td
    >>> y = td.nn.functional.layer_norm(td.tensor([[1.0, 3.0]]), (2,))
    >>> [round(v, 3) for v in y[0].tolist()]
    [-1.0, 1.0]
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ShapeError(f"layer_norm: the last dimensions must be normalized_shape: {tuple(input.shape)}, {shape}")
    return ops.layer_norm(input, weight, bias, ndim=len(shape), eps=eps)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root of the mean square over the last dimensions; eps defaults to the dtype's.

    >>> import treadle as td
    >>> td.nn.functional.rms_norm(td.tensor([2.0, 2.0]), (2,)).tolist()
    [1.0, 1.0]
    """
    shape = tuple(normalized_shape)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ShapeError(f"rms_norm: the last dimensions must be normalized_shape: {tuple(input.shape)}, {shape}")
    wide = input.to(float32) if input.dtype.itemsize < 4 else input
    eps = finfo(wide.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0))
    y = wide * ops.rsqrt(ops.square(wide).mean(dims, keepdim=True) + eps)
    if weight is not None:
        y = y * weight
    return y if wide is input else y.to(input.dtype)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over groups of channels of (N, C, ...), for each sample by itself.

    >>> import treadle as td
    >>> tuple(td.nn.functional.group_norm(td.ones(2, 6, 4), 3).shape)
    (2, 6, 4)
    """
    shape = tuple(input.shape)
    if len(shape) < 2 or shape[1] % num_groups:
        raise ShapeError(f"group_norm: the channels must divide into num_groups: {shape}, {num_groups}")
    size = 1
    for n in shape[1:]:
        size *= n
    grouped = input.reshape(shape[0], num_groups, size // num_groups)
    y = ops.layer_norm(grouped, None, None, ndim=1, eps=eps).reshape(shape)
    per_channel = (shape[1], *(1,) * (len(shape) - 2))
    if weight is not None:
        y = y * weight.reshape(per_channel)
    return y if bias is None else y + bias.reshape(per_channel)
