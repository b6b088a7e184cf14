"""Learning rate schedules: PyTorch's chainable formulas, which start from the current rate.

So several schedules can act on one optimizer; ``scheduler.step()`` follows ``optimizer.step()``.
"""

from treadle.optim.lr_scheduler.base import LRScheduler
from treadle.optim.lr_scheduler.epochs import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    StepLR,
)
from treadle.optim.lr_scheduler.one_cycle import OneCycleLR
from treadle.optim.lr_scheduler.plateau import ReduceLROnPlateau
from treadle.optim.lr_scheduler.sequential import SequentialLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
