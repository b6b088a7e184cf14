"""Backend: all that a plugin must supply. Six runtime methods make a device; every @kernel it declares is a claim.

    class MyBackend(Backend):
        def alloc(self, nbytes): ...                # -> storage: any object of your own, freed by its reference count
        def h2d(self, storage, data): ...           # bytes-like -> storage
        def d2h(self, storage, nbytes): ...         # storage -> bytes-like
        def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides): ...
        def view(self, storage, nbytes): ...        # a handle that points nbytes further into the same memory
        def synchronize(self): ...

        @kernel("add", dtypes=("float32",), layouts="dense")
        def add(self, call): return lambda a, b: ...    # asked once per signature; the result runs every call

Strides count elements, offsets bytes. A kernel factory returns `run(*storages) -> storage` (it allocates; a tuple for
several results), or `into(...)` for `run(*inputs, *outputs)`, or None to decline. Absent optional operands are not
passed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from treadle.dtypes import DType, dtype
from treadle.errors import ContractError
from treadle.op import Op
from treadle.sig import Sig, dense_sig
from treadle.spec import Spec

LAYOUTS = ("dense", "dense_inner", "matrix_t", "strided", "broadcast0")
Run = Callable[..., Any]


class Call(NamedTuple):
    """One op at one signature: what a backend is asked to bind."""

    op: Op
    ins: tuple[Any, ...]  # Sig | int, float, bool (a Python number is passed) | None (absent optional operand)
    outs: tuple[Spec, ...]  # results, then aux values
    attrs: dict[str, Any]
    want: tuple[bool, ...]  # which of outs are wanted


class Claim(NamedTuple):
    op: str
    dtypes: frozenset[DType] | None  # of the main operand; None: all the op allows
    layouts: tuple[frozenset[str], ...]  # one for all operands, or one each
    factory: Callable[..., Any]
    inplace: bool  # outputs may be exactly an input


class into:
    """Marks a bound kernel that writes into given outputs: `into(f)` with `f(*inputs, *outputs)`."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run


class both(into):
    """Marks a bound kernel that allocates when called with inputs only, and writes when given outputs too."""

    __slots__ = ()


class Bound(NamedTuple):
    """What `Backend.bind` answers: the kernel, the operand layouts it expects, and the claim it came from."""

    run: Any  # Run | into | both
    ins: tuple[Any, ...]
    claim: Claim


def _fit(claim: Claim, ins: tuple[Any, ...]) -> tuple[Any, ...]:
    out = []
    for k, x in enumerate(ins):
        accepted = claim.layouts[min(k, len(claim.layouts) - 1)]
        fits = not isinstance(x, Sig) or x.layout in accepted
        out.append(x if fits else dense_sig(x.dtype, x.shape, x.device))
    return tuple(out)


ACCEPTS = {
    "dense": frozenset({"dense"}),
    "dense_inner": frozenset({"dense", "dense_inner"}),
    "matrix_t": frozenset({"dense", "dense_inner", "matrix_t"}),
    "strided": frozenset(LAYOUTS),
    "broadcast0": frozenset({"dense", "broadcast0"}),
}


def kernel(
    name: str, *, dtypes: Iterable[Any] | None = None, layouts: Any = "dense", inplace: bool = False
) -> Callable[[Any], Any]:
    """Declare that the decorated factory provides op `name`: the claim that conformance will test.

    dtypes: of the main operand (names or DTypes). layouts: the layout class it takes, one for all operands or a tuple
    of one each; the core copies what does not fit. inplace: an output may be exactly an input.
    """
    each = (layouts,) if isinstance(layouts, str) else tuple(layouts)
    unknown = [c for c in each if c not in ACCEPTS]
    if unknown:
        raise ContractError(f"kernel {name}: unknown layout classes {unknown}; known: {', '.join(ACCEPTS)}")
    wanted = None if dtypes is None else frozenset(dtype(d) for d in dtypes)

    def declare(factory: Any) -> Any:
        claim = Claim(name, wanted, tuple(ACCEPTS[c] for c in each), factory, inplace)
        factory.claims = [*getattr(factory, "claims", []), claim]
        return factory

    return declare


