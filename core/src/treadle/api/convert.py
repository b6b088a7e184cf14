"""Moving and converting: devices, dtypes, NumPy, Python values, DLPack, pickling, copies."""

import copy as copying
import struct
from typing import Any

import numpy as np

from treadle import creation, dtypes, tape
from treadle._tensor import Tensor, View, detached, is_leaf_node, set_requires_grad
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.eager.resolve import copy_of
from treadle.errors import ArgumentError, AutogradError, DeviceError
from treadle.op import FN, STATE
from treadle.runtime import dispatch
from treadle.runtime.device import device as Device
from treadle.runtime.device import host_device
from treadle.sig import dense_sig
from treadle.tape import Rule


def to(
    x: Tensor, *args: Any, device: Any = None, dtype: Any = None, copy: bool = False, non_blocking: bool = False
) -> Tensor:
    """Return x with another dtype or on another device; x itself when nothing changes (and copy is False).

    >>> import treadle as td
    >>> td.ones(2).to(td.int32).dtype
    treadle.int32
    """
    flags = [a for a in args if isinstance(a, bool)]  # non_blocking and copy by position
    for a in args[: len(args) - len(flags)]:
        if isinstance(a, Tensor):
            device, dtype = a.device, a.dtype
        elif isinstance(a, (dtypes.DType, type)) or (isinstance(a, str) and a in dtypes._BY_NAME):
            dtype = a
        elif isinstance(a, (str, Device)):
            device = a
        else:
            raise ArgumentError(f"to: expected a device or a dtype: {a!r}")
    kind = x.dtype if dtype is None else dtypes.dtype(dtype)
    y = x if kind is x.dtype else FN["cast"](x, kind)
    if device is not None and (place := creation._place(device)) is not x.device:
        y = _move(y, place)
    return FN["copy"](y) if (copy or flags[1:] == [True]) and y is x else y


def _move(x: Tensor, place: Device) -> Tensor:
    sig = dense_sig(x.dtype, x.shape, place)
    out = Tensor(dispatch.from_numpy(place, numpy_copy(x.detach()), "to"), sig)
    n = x.node
    if n is not None and is_grad_enabled():
        out.node = [tape.next_id(), MOVE, n, x.device]
    return out


MOVE = Rule("to", 1, lambda node, g: (_move(g, node[3]),), False)


def numpy_copy(x: Tensor) -> Any:
    """Return x's elements as a new NumPy array."""
    return dispatch.to_numpy(x.device, x.storage, x.sig)


def numpy(x: Tensor, *, force: bool = False) -> Any:
    """Return a NumPy array: a view of the same memory on host devices, a copy elsewhere.

    AutogradError for a tensor on the tape: detach() it first (or force=True).

    >>> import treadle as td
    >>> td.ones(2).numpy()
    array([1., 1.], dtype=float32)
    """
    if x.node is not None and not force:
        raise AutogradError("numpy: the tensor requires grad; use x.detach().numpy()")
    backend = x.device.backend
    if not backend.host or not x.sig.size:
        return numpy_copy(x)
    kind, strides = x.sig.dtype, x.sig.strides
    if any(s < 0 for s in strides):
        return numpy_copy(x)
    return np.ndarray(
        x.sig.shape, kind.np, backend.host_view(x.storage), 0, tuple([s * kind.itemsize for s in strides])
    )


