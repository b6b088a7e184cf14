"""One cycle of learning rate and momentum (Smith and Topin 2018)."""

import math
from bisect import bisect_left
from typing import Any

from treadle.optim.lr_scheduler.base import LRScheduler, per_group
from treadle.optim.optimizer import Optimizer


class OneCycleLR(LRScheduler):
    """Raise the rate from max_lr / div_factor to max_lr, then lower it far below, in total_steps.

    Momentum, or Adam's beta1, moves the other way. Step it after every batch.

    >>> import treadle as td
    >>> opt = td.optim.SGD([td.ones(1, requires_grad=True)], lr=0.1, momentum=0.9)
    >>> schedule = td.optim.lr_scheduler.OneCycleLR(opt, max_lr=1.0, total_steps=10)
    >>> round(schedule.get_last_lr()[0], 6), opt.param_groups[0]["momentum"]
    (0.04, 0.95)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Any,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Any = 0.85,
        max_momentum: Any = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if total_steps is None:
            raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
        if total_steps <= 0:
            raise ValueError(f"Expected positive integer total_steps, but got {total_steps}")
        if not 0.0 <= pct_start <= 1.0:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        self._phases = _one_cycle_phases(total_steps, pct_start, three_phase)
        if last_epoch == -1:
            tops = per_group("max_lr", optimizer, max_lr)
            for group, rate in zip(optimizer.param_groups, tops, strict=True):
                low = rate / div_factor
                group.update(initial_lr=low, max_lr=rate, min_lr=low / final_div_factor)
        if cycle_momentum:
            self._start_momentum(optimizer, base_momentum, max_momentum, last_epoch)
        super().__init__(optimizer, last_epoch)

    def _start_momentum(self, optimizer: Optimizer, base: Any, top: Any, last_epoch: int) -> None:
        if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
            raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
        self.use_beta1 = "betas" in optimizer.defaults
        bases = per_group("base_momentum", optimizer, base)
        tops = per_group("max_momentum", optimizer, top)
        if last_epoch == -1:
            for group, low, high in zip(optimizer.param_groups, bases, tops, strict=True):
                group.update(base_momentum=low, max_momentum=high)
                self._set_momentum(group, high)

    def _set_momentum(self, group: dict[str, Any], value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def _anneal(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * part + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)

    def get_lr(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {self.total_steps}")
        ends = [phase[0] for phase in self._phases]
        phase = min(bisect_left(ends, step), len(ends) - 1)
        start = ends[phase - 1] if phase else 0.0
        end, from_lr, to_lr, from_momentum, to_momentum = self._phases[phase]
        part = (step - start) / (end - start)
        new = []
        for group in self.optimizer.param_groups:
            new.append(self._anneal(group[from_lr], group[to_lr], part))
            if self.cycle_momentum:
                value = self._anneal(group[from_momentum], group[to_momentum], part)
                self._set_momentum(group, value)
        return new


def _one_cycle_phases(total: int, pct_start: float, three_phase: bool) -> list[tuple[Any, ...]]:
    """Return (last step, rate from, rate to, momentum from, momentum to) of each phase."""
    up = ("initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three_phase:
        down = ("max_lr", "min_lr", "base_momentum", "max_momentum")
        return [(pct_start * total - 1, *up), (total - 1, *down)]
    down = ("max_lr", "initial_lr", "base_momentum", "max_momentum")
    out = ("initial_lr", "min_lr", "max_momentum", "max_momentum")
    return [(pct_start * total - 1, *up), (2 * pct_start * total - 2, *down), (total - 1, *out)]
