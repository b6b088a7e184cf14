"""A stamp of the sources in the compiled module, so that a module older than the sources beside it is not used.

The C files and the Python files agree on the meaning of a plan's numbers; a plan read by the other side's older rules
would write outside of its operands. Standard library only: setup.py imports this file where treadle is not installed.
"""

import hashlib
import mmap
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
MARK = b"treadle-sources:"
SUFFIXES = {"csrc": (".c", ".h", ".inc"), "kernels": (".py",), ".": (".py",)}


def from_source():
    """Tell whether the C sources lie beside this file: in a checkout they do, an installed wheel has none."""
    return (PACKAGE / "csrc").is_dir()


def of_sources():
    """Return the stamp of the C and Python sources: a hash of their names and contents."""
    whole = hashlib.sha256()
    for folder, suffixes in SUFFIXES.items():
        for path in sorted((PACKAGE / folder).iterdir()):
            if path.name.endswith(suffixes) and not path.name.startswith("."):  # not an editor's own files
                data = path.read_bytes()
                whole.update(b"%s/%s %d\n" % (folder.encode(), path.name.encode(), len(data)))
                whole.update(data)
    return whole.hexdigest()[:32]


def of_module(path):
    """Return the stamp inside a compiled module without loading it; "" where there is none."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(MARK)
        return data[start + len(MARK) :][:32].decode("ascii", "replace") if start >= 0 else ""


def declaration():
    """Return the line of C that puts the stamp of the sources into a module."""
    return f'__attribute__((used)) const char td_stamp[] = "{MARK.decode()}{of_sources()}";\n'
