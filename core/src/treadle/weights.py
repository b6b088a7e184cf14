"""Weights in files: the safetensors layout, with checksums, and never pickle.

A file is an 8-byte little-endian header length, a JSON header that names dtype, shape and place of
every tensor, and their bytes (little-endian, row-major, without gaps, largest dtypes first so that
each is aligned). The header's ``__metadata__`` holds a checksum of the header itself, one per
tensor, and, for anything but a flat dict of tensors, the structure around them. So other programs
read these files, and a flipped bit anywhere is found. Files of other programs, which have no
checksums, load too, without that certainty.
"""

import hashlib
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from treadle import creation, dtypes
from treadle._tensor import Tensor
from treadle.dtypes import DType
from treadle.errors import FormatError

_NAMES = {
    "BOOL": dtypes.bool_,
    "I8": dtypes.int8,
    "I16": dtypes.int16,
    "I32": dtypes.int32,
    "I64": dtypes.int64,
    "U8": dtypes.uint8,
    "U16": dtypes.uint16,
    "U32": dtypes.uint32,
    "U64": dtypes.uint64,
    "F16": dtypes.float16,
    "BF16": dtypes.bfloat16,
    "F32": dtypes.float32,
    "F64": dtypes.float64,
}
_SPELLED = {dtype: name for name, dtype in _NAMES.items()}

_ALIGN = 8
_MAX_HEADER = 100_000_000  # what the safetensors package accepts
_MAX_RANK = 64  # what NumPy accepts
_CHUNK = 1 << 24  # bytes read at a time
_DIGEST, _MANIFEST = "header_sha256_treadle", "treadle_manifest"
# Our headers begin so; the digest is computed with zeros in its own place.
_START = f'{{"__metadata__":{{"{_DIGEST}":"'.encode()
_ZEROS = b"0" * 64


class Entry(NamedTuple):
    """One tensor in a file: its bytes are data[begin:end]."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int


# ---------------------------------------------------------------------------------------- structure
def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Collect the tensors in value under their paths; return the structure as JSON values."""
    if isinstance(value, Tensor):
        name = path or "tensor"
        while name in tensors or name == "__metadata__":
            name += "_"
        tensors[name] = value
        return {"t": name}
    if isinstance(value, Mapping):
        pairs = [(_key(k), _flatten(v, _join(path, k), tensors)) for k, v in value.items()]
        return {"d": pairs}
    if isinstance(value, list | tuple):
        items = [_flatten(v, _join(path, i), tensors) for i, v in enumerate(value)]
        return {"l" if isinstance(value, list) else "u": items}
    return {"v": _scalar(value)}


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _key(key: Any) -> Any:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    raise TypeError(f"save: dict keys must be str or int: {key!r}")


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, DType):
        return {"dtype": value.name}
    raise TypeError(
        "save: only tensors, numbers, text, None and dicts, lists or tuples of these can be "
        f"saved: {type(value).__name__}"
    )


