"""The cold path of a call: what it means is decided here, once, and written into the row that the warm path reads.

Promotion, broadcasting, device and attribute checks, the choice of kernel or decomposition. Errors are raised here,
before any kernel runs, naming the op and its operands.
"""

from typing import Any

import numpy as np

from treadle import dtypes, tape
from treadle._tensor import Tensor, View, make_view
from treadle.errors import ArgumentError, DeviceError, DTypeError, ShapeError, TreadleError
from treadle.op import ELEMENTWISE, REQUIRED, WIDE, Op
from treadle.runtime import dispatch
from treadle.runtime.backend import Call
from treadle.shapes import broadcast, check_count, expand_strides, is_dense
from treadle.sig import Sig, dense_sig, sig_of
from treadle.spec import Spec

MAX_ENTRIES = 4096  # of one op at one signature
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "bit_and", "bit_or", "bit_xor", "eq", "ne"})


def describe(op: Op, args: Any) -> str:
    """`op(x float32[2, 3] on d, 2.0)`: how errors name a call."""
    parts = [f"{a.dtype.name}{list(a.shape)}" if isinstance(a, Tensor) else repr(a) for a in args]
    return f"{op.name}({', '.join(parts)})"


def resolve(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...], aux: bool = False) -> Any:
    """Decide what a call means, remember it, and make it."""
    plain, changed = _normal(op, args)
    tidy = tuple(_hashable(a) for a in attrs)
    if changed or any(a is not b for a, b in zip(tidy, attrs, strict=True)):
        return _again(op, plain, tidy)
    if op.category == "binary" and not isinstance(args[0], Tensor):
        if op.name in COMMUTATIVE:
            return op.fn(args[1], args[0])
        return _reversed(op, args)
    cast = _cast_floats(op, args)
    if cast is not None:
        return _again(op, cast, attrs)
    try:
        kernel, sigs = lookup(op, args, attrs, aux)
    except TreadleError as e:
        _annotate(e, op, args)
        raise
    _store(op, args, attrs, aux, (kernel.run, sigs))
    return _again(op, args, attrs)


def _again(op: Op, args: Any, attrs: Any) -> Any:
    return op.fn(*args, **dict(zip(op_attrs(op), attrs, strict=True)))


def op_attrs(op: Op) -> list[str]:
    return [*op.attrs, "want"] if op.partial else list(op.attrs)


def _annotate(e: BaseException, op: Op, args: Any) -> None:
    if op.name not in str(e):
        e.add_note(f"in {describe(op, args)}")


