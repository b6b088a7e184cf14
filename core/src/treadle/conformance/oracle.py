"""What a call must give: values in float64 (bits, where the declaration demands them), and how far rounding may move
them.

An op's own NumPy reference where it has one, else its decomposition on the magnitude device. No number here depends on
the device under test.
"""

from typing import Any, NamedTuple

import numpy as np

from treadle import creation, dtypes
from treadle.autograd.backward import grad_of
from treadle.conformance.magnitude import magnitude_device, sizes_of
from treadle.conformance.tensors import flat, is_array, mapped
from treadle.dtypes import bool_, float64
from treadle.eager import resolve as resolving
from treadle.op import Op
from treadle.runtime import reference
from treadle.shapes import broadcast, dense_strides
from treadle.spec import Spec


class Expected(NamedTuple):
    """One result: its declared spec, its value (float64 for floats), and the size of its terms (None: bits are
    compared)."""

    spec: Spec
    value: Any
    size: Any


def specs_of(op: Op, operands: list[Any], attrs: dict[str, Any]) -> tuple[Spec, ...]:
    """The results' declared shapes and dtypes, for operands that are arrays, numbers, None or lists of arrays."""
    if op.category == "lists":
        return tuple(_spec(a) for a in flat(_list_results(op, operands, attrs)))
    given = [_spec(a) for a in (flat(operands[0]) if op.inputs[0].many else operands)]
    if op.tier == "view":
        shape, _, _ = op.layout(given[0].shape, dense_strides(given[0].shape), **attrs)
        return (Spec(tuple(shape), given[0].dtype),)
    if op.category in resolving.ELEMENTWISE:
        shape = broadcast(op.name, *(s.shape for s in given if isinstance(s, Spec)))
        kind = next(s.dtype for s, i in zip(given, op.inputs, strict=True) if isinstance(s, Spec) and i.name != "c")
        return (op.spec(*[Spec(shape, bool_ if i.name == "c" else kind) for i in op.inputs]),)
    if op.tier == "host":
        return tuple(_spec(y) for y in flat(op.reference(*operands, **attrs)))
    if op.category == "create":
        given = []
    if op.tier == "copy":
        given = [s for s in given if isinstance(s, Spec)]
        attrs = {**attrs, "value": 0} if op.name == "pad" else attrs
    raw = op.spec(*given, **attrs)
    return raw if raw.__class__ is tuple else (raw,)


def _spec(a: Any) -> Any:
    return Spec(a.shape, dtypes.dtype(a.dtype)) if is_array(a) else a


