"""How many threads the kernels use."""

from contextlib import contextmanager

from treadle_backend_cpu._native import get_num_threads, set_num_threads

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]


@contextmanager
def num_threads(n):
    """Use n threads, the caller included, inside a with block: the results stay bit-equal."""
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
