"""DataLoader: batches of a dataset, in the calling process."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from treadle import creation
from treadle._tensor import Tensor
from treadle.data.collate import default_collate, default_convert
from treadle.data.dataset import IterableDataset, Subset, TensorDataset
from treadle.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from treadle.errors import ArgumentError
from treadle.random import Generator


class DataLoader:
    """Iterate over a dataset in batches.

    Batches are made in the calling process: num_workers must be 0. Options that only concern
    workers or pinned memory are accepted and have no effect.

    >>> import treadle as td
    >>> data = td.data.TensorDataset(td.arange(5))
    >>> loader = td.data.DataLoader(data, batch_size=2)
    >>> len(loader), [x.tolist() for x, in loader]
    (3, [[0, 1], [2, 3], [4]])
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers != 0:
            raise ArgumentError(
                f"DataLoader: only num_workers=0 is supported: {num_workers}; batches are made in "
                "the calling process, and a TensorDataset's by one indexing call each"
            )
        self.dataset, self.num_workers, self.pin_memory = dataset, num_workers, pin_memory
        self.generator, self.timeout = generator, timeout
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable:
            self._check_iterable(shuffle, sampler, batch_sampler)
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler: Any = sampler
        if sampler is None and not self._iterable:
            random = RandomSampler(dataset, generator=generator) if shuffle else None
            self.sampler = SequentialSampler(dataset) if random is None else random
        if batch_size is not None and not self._iterable:
            batch_sampler = BatchSampler(self.sampler, batch_size, drop_last)
        self.batch_sampler: Any = batch_sampler
        batched = batch_sampler is not None or batch_size is not None
        self.collate_fn = collate_fn or (default_collate if batched else default_convert)

    @staticmethod
    def _check_iterable(shuffle: Any, sampler: Any, batch_sampler: Any) -> None:
        given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
                )

    def __len__(self) -> int:
        if self._iterable:
            n = len(self.dataset)
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        if self._iterable:
            return self._walk()
        if self.batch_sampler is None:
            return (self.collate_fn(self.dataset[i]) for i in self.sampler)
        tensors = _tensors_of(self.dataset) if self.collate_fn is default_collate else None
        if tensors is not None:
            return (self._gather(*tensors, batch) for batch in self.batch_sampler)
        return (self._fetch(batch) for batch in self.batch_sampler)

    def _walk(self) -> Iterator[Any]:
        samples = iter(self.dataset)
        if self.batch_size is None:
            for sample in samples:
                yield self.collate_fn(sample)
            return
        while batch := list(islice(samples, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield self.collate_fn(batch)

    def _fetch(self, batch: Any) -> Any:
        if hasattr(self.dataset, "__getitems__"):
            return self.collate_fn(self.dataset.__getitems__(batch))
        return self.collate_fn([self.dataset[i] for i in batch])

    def _gather(self, tensors: tuple[Tensor, ...], subset: Any, batch: Any) -> Any:
        """Make a batch of a TensorDataset by one indexing call per tensor."""
        places = np.asarray(batch)
        if places.ndim != 1 or places.dtype.kind not in "iu":
            return self._fetch(batch)
        if subset is not None:
            places = subset[places]
        index = creation.from_numpy(places.astype(np.int64, copy=False))
        return [t[index.to(t.device)] for t in tensors]


def _tensors_of(dataset: Any) -> tuple[tuple[Tensor, ...], Any] | None:
    """Return the tensors behind a dataset and the rows of them it shows (None for all).

    None if a class in between has an indexing of its own, which has to be called sample by sample.
    """
    rows = None
    while type(dataset) is Subset:
        own = np.asarray(dataset.indices, dtype=np.int64)
        rows = own if rows is None else own[rows]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or hasattr(dataset, "__getitems__"):
        return None
    return dataset.tensors, rows
