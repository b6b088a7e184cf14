"""treadle.data under PyTorch's name: `from treadle.utils.data import DataLoader`.

>>> from treadle.utils.data import TensorDataset
>>> import treadle as td
>>> len(TensorDataset(td.ones(3)))
3
"""

from treadle.data import *  # noqa: F403
from treadle.data import __all__ as __all__
