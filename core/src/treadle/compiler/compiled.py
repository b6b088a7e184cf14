"""td.compile: a function that is traced at the first call of a signature and then runs as one Graph."""

import contextlib
import functools
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from treadle import tape, tree
from treadle._tensor import Tensor
from treadle.autograd.grad_mode import is_grad_enabled
from treadle.compiler.budget import Budget, checked, planned, working_bytes
from treadle.compiler.call import dense, make_holds, make_run
from treadle.compiler.device import TRACE
from treadle.compiler.dynamic import signed, sized, symbolic
from treadle.compiler.execute import Stepper
from treadle.compiler.joint import Backward
from treadle.compiler.memory_plan import MemoryPlan
from treadle.compiler.passes import Pass, optimize
from treadle.compiler.trace import Traced, trace
from treadle.compiler.verify import Checked
from treadle.config import config
from treadle.creation import zeros
from treadle.errors import ArgumentError, AutogradError, DeviceError, TraceError
from treadle.ir.graph import Graph
from treadle.ir.rewrite import duplicate
from treadle.op import INTERPRETER, STATE, outside, tracing
from treadle.runtime.device import get_default_device

_TRACING = threading.RLock()  # one trace at a time: it looks at tensors that others may share


class Options(NamedTuple):
    """How a traced graph is made ready."""

    passes: tuple[Pass, ...] = ()
    budget: Budget = None


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """One thread at a time; the collector waits: what a trace makes stays alive, and looking through it takes time."""
    with _TRACING:
        on = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if on:
                gc.enable()


