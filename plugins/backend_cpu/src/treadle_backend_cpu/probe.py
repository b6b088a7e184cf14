"""Whether the kernels can be loaded here, without loading them."""

from importlib.util import find_spec

from treadle.plugin import Availability
from treadle_backend_cpu import stamp


def probe():
    """Answer whether the compiled module is installed and, in a checkout, whether it was made from the sources."""
    spec = find_spec("treadle_backend_cpu._native")
    if spec is None or not spec.origin:
        return Availability(False, "its compiled module is missing", remedy())
    if stamp.from_source() and stamp.of_module(spec.origin) != stamp.of_sources():
        return Availability(False, "the compiled module does not match the sources", remedy())
    return Availability(True)


def remedy():
    """Return the command that makes the compiled module anew."""
    if not stamp.from_source():
        return "pip install --force-reinstall treadle-backend-cpu"
    package = stamp.PACKAGE.parents[1]
    command = f'pip install -e "{package}" (needs gcc)'
    workspace = package.parents[1]
    if (workspace / "Makefile").is_file() and (workspace / "core").is_dir():
        return f'run make build in "{workspace}", or {command}'
    return command
