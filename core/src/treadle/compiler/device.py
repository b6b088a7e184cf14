"""The device that traced tensors live on: its memory holds Values, and what it is asked to compute becomes Nodes.

Because it is a Backend like any other, everything above kernels is the code that eager execution runs: dispatch, tape,
gradient rules, views and in-place writes. A storage is a Cell with the Value that its memory holds now; a write puts
another Value into it, and a view reads whatever the Cell holds when it is read. So aliasing needs no further rule.
"""

from contextvars import ContextVar
from typing import Any

import numpy as np

from treadle import dtypes
from treadle.errors import TraceError
from treadle.ir.graph import Value
from treadle.op import CATALOGUE, FN
from treadle.runtime.backend import Backend, Bound, Call, Claim
from treadle.runtime.device import device as Device
from treadle.shapes import dense_strides, expand_strides, is_dense, numel
from treadle.sig import Sig
from treadle.spec import Spec

TRACE: ContextVar[Any] = ContextVar("treadle_trace", default=None)  # the Trace that Nodes are added to
Layout = tuple[Any, Any, int]  # shape, strides, offset in elements


class Cell:
    """Memory of a traced tensor: the Value in it, or what was put there before its type was known.

    paths: how views of this memory were made, layout -> (op, attrs, layout it was made from).
    """

    __slots__ = ("line", "nbytes", "paths", "pending", "seen", "trace", "value")

    def __init__(self, trace: Any, nbytes: int, value: Value | None = None) -> None:
        self.trace, self.nbytes, self.value = trace, nbytes, value
        self.pending: Any = None  # bytes, or (pattern, count)
        self.paths: dict[Layout, Any] = {}
        self.seen: dict[Layout, Value] = {}  # views of the present value
        self.line = trace.line()

    def put(self, value: Value) -> None:
        """Hold another Value from now on."""
        self.value, self.pending, self.seen = value, None, {}


class Window:
    """A handle that points further into a Cell."""

    __slots__ = ("cell", "offset")

    def __init__(self, cell: Cell, offset: int) -> None:
        self.cell, self.offset = cell, offset  # bytes


def cell_of(storage: Any) -> tuple[Cell, int]:
    """The Cell behind a handle, and its offset in bytes; TraceError if it belongs to another trace."""
    cell, offset = (storage, 0) if storage.__class__ is Cell else (storage.cell, storage.offset)
    if cell.trace is not TRACE.get():
        raise TraceError(
            f"a tensor that was traced at {cell.line} is used outside of the function that was compiled: "
            "return it, or keep what should stay in a tensor made before and write into that"
        )
    return cell, offset


class TracedDevice(Device):
    """A device under trace: it has the name of the real one."""

    __slots__ = ("real",)
    real: Device


_TWINS: dict[Device, TracedDevice] = {}


def traced(real: Device) -> TracedDevice:
    """The device that stands for a real one while tracing; itself if it already is one."""
    if isinstance(real, TracedDevice):
        return real
    found = _TWINS.get(real)
    if found is None:
        found = _TWINS[real] = object.__new__(TracedDevice)
        found.type, found.index, found.real = real.type, real.index, real
        found._backend = TraceBackend(real)
    return found


_ANY = Claim("any", None, (frozenset(),), None, False)  # type: ignore[arg-type]


