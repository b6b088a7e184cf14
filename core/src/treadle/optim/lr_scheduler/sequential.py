"""Schedules one after the other."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from treadle.optim.lr_scheduler.base import LRScheduler, set_rate
from treadle.optim.lr_scheduler.plateau import ReduceLROnPlateau
from treadle.optim.optimizer import Optimizer


class SequentialLR(LRScheduler):
    """Use one schedule after the other; milestones are the epochs at which the next begins.

    >>> import treadle as td
    >>> opt = td.optim.SGD([td.ones(1, requires_grad=True)], lr=1.0)
    >>> s = td.optim.lr_scheduler
    >>> warm, decay = s.ConstantLR(opt, 0.1, total_iters=2), s.ExponentialLR(opt, 0.9)
    >>> s.SequentialLR(opt, [warm, decay], milestones=[2]).get_last_lr()
    [0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler, but got no scheduler.")
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError("SequentialLR does not support `ReduceLROnPlateau`")
            if scheduler.optimizer is not optimizer:
                raise ValueError("SequentialLR expects all schedulers to have the same optimizer")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "SequentialLR expects one milestone less than schedulers: "
                f"{len(milestones)} milestones, {len(schedulers)} schedulers"
            )
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.last_epoch, self.optimizer = last_epoch + 1, optimizer
        for group in optimizer.param_groups:
            set_rate(group, group["initial_lr"])
        _undo_first_step(self)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Set the next epoch's rates by the schedule that is due."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["_schedulers"] = [s.state_dict() for s in self._schedulers]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        for scheduler, saved in zip(self._schedulers, state.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(saved)
        self.__dict__.update(state)


def _undo_first_step(scheduler: LRScheduler) -> None:
    """Take back the step that the constructors of the schedules made."""
    if isinstance(scheduler, SequentialLR):
        for s in scheduler._schedulers:
            _undo_first_step(s)
    else:
        scheduler.last_epoch -= 1
