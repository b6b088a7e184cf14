"""From an op at a signature to one callable: ask for the op itself, else decompose, else (if allowed) run the reference
on the host.

Everything is decided here, once per signature; what comes out takes storages and returns storages.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.config import config
from treadle.errors import ArgumentError, OutOfMemoryError, UnsupportedError
from treadle.op import Op
from treadle.runtime import reference
from treadle.runtime.backend import Bound, Call, both, into
from treadle.shapes import extent
from treadle.sig import Sig, dense_sig, forget_rows
from treadle.spec import Spec

POLICIES = ("error", "warn", "allow")
FALLBACKS: Counter[tuple[str, str, str]] = Counter()  # (device, op, dtype) -> calls resolved to the host
_WARNED: set[tuple[str, str, str]] = set()


class Kernel(NamedTuple):
    """A resolved call. how: native, decomposed, host or copy."""

    run: Callable[..., Any]
    write: Callable[..., Any] | None  # (*inputs, *outputs), where outputs may be an input; None when only `run` exists
    how: str


class fallback:
    """Set what happens when a device has no kernel for an op: "error", "warn" (once per op and dtype) or "allow".

    As a function it sets the process default; as a context manager it holds inside.

    >>> import treadle as td
    >>> with td.fallback("error"):
    ...     (td.ones(2) + 1).sum().item()
    4.0
    """

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise ArgumentError(f"fallback: policy must be one of {', '.join(POLICIES)}: {policy!r}")
        self.before, config.fallback = config.fallback, policy
        forget_rows()

    def __enter__(self) -> "fallback":
        return self

    def __exit__(self, *exc: object) -> None:
        config.fallback = self.before
        forget_rows()


def allocate(device: Any, nbytes: int, what: str) -> Any:
    """Return a storage of nbytes; OutOfMemoryError naming what it was for."""
    try:
        return device.backend.alloc(nbytes)
    except OutOfMemoryError:
        raise
    except (MemoryError, OverflowError):
        raise OutOfMemoryError(f"{what}: {device} cannot allocate {nbytes} bytes") from None


def bind(
    op: Op,
    device: Any,
    ins: Sequence[Any],
    outs: Sequence[Spec],
    attrs: dict[str, Any],
    want: Sequence[bool],
    decomposed: Any,
) -> Kernel:
    """Resolve one call.

    `decomposed(op, ins, outs, attrs, want)` builds the decomposition's callable; the eager engine supplies it.
    """
    call = Call(op, tuple(ins), tuple(outs), attrs, tuple(want))
    backend = device.backend
    bound = backend.bind(call)
    if bound is not None:
        return _native(device, call, bound)
    if op.decompose is not None:
        return Kernel(decomposed(call), None, "decomposed")
    return Kernel(_host(device, call), None, "host")


def native(device: Any, call: Call, bound: Bound) -> Any:
    """A kernel whose operands already lie as it needs them, as a callable over those that are there."""
    present = call._replace(ins=tuple(x for x in call.ins if x is not None))
    return _native(device, present, bound._replace(ins=present.ins)).run


def _native(device: Any, call: Call, bound: Bound) -> Kernel:
    kernel = bound.run
    sizes = [o.nbytes if w else -1 for o, w in zip(call.outs, call.want, strict=True)]
    run: Any
    write: Any = None
    if isinstance(kernel, into):
        write = kernel.run
        run = write if isinstance(kernel, both) else _allocating(device, write, sizes, call.op.name)
    else:
        run = kernel
    prepare = [_copier(device, have, need) for have, need in zip(call.ins, bound.ins, strict=True)]
    if any(x is None for x in call.ins) or any(prepare):
        present = [x is not None for x in call.ins]
        run = _prepared(run, prepare, present)
        write = None
    if not bound.claim.inplace:
        write = None
    return Kernel(run, write, "native")


def _allocating(device: Any, write: Any, sizes: list[int], name: str) -> Any:
    alloc = device.backend.alloc
    if len(sizes) == 1:
        nbytes = sizes[0]

        def one(*ins: Any) -> Any:
            out = alloc(nbytes)
            write(*ins, out)
            return out

        return one

    def several(*ins: Any) -> Any:
        outs = tuple(None if n < 0 else alloc(n) for n in sizes)
        write(*ins, *outs)
        return outs

    return several


def _copier(device: Any, have: Any, need: Any) -> Any:
    """A function storage -> storage in the layout the kernel needs, or None when it already is."""
    if have is need or not isinstance(have, Sig):
        return None
    copy = device.backend.copy_strided
    alloc = device.backend.alloc

    def dense(storage: Any) -> Any:
        out = alloc(need.nbytes)
        copy(out, storage, have.dtype.itemsize, have.shape, need.strides, have.strides)
        return out

    return dense


def _prepared(run: Any, prepare: list[Any], present: list[bool]) -> Any:
    plan = [(p, k) for p, k in zip(prepare, present, strict=True)]
    if all(present):
        return lambda *s: run(*[p(x) if p else x for x, (p, _) in zip(s, plan, strict=True)])
    return lambda *s: run(*[p(x) if p else x for x, (p, here) in zip(s, plan, strict=True) if here])


# ---- the host ------------------------------------------------------------------------------------------------------
def _host(device: Any, call: Call) -> Any:
    """Run the NumPy reference on host copies, if the policy lets it; UnsupportedError otherwise."""
    op = call.op
    kind = next((x.dtype.name for x in call.ins if isinstance(x, Sig)), call.outs[0].dtype.name)
    if op.tier != "host":
        _permit(device, op, kind, call)
    if op.reference is None:
        raise UnsupportedError(f"{op.name}: {device} has no kernel for it and the op no reference or decomposition")
    outs = call.outs

    def run(*storages: Any) -> Any:
        arrays = [to_numpy(device, s, x) if isinstance(x, Sig) else s for s, x in zip(storages, call.ins, strict=True)]
        results = reference.compute(op, arrays, call.attrs, outs)
        made = tuple(from_numpy(device, r, op.name) for r in results)
        return made[0] if len(made) == 1 else made

    return run


def _permit(device: Any, op: Op, kind: str, call: Call) -> None:
    key = (str(device), op.name, kind)
    if config.fallback == "error":
        layouts = ", ".join(str(x) for x in call.ins if isinstance(x, Sig))
        raise UnsupportedError(
            f"{op.name}: {device} has no kernel for {kind} ({layouts}) and falling back to the host is forbidden; "
            f"td.fallback('warn') would allow it"
        )
    FALLBACKS[key] += 1
    if config.fallback == "warn" and key not in _WARNED:
        _WARNED.add(key)
        warnings.warn(
            f"treadle: {op.name} ({kind}) has no kernel on {device}; it runs on the host", RuntimeWarning, stacklevel=6
        )


def to_numpy(device: Any, storage: Any, sig: Sig) -> Any:
    """Copy a tensor's elements to a new host array."""
    low, _ = extent(sig.shape, sig.strides)
    if sig.layout != "dense" or low < 0:
        dense = dense_sig(sig.dtype, sig.shape, device)
        out = allocate(device, dense.nbytes, "copy to host")
        if sig.size:
            device.backend.copy_strided(out, storage, sig.dtype.itemsize, sig.shape, dense.strides, sig.strides)
        storage, sig = out, dense
    if not sig.size:
        return np.empty(sig.shape, sig.dtype.np)
    raw = bytearray(device.backend.d2h(storage, sig.nbytes))
    return np.frombuffer(raw, sig.dtype.np).reshape(sig.shape)