class Backend:
    """Base class of backends.

    Optional methods have working defaults; a subclass lists kernels in methods or `kernel_modules`.
    """

    name = ""
    kernel_modules: Sequence[Any] = ()
    features: frozenset[str] = frozenset()  # e.g. "async"
    host = False  # its storages can be viewed by NumPy: host_view and wrap_host work
    copies = False  # it binds copy ops as a whole; otherwise they are put together with copy_strided
    claims: dict[str, list[Claim]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        claims: dict[str, list[Claim]] = {k: list(v) for k, v in cls.claims.items()}
        for source in (*cls.__dict__.get("kernel_modules", ()), cls):
            for value in list(vars(source).values()):
                for claim in getattr(value, "claims", ()) if callable(value) and not isinstance(value, type) else ():
                    claims.setdefault(claim.op, []).insert(0, claim)
        cls.claims = claims

    # ---- required --------------------------------------------------------------------------------------------------
    def alloc(self, nbytes: int) -> Any:
        """Return a storage of nbytes uninitialised bytes; MemoryError when there are none."""
        raise NotImplementedError

    def h2d(self, storage: Any, data: memoryview) -> None:
        """Copy host bytes to the start of a storage."""
        raise NotImplementedError

    def d2h(self, storage: Any, nbytes: int) -> Any:
        """Return the first nbytes of a storage as a bytes-like object, after all work on it."""
        raise NotImplementedError

    def copy_strided(
        self,
        dst: Any,
        src: Any,
        itemsize: int,
        shape: tuple[int, ...],
        dst_strides: tuple[int, ...],
        src_strides: tuple[int, ...],
    ) -> None:
        """Copy elements between two layouts on the same device. The regions do not overlap."""
        raise NotImplementedError

    def view(self, storage: Any, nbytes: int) -> Any:
        """Return a handle that points nbytes further into the same memory and keeps it alive.

        Back (nbytes < 0) from a reversed view.
        """
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait for all work; raise the first error that a kernel recorded."""

    # ---- optional --------------------------------------------------------------------------------------------------
    def device_count(self) -> int:
        return 1

    def supports(self, call: Call) -> Any:
        """Return True, or a text that says why this call is declined. May only narrow what is claimed."""
        return True

    def fill(self, storage: Any, pattern: bytes, count: int) -> None:
        """Write `count` copies of one element."""
        self.h2d(storage, memoryview(pattern * count))

    def host_view(self, storage: Any) -> Any:
        """Return a writable buffer of the storage's memory (host backends)."""
        raise NotImplementedError

    def wrap_host(self, buffer: Any) -> Any:
        """Return a storage over a writable host buffer, kept alive by it (host backends)."""
        raise NotImplementedError

    def compile(self, plan: Any) -> Any:
        """Return an executable for a lowered Graph (treadle.compiler.lower.Plan), or None to have it run step by step.

        It is called as `run(*storages of the inputs, *numbers)` and returns the storages of all outputs that are not
        donated, in order; it must be safe to call from several threads. Steps without `bound` are none of the backend's
        kernels: decompositions, and branches and loops, whose graphs it is asked about one by one.
        """
        return None

    def cut(self, storage: Any) -> Any:
        """Return what a detached tensor over a storage reads: the same memory, off any tape that the backend knows."""
        return storage

    def memory_stats(self, reset_peak: bool = False) -> dict[str, int]:
        """Return what the allocator knows: at least `live` and `peak` bytes, if anything.

        reset_peak: the peak begins anew at what is live now.
        """
        return {}

    def empty_cache(self) -> None:
        """Give memory that is kept for reuse back to the system."""

    def set_num_threads(self, n: int) -> None:
        """Use n threads (host backends with a pool)."""

    def get_num_threads(self) -> int:
        return 1

    # ---- supplied: binding by claims -------------------------------------------------------------------------------
    def candidates(self, op: Op) -> Sequence[Claim]:
        return self.claims.get(op.name, ())

    def bind(self, call: Call) -> "Bound | None":
        """Return the first claimed kernel that takes the call, with the operand layouts it needs; None when there is
        none.

        Asked once per signature. Operands in a layout that the claim does not accept appear to the factory as dense.
        """
        main = call.ins[call.op.main] if call.ins else None
        kind = main.dtype if isinstance(main, Sig) else call.outs[0].dtype
        for claim in self.candidates(call.op):
            if claim.dtypes is not None and kind not in claim.dtypes:
                continue
            fitted = call._replace(ins=_fit(claim, call.ins))
            if self.supports(fitted) is not True:
                continue
            run = claim.factory(self, fitted)
            if run is not None:
                return Bound(run, fitted.ins, claim)
        return None

    def claimed(self, op: str, kind: DType) -> bool:
        """Whether any kernel claims the op for a main operand of this dtype."""
        return any(c.dtypes is None or kind in c.dtypes for c in self.claims.get(op, ()))
