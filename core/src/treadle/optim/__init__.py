"""Optimizers and learning rate schedules: torch.optim's names."""

from treadle.optim import lr_scheduler
from treadle.optim.adam import Adam, AdamW
from treadle.optim.optimizer import Optimizer
from treadle.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
