"""The device that batched tensors live on: they have the shape of one example, their memory holds those of all.

Because it is a Backend like any other, what is above kernels is the code that eager execution runs: dispatch, views,
in-place writes, and a tape of its own. A storage is a Cell with a tensor of the level outside: with the batch axis in
front, or without one where all examples have the same. Kernels are batching rules over those tensors; what a tape
outside records of them is what makes gradients through vmap.
"""

from contextvars import ContextVar
from typing import Any

from treadle import dtypes
from treadle._tensor import Tensor
from treadle.api.convert import detach
from treadle.batching import layout, rules
from treadle.batching.layout import Layout
from treadle.eager.inplace import copy_
from treadle.eager.resolve import decomposed
from treadle.errors import BatchError, TreadleError
from treadle.op import ELEMENTWISE, FN, outside
from treadle.runtime.backend import Backend, Bound, Call, Claim
from treadle.runtime.device import device as Device
from treadle.shapes import is_dense, numel
from treadle.sig import Sig, dense_sig

CURRENT: ContextVar[Any] = ContextVar("treadle_level", default=None)  # the innermost Level
KEPT_SMALL = ELEMENTWISE | {"cast", "bits"}  # these read repeated axes once: they broadcast themselves


class Cell:
    """Memory of a batched tensor: a tensor of the level outside.

    batched: whether it has the batch axis in front. outer: it is a tensor from outside, writes go through to it.
    spread: it is the state of a random draw that is different for every example.
    """

    __slots__ = ("batched", "level", "nbytes", "outer", "raw", "spread", "value")

    def __init__(self, level: Any, nbytes: int, value: Any = None, batched: bool = False) -> None:
        self.level, self.nbytes, self.value, self.batched = level, nbytes, value, batched
        self.raw: Any = None  # memory outside whose element type is not known yet
        self.outer = self.spread = False


class Window:
    """A handle that points further into a Cell, or (cut) one that reads it off all tapes."""

    __slots__ = ("cell", "cut", "offset")

    def __init__(self, cell: Cell, offset: int, cut: bool) -> None:
        self.cell, self.offset, self.cut = cell, offset, cut  # offset in bytes


def parts(storage: Any) -> tuple[Cell, int, bool]:
    """(Cell, offset in bytes, cut) of a handle; BatchError if its function under vmap has ended."""
    if storage.__class__ is Cell:
        cell, offset, cut = storage, 0, False
    else:
        cell, offset, cut = storage.cell, storage.offset, storage.cut
    if not cell.level.alive:
        raise BatchError(
            "a tensor that was made inside of a function under vmap is used after it: return it from that function, "
            "and vmap gives it its batch axis"
        )
    return cell, offset, cut


class BatchedDevice(Device):
    """A device under vmap: it has the name of the real one. inner is the device of the tensors in its cells."""

    __slots__ = ("inner", "number")
    inner: Device
    number: int


_DEVICES: dict[tuple[Device, int], BatchedDevice] = {}


def batched(inner: Device, number: int) -> BatchedDevice:
    """The device of a level over another device."""
    found = _DEVICES.get((inner, number))
    if found is None:
        found = _DEVICES[inner, number] = object.__new__(BatchedDevice)
        found.type, found.index, found.inner, found.number = inner.type, inner.index, inner, number
        found._backend = BatchBackend(inner, number)
    return found


# ---- what cells hold -----------------------------------------------------------------------------------------------
def content(cell: Cell, kind: Any, shape: Any = None) -> Tensor:
    """The tensor in a Cell; memory that was filled untyped gets its type, and its shape, from the first look."""
    value = cell.value
    if value is None:
        size = cell.nbytes // kind.itemsize
        inner, raw = cell.raw
        raw = inner.backend.alloc(cell.nbytes) if raw is None else raw
        shape = tuple(shape) if shape is not None and numel(shape) == size else (size,)
        value = cell.value = Tensor(raw, dense_sig(kind, shape, inner))
    elif value.dtype is not kind:  # it was copied before its type was known
        value = cell.value = FN["cast" if kind.kind == "b" else "bitcast"](value, kind)
    return value  # type: ignore[no-any-return]


