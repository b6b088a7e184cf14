"""A device that rounds badly on purpose: how far correct devices may be apart is seen by running a program on it.

Every kernel's float results are moved by about as much as their numeric class allows, up or down at random, and
arithmetic by one unit in the last place, since formulas may be evaluated in other orders. Runs with other seeds differ
by what rounding errors become on their way through a program: where things cancel they grow, and where a comparison
depends on them its result changes, so that nothing is asked of it (Monte Carlo arithmetic, Parker 1997).
"""

from typing import Any

import numpy as np

from treadle.conformance.magnitude import RULES
from treadle.conformance.tolerances import spacing
from treadle.dtypes import DType, dtype, finfo
from treadle.op import Op
from treadle.runtime import plugins
from treadle.runtime.backend import ACCEPTS, Call, Claim, into
from treadle.runtime.device import device as Device
from treadle.runtime.reference import ReferenceBackend, compute, operand_array

NAME = "conformance_noise"
ROUNDS = frozenset(
    {"add", "sub", "mul", "div", "true_div", "sqrt", "square", "reciprocal"}
)  # exact, but for the last bit
MOVES = frozenset({"set", "min", "max"})  # modes of a scatter that compute nothing


class NoisyBackend(ReferenceBackend):
    """The reference of every kernel op, and noise; composites that round more than once decompose."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.sign = 1.0

    def candidates(self, op: Op) -> Any:
        whole = op.tier == "kernel" or (op.num.kind == "exact" and op.reference is not None)
        return [Claim(op.name, None, (ACCEPTS["strided"],), _bind, True)] if whole else []


def _bind(backend: Any, call: Call) -> Any:
    def run(*storages: Any) -> None:
        rest = iter(storages)
        arrays = [operand_array(c, rest) for c in call.ins]
        results = compute(call.op, arrays, call.attrs, call.outs)
        for k, (spec, y) in enumerate(zip(call.outs, results, strict=True)):
            if spec.dtype.kind == "f" and k == 0:
                y = _moved(backend, call, arrays, y, spec.dtype)
            next(rest)[: y.nbytes] = y.reshape(-1).view(np.uint8)

    return into(run)


def _moved(backend: Any, call: Call, arrays: list[Any], y: Any, kind: DType) -> Any:
    with np.errstate(all="ignore"):
        amount = _amount(call, arrays, y, kind)
        if amount is None:
            return y
        rng = backend.rng
        signed = rng.uniform(0.5, 1.0, y.shape) * rng.choice([-backend.sign, backend.sign], y.shape)
        moved = y.astype(np.float64) + signed * np.where(np.isfinite(amount), amount, 0.0)
        return np.ascontiguousarray(moved.astype(y.dtype))


def _amount(call: Call, arrays: list[Any], y: Any, kind: DType) -> Any:
    """How far a result may be off; None where nothing is computed."""
    num = call.op.num
    if num.kind == "exact":
        return np.where(y == 0, 0.0, spacing(y, kind)) if call.op.name in ROUNDS else None
    if num.kind == "ulp":
        return np.where(y == 0, 0.0, num.limit * spacing(y, kind))
    if call.attrs.get("mode") in MOVES:
        return None
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]
    sizes = [np.abs(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in wide]
    return num.limit * finfo(dtype(y.dtype)).eps * RULES[call.op.name]([y], wide, sizes, call.attrs)


def noisy_device(run: int) -> str:
    """The device's name, its noise begun anew: every second run is moved the other way than the one before."""
    if NAME not in plugins.REGISTRY.providers:
        plugins.register_backend(NAME, NoisyBackend, host=True)
    backend = Device(NAME).backend
    backend.rng, backend.sign = np.random.default_rng(run // 2), 1.0 if run % 2 else -1.0
    return NAME
