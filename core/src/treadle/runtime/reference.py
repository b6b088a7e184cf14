"""The reference device: NumPy in float64 runs what the declarations say. Slow and right.

`compute` is also what fallback uses for other devices, on host copies.
"""

from typing import Any

import numpy as np

from treadle.dtypes import DType
from treadle.errors import OutOfMemoryError
from treadle.op import ELEMENTWISE, Op
from treadle.runtime.backend import ACCEPTS, Backend, Call, Claim, into
from treadle.sig import Sig
from treadle.spec import Spec

MAX_BYTES = 1 << 46


class ReferenceBackend(Backend):
    """Host memory in NumPy byte arrays; every op that has a reference is run by it, all others decompose."""

    host = True

    def alloc(self, nbytes: int) -> Any:
        if nbytes > MAX_BYTES:
            raise OutOfMemoryError(f"{self.name}: cannot allocate {nbytes} bytes")
        try:
            return np.empty(nbytes, np.uint8)
        except MemoryError:
            raise OutOfMemoryError(f"{self.name}: cannot allocate {nbytes} bytes") from None

    def h2d(self, storage: Any, data: memoryview) -> None:
        raw = np.frombuffer(data, np.uint8)
        storage[: raw.size] = raw

    def d2h(self, storage: Any, nbytes: int) -> Any:
        return storage[:nbytes].tobytes()

    def copy_strided(self, dst: Any, src: Any, itemsize: int, shape: Any, dst_strides: Any, src_strides: Any) -> None:
        word = np.dtype({1: "u1", 2: "u2", 4: "u4", 8: "u8"}[itemsize])
        strided(dst, word, shape, dst_strides)[...] = strided(src, word, shape, src_strides)

    def view(self, storage: Any, nbytes: int) -> Any:
        if nbytes >= 0:
            return storage[nbytes:]
        whole = storage.base  # NumPy cannot step back from a slice
        start = storage.ctypes.data - whole.ctypes.data + nbytes
        return whole.ravel("K").view(np.uint8)[start:]

    def host_view(self, storage: Any) -> Any:
        return storage

    def wrap_host(self, buffer: Any) -> Any:
        return np.frombuffer(buffer, np.uint8)

    def candidates(self, op: Op) -> Any:
        return [] if op.reference is None else [Claim(op.name, None, (ACCEPTS["strided"],), _bind_reference, True)]


def _bind_reference(backend: Any, call: Call) -> Any:
    if len(call.outs) != len(call.op.results):
        return None  # aux values are made by their own op

    def run(*storages: Any) -> None:
        rest = iter(storages)
        arrays = [operand_array(c, rest) for c in call.ins]
        for y in compute(call.op, arrays, call.attrs, call.outs):
            out = next(rest)
            out[: y.nbytes] = y.reshape(-1).view(np.uint8)

    return into(run)


def operand_array(operand: Any, storages: Any) -> Any:
    """Return what a kernel reads: the next storage as an array in its layout, or the next number; None where absent."""
    if operand is None:
        return None
    given = next(storages)
    return strided(given, operand.dtype.np, operand.shape, operand.strides) if isinstance(operand, Sig) else given


def strided(storage: Any, word: Any, shape: Any, strides: Any) -> Any:
    """Return a NumPy view of a byte array, whose first element is the tensor's, in the given layout (strides in
    elements)."""
    if 0 in shape:
        return np.empty(shape, word)
    base = np.ndarray((1,), word, storage)
    return np.lib.stride_tricks.as_strided(base, shape, [s * base.itemsize for s in strides])


def widen(x: Any, dtype: DType | None = None) -> Any:
    """Floats of any width as float64, everything else as it is."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64) if x.dtype.kind not in "biu" else x
    return x


def compute(op: Op, arrays: list[Any], attrs: dict[str, Any], outs: tuple[Spec, ...]) -> list[Any]:
    """Run an op's reference on host arrays: floats in float64, one rounding to the result's dtype, dense results."""
    numbers = op.category in ELEMENTWISE
    kinds = (a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind != "b")
    kind = next(kinds, outs[0].dtype.np)  # of a selection from two numbers only the result says what they are
    args = [
        np.asarray(a).astype(kind) if numbers and not isinstance(a, np.ndarray) and a is not None else a for a in arrays
    ]
    with np.errstate(all="ignore"):
        raw = op.reference(*(args if op.category == "bits" else [widen(a) for a in args]), **attrs)
        results = raw if isinstance(raw, tuple) else (raw,)
        return [
            np.ascontiguousarray(np.broadcast_to(np.asarray(r).astype(o.dtype.np), o.shape)).reshape(o.shape)
            for r, o in zip(results, outs, strict=True)
        ]
