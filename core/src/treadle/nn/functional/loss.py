"""Losses as functions."""

import warnings

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.api.math import where
from treadle.errors import ArgumentError, ShapeError

_cross_entropy = ops.cross_entropy.fn  # spares small models the frame of Op.__call__


def legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return the reduction that the old flags of the losses mean."""
    if size_average is None and reduce is None:
        return reduction
    warnings.warn(
        "size_average and reduce args will be deprecated, please use reduction instead.",
        stacklevel=3,
    )
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction")


def _classes_last(input: Tensor) -> Tensor:
    """Return (N, C, d1, ...) as (N·d1·..., C)."""
    order = (0, *range(2, input.dim()), 1)
    return input.permute(order).reshape(-1, input.shape[1])


def _check_target(name: str, input: Tensor, target: Tensor) -> None:
    expected = (input.shape[0], *input.shape[2:]) if input.dim() > 1 else ()
    if tuple(target.shape) != tuple(expected):
        raise ShapeError(
            f"{name}: the target must have the input's shape without the classes: "
            f"input {tuple(input.shape)}, target {tuple(target.shape)}"
        )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of logits (N, C, ...) and classes (N, ...) or probabilities.

    The classes are int64, probabilities have the input's shape; (C,) and () do without a batch.
    IndexError for a class outside [0, C) that is not ignore_index.

    >>> import treadle as td
    >>> logits, classes = td.zeros(2, 4), td.tensor([0, 3])
    >>> round(td.nn.functional.cross_entropy(logits, classes).item(), 4)
    1.3863
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if input.dim() == 2 and target.dim() == 1:  # the common case first
        return _cross_entropy(  # type: ignore[no-any-return]
            input, target, weight, label_smoothing, ignore_index, reduction
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ArgumentError(f"cross_entropy: label_smoothing must be in [0, 1]: {label_smoothing}")
    if target.is_floating_point():
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    _check_target("cross_entropy", input, target)
    logits = input.unsqueeze(0) if input.dim() == 1 else _classes_last(input)
    loss = ops.cross_entropy(
        logits,
        target.reshape(-1),
        weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
    )
    return loss.reshape(target.shape) if reduction == "none" else loss


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    """Return the cross entropy with class probabilities as target."""
    if tuple(input.shape) != tuple(target.shape):
        raise ShapeError(
            f"cross_entropy: probabilities must have the input's shape: {tuple(input.shape)}, {tuple(target.shape)}"
        )
    axis = 0 if input.dim() == 1 else 1
    classes = input.shape[axis]
    if label_smoothing > 0.0:
        target = target * (1.0 - label_smoothing) + label_smoothing / classes
    terms = ops.log_softmax(input, axis=axis) * target
    if weight is not None:
        terms = terms * weight.reshape((classes, *(1,) * (input.dim() - axis - 1)))
    loss = -terms.sum(axis)
    return _reduce(loss, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log likelihood of log probabilities (N, C, ...) and classes (N, ...).

    IndexError for a class outside of [0, C) other than ignore_index.

    >>> import treadle as td
    >>> td.nn.functional.nll_loss(td.tensor([[-1.0, -2.0]]), td.tensor([1])).item()
    2.0
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    _check_target("nll_loss", input, target)
    logs = input.unsqueeze(0) if input.dim() == 1 else _classes_last(input)
    flat = target.reshape(-1)
    ignored = flat == ignore_index
    safe = where(ignored, 0, where(flat < 0, logs.shape[1], flat))  # a negative class is no class from the end
    scale = creation.ones_like(logs[:, 0]) if weight is None else weight[safe]
    scale = where(ignored, 0.0, scale)
    loss = -logs.gather(1, safe.unsqueeze(1)).squeeze(1) * scale
    loss = where(ignored, 0.0, loss)
    if reduction == "mean":
        return loss.sum() / scale.sum()
    return loss.reshape(target.shape) if reduction == "none" else _reduce(loss, reduction)


def _check_same(name: str, input: Tensor, target: Tensor) -> None:
    if tuple(input.shape) != tuple(target.shape):
        warnings.warn(
            f"{name}: using a target size {tuple(target.shape)} that is different to the input "
            f"size {tuple(input.shape)}; the shapes are broadcast, which is rarely meant.",
            stacklevel=3,
        )


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared difference, reduced.

    >>> import treadle as td
    >>> td.nn.functional.mse_loss(td.zeros(2), td.tensor([1.0, 3.0])).item()
    5.0
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    _check_same("mse_loss", input, target)
    return _weighted(ops.square(input - target), weight, reduction)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the absolute difference, reduced.

    >>> import treadle as td
    >>> td.nn.functional.l1_loss(td.zeros(2), td.tensor([1.0, 3.0])).item()
    2.0
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    _check_same("l1_loss", input, target)
    return _weighted((input - target).abs(), weight, reduction)


def _weighted(loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Reduce; a mean with weights divides by their sum."""
    if weight is None:
        return _reduce(loss, reduction)
    weight = weight.expand(loss.shape)
    if reduction == "mean":
        return (loss * weight).sum() / weight.sum()
    return _reduce(loss * weight, reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return d²/(2·beta) for differences d below beta, |d| - beta/2 above, reduced.

    >>> import treadle as td
    >>> td.nn.functional.smooth_l1_loss(td.zeros(2), td.tensor([1.0, 3.0])).item()
    1.5
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if beta < 0:
        raise ArgumentError(f"smooth_l1_loss does not support negative values for beta: {beta}")
    _check_same("smooth_l1_loss", input, target)
    d = (input - target).abs()
    if beta == 0.0:
        return _reduce(d, reduction)
    return _reduce(where(d < beta, ops.square(d) * (0.5 / beta), d - 0.5 * beta), reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return d²/2 for differences d up to delta, delta·(|d| - delta/2) above, reduced.

    >>> import treadle as td
    >>> td.nn.functional.huber_loss(td.zeros(2), td.tensor([1.0, 3.0])).item()
    1.5
    """
    if delta <= 0:
        raise ArgumentError(f"huber_loss does not support non-positive values for delta: {delta}")
    _check_same("huber_loss", input, target)
    d = (input - target).abs()
    loss = where(d < delta, ops.square(d) * 0.5, (d - 0.5 * delta) * delta)
    return _weighted(loss, weight, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross entropy of probabilities and targets in [0, 1]; logs are cut at -100.

    >>> import treadle as td
    >>> round(td.nn.functional.binary_cross_entropy(td.tensor([0.5]), td.ones(1)).item(), 4)
    0.6931
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if tuple(input.shape) != tuple(target.shape):
        raise ValueError(
            f"Using a target size ({tuple(target.shape)}) that is different to the input size "
            f"({tuple(input.shape)}) is deprecated. Please ensure they have the same size."
        )
    terms = target * _cut_log(input) + (1.0 - target) * _cut_log(1.0 - input)
    loss = -terms if weight is None else -terms * weight
    return _reduce(loss, reduction)


def _cut_log(x: Tensor) -> Tensor:
    """Return max(log(x), -100) with a finite gradient at 0."""
    zero = x <= 0.0
    return where(zero, -100.0, ops.log(where(zero, 1.0, x)))


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of sigmoid(input), exact for large logits.

    >>> import treadle as td
    >>> f = td.nn.functional.binary_cross_entropy_with_logits
    >>> round(f(td.zeros(1), td.ones(1)).item(), 4)
    0.6931
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if tuple(input.shape) != tuple(target.shape):
        raise ValueError(f"Target size ({tuple(target.shape)}) must be the same as input size ({tuple(input.shape)})")
    # -log(sigmoid(x)) = softplus(-x) and -log(1 - sigmoid(x)) = softplus(-x) + x
    if pos_weight is None:
        loss = (1.0 - target) * input + ops.softplus(-input)
    else:
        scale = (pos_weight - 1.0) * target + 1.0
        loss = (1.0 - target) * input + scale * ops.softplus(-input)
    return _reduce(loss if weight is None else loss * weight, reduction)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return target·(log target - input), reduced; 'batchmean' divides by the first size.

    >>> import treadle as td
    >>> td.nn.functional.kl_div(td.zeros(2), td.ones(2)).item()
    0.0
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if log_target:
        loss = ops.exp(target) * (target - input)
    else:
        zero = target.eq(0.0)  # 0·log 0 is 0
        entropy = target * ops.log(where(zero, 1.0, target))
        loss = entropy - target * input
    if reduction == "batchmean":
        return loss.sum() / input.shape[0] if input.dim() else loss
    return _reduce(loss, reduction)
