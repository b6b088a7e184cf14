"""In-place writes: the functional op, then its result goes into the target's memory and the target's root gets a new
node.

Version counters are shared by all views of a storage; a write bumps it, so that a saved value that was overwritten is
noticed.
"""

from typing import Any

from treadle import tape
from treadle._tensor import Tensor, View, is_leaf_node
from treadle.autograd import views
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.dtypes import CATEGORY
from treadle.eager import resolve as resolving
from treadle.eager.codegen import Plan
from treadle.errors import AutogradError, DTypeError, ShapeError
from treadle.op import FN, INTERPRETER, STATE, Op
from treadle.shapes import broadcast, expand_strides, overlaps
from treadle.sig import sig_of


def saves_first(op: Op) -> bool:
    """Whether the op's rules save their first operand, so that overwriting it needs a copy."""
    item = Plan(op).saved.get(op.inputs[0].name)
    return item is not None and item.kind == "operand"


def inplace_method(op: Op) -> Any:
    """Return the method `x.op_(*others)` of an elementwise op."""
    row = f"{op.name}_"

    def method(x: Tensor, *others: Any) -> Tensor:
        if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:
            return i.write(method, x, *others)  # type: ignore[no-any-return]
        if x.node is None and x.__class__ is Tensor and len(others) == 1:
            other = others[0]
            write = vars(x.sig).get(row, {}).get(other.sig if isinstance(other, Tensor) else other.__class__)
            if write is not None and getattr(other, "node", None) is None:
                write(x.storage, other.storage if isinstance(other, Tensor) else other, x.storage)
                x._version += 1
                return x
        return _general(op, row, x, others)

    method.__name__ = method.__qualname__ = row
    method.__doc__ = f"Do `{op.name}` in place and return the tensor."
    return method


def _general(op: Op, row: str, x: Tensor, others: tuple[Any, ...]) -> Tensor:
    _check_target(op.name, x)
    _check_fits(op, x, others)
    if not _records(x, others):
        _remember_write(op, row, x, others)
        with_grad = tape.GRAD_MODE.set(False)
        try:
            write_values(x, op.fn(x, *others))
        finally:
            tape.GRAD_MODE.reset(with_grad)
        return x
    _check_recordable(op.name, x)
    source = x
    if saves_first(op) and any(isinstance(o, Tensor) and o.node is not None for o in others):
        source = Tensor(resolving.copy_of(x), resolving.dense_sig(x.dtype, x.shape, x.device), x.node)
    return finish(x, op.fn(source, *others))


def _remember_write(op: Op, row: str, x: Tensor, others: tuple[Any, ...]) -> None:
    """Keep the kernel that may write over its operand, when the target is dense and nothing needs a cast."""
    if len(others) != 1 or x.sig.layout != "dense" or op.tier == "view":
        return
    other = others[0]
    plain = isinstance(other, Tensor) or other.__class__ is int or other.__class__ is float
    if not plain or (isinstance(other, Tensor) and other.device is not x.device):
        return
    if resolving.common_dtype(op, (x, other)) is not x.dtype or (
        isinstance(other, Tensor) and other.dtype is not x.dtype
    ):
        return
    kernel, sig = resolving.lookup(op, (x, other), ())
    if kernel.write is not None and sig is x.sig:
        key = other.sig if isinstance(other, Tensor) else other.__class__
        vars(x.sig).setdefault(row, {})[key] = kernel.write


def _check_target(what: str, x: Tensor) -> None:
    if overlaps(x.shape, x.sig.strides):
        raise AutogradError(
            f"{what}_: several elements of the target share one memory location (expanded or overlapping); "
            "clone() it first"
        )


def _check_fits(op: Op, x: Tensor, others: tuple[Any, ...]) -> None:
    shape = broadcast(op.name, x.shape, *(o.shape for o in others if isinstance(o, Tensor)))
    if shape != x.shape:
        raise ShapeError(f"{op.name}_: the result has shape {shape}, which does not fit the target {x.shape}")
    if op.category in resolving.ELEMENTWISE and len(others):
        plain, _ = resolving._normal(op, (x, *others))
        check_kind(op.name, x, resolving.common_dtype(op, plain))


def check_kind(name: str, x: Tensor, result: Any) -> None:
    """DTypeError where x cannot hold results of a dtype: floats in integers, numbers in truth values."""
    if CATEGORY[result.kind] > CATEGORY[x.dtype.kind]:
        raise DTypeError(f"{name}_: the result type {result.name} cannot be stored in {x.dtype.name}")


