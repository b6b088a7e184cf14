"""PyTorch's place for data loading: `treadle.utils.data` is `treadle.data`."""

from treadle.utils import data as data
