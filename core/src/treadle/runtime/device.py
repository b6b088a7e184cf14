"""Device: the value "name:index", the parser of such texts, and a context manager that sets the default."""

import warnings
from contextvars import ContextVar
from typing import Any

from treadle.config import config
from treadle.errors import DeviceError
from treadle.runtime import plugins

_CURRENT: ContextVar[Any] = ContextVar(
    "treadle_device", default=None
)  # (device, what was before), so that threads may share a device
_INTERNED: dict[tuple[str, int], "device"] = {}


class device:
    """A device such as "reference:0": backend name and index. One object per device, so they compare by identity.

    Used as a context manager it is where tensors are made inside.

    >>> import treadle as td
    >>> td.device("reference").index
    0
    >>> with td.device("reference"):
    ...     td.zeros(2).device
    device('reference:0')
    """

    __slots__ = ("_backend", "index", "type")
    type: str
    index: int
    _backend: Any
    _tokens: list[Any]

    def __new__(cls, type: "str | device", index: int | None = None) -> "device":
        if isinstance(type, device):
            return type
        kind, number = _parse(type, index)
        found = _INTERNED.get((kind, number))
        if found is None:
            plugins.require(kind)
            found = object.__new__(cls)
            found.type, found.index = kind, number
            found._backend = None
            _INTERNED[kind, number] = found
        return found

    @property
    def backend(self) -> Any:
        """The backend behind this device, constructed at the first use."""
        if self._backend is None:
            backend = plugins.backend(self.type)
            count = backend.device_count()
            if self.index >= count:
                raise DeviceError(f"device: {self} does not exist: {self.type} has {count} device(s)")
            self._backend = backend
        return self._backend

    def __str__(self) -> str:
        return f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device('{self}')"

    def __reduce__(self) -> Any:
        return device, (str(self),)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other in (str(self), self.type)
        return self is other

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __enter__(self) -> "device":
        _CURRENT.set((self, _CURRENT.get()))
        return self

    def __exit__(self, *exc: object) -> None:
        _CURRENT.set(_CURRENT.get()[1])


def _parse(name: object, index: int | None) -> tuple[str, int]:
    if not isinstance(name, str):
        raise DeviceError(f"device: expected a text like 'name' or 'name:0': {name!r}")
    kind, colon, number = name.partition(":")
    if colon and (not number.isascii() or not number.isdigit() or index is not None):
        raise DeviceError(f"device: expected a text like 'name' or 'name:0': {name!r}")
    if index is not None and (not isinstance(index, int) or index < 0):
        raise DeviceError(f"device: an index must be a non-negative integer: {index!r}")
    return kind, int(number) if colon else index or 0


class _Default:
    device: "device | None" = None


def set_default_device(d: "device | str | None") -> None:
    """Set where tensors are made when nothing else says so; None returns to the best available device.

    >>> import treadle as td
    >>> td.set_default_device(None)
    """
    _Default.device = None if d is None else device(d)


def get_default_device() -> device:
    """Return where tensors are made now: the `with td.device(...)` context, the set default, TREADLE_DEVICE, or the
    best available.

    >>> import treadle as td
    >>> with td.device("reference"):
    ...     td.get_default_device()
    device('reference:0')
    """
    inside = _CURRENT.get()
    found = inside[0] if inside else _Default.device
    if found is None:
        found = _Default.device = _choose()
    return found


def _choose() -> device:
    name = config.device or plugins.best()
    if config.device is None and name == plugins.BUILT_IN:
        text = (
            f"treadle: no backend is installed or usable: everything runs on the {name!r} device, "
            "exact but slow; `pip install treadle-backend-cpu` is fast"
        )
        for p in plugins.plugins():
            if p.status not in plugins.USABLE and p.reason:
                text += f"\n{p.name} is {p.status}: {p.reason}{f'. What would help: {p.remedy}' if p.remedy else ''}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return device(name)


def host_device() -> device:
    """Return the device whose memory is host memory: what `.cpu()` means."""
    return device(plugins.host())
