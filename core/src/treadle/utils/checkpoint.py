"""Activation checkpoints under PyTorch's name: `from treadle.utils.checkpoint import checkpoint`.

>>> from treadle.utils.checkpoint import checkpoint
>>> import treadle as td
>>> checkpoint(lambda x: x * 2, td.ones(2)).tolist()
[2.0, 2.0]
"""

from treadle.autograd.recompute import checkpoint, checkpoint_sequential

__all__ = ["checkpoint", "checkpoint_sequential"]