class Compiled:
    """A compiled function: one executable per signature of its arguments and state of what it closes over.

    traces counts how often the Python function was run to find a Graph. Attributes are those of the function, so that
    a compiled Module is used like the Module.
    """

    def __init__(self, f: Callable[..., Any], dynamic: bool | None, options: Options) -> None:
        self.f, self.dynamic, self.options = f, dynamic, options
        self.entries: dict[Any, list[Entry]] = {}
        self.general: dict[Any, list[Traced]] = {}  # traces with symbolic sizes
        self.flat: dict[Any, list[Entry]] = {}  # the same lists under keys that are cheap to make
        self.traces = 0
        functools.update_wrapper(self, f, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if STATE.special:
            if TRACE.get() is not None or tracing():  # inside of a trace or vmap it is part of that
                return self.f(*args, **kwargs)
            if (watcher := INTERPRETER.get()) is not None:
                return self._watched(watcher, args, kwargs)
        if not kwargs:
            try:  # tensors only: the common case, without a tree
                flat = (is_grad_enabled(), *[x.sig for x in args], *[x.node is None for x in args])
            except AttributeError:
                flat = ()
            for entry in self.flat.get(flat, ()):
                if entry.holds(args):
                    return entry.run(args)
        leaves, structure = tree.flatten((args, kwargs))
        key = (structure, is_grad_enabled(), *[_key(x) for x in leaves])
        try:
            entries = self.entries.get(key)
        except TypeError:
            text = "compile: arguments that are no tensors must be hashable; they are part of the signature"
            raise TraceError(text) from None
        for entry in entries or ():
            if entry.holds(leaves):
                return entry.run(leaves)
        with _tracing():
            fresh = next((e for e in self.entries.get(key, ()) if e.holds(leaves)), None)  # another thread was faster
            entry = fresh or self._trace(key, leaves, structure)
        if not kwargs and flat:
            self.flat[flat] = self.entries[key]
        return entry.run(leaves)

    def _watched(self, watcher: Any, args: Any, kwargs: Any) -> Any:
        """A call while an interpreter is current, which sees the executable as one thing."""
        with outside():
            entry, leaves = self._entry(args, kwargs)
            part = entry.forward
            return make_run(entry, leaves, lambda *operands: watcher.executed(part, operands))(leaves)

    def memory_plan(self, *args: Any, **kwargs: Any) -> MemoryPlan:
        """Return where the memory of a call with these arguments lies, and when; nothing is run.

        The function is traced, if it has not been for this signature.

        >>> import treadle as td
        >>> f = td.compile(lambda x: ((x @ x).exp() @ x).sum())
        >>> plan = f.memory_plan(td.ones(64, 64))
        >>> [b.nbytes for b in plan.buffers], plan.peak >= plan.lower_bound
        ([16384, 16384], True)
        >>> plan.to_svg().startswith("<svg")
        True
        """
        with outside():
            entry, _ = self._entry(args, kwargs)
        back = entry.backward
        return MemoryPlan(entry.forward.plan, None if back is None else MemoryPlan(back.plan))

    def _entry(self, args: Any, kwargs: Any) -> "tuple[Entry, list[Any]]":
        """The executable for a signature, traced if there is none yet, and the leaves of the arguments."""
        leaves, structure = tree.flatten((args, kwargs))
        key = (structure, is_grad_enabled(), *[_key(x) for x in leaves])
        with _tracing():
            found = next((e for e in self.entries.get(key, ()) if e.holds(leaves)), None)
            return found or self._trace(key, leaves, structure), leaves

    def _trace(self, key: Any, leaves: list[Any], structure: Any) -> "Entry":
        """Trace the function for one signature and remember what came out."""
        if self.entries and not self.dynamic:
            reason = self._reason(key)
            if self.dynamic is False and key not in self.entries:
                raise ArgumentError(f"compile: {self._name()} was compiled with dynamic=False and {reason}")
            if config.logs("recompiles"):
                print(f"treadle: {self._name()} is traced again: {reason}", file=sys.stderr)
        entry = self._sized(key, leaves, structure) if self.dynamic else None
        if entry is None:
            self.traces += 1
            entry = Entry(trace(self.f, leaves, structure), leaves, self.options)
        if not entry.apart(leaves):
            raise TraceError(
                f"compile: {self._name()} writes to a tensor whose memory an argument shares; pass that a clone()"
            )
        self.entries.setdefault(key, []).insert(0, entry)
        return entry

    def _sized(self, key: Any, leaves: list[Any], structure: Any) -> "Entry":
        """The executable for these sizes of a graph whose batch sizes are symbolic, traced if there is none yet."""
        shapes, env = symbolic(leaves)
        kinds = (k if s is None else (s, x.dtype, x.device) for k, s, x in zip(key[2:], shapes, leaves, strict=True))
        general = (*key[:2], *kinds)
        for found in self.general.get(general, ()):
            if make_holds(found.guards, signed(found.leaves), found.same, [])(leaves):
                return Entry(sized(found, env), leaves, self.options)
        self.traces += 1
        found = trace(self.f, leaves, structure, shapes=shapes)
        self.general.setdefault(general, []).append(found)
        return Entry(sized(found, env), leaves, self.options)

    @property
    def working_bytes(self) -> int:
        """The most memory that a call takes for its duration, besides arguments, parameters and results.

        Bytes, over all signatures that were called.
        """
        parts = [p for es in self.entries.values() for e in es for p in (e.forward, e.backward) if p is not None]
        return max((working_bytes(p.plan) for p in parts), default=0)

    def _name(self) -> str:
        return getattr(self.f, "__qualname__", type(self.f).__name__)

    def _reason(self, key: Any) -> str:
        """Why no entry fits: the difference to the closest signature seen, or what changed outside."""
        if key in self.entries:
            return self.entries[key][0].change()
        closest = min(self.entries, key=lambda k: sum(a != b for a, b in zip(k, key, strict=False)) + (k[0] != key[0]))
        if closest[0] != key[0]:
            return f"the arguments are put together differently: {key[0]!r}, before {closest[0]!r}"
        if closest[1] != key[1]:
            return f"gradients are {'on' if key[1] else 'off'}, before {'on' if closest[1] else 'off'}"
        parts = [
            f"argument leaf {n} is {_said(a)}, before {_said(b)}"
            for n, (a, b) in enumerate(zip(key[2:], closest[2:], strict=True))
            if a != b
        ]
        return "; ".join(parts)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else functools.partial(self, owner)

    def __getattr__(self, name: str) -> Any:
        if name == "f":
            raise AttributeError(name)
        return getattr(self.f, name)


def _key(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.sig, x.node is not None
    return x.__class__, repr(x) if x.__class__ is float else x  # 0.0 and -0.0 are equal, and NaN is not


def _said(key: Any) -> str:
    if isinstance(key[0], type):
        return f"{key[1]!r}"
    return f"{key[0]}{' that requires grad' if key[1] else ''}"


class Part:
    """A graph made ready to run on a device. donated: output index -> index of the input that it replaces."""

    def __init__(self, graph: Graph, device: Any, donated: dict[int, int], options: Options) -> None:
        before = duplicate(graph)[0] if config.verify else None
        self.plan = planned(optimize(graph, device, options.passes), device, donated, options.budget)
        self.run = device.backend.compile(self.plan) or Stepper(self.plan)
        if before is not None:
            self.run = Checked(self.run, self.plan, before)
        self.sigs = [p.sig for p in self.plan.inputs]
        self.outs = [p.sig for k, p in enumerate(self.plan.outputs) if k not in self.plan.donated]


class Entry:
    """One traced signature, ready to run."""

    def __init__(self, found: Traced, leaves: list[Any], options: Options = Options()) -> None:
        self.found = found
        self.guards = found.guards
        self.grads = signed(found.leaves)
        self.device = _device_of(found, leaves)
        self.written = _written(found)  # inputs that end with another value
        self.forward = Part(found.graph, self.device, {out: k for k, out in self.written.items()}, options)
        self.backward = None if found.backward is None else Part(found.backward.graph, self.device, {}, options)
        self.rule = None if found.backward is None else self._rule(found.backward)
        apart = _apart(found, self.written)
        self.holds = make_holds(self.guards, self.grads, found.same, apart)
        self.apart = make_holds([], [], [], apart)
        self.run = make_run(self, leaves)

    def change(self) -> str:
        """What no longer holds, in words."""
        for owner, name, value in self.guards:
            if getattr(owner, name) != value:
                return f"{name} of {type(owner).__name__} is {getattr(owner, name)!r}, before {value!r}"
        return (
            "a parameter's .grad is there where it was not, or the other way round, or other arguments than before are "
            "one and the same tensor"
        )

    # ---- differentiated from outside -------------------------------------------------------------------------------
    def record(self, outputs: list[Tensor], tensors: list[Any], storages: list[Any], made: Any) -> None:
        """Put the call on the tape: one node whose rule is the backward executable."""
        back = self.found.backward
        assert back is not None
        edges = [tensors[k].node for k in back.wanted]
        if not is_grad_enabled() or all(e is None for e in edges):
            return
        free = len(self.forward.plan.graph.outputs) - len(self.forward.outs)
        kept = [storages[k] if kind == "input" else made[k - free] for kind, k in back.residuals]
        versions = [(tensors[k], tensors[k]._version) for kind, k in back.residuals if kind == "input"]
        node = [tape.next_id(), self.rule, *edges, kept, versions]
        for position, k in enumerate(back.outputs):
            outputs[k].node = (node, position)

    def _rule(self, back: Backward) -> tape.Rule:
        part, name = self.backward, "compiled function"
        assert part is not None
        seeds = part.sigs[len(back.residuals) :]

        def run(node: list[Any], gs: list[Any]) -> list[Any]:
            if is_grad_enabled():
                raise AutogradError("compile: a compiled function can be differentiated once; compile the derivative")
            if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:  # gradients of a batch, say
                return list(i.each(lambda *given: tuple(run(node, list(given))), gs))
            kept, versions = node[-2:]
            if any(x._version != version for x, version in versions):
                raise tape.modified(name, "argument or parameter")
            given = [_or_zeros(g, s) for g, s in zip(gs, seeds, strict=True)]
            storages = [g.storage if g.sig is s else dense(g, s) for g, s in zip(given, seeds, strict=True)]
            return list(map(Tensor, part.run(*kept, *storages), part.outs))

        return tape.Rule(name, len(back.wanted), run, True, len(back.outputs))


def _or_zeros(g: Tensor | None, sig: Any) -> Tensor:
    return zeros(sig.shape, dtype=sig.dtype, device=sig.device) if g is None else g


def _written(found: Traced) -> dict[int, int]:
    """Input index -> index of the output that replaces its content."""
    where = {("arg", s.what) if s.kind == "arg" else (s.kind, id(s.what)): k for k, s in enumerate(found.sources)}
    out, k = {}, 0
    for kind, what, value in found.effects:
        if kind in ("state", "arg"):
            out[where[kind, what if kind == "arg" else id(what)]] = k
        k += value is not None
    return out


def _apart(found: Traced, written: dict[int, int]) -> list[tuple[int, Any]]:
    """(argument, another argument or ids of tensors from outside) that may not share memory: one of them is written."""
    args = [s.what for s in found.sources if s.kind == "arg"]
    ours = {found.sources[k].what for k in written if found.sources[k].kind == "arg"}
    states = frozenset(id(s.what.root) for s in found.sources if s.kind == "state")
    changed = frozenset(id(s.what.root) for k, s in enumerate(found.sources) if s.kind == "state" and k in written)
    out: list[tuple[int, Any]] = [(a, states if a in ours else changed) for a in args]
    out = [(a, ids) for a, ids in out if ids]
    return out + [(a, b) for a in args for b in args if a in ours and a != b and (b not in ours or a < b)]


def _fetch(kind: str, what: Any, leaves: list[Any]) -> Any:
    if kind == "arg":
        return leaves[what]
    return what if kind == "state" else what.grad if kind == "grad" else what()


def _device_of(found: Traced, leaves: list[Any]) -> Any:
    devices = {_fetch(kind, what, leaves).device for kind, what in found.sources if kind != "live"}
    if len(devices) > 1:
        raise DeviceError(f"compile: one device per compiled function: {', '.join(sorted(map(str, devices)))}")
    return devices.pop() if devices else get_default_device()


def compile(
    f: Any = None,
    *,
    dynamic: bool | None = None,
    passes: Sequence[Pass] = (),
    memory_budget: int | float | None = None,
) -> Any:
    """Return f (a function or a Module) as one that is traced once per signature and then runs as one Graph.

    Shapes, dtypes and devices of tensors and the values of other arguments form the signature; a new one is traced
    anew, or with dynamic=False refused by an ArgumentError. With dynamic=True the first axis of every tensor argument
    has a symbolic size: equal sizes are one symbol, and other sizes from 2 on are planned without tracing again.
    Parameters, buffers, optimizer state, learning rates and random states are read anew at every call and written
    back in place. TREADLE_LOG=recompiles says why something is traced again. TraceError where the function needs the
    value of a tensor while it is traced. passes are functions Graph -> Graph that rewrite what was traced, one after
    the other, before the passes of treadle.compiler.passes; GraphError names one that breaks a graph.

    memory_budget: the most bytes (an int), or the largest part (a float up to 1.0) of what the plan would take, that a
    call may use for inner values; what does not fit is computed again in backward. 1.0: nothing is; None: what costs
    about one percent of the time at most. ArgumentError, which names the least found, when that is more.

    memory_budget: the most bytes (an int), or the largest part (a float up to 1.0) of what the plan would take, that a
    call may use for inner values; what does not fit is computed again in backward. 1.0: nothing is; None: what costs
    about one percent of the time at most. ArgumentError, which names the least found, when that is more.

    >>> import treadle as td
    >>> @td.compile
    ... def f(x):
    ...     return (x * 2 + 1).sum()
    >>> f(td.ones(3)).item(), f(td.zeros(3)).item(), f.traces
    (9.0, 3.0, 1)
    """
    if f is None:
        return functools.partial(compile, dynamic=dynamic, passes=passes, memory_budget=memory_budget)
    return Compiled(f, dynamic, Options(tuple(passes), checked(memory_budget)))
