"""Whether a device agrees about a program: compiled on it, against eager on the reference device and against NumPy.

Results of exact ops alone must have equal bits. All others may be apart by a few times what rounding does to them on
the noisy device; where rounding decides an integer or a truth value, nothing is asked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from treadle import dtypes
from treadle.compiler.compiled import compile
from treadle.conformance.programs import twin
from treadle.conformance.programs.derivative import Slope, wrong_derivative
from treadle.conformance.programs.noise import noisy_device
from treadle.conformance.programs.program import Program, names, runner
from treadle.conformance.tensors import same_bits
from treadle.conformance.tolerances import LOST, spacing
from treadle.dtypes import finfo
from treadle.errors import DimError, TraceError, TreadleError

NOISY = 4  # runs on the noisy device
TIMES = 3.0  # what those runs show is allowed so many times
FLOOR = 4  # and so many units in the last place, where those runs by chance agree
EAGER, NUMPY, RAISES, DERIVATIVE, REFUSED = "eager", "numpy", "raises", "derivative", "refused"
GRADIENT = "the gradient"  # how the names of gradients begin
REFUSALS = (TreadleError, ArithmeticError, IndexError, NotImplementedError)
SYMBOLIC = (DimError, TraceError)  # what a function with symbolic sizes may be refused with


class Fault(NamedTuple):
    """What is wrong. kind: eager (not what eager gives), numpy (not what NumPy gives), raises (an exception where eager
    has none), derivative (eager's own gradient is not the slope), refused (eager refuses, so it is no program)."""

    kind: str
    text: str
    which: int = -1  # of the arrays that a run gives back
    got: Any = None
    want: Any = None
    allowed: Any = None

    def like(self, other: "Fault | None") -> bool:
        """Whether another fault is of the same kind."""
        if other is None or other.kind != self.kind:
            return False
        return self.kind != RAISES or self.text.split(":")[0] == other.text.split(":")[0]


def wrapper(p: Program) -> Callable[[Any], Any]:
    """What a program is compiled with."""
    return lambda f: compile(f, dynamic=True if p.dynamic else None)


def examine(p: Program, device: str, only: str = "") -> tuple[Fault | None, float]:
    """(what is wrong with a device's compiled program, the largest error in units of what is allowed).

    only: look for faults of one kind, which is faster.
    """
    run = runner(p)
    with np.errstate(all="ignore"):
        try:
            want = run("reference", lambda f: f)
        except REFUSALS as e:
            return Fault(REFUSED, f"{type(e).__name__}: {e}"), 0.0
        try:
            got = run(device, wrapper(p))
        except Exception as e:  # whatever a backend raises is this program's failure, not the suite's
            if p.dynamic and isinstance(e, SYMBOLIC):
                return None, 0.0
            return Fault(RAISES, f"{type(e).__name__}: {e}"), np.inf
        bounds = Bounds(p, run, want)
        fault, worst = _compared(p, EAGER, got, want, bounds, device) if only in ("", EAGER) else (None, 0.0)
        if fault is None and only in ("", NUMPY):
            fault, more = _compared(p, NUMPY, got, expected(p), bounds, device)
            worst = max(worst, more)
        if fault is None and only in ("", DERIVATIVE) and p.gradient:
            fault = _slope_fault(wrong_derivative(p))
    return fault, worst if fault is None else np.inf


def _slope_fault(slope: Slope | None) -> Fault | None:
    if slope is None:
        return None
    text = f"the gradient in eager has the slope {slope.claimed:.9g} where the program has {slope.found:.9g}"
    return Fault(DERIVATIVE, text, -1, slope.claimed, slope.found, slope.ways)


def expected(p: Program) -> list[Any]:
    """What NumPy gives; None for gradients."""
    made = iter(twin.evaluate(p))
    return [None if name.startswith(GRADIENT) else next(made) for name in names(p)]


# ---- what is allowed -----------------------------------------------------------------------------------------------
class Bounds:
    """Per array how far each element may be off: 0 for equal bits, infinity where nothing is asked.

    Found out only when something is not equal. Noise may lead a program where it is refused; then nothing is asked.
    """

    def __init__(self, p: Program, run: Any, want: list[Any]) -> None:
        self.p, self.run, self.want = p, run, want
        self.noisy: list[list[Any]] | None = None
        strict = iter(twin.exact(p))
        self.exact = [not name.startswith(GRADIENT) and next(strict) for name in names(p)]

    def __getitem__(self, k: int) -> Any:
        want = self.want[k]
        if want is None or self.exact[k]:
            return 0.0
        if self.noisy is None:
            try:
                self.noisy = [self.run(noisy_device(n), lambda f: f) for n in range(NOISY)]
            except REFUSALS:
                self.noisy = []
        return _bound(want, [n[k] for n in self.noisy]) if self.noisy else np.inf


def _bound(want: Any, noisy: list[Any]) -> Any:
    others = [np.zeros_like(want) if n is None else n for n in noisy]
    if want.dtype.kind != "f":
        return np.where(np.logical_or.reduce([n != want for n in others]), np.inf, 0.0)
    kind = dtypes.dtype(want.dtype)
    wide = want.astype(np.float64)
    spread = np.max([np.abs(n.astype(np.float64) - wide) for n in others], axis=0)
    spread = np.where(np.isfinite(spread), spread, np.inf)
    spread = np.where(np.isfinite(wide) | ~np.isfinite(spread), spread, np.inf)
    # four runs agree by chance in one of thousands of elements: what its neighbours show counts for half
    neighbours = 0.5 * np.max(spread, initial=0.0, where=np.isfinite(spread))
    spread = np.maximum(spread, neighbours)
    return TIMES * spread + FLOOR * spacing(np.where(np.isfinite(want), want, 0), kind) + LOST * finfo(kind).tiny


def _compared(
    p: Program, kind: str, got: list[Any], want: list[Any], bounds: Bounds, device: str
) -> tuple[Fault | None, float]:
    worst = 0.0
    against = {EAGER: "eager on the reference device", NUMPY: "NumPy"}[kind]
    for k, (y, w) in enumerate(zip(got, want, strict=True)):
        if (y is None and w is None) or (w is None and kind == NUMPY):
            continue
        y, w = (np.zeros_like(b) if a is None else a for a, b in ((y, w), (w, y)))  # no gradient is one of zeros
        what = f"{names(p)[k]}: compiled on {device}, against {against}"
        if y.shape != w.shape or y.dtype != w.dtype:
            return Fault(
                kind, f"{what}: {y.dtype}{list(y.shape)} instead of {w.dtype}{list(w.shape)}", k, y, w, 0.0
            ), 0.0
        if y.tobytes() == w.tobytes():
            continue
        bound = np.broadcast_to(bounds[k], w.shape)
        ok, units = _within(y, w, bound)
        if not ok.all():
            at = tuple(int(i) for i in np.argwhere(~ok)[0])
            text = f"{what}: {int((~ok).sum())} of {y.size} elements differ; at {list(at)}: {y[at]!r}, not {w[at]!r}"
            return Fault(kind, text, k, y, w, bound), 0.0
        worst = max(worst, units)
    return None, worst


def _within(got: Any, want: Any, bound: Any) -> tuple[Any, float]:
    """(which elements are right, the largest error in units of what is allowed)."""
    same = same_bits(got, want)
    if got.dtype.kind != "f":
        return same | (bound > 0), 0.0
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    loose = np.isfinite(bound) & (bound > 0) & ~same
    units = float((error[loose] / bound[loose]).max()) if loose.any() else 0.0
    return same | ((bound > 0) & (error <= bound)) | np.isinf(bound), units
