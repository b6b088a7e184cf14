"""Making tensors: from Python values, NumPy arrays, DLPack, and from nothing."""

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from treadle import dtypes
from treadle._tensor import Tensor, set_requires_grad
from treadle.dtypes import DType
from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import CATALOGUE, INTERPRETER, STATE
from treadle.runtime import dispatch
from treadle.runtime.device import device as Device
from treadle.runtime.device import get_default_device, host_device
from treadle.shapes import integers, sizes
from treadle.sig import dense_sig, sig_of
from treadle.spec import Spec

Placement = Any  # a device, its name, or None for the default


def _place(device: Placement) -> Device:
    place = get_default_device() if device is None else Device(device)
    if STATE.special and (i := INTERPRETER.get()) is not None:
        return i.place(place)  # type: ignore[no-any-return]
    return place


def _finish(x: Tensor, requires_grad: bool) -> Tensor:
    if requires_grad:
        set_requires_grad(x, True)
    return x


def from_array(array: Any, device: Placement = None, requires_grad: bool = False) -> Tensor:
    """Copy a NumPy array to a device."""
    place = _place(device)
    kind = dtypes.dtype(array.dtype)
    array = np.asarray(array, kind.np)
    return _finish(
        Tensor(dispatch.from_numpy(place, array, "tensor"), dense_sig(kind, array.shape, place)), requires_grad
    )


def tensor(data: Any, dtype: Any = None, device: Placement = None, requires_grad: bool = False) -> Tensor:
    """Copy data (numbers, nested sequences, arrays, tensors) into a new tensor.

    Python floats get the default dtype, ints int64, bools bool; arrays keep theirs. ShapeError for ragged nesting,
    DTypeError for what is not numbers.

    >>> import treadle as td
    >>> td.tensor([[1, 2], [3, 4]]).dtype
    treadle.int64
    """
    kind = None if dtype is None else dtypes.dtype(dtype)
    if data.__class__ is float and (kind is None or kind.kind == "f"):
        return _finish(full_of((), data, kind or dtypes.get_default_dtype(), _place(device)), requires_grad)
    if isinstance(data, Tensor):
        copy = data.detach().to(device=data.device if device is None else device, dtype=kind or data.dtype, copy=True)
        return _finish(copy, requires_grad)
    return from_array(to_array(data, kind), device, requires_grad)


def to_array(data: Any, kind: DType | None = None) -> Any:
    """Turn numbers, nested sequences, arrays and tensors into a NumPy array of a supported dtype."""
    if isinstance(data, (np.ndarray, np.generic)) or (
        hasattr(data, "__array__") and not isinstance(data, (list, tuple))
    ):
        array = np.asarray(data)
    else:
        data = _unwrap(data)
        try:
            array = np.array(data)
        except (ValueError, OverflowError) as e:
            raise ShapeError(f"tensor: nested sequences must have equal lengths and numbers must fit: {e}") from None
        if array.dtype.kind == "O":
            if kind is not None and _all_ints(data):
                array = _exact(data, kind)
            else:
                what = (
                    "fit into 64 bits integers"
                    if _all_ints(data)
                    else f"make numbers of {type(data).__name__} with values"
                )
                raise DTypeError(f"tensor: cannot {what} like {_example(array)}")
        elif array.dtype == np.float64 and (kind is None or kind.kind != "f"):
            array = array.astype(dtypes.get_default_dtype().np) if kind is None else array
        elif array.size == 0 and kind is None and not isinstance(data, (bool, int)):
            array = array.astype(dtypes.get_default_dtype().np)
    if array.dtype.kind not in "biuf" and array.dtype != ml_dtypes.bfloat16:
        raise DTypeError(
            f"tensor: element type {array.dtype} is not supported; supported: {', '.join(d.name for d in dtypes.ALL)}"
        )
    return _convert(array, kind)


def _convert(array: Any, kind: DType | None) -> Any:
    if kind is None:
        return array
    if kind.kind in "iu" and array.dtype.kind in "iu" and array.size:
        info = np.iinfo(kind.np)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise ArgumentError(
                f"tensor: value {array.min() if int(array.min()) < info.min else array.max()} does not fit "
                f"{kind.name} [{info.min}, {info.max}]"
            )
    return CATALOGUE["cast"].reference(array, kind)