def show(storage: Any, sig: Sig, repeat: bool = True) -> tuple[Tensor, bool]:
    """What a handle shows through a sig, as a tensor of the level outside, and whether that has the batch axis."""
    cell, offset, cut = parts(storage)
    value = content(cell, sig.dtype, sig.shape if sig.layout == "dense" and not offset else None)
    seen = layout.read(value, cell.batched, (sig.shape, sig.strides, offset // sig.dtype.itemsize), repeat)
    return detach(seen) if cut else seen, cell.batched


def put(storage: Any, place: Layout, new: Tensor, has_batch: bool) -> None:
    """Write into a Cell through a layout."""
    cell, _, cut = parts(storage)
    shape, strides, offset = place
    whole = offset == 0 and is_dense(shape, strides) and numel(shape) * new.dtype.itemsize == cell.nbytes
    if cell.outer:
        _write_through(cell, place, new, has_batch)
        return
    if whole and not cut:
        cell.value, cell.batched, cell.raw = new, has_batch, None
        return
    old = content(cell, new.dtype)
    size = cell.level.size
    if has_batch and not cell.batched:
        old = FN["expand"](old, (size, *old.shape))
    elif cell.batched and not has_batch:
        new = FN["expand"](new, (size, *new.shape))
    cell.batched = cell.batched or has_batch
    value = layout.written(old, cell.batched, place, new)
    cell.value = Tensor(value.storage, value.sig, old.node) if cut else value  # off the tapes: nothing is known of it


def _write_through(cell: Cell, place: Layout, new: Tensor, has_batch: bool) -> None:
    """Write into a tensor from outside: in place there, too."""
    value = cell.value
    if has_batch and not cell.batched:
        raise BatchError(
            f"a value that differs between the examples is written into {value.dtype.name}{list(value.shape)}, which "
            "is from outside of the function under vmap and has no batch axis: return the value instead, or pass the "
            "tensor as an argument with an axis to map over"
        )
    if cell.batched and not has_batch:
        new = FN["expand"](new, (cell.level.size, *new.shape))
    region = layout.window(value, cell.batched, place)
    if region is None:
        copy_(value, layout.written(value, cell.batched, place, new))
    else:
        copy_(region, new)


# ---- the backend ---------------------------------------------------------------------------------------------------
_ANY = Claim("any", None, (frozenset(),), None, False)  # type: ignore[arg-type]


class BatchBackend(Backend):
    """Runs batching rules."""

    copies = True

    def __init__(self, inner: Device, number: int) -> None:
        self.name, self.inner, self.number = inner.type, inner, number

    def level(self) -> Any:
        """The Level that is running on this device."""
        level = CURRENT.get()
        while level is not None and level.number != self.number:
            level = level.parent
        if level is None:
            raise BatchError("the device of a function under vmap is used after that function has ended")
        return level

    def _cell(self, value: Tensor | None, has_batch: bool, nbytes: int, level: Any) -> Cell | None:
        return None if value is None else Cell(level, nbytes, value, has_batch)

    # ---- memory ----------------------------------------------------------------------------------------------------
    def alloc(self, nbytes: int) -> Cell:
        cell = Cell(self.level(), nbytes)
        cell.raw = (self.inner, None)
        return cell

    def h2d(self, storage: Any, data: memoryview) -> None:
        cell = self._fresh(storage, memoryview(data).nbytes)
        cell.raw = (self.inner, self.inner.backend.alloc(cell.nbytes))
        self.inner.backend.h2d(cell.raw[1], data)

    def fill(self, storage: Any, pattern: bytes, count: int) -> None:
        cell = self._fresh(storage, len(pattern) * count)
        cell.raw = (self.inner, self.inner.backend.alloc(cell.nbytes))
        self.inner.backend.fill(cell.raw[1], pattern, count)

    def _fresh(self, storage: Any, nbytes: int) -> Cell:
        cell, offset, _ = parts(storage)
        if offset or nbytes != cell.nbytes or cell.outer:
            raise TreadleError("under vmap, memory can be filled from the host as a whole only")
        cell.value, cell.batched = None, False
        return cell

    def d2h(self, storage: Any, nbytes: int) -> Any:
        cell, offset, _ = parts(storage)
        if cell.batched:
            raise BatchError(
                "one value is read of a tensor that has another one for every example of the batch (inside of a "
                "function under vmap): .item(), float(), bool(), print and Python's if and while need one; use "
                "td.where, or keep this part outside"
            )
        with cell.level.outside():
            value = cell.value
            if value is None:
                inner, raw = cell.raw
                raw = inner.backend.alloc(cell.nbytes) if raw is None else raw
            else:
                value = value if value.sig.layout == "dense" else FN["copy"](value)
                inner, raw = value.device, value.storage
            return inner.backend.d2h(inner.backend.view(raw, offset) if offset else raw, nbytes)

    def view(self, storage: Any, nbytes: int) -> Window:
        cell, offset, cut = parts(storage)
        return Window(cell, offset + nbytes, cut)

    def cut(self, storage: Any) -> Window:
        cell, offset, _ = parts(storage)
        return Window(cell, offset, True)

    def copy_strided(self, dst: Any, src: Any, itemsize: int, shape: Any, dst_strides: Any, src_strides: Any) -> None:
        source, _, _ = parts(src)
        target, at, _ = parts(dst)
        with source.level.outside():
            kind = next((c.value.dtype for c in (source, target) if c.value is not None), None)
            kind = kind or next(d for d in dtypes.ALL if d.itemsize == itemsize and d.kind == "u")
            content(source, kind)
            new, has_batch = show(src, Sig(kind, tuple(shape), tuple(src_strides), None))
            place = (tuple(shape), tuple(dst_strides), at // itemsize)
            put(dst, place, new if target.outer else FN["copy"](new), has_batch)

    # ---- kernels ---------------------------------------------------------------------------------------------------
    def bind(self, call: Call) -> Bound | None:
        if call.op.category in ("lists", "fused"):
            return None
        if call.op.category == "create":
            return Bound(self._creating(call), call.ins, _ANY)
        op, repeat = call.op, call.op.category not in KEPT_SMALL
        count = len(op.results)
        plain = call._replace(outs=call.outs[:count], want=call.want[:count])
        aux = (None,) * (len(call.outs) - count)  # aux values are computed again where they are needed
        there = [x for x in call.ins if x is not None]

        def run(*storages: Any) -> Any:
            level = self._level_of(there, storages)
            with level.outside():
                given: list[Any] = []
                flags: list[bool] = []
                spread, rest = False, iter(storages)
                for x in call.ins:
                    operand = None if x is None else next(rest)
                    has_batch = False
                    if x.__class__ is Sig:
                        spread = spread or (operand.__class__ is Cell and operand.spread)
                        operand, has_batch = show(operand, x, repeat)
                    given.append(operand)
                    flags.append(has_batch)
                results = rules.apply(plain, given, flags, level.size, spread)
            if results is None:
                return self._decomposed(plain, storages, aux)
            made = [self._cell(y, b, spec.nbytes, level) for (y, b), spec in zip(results, plain.outs, strict=True)]
            return made[0] if len(made) == 1 and not aux else (*made, *aux)

        return Bound(run, call.ins, _ANY)

    def _creating(self, call: Call) -> Any:
        """A kernel without operands: the same for all examples."""

        def run(*numbers: Any) -> Any:
            level = self.level()
            with level.outside(), self.inner:  # there is no operand that a device could be taken from
                made = call.op.fn(*numbers, **call.attrs)
            return Cell(level, call.outs[0].nbytes, made, False)

        return run

    def _level_of(self, ins: list[Any], storages: Any) -> Any:
        levels = [parts(s)[0].level for x, s in zip(ins, storages, strict=True) if x.__class__ is Sig]
        if not levels:
            return self.level()
        if any(level is not levels[0] for level in levels):
            raise BatchError("tensors of two functions under vmap meet")
        return levels[0]

    def _decomposed(self, call: Call, storages: Any, aux: Any) -> Any:
        """Run an op's decomposition on batched tensors."""
        rest = iter(storages)
        with outside():
            made = decomposed(call)(*[None if x is None else next(rest) for x in call.ins])
        return (*(made if isinstance(made, tuple) else (made,)), *aux) if aux else made
