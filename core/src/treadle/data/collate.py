"""Samples into batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from treadle import creation
from treadle._tensor import Tensor
from treadle.api.shape import stack
from treadle.dtypes import float64
from treadle.errors import ArgumentError


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack samples: tensors and arrays along a new first dimension, numbers to a tensor.

    Mappings and sequences are collated element by element; text stays a list.

    >>> import treadle as td
    >>> x, y = td.data.default_collate([(td.zeros(2), 0), (td.ones(2), 1)])
    >>> tuple(x.shape), y.tolist()
    ((2, 2), [0, 1])
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, np.ndarray | np.generic):
        return creation.from_numpy(np.stack([np.asarray(b) for b in batch]))
    if isinstance(first, bool | int):
        return creation.tensor(list(batch))
    if isinstance(first, float):
        return creation.tensor(list(batch), dtype=float64)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return _like(first, {k: default_collate([b[k] for b in batch]) for k in first})
    if isinstance(first, Sequence):
        return _collate_sequences(batch)
    raise TypeError(
        f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {type(first)}"
    )


def _collate_sequences(batch: Sequence[Any]) -> Any:
    first = batch[0]
    if any(len(b) != len(first) for b in batch):
        raise ArgumentError("default_collate: each element in a batch should be of equal size")
    columns = [default_collate(column) for column in zip(*batch, strict=True)]
    if isinstance(first, tuple):
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    return _like(first, columns)


def _like(first: Any, values: Any) -> Any:
    """Return values in first's own type where its constructor takes them."""
    try:
        return type(first)(values)
    except TypeError:
        return values


def default_convert(data: Any) -> Any:
    """Turn arrays into tensors and leave the rest: what a DataLoader does without batches.

    >>> import treadle as td
    >>> import numpy as np
    >>> td.data.default_convert({"x": np.ones(2)})["x"].tolist()
    [1.0, 1.0]
    """
    if isinstance(data, np.ndarray | np.generic):
        return creation.from_numpy(np.asarray(data))
    if isinstance(data, Mapping):
        return _like(data, {k: default_convert(v) for k, v in data.items()})
    if isinstance(data, tuple):
        values = [default_convert(v) for v in data]
        return type(data)(*values) if hasattr(data, "_fields") else values
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _like(data, [default_convert(v) for v in data])
    return data