def _unwrap(data: Any) -> Any:
    """Tensors inside nested sequences become NumPy arrays."""
    if isinstance(data, (list, tuple)):
        return [_unwrap(x) for x in data]
    return data.detach().numpy_copy() if isinstance(data, Tensor) else data


def _all_ints(data: Any) -> bool:
    return all(_all_ints(x) for x in data) if isinstance(data, list) else isinstance(data, int)


def _exact(data: Any, kind: DType) -> Any:
    try:
        return np.array(data, kind.np)
    except OverflowError as e:
        raise ArgumentError(f"tensor: {e} for {kind.name}") from None


def _example(array: Any) -> str:
    return repr(array.reshape(-1)[0])[:40] if array.size else "nothing"


def as_tensor(data: Any, dtype: Any = None, device: Placement = None) -> Tensor:
    """Return data as a tensor, without a copy where it already is one (or a NumPy array on a host device).

    >>> import treadle as td
    >>> x = td.ones(2)
    >>> td.as_tensor(x) is x
    True
    """
    if isinstance(data, Tensor):
        return data.to(
            device=data.device if device is None else device, dtype=data.dtype if dtype is None else dtypes.dtype(dtype)
        )
    if isinstance(data, np.ndarray) and dtype is None and (device is None or Device(device) is host_device()):
        place = _place(device)
        if place.backend.host:
            return from_numpy(data, place)
    return tensor(data, dtype, device)