class TraceBackend(Backend):
    """Adds a Node for every kernel it is asked to run."""

    copies = True

    def __init__(self, real: Device) -> None:
        self.name = real.type

    # ---- memory ----------------------------------------------------------------------------------------------------
    def alloc(self, nbytes: int) -> Cell:
        return Cell(_trace(), nbytes)

    def h2d(self, storage: Any, data: memoryview) -> None:
        cell, _ = cell_of(storage)
        cell.pending = bytes(data)

    def fill(self, storage: Any, pattern: bytes, count: int) -> None:
        cell, _ = cell_of(storage)
        cell.pending = (pattern, count)

    def d2h(self, storage: Any, nbytes: int) -> Any:
        cell, _ = cell_of(storage)
        raise TraceError(
            f"the value of a tensor is read while the function is being traced for compilation (at {_trace().line()}; "
            f"the tensor was made at {cell.line}): .item(), float(), bool(), print and Python's if and while need "
            "values, which exist only when the compiled function runs; use td.where, or td.cond, td.scan and "
            "td.while_loop, or keep this part outside"
        )

    def view(self, storage: Any, nbytes: int) -> Window:
        cell, offset = cell_of(storage)
        return Window(cell, offset + nbytes)

    def copy_strided(self, dst: Any, src: Any, itemsize: int, shape: Any, dst_strides: Any, src_strides: Any) -> None:
        cell, start = cell_of(src)
        into, at = cell_of(dst)
        kind = next((c.value.dtype for c in (cell, into) if c.value is not None), None)
        kind = kind or next(d for d in dtypes.ALL if d.itemsize == itemsize and d.kind != "b")
        value = read(cell, kind, (tuple(shape), tuple(src_strides), start // itemsize))
        write(into, (tuple(shape), tuple(dst_strides), at // itemsize), value)

    # ---- kernels ---------------------------------------------------------------------------------------------------
    def bind(self, call: Call) -> Bound:
        present = [k for k, x in enumerate(call.ins) if x is not None]

        def run(*storages: Any) -> Any:
            inputs: list[Any] = [None] * len(call.ins)
            for k, s in zip(present, storages, strict=True):
                x = call.ins[k]
                inputs[k] = _operand(s, x) if x.__class__ is Sig else s
            operands = (tuple(inputs),) if call.op.inputs[0].many else tuple(inputs)
            node = _trace().add(call.op, operands, call.attrs, call.outs, call.want)
            made = tuple(None if v is None else Cell(_trace(), v.spec.nbytes, v) for v in node.outputs)
            return made[0] if len(made) == 1 else made

        return Bound(run, call.ins, _ANY)


def _trace() -> Any:
    trace = TRACE.get()
    if trace is None:
        raise TraceError(
            "a traced tensor is used after its function was traced: return it from the function instead of keeping it"
        )
    return trace


def _operand(storage: Any, sig: Sig) -> Value:
    cell, offset = cell_of(storage)
    return read(cell, sig.dtype, (sig.shape, sig.strides, offset // sig.dtype.itemsize))


# ---- reading and writing through layouts ---------------------------------------------------------------------------
def content(cell: Cell, kind: Any, layout: Layout) -> Value:
    """The Value that a Cell holds; what was put there untyped gets its type from the first look."""
    if cell.value is None:
        size = cell.nbytes // kind.itemsize
        shape = layout[0] if numel(layout[0]) == size and layout[2] == 0 else (size,)
        cell.value = cell.trace.literal(cell.pending, Spec(tuple(shape), kind))
    elif cell.value.dtype is not kind:  # it was copied before its type was known
        op = CATALOGUE["cast" if kind.kind == "b" else "bitcast"]
        cell.put(cell.trace.one(op, (cell.value,), {"dtype": kind}, Spec(cell.value.shape, kind)))
    return cell.value


def read(cell: Cell, kind: Any, layout: Layout) -> Value:
    """What a layout shows of a Cell, as a Value of its own."""
    root = content(cell, kind, layout)
    shape, strides, offset = layout
    if offset == 0 and root.shape == shape and is_dense(shape, strides):
        return root
    layout = (tuple(shape), tuple(strides), offset)
    found = cell.seen.get(layout)
    if found is None:
        found = cell.seen[layout] = _view(cell, root, layout)
    return found


def _view(cell: Cell, root: Value, layout: Layout) -> Value:
    shape, strides, offset = layout
    add = cell.trace.one
    path = cell.paths.get(layout)
    if path is not None:
        op, attrs, source = path
        return add(op, (read(cell, root.dtype, source),), attrs, Spec(shape, root.dtype))  # type: ignore[no-any-return]
    if offset == 0 and is_dense(shape, strides) and numel(shape) == root.spec.size:
        return add(CATALOGUE["reshape"], (root,), {"to": shape}, Spec(shape, root.dtype))  # type: ignore[no-any-return]
    for base in [(root.shape, dense_strides(root.shape), 0), *cell.paths]:
        if base[2] == offset and len(base[0]) <= len(shape) and _expands(base, layout):
            inner = read(cell, root.dtype, base)
            # type: ignore[no-any-return]
            return add(CATALOGUE["expand"], (inner,), {"to": shape}, Spec(shape, root.dtype))
    attrs = {"size": shape, "stride": strides, "offset": offset}
    return add(CATALOGUE["as_strided"], (root,), attrs, Spec(shape, root.dtype))  # type: ignore[no-any-return]


def _expands(base: Layout, layout: Layout) -> bool:
    lead = len(layout[0]) - len(base[0])
    if base[0] == layout[0] or any(n not in (1, m) for n, m in zip(base[0], layout[0][lead:], strict=True)):
        return False
    return tuple(expand_strides(base[0], base[1], layout[0])) == layout[1]


def write(cell: Cell, layout: Layout, value: Value) -> None:
    """Put a Value where a layout points."""
    shape, strides, offset = layout
    if offset == 0 and value.spec.nbytes == cell.nbytes and is_dense(shape, strides):
        if cell.value is not None and cell.value.shape != value.shape:
            attrs = {"to": cell.value.shape}
            value = cell.trace.one(CATALOGUE["reshape"], (value,), attrs, cell.value.spec)
        cell.put(value)
        return
    root = content(cell, value.dtype, (shape, strides, -1))
    cell.put(_written(cell, root, layout, value))


def _written(cell: Cell, root: Value, layout: Layout, value: Value) -> Value:
    """The whole after a write through a view: back along the path on which the view was made."""
    shape, strides, offset = layout
    if offset == 0 and root.shape == shape and is_dense(shape, strides):
        return value
    add, path = cell.trace.one, cell.paths.get((tuple(shape), tuple(strides), offset))
    if path is not None and path[0].name in _BACK and _leads_back(cell, path[2]):
        op, attrs, source = path
        spec = Spec(source[0], root.dtype)
        if op.name == "subscript":
            old = read(cell, root.dtype, source)
            new = add(CATALOGUE["write"], (old, value), {"items": attrs["items"]}, spec)
        else:
            back, given = _BACK[op.name](attrs, source[0])
            new = add(CATALOGUE[back], (value,), given, spec)
        return _written(cell, root, source, new)
    attrs = {"stride": tuple(strides), "offset": offset}
    return add(CATALOGUE["as_strided_scatter"], (root, value), attrs, root.spec)  # type: ignore[no-any-return]


def _leads_back(cell: Cell, layout: Layout) -> bool:
    """Whether no view on the way from the memory shows elements of it several times: then the others of an element
    that is written would hold its old value."""
    path = cell.paths.get(layout)
    return path is None or (path[0].name in _BACK and _leads_back(cell, path[2]))


_BACK: dict[str, Any] = {
    "subscript": None,
    "permute": lambda attrs, shape: ("permute", {"axes": tuple(int(a) for a in np.argsort(attrs["axes"]))}),
    "reshape": lambda attrs, shape: ("reshape", {"to": shape}),
    "flip": lambda attrs, shape: ("flip", {"axes": attrs["axes"]}),
}
assert set(_BACK) <= set(FN), "these are ops"
