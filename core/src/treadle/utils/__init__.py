"""PyTorch's places for data loading (`treadle.utils.data` is `treadle.data`) and activation checkpoints."""

from treadle.utils import checkpoint as checkpoint
from treadle.utils import data as data