def __array__(x: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    array = numpy(x)
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError("__array__: a conversion needs a copy")
        return array.astype(dtype)
    return array.copy() if copy else array


def __dlpack__(x: Tensor, **kwargs: Any) -> Any:
    return _host_array(x).__dlpack__(**kwargs)


def __dlpack_device__(x: Tensor) -> Any:
    return _host_array(x).__dlpack_device__()


def _host_array(x: Tensor) -> Any:
    if not x.device.backend.host:
        raise DeviceError(f"dlpack: {x.device} is not host memory; use .cpu() first")
    return numpy(x)


_UNPACK = {kind: struct.Struct("=" + code).unpack_from for kind, code in zip(dtypes.ALL, "?bhiqBHIQe?fd", strict=True)}


def item(x: Tensor) -> Any:
    """Return the one element as a Python number; ArgumentError for any other size.

    >>> import treadle as td
    >>> td.tensor([2.5]).item()
    2.5
    """
    if x.sig.size != 1:
        raise ArgumentError(f"item: needs exactly one element: shape {x.shape}")
    sig = x.sig
    kind = sig.dtype
    raw = sig.device.backend.d2h(x.storage, kind.itemsize)
    if kind is dtypes.bfloat16:
        return float(np.frombuffer(raw, kind.np, 1)[0])
    return _UNPACK[kind](raw)[0]


def tolist(x: Tensor) -> Any:
    """Return nested lists of Python numbers.

    >>> import treadle as td
    >>> td.arange(3).tolist()
    [0, 1, 2]
    """
    array = numpy_copy(x)
    return array.astype(np.float64).tolist() if x.dtype.kind == "f" else array.tolist()


def cpu(x: Tensor) -> Tensor:
    """Return x on the host device."""
    return to(x, host_device())


def detach(input: Tensor) -> Tensor:
    """Return a tensor that shares memory with x but is not on the tape.

    >>> import treadle as td
    >>> td.ones(2, requires_grad=True).detach().requires_grad
    False
    """
    x = detached(input)
    if STATE.special:
        x.storage = x.sig.device.backend.cut(x.storage)
    return x


def detach_(x: Tensor) -> Tensor:
    """Take x off the tape and return it."""
    if isinstance(x, View) and x.base is not None:
        raise AutogradError("detach_: a view cannot leave the tape in place; use detach()")
    x.node = None
    if STATE.special:
        x.storage = x.sig.device.backend.cut(x.storage)
    return x


def clone(input: Tensor) -> Tensor:
    """Return a copy that gradients flow through.

    >>> import treadle as td
    >>> td.ones(2).clone()
    tensor([1., 1.])
    """
    return FN["copy"](input)


def contiguous(x: Tensor) -> Tensor:
    """Return x if it lies row-major without gaps, else such a copy."""
    return x if x.sig.layout == "dense" else FN["copy"](x)


def requires_grad_(x: Tensor, requires_grad: bool = True) -> Tensor:
    """Make a leaf collect gradients (or stop) and return it.

    >>> import treadle as td
    >>> td.ones(2).requires_grad_().requires_grad
    True
    """
    set_requires_grad(x, requires_grad)
    return x


def __deepcopy__(x: Tensor, memo: dict[int, Any]) -> Any:
    if x.node is not None and not is_leaf_node(x.node):
        raise AutogradError("deepcopy: only leaf tensors can be copied with their gradients; use clone() or detach()")
    if id(x) in memo:
        return memo[id(x)]
    made = _bare(type(x), copy_of(x), dense_sig(x.dtype, x.shape, x.device))
    memo[id(x)] = made
    if x.node is not None:
        made.node = tape.leaf_node()
        made.grad = copying.deepcopy(x.grad, memo)
    for name, value in getattr(x, "__dict__", {}).items():
        setattr(made, name, copying.deepcopy(value, memo))
    return made


def _bare(cls: Any, storage: Any, sig: Any) -> Any:
    """A tensor of a class, without its constructor; views become plain tensors."""
    made = object.__new__(Tensor if issubclass(cls, View) else cls)
    Tensor.__init__(made, storage, sig, None)
    return made


def __copy__(x: Tensor) -> Tensor:
    """A tensor of its own over the same memory; a leaf stays a leaf, without the gradient."""
    made: Tensor = detached(x) if type(x) in (Tensor, View) else _bare(type(x), x.storage, x.sig)
    for name, value in getattr(x, "__dict__", {}).items():
        setattr(made, name, value)
    if x.node is not None and is_leaf_node(x.node):
        made.node = tape.leaf_node()
    return made


def __reduce_ex__(x: Tensor, protocol: Any) -> Any:
    if x.node is not None and not is_leaf_node(x.node):
        raise AutogradError("pickle: only leaf tensors can be pickled; use detach()")
    extra = dict(getattr(x, "__dict__", {}))
    return _rebuild, (type(x), numpy_copy(x), x.dtype.name, str(x.device), x.node is not None, extra)


def _rebuild(cls: Any, array: Any, kind: str, device: str, requires_grad: bool, extra: dict[str, Any]) -> Any:
    x = creation.from_array(array.astype(dtypes.dtype(kind).np, copy=False), device)
    made = _bare(cls, x.storage, x.sig)
    if requires_grad:
        made.node = tape.leaf_node()
    for name, value in extra.items():
        setattr(made, name, value)
    return made


# ---- new tensors like this one -------------------------------------------------------------------------------------
def new_zeros(
    x: Tensor, *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return zeros with x's dtype and device."""
    kind, place = dtype or x.dtype, device or x.device
    return creation.zeros(*sizes, size=size, dtype=kind, device=place, requires_grad=requires_grad)


def new_ones(
    x: Tensor, *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return ones with x's dtype and device."""
    kind, place = dtype or x.dtype, device or x.device
    return creation.ones(*sizes, size=size, dtype=kind, device=place, requires_grad=requires_grad)


def new_full(
    x: Tensor, size: Any, fill_value: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of one value with x's dtype and device."""
    return creation.full(size, fill_value, dtype or x.dtype, device or x.device, requires_grad)


def new_empty(
    x: Tensor, *sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return an uninitialised tensor with x's dtype and device."""
    kind, place = dtype or x.dtype, device or x.device
    return creation.empty(*sizes, size=size, dtype=kind, device=place, requires_grad=requires_grad)


def new_tensor(x: Tensor, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return data as a tensor on x's device; numbers get x's dtype, arrays keep theirs."""
    kind = dtype if dtype is not None else None if isinstance(data, np.ndarray) else x.dtype
    return creation.tensor(data, kind, device or x.device, requires_grad)


def new_arange(x: Tensor, n: int, dtype: Any = dtypes.int64) -> Tensor:
    """Return 0, 1, ..., n - 1 on x's device."""
    return creation.run_iota(0, 1, n, dtypes.dtype(dtype), x.device)


def _caster(kind: Any) -> Any:
    def cast(x: Tensor) -> Tensor:
        return x if x.sig.dtype is kind else FN["cast"](x, kind)

    cast.__doc__ = f"Return x as {kind.name}."
    return cast


CASTS = {"float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
    "int": dtypes.int32,
         "long": dtypes.int64, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8,
         "bool": dtypes.bool_}  # fmt: skip
METHODS: dict[str, Any] = {
    f.__name__: f for f in (
        to, numpy, numpy_copy, __array__, __dlpack__, __dlpack_device__, item, tolist, cpu, detach, detach_, clone,
        contiguous, requires_grad_,
        __deepcopy__, __copy__, __reduce_ex__, new_zeros, new_ones, new_full, new_empty, new_tensor, new_arange,
    )
} | {name: _caster(kind) for name, kind in CASTS.items()}  # fmt: skip
