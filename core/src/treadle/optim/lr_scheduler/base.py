"""LRScheduler: what all schedules share."""

import warnings
from collections.abc import Callable
from typing import Any

from treadle._tensor import Tensor
from treadle.optim.optimizer import Optimizer, number

EPOCH_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where "
    "possible. Please use `scheduler.step()` to step the scheduler."
)


def rates(optimizer: Optimizer, key: str = "lr") -> list[float]:
    return [number(group[key]) for group in optimizer.param_groups]


def set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """Return one value per parameter group."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"Expected {n} {name}, but got {len(value)}")
    return list(value)


class LRScheduler:
    """Be the base of schedules: a subclass writes ``get_lr``, the rates of the next epoch.

    >>> import treadle as td
    >>> class Halve(td.optim.lr_scheduler.LRScheduler):
    ...     def get_lr(self):
    ...         return [rate * 0.5**self.last_epoch for rate in self.base_lrs]
    >>> opt = td.optim.SGD([td.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = Halve(opt)
    >>> opt.step(); schedule.step(); schedule.get_last_lr()
    [0.5]
    """

    _is_initial = False
    _closed_form: Callable[[], list[float]] | None = None  # used by step(epoch)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", number(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                    "scheduler with last_epoch >= 0"
                )
        self.base_lrs = rates(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimizer.

        >>> import treadle as td
        >>> opt = td.optim.SGD([td.ones(1, requires_grad=True)], lr=1.0)
        >>> td.optim.lr_scheduler.StepLR(opt, 2).state_dict()["gamma"]
        0.1
        """
        return {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_is_initial")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what state_dict returned."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[float]:
        """Return the rates set by the last step, one per parameter group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """Return the rates of the epoch last_epoch from the current ones."""
        raise NotImplementedError

    def step(self, epoch: int | None = None) -> None:
        """Set the next epoch's rates."""
        if self._step_count == 1 and not self.optimizer._step_called:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`; the first value "
                "of the learning rate schedule is skipped. Call `optimizer.step()` first.",
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_WARNING, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed = None if epoch is None else self._closed_form
        new = self.get_lr() if closed is None else closed()
        for group, rate in zip(self.optimizer.param_groups, new, strict=True):
            set_rate(group, rate)
        self._last_lr = rates(self.optimizer)

    def _scaled(self, factor: float) -> list[float]:
        return [rate * factor for rate in rates(self.optimizer)]