# ---- operands ------------------------------------------------------------------------------------------------------
def _normal(op: Op, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
    """Operands as tensors, exact ints and floats, or None; says whether anything was replaced."""
    out: list[Any] = []
    home = next((a.device for a in args if isinstance(a, Tensor)), None)
    for a, spec in zip(args, op.inputs, strict=True):
        if isinstance(a, Tensor) or a.__class__ is int or a.__class__ is float or (a is None and spec.optional):
            out.append(a)
        elif isinstance(a, np.generic):
            out.append(a.item())
        elif isinstance(a, bool):
            out.append(a if home is None else _constant(a, home))
        elif isinstance(a, (int, float)):
            out.append(float(a) if isinstance(a, float) else int(a))
        else:
            what = "is missing" if a is None else f"must be a tensor or a number, not {type(a).__name__}"
            raise DTypeError(f"{op.name}: operand {spec.name!r} {what}")
    if home is None:
        raise DTypeError(f"{op.name}: at least one operand must be a tensor: {describe(op, args)}")
    numbers_ok = op.category in ELEMENTWISE
    for a, spec in zip(out, op.inputs, strict=True):
        if not isinstance(a, Tensor) and a is not None and not (numbers_ok or spec.number):
            raise DTypeError(f"{op.name}: operand {spec.name!r} must be a tensor: {a!r}")
    _same_device(op, out)
    return tuple(out), any(a is not b for a, b in zip(out, args, strict=True))


def _constant(value: bool, device: Any) -> Tensor:
    array = np.asarray(value)
    return Tensor(dispatch.from_numpy(device, array, "constant"), dense_sig(dtypes.bool_, (), device))


def _same_device(op: Op, args: Any) -> None:
    devices = {a.device for a in args if isinstance(a, Tensor)}
    if len(devices) > 1:
        names = (
            [i.name for i in op.inputs]
            if len(op.inputs) == len(args)
            else [f"{op.inputs[0].name}[{k}]" for k in range(len(args))]
        )
        text = ", ".join(f"{n} on {a.device}" for a, n in zip(args, names, strict=True) if isinstance(a, Tensor))
        raise DeviceError(f"{op.name}: operands are on different devices: {text}; move them with .to(device)")


def _hashable(a: Any) -> Any:
    if isinstance(a, list):
        return tuple(_hashable(x) for x in a)
    return (
        tuple(_hashable(x) for x in a)
        if a.__class__ is tuple and any(isinstance(x, (list, np.generic)) for x in a)
        else a.item()
        if isinstance(a, np.generic)
        else a
    )


def common_dtype(op: Op, args: Any) -> Any:
    """The dtype that promoted operands are computed in; DTypeError when the op does not take it."""
    tensors = [a for a, s in zip(args, op.inputs, strict=True) if isinstance(a, Tensor) and s.name != "c"]
    numbers = [type(a) for a in args if a.__class__ is int or a.__class__ is float]
    common = dtypes.result_type([a.dtype for a in tensors if a.ndim], [a.dtype for a in tensors if not a.ndim], numbers)
    if op.int_to_float and common.kind != "f":
        common = dtypes.get_default_dtype()
    if common not in op.dtypes:
        from_ = ", ".join(sorted({a.dtype.name for a in tensors}))
        raise DTypeError(
            f"{op.name}: not defined for {from_}; takes {', '.join(d.name for d in dtypes.ALL if d in op.dtypes)}"
        )
    return common


def _cast_floats(op: Op, args: Any) -> Any:
    """Operands with floats of another width replaced by recorded casts, or None when there are none."""
    if not op.promote:
        _check_dtypes(op, args)
        return None
    common = common_dtype(op, args)
    change = [
        isinstance(a, Tensor) and a.dtype.kind == "f" and a.dtype is not common and s.name != "c"
        for a, s in zip(args, op.inputs, strict=True)
    ]
    if not any(change):
        return None
    from_op = CAST[0]
    return tuple(from_op(a, common) if c else a for a, c in zip(args, change, strict=True))


CAST: list[Any] = []  # the op `cast`, put here at composition


def _check_dtypes(op: Op, args: Any) -> None:
    main = args[op.main]
    if isinstance(main, Tensor) and main.dtype not in op.dtypes:
        raise DTypeError(
            f"{op.name}: not defined for {main.dtype.name}; takes "
            f"{', '.join(d.name for d in dtypes.ALL if d in op.dtypes)}"
        )
    floats = {
        a.dtype
        for a, s in zip(args, op.inputs, strict=True)
        if isinstance(a, Tensor) and a.dtype.kind == "f" and s.name not in WIDE
    }
    if len(floats) > 1:
        text = ", ".join(
            f"{s.name} {a.dtype.name}" for a, s in zip(args, op.inputs, strict=True) if isinstance(a, Tensor)
        )
        raise DTypeError(f"{op.name}: operands must have one floating-point type: {text}; cast with .to(dtype)")


# ---- one signature -------------------------------------------------------------------------------------------------
def lookup(op: Op, args: Any, attrs: Any, aux: bool = False) -> tuple[dispatch.Kernel, Any]:
    """Resolve a call of tensors and numbers: its kernel, and the sig of its result (a tuple of sigs for several)."""
    device = next(a.device for a in args if isinstance(a, Tensor))
    given = dict(zip(op.attrs, attrs, strict=False))
    missing = [n for n, v in given.items() if v is REQUIRED]
    if missing:
        raise ArgumentError(f"{op.name}: attribute {missing[0]!r} is required")
    ins, specs, casts = _operands(op, args)
    op.check(*specs, **given)
    raw = op.spec(*specs, **given)
    outs = raw if raw.__class__ is tuple else (raw,)
    if op.category in ELEMENTWISE:
        shape = next(s.shape for s in specs if isinstance(s, Spec))
        outs = tuple(Spec(shape, o.dtype) for o in outs)
    for o in outs:
        check_count(op.name, o.shape)
    want = _wanted(op, attrs, len(outs))
    if aux:
        taken = {x.name for x in op.aux.inputs}
        more = op.aux.spec(
            *[s for s, i in zip(specs, op.inputs, strict=True) if i.name in taken],
            **{k: v for k, v in given.items() if k in op.aux.attrs},
        )
        more = more if more.__class__ is tuple else (more,)
        outs, want = outs + more, (*want, *[True] * len(more))
    if op.tier == "copy":
        kernel = dispatch.Kernel(dispatch.assemble(op, device, ins, outs[0], given), None, "copy")
    else:
        kernel = dispatch.bind(op, device, ins, outs, given, want, decomposed)
    kernel = _with_casts(device, kernel, casts)
    sigs = tuple(dense_sig(o.dtype, o.shape, device) for o in outs)
    return kernel, sigs if len(sigs) > 1 else sigs[0]


def _wanted(op: Op, attrs: Any, count: int) -> tuple[bool, ...]:
    if op.partial and len(attrs) > len(op.attrs) and attrs[-1] is not None:
        return tuple(bool(w) for w in attrs[-1])
    return (True,) * count


def _operands(op: Op, args: Any) -> tuple[list[Any], list[Any], dict[int, Any]]:
    """(what a backend sees, what spec rules see, casts to insert before the kernel)."""
    if not op.promote:
        return (
            [a.sig if isinstance(a, Tensor) else _number(a) for a in args],
            [Spec(a.shape, a.dtype) if isinstance(a, Tensor) else a for a in args],
            {},
        )
    common = common_dtype(op, args)
    elementwise = op.category in ELEMENTWISE
    shape = broadcast(op.name, *(a.shape for a in args if isinstance(a, Tensor))) if elementwise else ()
    ins: list[Any] = []
    specs: list[Any] = []
    casts: dict[int, Any] = {}
    for k, (a, operand) in enumerate(zip(args, op.inputs, strict=True)):
        if not isinstance(a, Tensor):
            ins.append(_number(a))
            specs.append(Spec(shape, common) if elementwise else a)
            continue
        want = dtypes.bool_ if operand.name == "c" else common
        sig = a.sig
        if sig.dtype is not want:
            if operand.name == "c":
                raise DTypeError(f"{op.name}: the condition must be bool: {sig.dtype.name}")
            casts[k] = (sig, want)
            sig = dense_sig(want, sig.shape, sig.device)
        if elementwise and sig.shape != shape:
            sig = sig_of(sig.dtype, shape, expand_strides(sig.shape, sig.strides, shape), sig.device)
        ins.append(sig)
        specs.append(Spec(shape if elementwise else sig.shape, want))
    return ins, specs, casts


def _number(a: Any) -> Any:
    return None if a is None else a.__class__


def _with_casts(device: Any, kernel: dispatch.Kernel, casts: dict[int, Any]) -> dispatch.Kernel:
    if not casts:
        return kernel
    steps = {k: cast_kernel(device, sig, to) for k, (sig, to) in casts.items()}
    run = kernel.run
    return kernel._replace(run=lambda *s: run(*[steps[k](x) if k in steps else x for k, x in enumerate(s)]), write=None)


def cast_kernel(device: Any, sig: Sig, to: Any) -> Any:
    """The kernel that converts a whole tensor to another dtype."""
    out = Spec(sig.shape, to)
    return dispatch.bind(CAST[0], device, [sig], [out], {"dtype": to}, (True,), decomposed).run


def _store(op: Op, args: Any, attrs: Any, aux: bool, entry: Any) -> None:
    """Write an entry under exactly the key that the generated function will look up."""
    first = next(k for k, i in enumerate(op.inputs) if not i.number)
    keys = [_key(a) for k, (a, i) in enumerate(zip(args, op.inputs, strict=True)) if k != first and not i.number]
    keys += list(attrs)
    row = f"{op.name}_aux" if aux else op.name
    sig = args[first].sig
    if not keys:
        setattr(sig, row, entry)
        return
    table = _row(sig, row)
    table[keys[0] if len(keys) == 1 else tuple(keys)] = entry


def _row(sig: Sig, name: str) -> dict[Any, Any]:
    """The entries of one op, emptied when they are many: keys such as slices come in any number."""
    table: dict[Any, Any] = vars(sig).setdefault(name, {})
    if len(table) >= MAX_ENTRIES:
        table.clear()
    return table


def _key(a: Any) -> Any:
    return a.sig if isinstance(a, Tensor) else None if a is None else a.__class__


def _reversed(op: Op, args: Any) -> Any:
    """number op tensor: the row belongs to the tensor's sig."""
    number, x = args
    cast = _cast_floats(op, args)
    if cast is not None:
        return REVERSED[op.name](cast[1], number)
    try:
        kernel, sig = lookup(op, args, ())
    except TreadleError as e:
        _annotate(e, op, args)
        raise
    _row(x.sig, f"r_{op.name}")[number.__class__] = (kernel.run, sig)
    return REVERSED[op.name](x, number)


REVERSED: dict[str, Any] = {}


# ---- decomposition -------------------------------------------------------------------------------------------------
def decomposed(call: Call) -> Any:
    """A callable over storages that runs a composite's decomposition on plain tensors; nothing is recorded."""
    op, attrs = call.op, call.attrs
    wanted = call.want

    def run(*storages: Any) -> Any:
        args = [Tensor(s, x) if isinstance(x, Sig) else s for s, x in zip(storages, call.ins, strict=True)]
        token = tape.GRAD_MODE.set(False)
        try:
            results = expanded(op, args, attrs, len(call.outs) > len(op.results))
        finally:
            tape.GRAD_MODE.reset(token)
        made = tuple(
            _own(op, r, spec, storages) if w else None for r, spec, w in zip(results, call.outs, wanted, strict=True)
        )
        return made[0] if len(made) == 1 else made

    return run


def _widened(op: Op, args: Any) -> Any:
    """Half-precision operands as float32 where the op's class promises one rounding.

    Products keep their type, which backends claim.
    """
    if op.num.kind not in ("ulp", "mixed") or not any(_is_half(a) for a in args):
        return args
    return tuple(CAST[0](a, dtypes.float32) if _is_half(a) else a for a in args)


def _is_half(a: Any) -> bool:
    return isinstance(a, Tensor) and a.dtype.kind == "f" and a.dtype.itemsize == 2


def expanded(op: Op, args: Any, attrs: dict[str, Any], with_aux: bool) -> tuple[Any, ...]:
    """Results of a decomposition on tensors, half-precision operands widened where the op's class promises it."""
    return _expand(op, _widened(op, args), attrs, with_aux)


def _expand(op: Op, args: Any, attrs: dict[str, Any], with_aux: bool) -> tuple[Any, ...]:
    """Results of a decomposition, and its aux values if asked for."""
    aux: tuple[Any, ...] = ()
    if op.aux is not None:
        by_name = dict(zip([i.name for i in op.inputs], args, strict=True))
        values = op.aux(
            *[by_name[i.name] for i in op.aux.inputs], **{k: v for k, v in attrs.items() if k in op.aux.attrs}
        )
        aux = values if isinstance(values, tuple) else (values,)
    raw = op.decompose(*args, *aux, **attrs)
    results = raw if isinstance(raw, tuple) else (raw,)
    return results + aux if with_aux else results


def _own(op: Op, r: Any, spec: Spec, storages: Any) -> Any:
    """The storage of a result: of the declared dtype, dense, and not one of the operands'."""
    if not isinstance(r, Tensor):
        raise TreadleError(f"{op.name}: its decomposition returned {type(r).__name__} instead of a tensor")
    if r.shape != spec.shape:
        raise ShapeError(f"{op.name}: its decomposition returned shape {r.shape}, declared is {spec.shape}")
    if r.dtype is not spec.dtype:
        r = CAST[0](r, spec.dtype)
    if isinstance(r, View) or any(r.storage is s for s in storages) or not is_dense(r.sig.shape, r.sig.strides):
        return copy_of(r)
    return r.storage


def copy_of(x: Tensor) -> Any:
    """A new dense storage with x's elements."""
    dense = dense_sig(x.dtype, x.shape, x.device)
    storage = dispatch.allocate(x.device, dense.nbytes, "copy")
    dispatch.copy_into(x.device, storage, dense, x.storage, x.sig)
    return storage


def inline(op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
    """A recorded call of an op without a rule: run its decomposition on the tape.

    One alias per operand keeps edges apart.
    """
    given = dict(zip(op.attrs, attrs, strict=False))  # without `want`: all results are made
    if op.promote:
        cast = _cast_floats(op, args)
        args = args if cast is None else cast
    wide = _widened(op, args)
    results = _expand(op, wide, given, False)
    if wide is not args:
        specs = op.spec(*[Spec(a.shape, a.dtype) if isinstance(a, Tensor) else a for a in args], **given)
        outs = (specs,) if isinstance(specs, Spec) else specs
        results = tuple(r if r.dtype is o.dtype else CAST[0](r, o.dtype) for r, o in zip(results, outs, strict=True))
    return results[0] if len(op.results) == 1 else results


# ---- views ---------------------------------------------------------------------------------------------------------
def resolve_view(op: Op, x: Tensor, attrs: tuple[Any, ...]) -> Any:
    """A view op at a new signature: run its layout rule, remember the sig; copy first where no layout exists."""
    if not isinstance(x, Tensor):
        raise DTypeError(f"{op.name}: operand 'x' must be a tensor, not {type(x).__name__}")
    tidy = tuple(_hashable(a) for a in attrs)
    layout = op.layout(x.shape, x.sig.strides, *tidy)
    if layout is None and x.sig.layout == "dense":
        raise ShapeError(f"{op.name}: no view of shape {x.shape} exists for {', '.join(map(str, tidy))}")
    if layout is None:
        return op.fn(COPY[0](x), *tidy)
    shape, strides, offset = layout
    sig = sig_of(x.dtype, shape, strides, x.device)
    offset = offset if sig.size else 0
    _row(x.sig, op.name)[tidy[0] if len(tidy) == 1 else tidy] = (sig, offset)
    return make_view(x, sig, offset)


COPY: list[Any] = []  # the op `copy`, put here at composition
