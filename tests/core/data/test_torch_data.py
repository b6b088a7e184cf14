"""The DataLoader against PyTorch's: what comes out, in which types and shapes."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def describe(x):
    """Return a batch as nested Python values with dtypes and shapes."""
    if isinstance(x, td.Tensor | torch.Tensor):
        return str(x.dtype).split(".")[1], tuple(x.shape), x.tolist()
    if isinstance(x, dict):
        return {k: describe(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return type(x).__name__, [describe(v) for v in x]
    return x


SAMPLES = {
    "pairs": lambda t: [(t.ones(2) * i, i) for i in range(5)],
    "lists": lambda t: [[i, float(i), "text"] for i in range(5)],
    "dicts": lambda t: [{"a": np.full(3, i, np.int16), "b": i > 2} for i in range(5)],
    "numbers": lambda t: [0.5, 1.5, 2.5, 3.5, 4.5],
    "arrays": lambda t: [np.float64(i) for i in range(5)],
    "tensors": lambda t: t.utils.data.TensorDataset(t.arange(10).reshape(5, 2), t.ones(5)) if t is torch
    else t.data.TensorDataset(t.arange(10).reshape(5, 2), t.ones(5)),
}  # fmt: skip
OPTIONS = [
    {},
    {"batch_size": 2},
    {"batch_size": 2, "drop_last": True},
    {"batch_size": None},
    {"batch_sampler": [[4, 0], [1]]},
    {"sampler": [3, 3, 1]},
]


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batches(samples, options):
    ours = td.data.DataLoader(SAMPLES[samples](td), **options)
    theirs = torch.utils.data.DataLoader(SAMPLES[samples](torch), **options)
    assert len(ours) == len(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [describe(b) for b in ours] == [describe(b) for b in theirs]