def asarray(
    obj: Any,
    dtype: Any = None,
    device: Placement = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return obj as a tensor: sharing its memory where possible, always copying (copy=True), or never (copy=False).

    ArgumentError where copy=False and only a copy would do.

    >>> import treadle as td
    >>> td.asarray([1.0, 2.0]).shape
    (2,)
    """
    if copy:
        return tensor(obj, dtype, device, requires_grad)
    x = as_tensor(obj, dtype, device)
    if copy is False and not _shares(x, obj):
        raise ArgumentError(
            f"asarray: a copy is needed for {type(obj).__name__} as {x.dtype.name} on {x.device}; copy is False"
        )
    return _finish(x, requires_grad) if requires_grad else x


def _shares(x: Tensor, obj: Any) -> bool:
    """Whether x lies in the memory of the object it was made from."""
    if isinstance(obj, Tensor):
        return x is obj
    return isinstance(obj, np.ndarray) and x.device.backend.host and np.shares_memory(x.detach().numpy(), obj)


def from_numpy(array: Any, device: Placement = None) -> Tensor:
    """Return a tensor that shares memory with a NumPy array, on a device whose memory is host memory.

    Arrays that are read-only, byte-swapped or not laid out forwards are copied. Writes on either side show on the
    other; NumPy's cannot be seen by version counters.

    >>> import numpy as np, treadle as td
    >>> a = np.zeros(2, np.float32)
    >>> x = td.from_numpy(a)
    >>> a[0] = 5
    >>> x
    tensor([5., 0.])
    """
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"from_numpy: expected a numpy.ndarray, not {type(array).__name__}")
    place = _place(device)
    if not place.backend.host:
        place = host_device()
    kind = dtypes.dtype(array.dtype)
    strides = tuple(s // array.itemsize for s in array.strides)
    regular = (
        array.flags.writeable
        and array.flags.aligned
        and array.dtype == kind.np
        and all(s % array.itemsize == 0 for s in array.strides)
    )
    if not regular or any(s < 0 for s in strides) or not array.size:
        return from_array(array, place)
    return Tensor(place.backend.wrap_host(_bytes_of(array)), sig_of(kind, array.shape, strides, place))


def _bytes_of(array: Any) -> Any:
    """A writable uint8 array over the memory an array spans, which keeps the array alive."""
    span = 1 + sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize - 1
    raw = array.view(np.uint8) if array.dtype.kind != "V" and array.flags.c_contiguous and array.ndim else None
    if raw is not None:
        return raw.reshape(-1)
    return np.lib.stride_tricks.as_strided(
        array.reshape(-1)[:1].view(np.uint8) if array.flags.c_contiguous else _first(array), (span,), (1,)
    )


def _first(array: Any) -> Any:
    """The bytes of the first element, as a view."""
    item = np.lib.stride_tricks.as_strided(array, (1,), (array.itemsize,))
    return item.view(np.uint8)


def _shape(op: str, given: tuple[Any, ...], size: Any = None) -> tuple[int, ...]:
    """Sizes given as one sequence, as separate integers, or as `size=`."""
    if size is not None:
        if given:
            raise TypeError(f"{op}: the size is given twice: {given} and size={size}")
        given = (size,)
    return sizes(op, integers(op, given))


def full_of(shape: Sequence[int], value: Any, kind: DType, place: Device) -> Tensor:
    """A tensor of one value, made on the device itself."""
    sig = dense_sig(kind, tuple(shape), place)
    storage = dispatch.allocate(place, sig.nbytes, "full")
    if sig.size:
        place.backend.fill(storage, _pattern(value, kind), sig.size)
    return Tensor(storage, sig)


_PATTERNS: dict[Any, bytes] = {}


def _pattern(value: Any, kind: DType) -> bytes:
    """The bytes of one element."""
    key = (value, value.__class__, kind)
    found = _PATTERNS.get(key) if value != 0 or value.__class__ is not float else None  # -0.0 equals 0.0
    if found is None:
        found = CATALOGUE["cast"].reference(np.asarray(value), kind).astype(kind.np).tobytes()
        if (
            len(_PATTERNS) < 1024
            and value.__class__ in (int, float, bool)
            and (value != 0 or value.__class__ is not float)
        ):
            _PATTERNS[key] = found
    return found


def _kind(dtype: Any) -> DType:
    return dtypes.get_default_dtype() if dtype is None else dtypes.dtype(dtype)


def zeros(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return zeros of the given size.

    >>> import treadle as td
    >>> td.zeros(2, 3).shape
    (2, 3)
    """
    return _finish(full_of(_shape("zeros", sizes, size), 0, _kind(dtype), _place(device)), requires_grad)


def ones(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return ones of the given size.

    >>> import treadle as td
    >>> td.ones(2)
    tensor([1., 1.])
    """
    return _finish(full_of(_shape("ones", sizes, size), 1, _kind(dtype), _place(device)), requires_grad)


def empty(
    *sizes: Any, size: Any = None, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor whose values are whatever the memory holds.

    >>> import treadle as td
    >>> td.empty(4, 0).shape
    (4, 0)
    """
    place, kind = _place(device), _kind(dtype)
    sig = dense_sig(kind, _shape("empty", sizes, size), place)
    return _finish(Tensor(dispatch.allocate(place, sig.nbytes, "empty"), sig), requires_grad)


def full(
    size: Any, fill_value: Any, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of `size` filled with one value; the dtype follows the value unless given.

    >>> import treadle as td
    >>> td.full((2,), 7)
    tensor([7, 7])
    """
    fill_value = fill_value.item() if isinstance(fill_value, (Tensor, np.generic)) else fill_value
    if not isinstance(fill_value, (bool, int, float)):
        raise DTypeError(f"full: the value must be a number: {fill_value!r}")
    kind = (
        dtypes.dtype(dtype)
        if dtype is not None
        else dtypes.get_default_dtype()
        if isinstance(fill_value, float)
        else dtypes.dtype(type(fill_value))
    )
    return _finish(full_of(_shape("full", (), size), fill_value, kind, _place(device)), requires_grad)


def _like(maker: Any) -> Any:
    def like(input: Tensor, dtype: Any = None, device: Placement = None, requires_grad: bool = False) -> Tensor:
        kind, place = dtype or input.dtype, device or input.device
        return maker(input.shape, dtype=kind, device=place, requires_grad=requires_grad)

    like.__name__ = maker.__name__ + "_like"
    like.__doc__ = f"""Return {maker.__name__} with the shape, dtype and device of the input.

    >>> import treadle as td
    >>> td.{maker.__name__}_like(td.tensor([[1.0, 2.0]])).shape
    (1, 2)
    """
    return like


zeros_like, ones_like, empty_like = _like(zeros), _like(ones), _like(empty)


def full_like(
    input: Tensor, fill_value: Any, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor of one value with the shape, dtype and device of the input.

    >>> import treadle as td
    >>> td.full_like(td.zeros(2), 3.0)
    tensor([3., 3.])
    """
    return full(input.shape, fill_value, dtype or input.dtype, device or input.device, requires_grad)


def run_iota(start: Any, step: Any, size: int, dtype: DType, device: Any = None) -> Tensor:
    """The eager function of `iota`, which has no operand to take a device from."""
    op = CATALOGUE["iota"]
    if STATE.special and (i := INTERPRETER.get()) is not None:
        with _place(device):  # there is no operand that an interpreter could take the device from
            return i(op, (start, step), (size, dtype))
    sig = dense_sig(dtype, sizes("iota", (size,)), _place(device))
    number = float if dtype.kind == "f" else int
    run = vars(sig).get("iota")  # a row, as other ops have
    if run is None:
        out = Spec(sig.shape, dtype)
        attrs = {"size": size, "dtype": dtype}
        run = dispatch.bind(op, sig.device, (number, number), [out], attrs, (True,), None).run
        sig.iota = run  # type: ignore[attr-defined]
    return Tensor(run(number(start), number(step)), sig)


CATALOGUE["iota"].fn = run_iota


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    dtype: Any = None,
    device: Placement = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, ... up to but not including end; int64 for integers, else the default dtype.

    With dtype int64, start, end and step lose their fractions first (as in PyTorch, for this type only).

    >>> import treadle as td
    >>> td.arange(2, 8, 2)
    tensor([2, 4, 6])
    """
    if end is None:
        start, end = 0, start
    start, end, step = (_number("arange", v) for v in (0 if start is None else start, end, step))
    if not all(math.isfinite(v) for v in (start, end, step)):
        raise ArgumentError(f"arange: start, end and step must be finite: {start}, {end}, {step}")
    kind = None if dtype is None else dtypes.dtype(dtype)
    if kind is dtypes.int64:
        start, end, step = int(start), int(end), int(step)
    if step == 0:
        raise ArgumentError("arange: step must not be zero")
    exact = all(isinstance(v, int) for v in (start, end, step))
    kind = kind or (dtypes.int64 if exact else dtypes.get_default_dtype())
    count = (end - start) / step if not exact else -((start - end) // step)
    if not math.isfinite(count):
        raise ArgumentError(f"arange: too many elements: {start}, {end}, {step}")
    return _finish(run_iota(start, step, max(0, math.ceil(count)), kind, device), requires_grad)


def _number(op: str, value: Any) -> Any:
    """A Python number, also out of a 0-d tensor or a NumPy scalar."""
    value = value.item() if isinstance(value, (Tensor, np.generic)) else value
    if not isinstance(value, (int, float)):
        raise DTypeError(f"{op}: a number is needed: {value!r}")
    return value


def linspace(
    start: Any, end: Any, steps: int, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return `steps` evenly spaced values from start to end, both included.

    With an integer dtype, start and end lose their fractions first, and every value its own.

    >>> import treadle as td
    >>> td.linspace(0, 1, 3)
    tensor([0.0000, 0.5000, 1.0000])
    """
    kind, count = _kind(dtype), sizes("linspace", (steps,))[0]
    low, high = _number("linspace", start), _number("linspace", end)
    if kind.kind != "f":
        low, high = int(low), int(high)
    values = np.linspace(low, high, count)
    return from_array(values.astype(kind.np), device, requires_grad)


def eye(
    n: int, m: int | None = None, dtype: Any = None, device: Placement = None, requires_grad: bool = False
) -> Tensor:
    """Return an (n, m) matrix with ones on the diagonal.

    >>> import treadle as td
    >>> td.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = sizes("eye", (n, n if m is None else m))
    place = _place(device)
    hit = run_iota(0, 1, rows, dtypes.int64, place).reshape(rows, 1) == run_iota(0, 1, columns, dtypes.int64, place)
    return _finish(hit.to(_kind(dtype)), requires_grad)


def from_dlpack(x: Any) -> Tensor:
    """Return a tensor that shares memory with any object that speaks DLPack on host memory (read-only memory is
    copied).

    DTypeError for types and devices that NumPy cannot import, bfloat16 among them.

    >>> import numpy as np, treadle as td
    >>> td.from_dlpack(np.arange(3)).dtype
    treadle.int64
    """
    if not hasattr(x, "__dlpack__"):
        raise ArgumentError(f"from_dlpack: expected an object with __dlpack__, not {type(x).__name__}")
    try:
        array = np.from_dlpack(x)
    except (
        RuntimeError,
        BufferError,
    ) as e:  # another device, or a type that NumPy's side of the protocol does not know
        raise DTypeError(f"from_dlpack: {e}") from None
    if not array.flags.writeable and hasattr(x, "__array_interface__"):
        array = np.asarray(x)
    return from_numpy(array)
