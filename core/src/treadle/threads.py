"""How many threads the host device's kernels use."""

from treadle.errors import ArgumentError
from treadle.runtime.device import host_device


def set_num_threads(n: int) -> None:
    """Use n threads in the host device's kernels; results stay the same to the bit.

    >>> import treadle as td
    >>> td.set_num_threads(td.get_num_threads())
    """
    if not isinstance(n, int) or n < 1:
        raise ArgumentError(f"set_num_threads: a positive integer expected: {n!r}")
    host_device().backend.set_num_threads(n)


def get_num_threads() -> int:
    """Return how many threads the host device's kernels use.

    >>> import treadle as td
    >>> td.get_num_threads() >= 1
    True
    """
    return int(host_device().backend.get_num_threads())
