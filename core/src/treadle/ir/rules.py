"""What the declaration of an op demands of a Node: operands that fit the signature, its attributes, specs of results.

The rules are those of eager execution, for operands that are already promoted and broadcast. Everything that does not
hold raises GraphError.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from treadle.dtypes import DType, bool_
from treadle.errors import DimError, GraphError, TreadleError
from treadle.ir.dim import Dim, Ratio
from treadle.ir.graph import Graph, Number, Value
from treadle.op import ELEMENTWISE, REQUIRED, WIDE, Op
from treadle.shapes import MAX_DIMS, check_count, dense_strides, extent, numel
from treadle.spec import Spec

NUMBERS = (int, float, Number, Dim, Ratio)  # exact classes: True is no number
Declared = Sequence[Spec | None]  # of each output what is said of it, where anything is


def fail(problem: str) -> NoReturn:
    raise GraphError(problem)


def results_of(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], declared: Declared) -> tuple[Spec, ...]:
    """Return the specs of the results of a node, aux values with them if that many are declared.

    Where a shape or dtype does not follow from the operands (nonzero), it is the declared one. GraphError names the
    operand, the attribute or the rule that does not hold.
    """
    check_operands(op, inputs)
    check_attrs(op, inputs, attrs)
    try:
        found = _specs(op, inputs, attrs, declared)
    except GraphError:
        raise
    except TreadleError as e:
        fail(str(e))
    except Exception as e:  # rules take attributes to be of the right kind: what they raise for others may be anything
        fail(f"{op.name}: its rules cannot use these operands and attributes: {type(e).__name__}: {e}")
    return found


def constant_problem(data: Any, spec: Spec) -> str:
    """What is wrong with the data of a constant: an array of its type, or a number that depends on symbolic sizes."""
    if isinstance(data, (Dim, Ratio)):
        good = spec.shape == () and (spec.dtype.kind == "f" or (spec.dtype.kind in "iu" and isinstance(data, Dim)))
        return "" if good else f"a constant of type {spec} cannot be {data}"
    if not isinstance(data, np.ndarray):
        return f"a constant must be an array, or a number with a symbolic size in it, not {data!r}"
    if data.shape != tuple(spec.shape) or data.dtype != spec.dtype.np:
        return f"a constant of type {spec} has the data of {data.dtype}{list(data.shape)}"
    return ""


# ---- operands ------------------------------------------------------------------------------------------------------
def signature(op: Op) -> str:
    """The operands as the declaration has them: `x w b?`."""
    return " ".join(i.name + "?" * i.optional + "*" * i.many + "#" * i.number for i in op.inputs)


def check_operands(op: Op, inputs: tuple[Any, ...]) -> None:
    """GraphError unless number and kinds of the operands are those of the signature."""
    if len(inputs) != len(op.inputs):
        fail(f"{op.name} takes {len(op.inputs)} operands ({signature(op)}), not {len(inputs)}")
    for x, i in zip(inputs, op.inputs, strict=True):
        if i.many:
            good, what = x.__class__ is tuple and all(v.__class__ is Value for v in x), "a list of values"
        elif i.number:
            good, what = x.__class__ in NUMBERS, "a number"
        elif op.category in ELEMENTWISE and i.name != "c":
            good, what = x.__class__ is Value or x.__class__ in NUMBERS, "a value or a number"
        else:
            good = x.__class__ is Value or (x is None and i.optional)
            what = "a value or none" if i.optional else "a value"
        if not good:
            fail(f"{op.name}: operand {i.name!r} must be {what}, not {_kind_text(x)}")


def _kind_text(x: Any) -> str:
    if x.__class__ is tuple:
        return "a list"
    return "a value" if x.__class__ is Value else "none" if x is None else f"{type(x).__name__} {x!r}"


def _values(inputs: tuple[Any, ...]) -> list[Value]:
    return [v for x in inputs for v in (x if x.__class__ is tuple else (x,)) if v.__class__ is Value]


def number_kind(x: Any) -> type:
    """int or float: what a number operand is to dtype rules."""
    if x.__class__ is Number:
        return x.kind  # type: ignore[no-any-return]
    return float if x.__class__ in (float, Ratio) else int


# ---- attributes ----------------------------------------------------------------------------------------------------
def check_attrs(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> None:
    """GraphError unless the attributes are exactly those of the op, of a kind with the default and axes in range."""
    for name in attrs:
        if name not in op.attrs:
            fail(f"{op.name} has no attribute {name!r}; it has {', '.join(op.attrs) or 'none'}")
    for name, default in op.attrs.items():
        if name not in attrs:
            fail(f"{op.name}: attribute {name!r} is missing")
        given = attrs[name]
        _check_attr(op, name, given)
        if default is not REQUIRED and default is not None and _group(given) != _group(default):
            fail(f"{op.name}: attribute {name!r} must be {_group(default)}, not {_group(given)}")
    ndim = next((v.spec.ndim for v in _values(inputs[op.main : op.main + 1])), 0)
    for name in ("axis", "axes"):
        if name in attrs:
            _check_axes(op, name, attrs[name], max(ndim, 1))


def _check_attr(op: Op, name: str, x: Any) -> None:
    if isinstance(x, tuple):
        for y in x:
            _check_attr(op, name, y)
    elif x is not None and not isinstance(x, (int, float, str, DType, Dim, Ratio, Graph)):
        fail(f"{op.name}: attribute {name!r} holds {type(x).__name__}, which is nothing that a graph can hold")


def _group(x: Any) -> str:
    groups: dict[str, Any] = {"a number": (int, float, Dim, Ratio), "a string": str, "a tuple": tuple, "a dtype": DType}
    return next((text for text, kinds in groups.items() if isinstance(x, kinds)), "none")


def _check_axes(op: Op, name: str, given: Any, ndim: int) -> None:
    axes = given if isinstance(given, tuple) and name == "axes" else (given,)
    for a in axes:
        if a.__class__ is not int or not -ndim <= a < ndim:
            fail(f"{op.name}: {name} must be in [{-ndim}, {ndim}): {given}")


# ---- results -------------------------------------------------------------------------------------------------------
def _specs(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], declared: Declared) -> tuple[Spec, ...]:
    if op.category == "lists":
        return _lists(op, inputs)
    if op.category in ELEMENTWISE:
        return _sound(op, _elementwise(op, inputs, attrs, declared))
    if op.tier != "control":
        _check_dtypes(op, inputs, attrs)
    if op.tier == "view":
        return _sound(op, _view(op, inputs[0].spec, attrs))
    specs = [v if v.__class__ is not Value else v.spec for x in inputs for v in (x if x.__class__ is tuple else (x,))]
    if op.category == "create":
        specs = []
    op.check(*specs, **attrs)
    raw = _declared(op, declared) if op.spec is None else op.spec(*specs, **attrs)
    found = raw if raw.__class__ is tuple else (raw,)
    if op.aux is not None and len(declared) == len(op.results) + len(op.aux_names):
        found += _aux(op, specs, attrs)
    found = _sound(op, found)
    if op.tier == "copy":
        _check_regions(op, found[0], [s for s in specs if s.__class__ is Spec], attrs)
    return found


def _declared(op: Op, declared: Declared) -> tuple[Spec, ...]:
    known = tuple(s for s in declared if s is not None)
    if len(known) < len(declared):
        fail(f"{op.name}: its results do not follow from its operands, so their types must be given")
    return known


def _sound(op: Op, found: tuple[Any, ...]) -> tuple[Spec, ...]:
    """Specs that can be: what rules make of strange attributes is not always one."""
    for s in found:
        if s.__class__ is not Spec or s.dtype.__class__ is not DType:
            fail(f"{op.name}: its rules give {s!r} where the shape and dtype of a result are needed")
        check_shape(op.name, s.shape)
    return found


def check_shape(name: str, shape: Any) -> None:
    """GraphError unless these are sizes that a tensor can have."""
    for n in shape:
        if n.__class__ is not Dim and (n.__class__ is not int or n < 0):
            fail(f"{name}: sizes must be integers that are not negative: {tuple(shape)}")
    if len(shape) > MAX_DIMS:
        fail(f"{name}: {len(shape)} dimensions are more than the {MAX_DIMS} supported")
    check_count(name, shape)


def _aux(op: Op, specs: list[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    taken = {i.name for i in op.aux.inputs}
    mine = [s for s, i in zip(specs, op.inputs, strict=True) if i.name in taken]
    raw = op.aux.spec(*mine, **{k: v for k, v in attrs.items() if k in op.aux.attrs})
    return raw if raw.__class__ is tuple else (raw,)


def _allowed(op: Op, kind: DType) -> None:
    if kind not in op.dtypes:
        fail(f"{op.name} is not defined for {kind.name}")


def _one_dtype(op: Op, values: list[Value]) -> None:
    if len({v.dtype for v in values}) > 1:
        fail(f"{op.name}: operands must have one dtype: {', '.join(v.dtype.name for v in values)}; cast them first")


def _check_dtypes(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> None:
    main = inputs[op.main]
    if op.category == "create" and "dtype" in attrs:
        _allowed(op, attrs["dtype"])
    elif main.__class__ is Value:
        _allowed(op, main.dtype)
    if op.category == "fused":
        return  # its spec looks at every instruction
    named = [(v, i.name) for x, i in zip(inputs, op.inputs, strict=True) for v in _values((x,))]
    if op.promote or any(i.many for i in op.inputs):
        _one_dtype(op, [v for v, _ in named])
    else:
        _one_dtype(op, [v for v, name in named if v.dtype.kind == "f" and name not in WIDE])


# ---- elementwise ops -----------------------------------------------------------------------------------------------
def _elementwise(op: Op, inputs: tuple[Any, ...], attrs: dict[str, Any], declared: Declared) -> tuple[Any, ...]:
    values = _values(inputs)
    if not values:
        fail(f"{op.name}: one operand at least must be a value")
    shape = values[0].shape
    for v in values:
        if v.shape != shape:
            text = ", ".join(str(list(v.shape)) for v in values)
            fail(f"{op.name}: operands must be broadcast to one shape first: {text}")
    common = _common(op, inputs, declared)
    specs = [Spec(shape, bool_ if i.name == "c" else common) for i in op.inputs]
    op.check(*specs, **attrs)
    raw = op.spec(*specs, **attrs)
    return tuple(Spec(shape, s.dtype) for s in (raw if raw.__class__ is tuple else (raw,)))


def _common(op: Op, inputs: tuple[Any, ...], declared: Declared) -> DType:
    """The dtype that is computed in: that of the values, or (numbers and a condition only) that of the result."""
    plain = []
    for x, i in zip(inputs, op.inputs, strict=True):
        if x.__class__ is Value and i.name != "c":
            plain.append(x)
        elif i.name == "c" and x.dtype is not bool_:
            fail(f"{op.name}: the condition must be bool, not {x.dtype.name}")
    _one_dtype(op, plain)
    common: DType = plain[0].dtype if plain else _declared(op, declared)[0].dtype
    _allowed(op, common)
    kinds = {number_kind(x) for x in inputs if x.__class__ in NUMBERS}
    if (float in kinds and common.kind != "f") or (kinds and common.kind == "b"):
        fail(f"{op.name}: a Python {'float' if float in kinds else 'int'} does not go with {common.name}")
    return common


# ---- views and copies: nothing may be read or written outside of a tensor ------------------------------------------
def _view(op: Op, x: Spec, attrs: dict[str, Any]) -> tuple[Any, ...]:
    layout = op.layout(x.shape, dense_strides(x.shape), **attrs)
    if layout is None:
        fail(f"{op.name}: there is no such view of {x}")
    shape, strides, offset = layout
    _check_inside(op, shape, strides, offset, x)
    return (Spec(tuple(shape), x.dtype),)


def _check_regions(op: Op, out: Spec, specs: list[Spec], attrs: dict[str, Any]) -> None:
    for k, (shape, strides, offset) in op.layout(out, *specs, **attrs):
        if tuple(shape) != tuple(specs[k].shape):
            fail(f"{op.name}: operand {k} of shape {specs[k].shape} goes into a region of shape {shape}")
        _check_inside(op, shape, strides, offset, out)


def _check_inside(op: Op, shape: Any, strides: Any, offset: Any, whole: Spec) -> None:
    if not all(n.__class__ is int or n.__class__ is Dim for n in (*shape, *strides, offset)):
        fail(f"{op.name}: sizes and strides must be integers: {shape}, {strides}, offset {offset}")
    if 0 in shape:
        return
    try:
        low, high = extent(shape, strides)
        outside = offset + low < 0 or offset + high > numel(whole.shape)
    except DimError:  # symbolic sizes leave it open
        return
    if outside:
        fail(f"{op.name}: elements outside of {whole} are selected: sizes {shape}, strides {strides}, offset {offset}")


# ---- ops over lists ------------------------------------------------------------------------------------------------
def _lists(op: Op, inputs: tuple[Any, ...]) -> tuple[Spec, ...]:
    """Results named like a list operand are like it; others with a star like the first; a plain one is a 0-d norm."""
    lists = {i.name: x for x, i in zip(inputs, op.inputs, strict=True) if i.many}
    first = next(iter(lists.values()))
    for name, xs in lists.items():
        if xs and len(xs) != len(first):
            fail(f"{op.name}: list {name!r} has {len(xs)} values where the first has {len(first)}")
        for x, y in zip(xs, first, strict=False):
            _allowed(op, x.dtype)
            if x.shape != y.shape:
                fail(f"{op.name}: list {name!r} has shape {list(x.shape)} where the first has {list(y.shape)}")
    out: list[Spec] = []
    for r in op.results:
        if r.endswith("*"):
            out += [v.spec for v in lists.get(r[:-1], first)]
        elif not first:
            fail(f"{op.name}: its list must not be empty")
        else:
            out.append(Spec((), first[0].dtype))
    return tuple(out)