def _rebuild(node: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what _flatten was given."""
    if not isinstance(node, dict) or len(node) != 1:
        raise FormatError(f"load: the manifest's structure is damaged: {node!r:.80}")
    (kind, value), *_ = node.items()
    if kind == "t" and value in tensors:
        return tensors[value]
    if kind == "d":
        return {k: _rebuild(v, tensors) for k, v in value}
    if kind == "l":
        return [_rebuild(v, tensors) for v in value]
    if kind == "u":
        return tuple(_rebuild(v, tensors) for v in value)
    if kind == "v":
        if not isinstance(value, dict):
            return value
        return float(value["f"]) if "f" in value else dtypes.dtype(value["dtype"])
    raise FormatError(f"load: the manifest's structure is damaged: {node!r:.80}")


# ------------------------------------------------------------------------------------------- saving
def save(obj: Any, f: Any) -> None:
    """Write tensors, or nested dicts, lists and tuples of tensors, numbers and text, to a file.

    f is a path or a file open for writing bytes. A path is written under another name first, so
    that at every moment the old or the new file is there, complete. TypeError for other objects.

    >>> import tempfile, treadle as td
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> td.save({"weight": td.ones(2)}, path)
    >>> td.load(path)["weight"].tolist()
    [1.0, 1.0]
    """
    tensors: dict[str, Tensor] = {}
    structure = _flatten(obj, "", tensors)
    flat = isinstance(obj, Mapping) and list(tensors) == list(obj)
    arrays = {name: _bytes_of(t) for name, t in tensors.items()}
    header, order = _header(tensors, arrays, None if flat else structure)
    if hasattr(f, "write"):
        _write(f, header, arrays, order)
        return
    _write_atomically(Path(os.path.realpath(os.fspath(f))), header, arrays, order)


def _bytes_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's elements as little-endian bytes, (n,) uint8."""
    array = np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(-1)
    return _little_endian(array.view(np.uint8), tensor.dtype.itemsize)


def _little_endian(array: np.ndarray[Any, Any], itemsize: int) -> np.ndarray[Any, Any]:
    """Turn elements from the machine's byte order to little-endian, or back."""
    if sys.byteorder == "little":
        return array
    return array.view(f"u{itemsize}").byteswap().view(np.uint8)


def _header(tensors: dict[str, Tensor], arrays: dict[str, Any], structure: Any) -> tuple[bytes, list[str]]:
    """Return the file's first bytes, up to the data, and the names in the order of the data."""
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    places, end = {}, 0
    for name in order:
        places[name] = (end, end + arrays[name].nbytes)
        end = places[name][1]
    sums = {name: zlib.crc32(array.data) for name, array in arrays.items()}
    manifest: dict[str, Any] = {"version": 1, "crc32": sums}
    if structure is not None:
        manifest["structure"] = structure
    metadata = {_DIGEST: _ZEROS.decode(), _MANIFEST: json.dumps(manifest, allow_nan=False)}
    entries: dict[str, Any] = {"__metadata__": metadata}
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        dtype = _SPELLED[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": list(places[name])}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"save: the header would have {len(text)} bytes, over {_MAX_HEADER}")
    raw = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(raw).hexdigest().encode()
    at = 8 + len(_START)
    return raw[:at] + digest + raw[at + 64 :], order


def _write(f: BinaryIO, header: bytes, arrays: dict[str, Any], order: list[str]) -> None:
    f.write(header)
    for name in order:
        f.write(arrays[name].data)


def _write_atomically(path: Path, header: bytes, arrays: dict[str, Any], order: list[str]) -> None:
    """Write to a temporary file beside path, then give it path's name."""
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns():x}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666)
    try:
        with open(handle, "wb") as f:
            _write(f, header, arrays, order)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system can open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what killed processes left an hour or more ago while they wrote this file."""
    for orphan in path.parent.glob(f".{path.name}.*-*.tmp"):
        try:
            if time.time() - orphan.stat().st_mtime > 3600:
                orphan.unlink()
        except OSError:  # somebody else was quicker
            continue


# ------------------------------------------------------------------------------------------ loading
def load(f: Any, map_location: Any = None) -> Any:
    """Read what save wrote, or a safetensors file of another program, to map_location's device.

    FormatError for a damaged file; nothing in a file is ever executed.

    >>> import io, treadle as td
    >>> file = io.BytesIO()
    >>> td.save({"step": 3, "state": [td.zeros(2)]}, file)
    >>> _ = file.seek(0)
    >>> td.load(file)["step"]
    3
    """
    if hasattr(f, "read"):
        return _read(f, map_location)
    with open(f, "rb") as file:
        return _read(file, map_location)


def _read(f: BinaryIO, map_location: Any) -> Any:
    start = f.tell()
    size = f.seek(0, os.SEEK_END) - start
    f.seek(start)
    header = _read_header(f, size)
    entries, metadata = _parse(header)
    manifest = _verify_header(header, metadata)
    data_size = size - 8 - len(header)
    _check_places(entries, data_size)
    sums = None if manifest is None else _checked_sums(manifest, entries)
    by_place = {}
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        array = _read_array(f, entry)
        if sums is not None and zlib.crc32(array.data) != sums[entry.name]:
            raise FormatError(f"load: the bytes of {entry.name!r} differ from their checksum")
        by_place[entry.name] = _tensor(array, entry, map_location)
    tensors = {entry.name: by_place[entry.name] for entry in entries}
    if manifest is None or "structure" not in manifest:
        return tensors
    try:
        return _rebuild(manifest["structure"], tensors)
    except (TypeError, ValueError, KeyError, RecursionError) as e:
        raise FormatError(f"load: the manifest's structure is damaged: {e}") from e


def _read_header(f: BinaryIO, size: int) -> bytes:
    first = f.read(8)
    if len(first) < 8:
        raise FormatError(f"load: a file of {size} bytes is too short for a header")
    length = int.from_bytes(first, "little")
    if length > min(size - 8, _MAX_HEADER):
        raise FormatError(
            f"load: a header of {length} bytes does not fit: the file has {size} bytes, and "
            f"headers at most {_MAX_HEADER}"
        )
    header = f.read(length)
    if len(header) != length:
        raise FormatError("load: the file ended inside its header")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("load: a name occurs twice in the header")
    return found


def _no_constant(text: str) -> Any:
    raise FormatError(f"load: the header holds {text}, which is not JSON")


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except FormatError:
        raise
    except (ValueError, RecursionError) as e:
        raise FormatError(f"load: the header is not valid JSON: {e}") from e


def _parse(header: bytes) -> tuple[list[Entry], dict[str, str]]:
    """Return the tensors and the metadata that a header names."""
    if not header.startswith(b"{"):
        raise FormatError("load: the header does not begin with '{': not a safetensors file")
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as e:
        raise FormatError(f"load: the header is not UTF-8: {e}") from e
    parsed = _json(text)
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("load: __metadata__ must hold text only")
    return [_entry(name, fields) for name, fields in parsed.items()], metadata


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(name: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"load: the entry of {name!r} needs dtype, shape and data_offsets")
    dtype = _NAMES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        raise FormatError(f"load: {name!r} has the dtype {fields['dtype']!r:.40}; supported: {', '.join(_NAMES)}")
    shape, places = fields["shape"], fields["data_offsets"]
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(map(_is_size, shape)):
        raise FormatError(f"load: {name!r} has no valid shape: {shape!r:.80}")
    if not isinstance(places, list) or len(places) != 2 or not all(map(_is_size, places)):
        raise FormatError(f"load: {name!r} has no valid data_offsets: {places!r:.80}")
    begin, end = places
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise FormatError(
            f"load: {name!r} of shape {shape} and dtype {fields['dtype']} does not fill its {end - begin} bytes"
        )
    return Entry(name, dtype, tuple(shape), begin, end)


def _check_places(entries: list[Entry], size: int) -> None:
    """Check that the tensors fill the data without gaps or overlaps, before any of it is read."""
    at = 0
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if entry.begin != at:
            word = "overlaps the tensor before it" if entry.begin < at else "leaves a gap"
            raise FormatError(f"load: {entry.name!r} {word}: begins at {entry.begin}, not {at}")
        at = entry.end
    if at != size:
        word = "cut off" if at > size else "too long"
        raise FormatError(f"load: the file is {word}: {size} bytes of data, not {at}")


def _verify_header(header: bytes, metadata: dict[str, str]) -> dict[str, Any] | None:
    """Return the manifest of a file of ours once its header's digest fits, None for other files."""
    ours = [key for key in metadata if "treadle" in key]
    if not ours:
        return None
    at = len(_START)
    digest = header[at : at + 64]
    plain = len(header).to_bytes(8, "little") + header[:at] + _ZEROS + header[at + 64 :]
    expected = hashlib.sha256(plain).hexdigest().encode()
    if not header.startswith(_START) or digest != expected or _MANIFEST not in metadata:
        raise FormatError(
            "load: the header differs from its checksum: the file is damaged, or another program "
            "changed it and kept our metadata"
        )
    manifest = _json(metadata[_MANIFEST])
    if not isinstance(manifest, dict) or manifest.get("version") != 1:
        raise FormatError("load: the manifest is of an unknown version; a newer Treadle reads it")
    return manifest


def _checked_sums(manifest: dict[str, Any], entries: list[Entry]) -> dict[str, int]:
    sums = manifest.get("crc32")
    if not isinstance(sums, dict) or set(sums) != {entry.name for entry in entries}:
        raise FormatError("load: the manifest does not list the file's tensors")
    return sums


def _read_array(f: BinaryIO, entry: Entry) -> np.ndarray[Any, Any]:
    """Read one tensor's bytes, (n,) uint8."""
    array = np.empty(entry.end - entry.begin, dtype=np.uint8)
    view, done = array.data, 0
    while done < len(view):
        chunk = f.read(min(len(view) - done, _CHUNK))
        if not chunk:
            raise FormatError(f"load: the file ended inside {entry.name!r}")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return array


def _tensor(array: np.ndarray[Any, Any], entry: Entry, map_location: Any) -> Tensor:
    if entry.dtype is dtypes.bool_ and array.size and array.max() > 1:
        raise FormatError(f"load: {entry.name!r} holds bytes other than 0 and 1 as bool")
    values = _little_endian(array, entry.dtype.itemsize).view(entry.dtype.np)
    tensor = creation.from_numpy(values.reshape(entry.shape))
    return tensor if map_location is None else tensor.to(map_location)
