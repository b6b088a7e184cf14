"""Whether the kernels can be loaded here, without loading them."""

from importlib.util import find_spec

from treadle.plugin import Availability


def probe():
    """Answer whether the compiled module is installed."""
    if find_spec("treadle_backend_cpu._native") is None:
        return Availability(
            False, "its compiled module is missing", "pip install --force-reinstall treadle-backend-cpu (needs gcc)"
        )
    return Availability(True)