def from_numpy(device: Any, array: Any, what: str) -> Any:
    """Copy a host array to a new storage, dense."""
    array = np.ascontiguousarray(array)
    storage = allocate(device, array.nbytes, what)
    if array.size:
        device.backend.h2d(storage, memoryview(array.reshape(-1).view(np.uint8)))
    return storage


def copy_into(device: Any, dst: Any, dst_sig: Sig, src: Any, src_sig: Sig) -> None:
    """Copy elements of one shape between layouts on a device."""
    if dst_sig.size:
        device.backend.copy_strided(dst, src, dst_sig.dtype.itemsize, dst_sig.shape, dst_sig.strides, src_sig.strides)


def fill(device: Any, storage: Any, value: Any, spec: Spec | Sig) -> None:
    """Set every element of a dense storage to a Python number."""
    if spec.size:
        device.backend.fill(storage, np.asarray(value).astype(spec.dtype.np).tobytes(), spec.size)


def assemble(op: Op, device: Any, ins: Sequence[Any], out: Spec, attrs: dict[str, Any]) -> Any:
    """The kernel of a copy op: an allocation, a fill where the op has a number operand, and one copy per region."""
    backend = device.backend
    if backend.copies:
        return backend.bind(Call(op, tuple(ins), (out,), attrs, (True,))).run
    specs = [Spec(x.shape, x.dtype) for x in ins if isinstance(x, Sig)]
    regions = op.layout(out, *specs, **attrs)
    copy, alloc, nbytes, item = backend.copy_strided, backend.alloc, out.nbytes, out.dtype.itemsize
    plan = [(k, ins[k].shape, layout[1], ins[k].strides, layout[2] * item) for k, layout in regions if ins[k].size]
    filled = any(not isinstance(x, Sig) for x in ins)

    def run(*operands: Any) -> Any:
        storage = alloc(nbytes)
        if filled:
            fill(device, storage, operands[-1], out)
        for k, shape, dst_strides, src_strides, offset in plan:
            copy(
                backend.view(storage, offset) if offset else storage, operands[k], item, shape, dst_strides, src_strides
            )
        return storage

    return run