def _records(x: Tensor, others: tuple[Any, ...]) -> bool:
    if not is_grad_enabled():
        return False
    if x.node is not None or any(isinstance(o, Tensor) and o.node is not None for o in others):
        return True
    return isinstance(x, View) and x.base is not None and x.base.node is not None


def _check_recordable(what: str, x: Tensor) -> None:
    root = x.base if isinstance(x, View) and x.base is not None else x
    if root.node is not None and is_leaf_node(root.node):
        which = "a leaf" if root is x else "a view of a leaf"
        raise AutogradError(
            f"{what}_: {which} that requires grad is written in place; do it under no_grad(), or on a copy"
        )
    if isinstance(x, View) and x.base is not None and x.no_grad:
        raise AutogradError(
            f"{what}_: a view made under no_grad is written with gradients on; make the view again outside of no_grad"
        )


def write_values(x: Tensor, new: Any) -> None:
    """Put the elements of `new` (broadcast, cast) into x's memory and count the write; nothing is recorded."""
    if new.sig.dtype is not x.sig.dtype:
        new = FN["cast"](new, x.sig.dtype)
    storage, source = new.storage, new.sig
    if (new.__class__ is View or x.__class__ is View) and new.root is x.root and new is not x:  # they may overlap
        storage, source = resolving.copy_of(new), resolving.dense_sig(source.dtype, source.shape, source.device)
    source = _rows(x).get(source) or _fitted(x, source)
    mark(x)
    if source.size:
        source.device.backend.copy_strided(
            x.storage, storage, source.dtype.itemsize, source.shape, x.sig.strides, source.strides
        )
    x._version += 1


def _rows(x: Tensor) -> dict[Any, Any]:
    """Of a target's signature: sig of a source -> that source broadcast to the target."""
    return vars(x.sig).setdefault("copy_row", {})  # type: ignore[no-any-return]


def _fitted(x: Tensor, source: Any) -> Any:
    rows = _rows(x)
    if len(rows) >= resolving.MAX_ENTRIES:
        rows.clear()
    fitted = (
        source
        if source.shape == x.shape
        else sig_of(source.dtype, x.shape, expand_strides(source.shape, source.strides, x.shape), x.device)
    )
    rows[source] = fitted
    return fitted


def mark(x: Tensor) -> None:
    """Saved results whose bytes are about to change become stale."""
    tape.mark_stale(x.root.node)
    if isinstance(x, View) and x.base is not None:
        tape.mark_stale(x.base.node)


def finish(x: Tensor, new: Tensor, copied: bool = False) -> Tensor:
    """The recorded end of a write: new values into memory, a new node for the root.

    copied: the values are somebody else's, so that x needs a node of its own, not to pass for that tensor.
    """
    if new.dtype is not x.dtype:
        new = FN["cast"](new, x.dtype)
    if new.shape != x.shape:
        new = FN["expand"](new, x.shape)
    node = [tape.next_id(), COPIED, new.node] if copied and new.node is not None else new.node
    base = x.base if isinstance(x, View) else None
    old = base.node if base is not None else None
    token = tape.GRAD_MODE.set(False)
    try:
        write_values(x, new)
    finally:
        tape.GRAD_MODE.reset(token)
    if base is None:
        x.node = node
    else:
        edge = [tape.next_id(), views.WRITE_RULE, old, node, base.sig, x.sig, x.offset]  # type: ignore[attr-defined]
        base.node = edge if old is not None or node is not None else None
        x._seen = -1  # type: ignore[attr-defined]
    return x


def copy_(x: Tensor, other: Any) -> Tensor:
    """Copy the elements of `other` (broadcast, cast) into x and return x.

    >>> import treadle as td
    >>> td.zeros(3).copy_(td.tensor([1.0, 2.0, 3.0]))
    tensor([1., 2., 3.])
    """
    if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:
        return i.write(copy_, x, other)  # type: ignore[no-any-return]
    if not isinstance(other, Tensor):
        other = x.new_tensor(other)
    if other.device is not x.device:
        other = other.to(x.device)
    if other.sig not in _rows(x):  # what was written before fits
        _check_target("copy", x)
        if broadcast("copy_", x.shape, other.shape) != x.shape:
            raise ShapeError(f"copy_: {other.shape} does not fit the target {x.shape}")
    if not _records(x, (other,)):
        write_values(x, other)
        return x
    _check_recordable("copy", x)
    return finish(x, other, copied=True)


COPIED = tape.Rule("copy", 1, lambda node, g: (g,), False)


views.WRITE_INTO.append(copy_)
