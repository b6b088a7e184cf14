"""What a program must give, without the engine: NumPy arrays that share memory as the tensors do, and the ops' own
references in float64, rounded once to each result's type."""

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle import dtypes
from treadle.conformance import oracle
from treadle.conformance.programs.places import placed
from treadle.conformance.programs.program import Program, Ref, Step
from treadle.conformance.tensors import is_array, mapped
from treadle.dtypes import bool_
from treadle.op import CATALOGUE, ELEMENTWISE, Op

METHODS = {"div_": "true_div"}  # in-place methods whose op has another name
as_strided = np.lib.stride_tricks.as_strided


def evaluate(p: Program) -> list[Any]:
    """Results and what became of the inputs, in the order of the program's `run`, without gradients."""
    closed = {x.name: placed(x.array, x.place) for x in p.inputs if x.closed}
    results: list[Any] = []
    given: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for _ in range(p.calls):
            given = {x.name: placed(x.array, x.place) for x in p.inputs if not x.closed}
            env = {**closed, **given}
            for step in p.steps:
                execute(step, env)
            results = [env[name].copy() for name in p.outputs]
    return [*results, *[a.copy() for a in (*given.values(), *closed.values())]]


def execute(step: Step, env: dict[str, Any]) -> None:
    """Carry out one step on the arrays of `env`."""
    args = mapped(lambda a: env[a.name] if isinstance(a, Ref) else a, list(step.args))
    if step.form == "op":
        op = CATALOGUE[step.what]
        made = [VIEWS[step.what](args[0], **step.attrs)] if op.tier == "view" else call(op, args, step.attrs)
        env.update(zip(step.results, made, strict=True))
    elif step.form == "index":
        env[step.results[0]] = args[0][step.args[1]]
        if not is_array(env[step.results[0]]):  # NumPy gives a scalar; as a view it is of no axes
            env[step.results[0]] = args[0][(*step.args[1], ...)]
    elif step.form == "assign":
        args[0][step.args[1]] = args[2]
    elif step.form == "constant":
        env[step.results[0]] = np.array(step.args[0])
    else:
        _write(step.what, args)


def _write(name: str, args: list[Any]) -> None:
    target = args[0]
    if name == "copy_" or name == "fill_":
        target[...] = args[1]
    elif name == "zero_":
        target[...] = 0
    else:
        target[...] = call(CATALOGUE[METHODS.get(name, name[:-1])], args, {})[0]


# ---- ops -----------------------------------------------------------------------------------------------------------
def call(op: Op, args: list[Any], attrs: dict[str, Any]) -> list[Any]:
    """The results of an op that makes new memory."""
    if op.category in ELEMENTWISE:
        args = promoted(op, args)
    specs = oracle.specs_of(op, args, attrs)
    if op.reference is not None:
        raw = oracle.referred(op, args, attrs, specs)
    else:
        raw = [y for y, _ in oracle.on_magnitude(op, args, attrs, narrow=op.num.kind == "exact")]
    return [np.broadcast_to(np.asarray(y).astype(s.dtype.np), s.shape).copy() for y, s in zip(raw, specs, strict=True)]


def promoted(op: Op, args: list[Any]) -> list[Any]:
    """Operands in the type and shape that they are computed in; the condition of a selection keeps its type."""
    known = [(a, i.name) for a, i in zip(args, op.inputs, strict=True)]
    arrays = [a for a, name in known if is_array(a) and name != "c"]
    kinds = [[dtypes.dtype(a.dtype) for a in arrays if bool(a.ndim) is ranked] for ranked in (True, False)]
    common = dtypes.result_type(kinds[0], kinds[1], [type(a) for a in args if type(a) in (int, float)])
    if op.int_to_float and common.kind != "f":
        common = dtypes.get_default_dtype()
    args = [a.astype(bool_.np if name == "c" else common.np) if is_array(a) else a for a, name in known]
    args = args if arrays else [a if is_array(a) else np.asarray(a, common.np) for a in args]
    shape = np.broadcast_shapes(*(a.shape for a in args if is_array(a)))
    return [np.broadcast_to(a, shape) if is_array(a) else a for a in args]


# ---- views ---------------------------------------------------------------------------------------------------------
def _subscript(x: Any, items: Any) -> Any:
    """As slices, of which one that runs backwards to the first element has no end."""
    key = []
    for item in items:
        if item.__class__ is tuple:
            start, count, step = item
            stop = start + count * step
            item = slice(start, None if stop < 0 else stop, step) if count else slice(0, 0)
        key.append(item)
    return x[(*key, ...)]


def _expand(x: Any, to: Any) -> Any:
    lead = len(to) - x.ndim
    strides = [0 if d < lead or x.shape[d - lead] != n else x.strides[d - lead] for d, n in enumerate(to)]
    return as_strided(x, to, strides)


def _dense(x: Any) -> Any:
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def _as_strided(x: Any, size: Any, stride: Any, offset: int) -> Any:
    flat_ = _dense(x).reshape(-1)
    return as_strided(flat_[offset:], size, [n * x.itemsize for n in stride])


def _windows(x: Any, axis: int, size: int, step: int, dilation: int) -> Any:
    reach = dilation * (size - 1) + 1
    all_of_them = np.lib.stride_tricks.sliding_window_view(x, reach, axis, writeable=True)
    every = tuple(slice(None, None, step) if d == axis else slice(None) for d in range(x.ndim))
    return all_of_them[(*every, slice(None, None, dilation))]


VIEWS: dict[str, Callable[..., Any]] = {
    "reshape": lambda x, to: x.reshape(to),
    "permute": lambda x, axes: x.transpose(axes),
    "expand": _expand,
    "subscript": _subscript,
    "flip": lambda x, axes: x[(*(slice(None, None, -1 if d in axes else 1) for d in range(x.ndim)), ...)],
    "as_strided": _as_strided,
    "windows": _windows,
    "barrier": lambda x, number: x[...],
}


# ---- what is exact -------------------------------------------------------------------------------------------------
def exact(p: Program) -> list[bool]:
    """Of each array that `evaluate` gives, whether nothing that rounds freely has a part in it."""
    order = [x.name for x in p.inputs if not x.closed] + [x.name for x in p.inputs if x.closed]
    root = {x.name: x.name for x in p.inputs}
    for step in p.steps:
        shares = step.form == "index" or (step.form == "op" and CATALOGUE[step.what].tier == "view")
        for name in step.results:
            root[name] = root[step.args[0].name] if shares else name
    loose: set[str] = set()
    for _ in range(len(p.steps) + 1):  # what is written late may reach what was read early in the next call
        before = len(loose)
        for step in p.steps:
            if not _rounds_once(step) or any(root[n] in loose for n in step.reads()):
                loose |= {root[n] for n in (*step.results, *([step.writes] if step.writes else []))}
        if len(loose) == before:
            break
    return [root[name] not in loose for name in (*p.outputs, *order)]


def _rounds_once(step: Step) -> bool:
    if step.form == "op":
        return CATALOGUE[step.what].num.kind == "exact"
    if step.form == "method" and step.what not in ("copy_", "fill_", "zero_"):
        return CATALOGUE[METHODS.get(step.what, step.what[:-1])].num.kind == "exact"
    return True