def _list_results(op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
    """Arrays with the shapes of a list op's results: the operand lists that they replace, and a norm."""
    named = dict(zip([i.name for i in op.inputs], operands, strict=True))
    starred = [i.name for i in op.inputs if i.many]
    out = [named[r.rstrip("*")] if r.rstrip("*") in named else named[starred[0]] for r in op.results if r.endswith("*")]
    return [*out, np.zeros((), flat(named[starred[0]])[0].dtype)] if not op.results[-1].endswith("*") else out


def expected(op: Op, operands: list[Any], attrs: dict[str, Any]) -> list[Expected]:
    """What `op(*operands, **attrs)` must give."""
    specs = specs_of(op, operands, attrs)
    if op.tier == "view":
        return [Expected(specs[0], _viewed(op, operands[0], attrs), None)]
    loose = op.num.kind in ("contract", "mixed", "stepwise") and any(s.dtype.kind == "f" for s in specs)
    run = on_magnitude(op, operands, attrs, narrow=op.num.kind == "exact") if loose or op.reference is None else None
    values = [y for y, _ in run] if run is not None and op.reference is None else referred(op, operands, attrs, specs)
    sizes = (
        [size if loose and s.dtype.kind == "f" else None for (_, size), s in zip(run, specs, strict=True)]
        if run is not None
        else [None] * len(specs)
    )
    return [Expected(s, y, size) for s, y, size in zip(specs, values, sizes, strict=True)]


def referred(op: Op, operands: list[Any], attrs: dict[str, Any], specs: tuple[Spec, ...]) -> list[Any]:
    """The reference's results before they are rounded to their dtype."""
    wide = tuple(
        Spec(s.shape, float64 if s.dtype.kind == "f" and op.category not in ("cast", "bits", "create") else s.dtype)
        for s in specs
    )
    given = flat(operands[0]) if op.inputs[0].many else operands
    return reference.compute(op, [_rounded(op, a, given) for a in given], attrs, wide)


def _rounded(op: Op, a: Any, operands: list[Any]) -> Any:
    """A number beside tensors is one of their dtype: 0.1 beside a float32 is float32(0.1)."""
    if op.category not in resolving.ELEMENTWISE or is_array(a):
        return a
    kind = next(x.dtype for x in operands if is_array(x) and x.dtype.kind != "b")
    return np.asarray(a).astype(kind)


def _viewed(op: Op, x: Any, attrs: dict[str, Any]) -> Any:
    shape, strides, offset = op.layout(x.shape, dense_strides(x.shape), **attrs)
    if 0 in shape:
        return np.empty(shape, x.dtype)
    return np.lib.stride_tricks.as_strided(x.reshape(-1)[offset:], shape, [s * x.itemsize for s in strides]).copy()


def on_magnitude(op: Op, operands: list[Any], attrs: dict[str, Any], narrow: bool = False) -> list[tuple[Any, Any]]:
    """(value, size of its terms) of each result, floats widened to float64 unless `narrow`."""
    args = mapped(lambda a: _tensor(a, narrow), operands)
    results = flat(call(op, args, attrs, magnitude_device()))
    return [(y.numpy_copy(), sizes_of(y) if y.dtype is float64 else None) for y in results]


def _tensor(a: Any, narrow: bool, leaf: bool = False) -> Any:
    if not is_array(a):
        return a
    wide = a if narrow or dtypes.dtype(a.dtype).kind != "f" else a.astype(np.float64)
    return creation.from_array(wide, magnitude_device(), leaf and wide.dtype == np.float64)


def call(op: Op, args: list[Any], attrs: dict[str, Any], device: Any) -> Any:
    """Call an op's function whatever its kind of signature."""
    if op.category == "create":
        return op.fn(*args, **attrs, device=device)
    if op.inputs[0].many and op.category != "lists":
        return op.fn(*args[0], **attrs)
    return op.fn(*args, **attrs)


def gradients(op: Op, operands: list[Any], attrs: dict[str, Any], weights: list[Any]) -> list[tuple[Any, Any]]:
    """(value, size of its terms) of the gradient for each float operand, of the results weighted by `weights`."""
    args = mapped(lambda a: _tensor(a, False, True), operands)
    found = pull(op, args, attrs, [_tensor(w, False) for w in weights], magnitude_device())
    return [(np.zeros(1), np.zeros(1)) if g is None else (g.detach().numpy_copy(), sizes_of(g)) for g in found]


def pull(op: Op, args: list[Any], attrs: dict[str, Any], weights: list[Any], device: Any) -> list[Any]:
    """Gradients of the weighted float results for all leaves among args; None where a result does not depend on one."""
    results = [y for y in flat(call(op, args, attrs, device)) if y.dtype.kind == "f"]
    pairs = [(y, w) for y, w in zip(results, weights, strict=True) if y.node is not None]
    leaves = [a for a in flat(args) if getattr(a, "node", None) is not None]
    return grad_of([y for y, _ in pairs], leaves, [w for _, w in pairs], allow_unused=True)


def resolution(op: Op, args: list[Any], attrs: dict[str, Any]) -> str:
    """How a device runs this call: native, decomposed, host, view, copy."""
    if op.tier in ("view", "copy", "host") or op.category in ("create", "lists") or any(i.many for i in op.inputs):
        return op.tier
    plain, _ = resolving._normal(op, tuple(args))
    values = [attrs.get(a, d) for a, d in op.attrs.items()]
    return resolving.lookup(op, plain, values)[0].how
