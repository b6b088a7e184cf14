"""How a result is judged: by the class its op declares, in units that follow from the element type, the same for every
device.

exact     one rounding of the float64 value: equal bits, NaN in the same places, the sign of zero included
ulp       within so many units in the last place; 2 for half precision, which is computed in float32 and rounded once
contract  within c * eps of the accumulation type times the size of the terms (CONTRACT: sqrt(K) * sum of |a||b|), and
one mixed     rounding to the result's type; c is the declared limit. What is computed in float64 is allowed twice: so
is the oracle stepwise  the same with the eps of the element type itself: every step rounds to it
"""

from typing import Any, NamedTuple

import numpy as np

from treadle.conformance.oracle import Expected
from treadle.conformance.tensors import same_bits
from treadle.dtypes import DType, finfo, float32
from treadle.op import MIXED, Num

NARROW_ULP = 2.0
LOST = 128  # smallest normal numbers: what a formula may lose where an inner exponential overflows
GRADIENT = MIXED  # gradients, whatever the class of their op


class Verdict(NamedTuple):
    """Whether a result is right; where it is wrong first; the largest error in units of what is allowed."""

    ok: bool
    text: str
    worst: float


def judge(
    got: Any, want: Expected, num: Num, *, composite: bool = False, stepwise: bool = False, ftz: bool = False
) -> Verdict:
    """Compare one result with what is expected of it.

    composite: formulas may lose results that are next to nothing. stepwise: half precision rounded at every step of a
    decomposition.
    """
    if got.shape != want.spec.shape or got.dtype != want.spec.dtype.np:
        return Verdict(False, f"result is {got.dtype}{list(got.shape)}, declared is {want.spec}", np.inf)
    kind = want.spec.dtype
    with np.errstate(all="ignore"):
        if kind.kind != "f" or num.kind == "exact":
            return _bits(got, want.value.astype(kind.np), ftz, kind)
        exact = want.value.astype(np.float64)
        rounded = exact.astype(kind.np)
        allowed = _allowed_ulp(num, kind, rounded) if num.kind == "ulp" else _allowed_size(num, kind, want, stepwise)
        allowed = allowed + (LOST * finfo(_computed(kind)).tiny if composite or ftz else 0.0)
        error = np.abs(got.astype(np.float64) - exact)
        settled = ~np.isfinite(rounded.astype(np.float64)) | ~np.isfinite(got.astype(np.float64))
        ok = np.where(
            settled, same_bits(got, rounded) | (_overflows(got, exact, kind) & (error <= np.inf)), error <= allowed
        )
        units = np.where(settled, np.where(ok, 0.0, np.inf), error / np.where(allowed > 0, allowed, 1.0))
    worst = float(units.max()) if units.size else 0.0
    return Verdict(bool(ok.all()), "" if ok.all() else _describe(got, exact, ok, units), worst)


def _bits(got: Any, want: Any, ftz: bool, kind: DType) -> Verdict:
    ok = same_bits(got, want)
    if ftz and kind.kind == "f":
        ok = ok | ((got == 0) & (np.abs(want.astype(np.float64)) < finfo(kind).tiny))
    if ok.all():
        return Verdict(True, "", 0.0)
    return Verdict(False, _describe(got, want, ok, ~ok), np.inf)


def _computed(kind: DType) -> DType:
    """The type that half precision is computed in."""
    return float32 if kind.itemsize == 2 else kind


def _twice(limit: float, kind: DType) -> float:
    return 2 * limit if kind.itemsize == 8 else limit


def _allowed_ulp(num: Num, kind: DType, rounded: Any) -> Any:
    limit = min(num.limit, NARROW_ULP) if kind.itemsize == 2 else _twice(num.limit, kind)
    return limit * spacing(rounded, kind)


def spacing(values: Any, kind: DType) -> Any:
    """The distance from each value to the next one of its type, in float64."""
    info = finfo(kind)
    size = np.clip(np.abs(values.astype(np.float64)), info.tiny, info.max)
    return np.exp2(np.floor(np.log2(size))) * info.eps


def _allowed_size(num: Num, kind: DType, want: Expected, stepwise: bool) -> Any:
    accumulated = finfo(kind if stepwise else _computed(kind))
    allowed = _twice(num.limit, kind) * accumulated.eps * want.size + accumulated.tiny * accumulated.eps
    return allowed + spacing(want.value, kind) if kind.itemsize == 2 else allowed


def _overflows(got: Any, exact: Any, kind: DType) -> Any:
    """An infinity where the exact value is within rounding of the largest number, or the other way round."""
    wide = got.astype(np.float64)
    near = np.abs(exact) >= finfo(kind).max * (1 - 64 * finfo(kind).eps)
    return near & (np.sign(wide) == np.sign(exact)) & (np.abs(wide) >= finfo(kind).max * (1 - 64 * finfo(kind).eps))


def _describe(got: Any, want: Any, ok: Any, units: Any) -> str:
    bad = np.argwhere(~ok)
    at = tuple(int(i) for i in bad[0])
    share = f"{len(bad)} of {got.size} elements"
    worst = "" if units.dtype == bool else f", worst {float(units.max()):.3g} times what is allowed"
    return f"{share} differ{worst}; at {list(at)}: got {got[at]!r}, expected {want[at]!r}"
