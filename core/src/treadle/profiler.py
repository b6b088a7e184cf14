"""Where time goes: every op of eager code and every step of compiled functions, with work and memory.

    with td.profiler.profile() as p:
        step(x, t)
    print(p.table())
    p.export("trace.json")      # for chrome://tracing or ui.perfetto.dev

Times are those of the calls, as they are made one after the other: for eager ops they include Python's share.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from treadle import creation
from treadle._tensor import Tensor
from treadle.op import CATALOGUE, INTERPRETER, Interpreter, Op, interpreting, outside
from treadle.spec import Spec
from treadle.tree import leaves


class Event(NamedTuple):
    """One call. start and length in nanoseconds; flops and bytes as the op's declaration and operands say."""

    name: str
    kind: str  # eager or compiled
    start: int
    length: int
    flops: int
    bytes: int
    live: int  # bytes of the device's memory in use afterwards, 0 where the backend does not say
    thread: int
    line: str


class Row(NamedTuple):
    """All calls of one op together."""

    name: str
    kind: str
    calls: int
    seconds: float
    flops: int
    bytes: int


class Limits(NamedTuple):
    """What a device sustains here and now: arithmetic in a matrix product, memory traffic in an addition."""

    flops_per_second: float
    bytes_per_second: float


class profile(Interpreter):
    """Context manager that notes every op inside; `rows`, `table`, `export` say what it saw.

    >>> import treadle as td
    >>> with td.profiler.profile() as p:
    ...     y = td.ones(8, 8) @ td.ones(8, 8)
    >>> [(r.name, r.calls, r.flops) for r in p.rows()]
    [('matmul', 1, 1024)]
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.device: Any = None

    def __enter__(self) -> "profile":
        self._scope = interpreting(self)
        self._scope.__enter__()
        self.began = time.perf_counter_ns()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended = time.perf_counter_ns()
        self._scope.__exit__(*exc)

    # ---- noting ----------------------------------------------------------------------------------------------------
    def __call__(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        if op.tier == "view":
            return self.plainly(op, args, attrs)
        given = dict(zip(op.attrs, attrs, strict=False))
        return self.watched(op, args, given, lambda: self.plainly(op, args, attrs))

    def watched(self, op: Op, args: Any, attrs: dict[str, Any], call: Callable[[], Any]) -> Any:
        """Make a call and note it."""
        with outside():  # what it consists of is not noted again
            start = time.perf_counter_ns()
            out = call()
        tensors = [x for x in leaves([args, out]) if isinstance(x, Tensor)]
        device = tensors[0].device if tensors else creation._place(None)
        if "async" in device.backend.features:
            device.backend.synchronize()
        end = time.perf_counter_ns()
        self.device = self.device or device
        ins = [Spec(x.shape, x.dtype) if isinstance(x, Tensor) else x for x in args]
        outs = [Spec(x.shape, x.dtype) for x in leaves([out]) if isinstance(x, Tensor)]
        nbytes = sum(x.sig.nbytes for x in tensors)
        self._event(op.name, "eager", start, end - start, _flops(op, ins, outs, attrs), nbytes, "")
        return out

    def executed(self, part: Any, operands: tuple[Any, ...]) -> Any:
        """Run a compiled graph and note its steps, where its executable can time them; else the whole as one event."""
        timed = getattr(getattr(part.run, "__self__", None), "timed", None)
        self.device = self.device or part.plan.device
        start = time.perf_counter_ns()
        if timed is None:
            out = part.run(*operands)
            self._event("graph", "compiled", start, time.perf_counter_ns() - start, 0, 0, "")
            return out
        out, times = timed(*operands)
        for step, length in zip(part.plan.steps, times, strict=True):
            self._step(step, start, length)
            start += length
        return out

    def _step(self, step: Any, start: int, length: int) -> None:
        places = [p for p in (*step.ins, *step.outs) if hasattr(p, "sig")]
        nbytes = sum(p.sig.nbytes for p in places)
        if step.call is None:
            self._event("copy", "compiled", start, length, 0, nbytes, "")
            return
        call = step.call
        ins = [Spec(x.shape, x.dtype) if hasattr(x, "shape") else x for x in call.ins]
        outs = [o if w else None for o, w in zip(call.outs, call.want, strict=True)]
        flops = _flops(call.op, ins, outs, call.attrs)
        self._event(call.op.name, "compiled", start, length, flops, nbytes, step.line)

    def _event(self, name: str, kind: str, start: int, length: int, flops: int, nbytes: int, line: str) -> None:
        live = self.device.backend.memory_stats().get("live", 0) if self.device is not None else 0
        self.events.append(Event(name, kind, start, length, flops, nbytes, live, threading.get_ident(), line))

    # ---- what was seen ---------------------------------------------------------------------------------------------
    def rows(self) -> list[Row]:
        """One row per op and kind, the one that took longest first."""
        sums: dict[tuple[str, str], list[int]] = {}
        for e in self.events:
            row = sums.setdefault((e.name, e.kind), [0, 0, 0, 0])
            for k, v in enumerate((1, e.length, e.flops, e.bytes)):
                row[k] += v
        found = [Row(name, kind, n, t / 1e9, f, b) for (name, kind), (n, t, f, b) in sums.items()]
        return sorted(found, key=lambda r: -r.seconds)

    def table(self, limits: Limits | None = None, top: int = 30) -> str:
        """The rows as text. limits: what the device can do (`limits()` measures it); then a last column says how near
        the time is to the least that arithmetic or memory traffic allow."""
        rows, whole = self.rows(), max(self.ended - self.began, 1) / 1e9
        head = (
            f"{'op':26} {'kind':9} {'calls':>7} {'time':>10} {'share':>6} {'per call':>10} {'GFLOP/s':>8} {'GB/s':>7}"
        )
        lines = [head + ("  limit" if limits else "")]
        for r in rows[:top]:
            rate, traffic = r.flops / max(r.seconds, 1e-12) / 1e9, r.bytes / max(r.seconds, 1e-12) / 1e9
            text = (
                f"{r.name:26} {r.kind:9} {r.calls:7} {_human(r.seconds):>10} {r.seconds / whole:6.1%} "
                f"{_human(r.seconds / r.calls):>10} {rate:8.1f} {traffic:7.1f}"
            )
            if limits is not None:
                least = max(r.flops / limits.flops_per_second, r.bytes / limits.bytes_per_second)
                text += f"  {least / max(r.seconds, 1e-12):5.0%}"
            lines.append(text)
        noted = sum(r.seconds for r in rows)
        lines.append(f"{len(self.events)} calls, {_human(noted)} in them, {_human(whole)} from beginning to end")
        return "\n".join(lines)

    __str__ = table

    def export(self, path: str | Path) -> None:
        """Write a trace in the Chrome trace event format (JSON), with the memory in use as a counter."""
        events: list[dict[str, Any]] = []
        for e in self.events:
            given = {"flops": e.flops, "bytes": e.bytes} | ({"line": e.line} if e.line else {})
            at = (e.start - self.began) / 1e3
            shared = {"pid": 1, "tid": e.thread, "ts": at}
            events.append({"name": e.name, "cat": e.kind, "ph": "X", "dur": e.length / 1e3, "args": given, **shared})
            if e.live:
                after = {**shared, "ts": at + e.length / 1e3}
                events.append({"name": "memory", "ph": "C", "args": {"live bytes": e.live}, **after})
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))


def _flops(op: Op, ins: Any, outs: Any, attrs: dict[str, Any]) -> int:
    if op.category == "lists" or any(i.many for i in op.inputs):
        return sum(s.size for s in ins if isinstance(s, Spec))
    return op.flops(ins, outs, attrs)


def _human(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def limits(device: Any = None) -> Limits:
    """Measure what a device sustains: a float32 product of 768 × 768, and an addition over 32 MB. About 0.1 s.

    >>> import treadle as td
    >>> td.profiler.limits().flops_per_second > 0
    True
    """
    place = creation._place(device)
    a = creation.ones(768, 768, device=place)
    x = creation.ones(1 << 22, device=place)
    matmul, add = CATALOGUE["matmul"].fn, CATALOGUE["add"].fn
    product = _best(place, lambda: matmul(a, a))
    traffic = _best(place, lambda: add(x, x))
    return Limits(2 * 768**3 / product, 3 * x.sig.nbytes / traffic)


def _best(place: Any, call: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        place.backend.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def watcher() -> Any:
    """The profile that is current in this context, or None."""
    found = INTERPRETER.get()
    return found if isinstance(found, profile) else None
