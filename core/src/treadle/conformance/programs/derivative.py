"""Whether the gradient that autograd finds is the slope of the program: central differences of its NumPy twin.

All floats become float64 first, so that differences mean something. Where the slope is not the same on both sides, or
changes with the step, there is a kink or a jump close by, and nothing is asked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from treadle.conformance.programs import twin
from treadle.conformance.programs.program import Program, Step, runner
from treadle.conformance.tensors import mapped
from treadle.dtypes import DType, float16, float32, float64
from treadle.errors import TreadleError
from treadle.op import CATALOGUE

STEP = 1e-5
CLOSE = 1e-3  # relative, of slopes
NARROW = (float16, float32)
WITHOUT = frozenset({"lists", "bits"})  # categories that have no gradient


class Slope(NamedTuple):
    """A wrong gradient: its slope along a direction (one array per leaf), and the program's."""

    claimed: float
    found: float
    ways: dict[str, Any]


def wrong_derivative(p: Program) -> Slope | None:
    """What is wrong with eager's gradient on the reference device, or None."""
    if any(s.form == "op" and _stops(s) for s in p.steps):
        return None
    wide = widened(p).but(calls=1)
    found, counted = _gradients(wide)
    if not counted:
        return None
    rng = np.random.default_rng(len(p.steps))
    ways = {x.name: rng.choice([-1.0, 1.0], x.array.shape) for x in wide.inputs if x.leaf}
    claimed = sum(float((g * ways[n]).sum()) for n, g in zip(p.leaves(), found, strict=True) if g is not None)

    def loss(h: float) -> float:
        moved = tuple(
            x._replace(array=np.asarray(x.array + h * ways[x.name]), place=_free(x.place)) if x.leaf else x
            for x in wide.inputs
        )
        results = twin.evaluate(wide.but(inputs=moved))[: len(p.outputs)]
        return float(sum((results[k].astype(np.float64) ** 2).sum() for k in counted))

    slope = _slope(claimed, loss)
    return None if slope is None else Slope(claimed, slope, ways)


def _stops(step: Step) -> bool:
    """Whether an op by its declaration has no gradient where its values do have a slope."""
    return CATALOGUE[step.what].category in WITHOUT or "padding_idx" in step.attrs


def _slope(claimed: float, loss: Callable[[float], float]) -> float | None:
    """The slope of the loss where it clearly is another one than is claimed, else None."""
    middle = loss(0.0)
    slopes = [(loss(h) - loss(-h)) / (2 * h) for h in (STEP, STEP / 2)]
    sides = [(loss(STEP) - middle) / STEP, (middle - loss(-STEP)) / STEP]
    scale = max(abs(claimed), *map(abs, slopes)) + 1e-6 * (1 + abs(middle))
    if not np.isfinite([*slopes, *sides, claimed]).all():
        return None
    steady = max(abs(slopes[0] - slopes[1]), abs(sides[0] - sides[1])) <= CLOSE * scale / 3
    return slopes[1] if steady and abs(claimed - slopes[1]) > CLOSE * scale else None


def _free(place: str) -> str:
    """A place in which elements may differ."""
    return "dense" if place == "expanded" else place


def _gradients(p: Program) -> tuple[list[Any], list[int]]:
    """Eager's gradients, and which results are part of the loss; none where floats stay narrow."""
    seen: list[list[Any]] = []

    def watched(f: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(f(*args))
            return seen[-1]

        return run

    try:
        found = runner(p)("reference", watched)
    except TreadleError:  # a value that is needed was written over, where the narrower program made a copy of it
        return [], []
    results = seen[-1][: len(p.outputs)]
    if any(y.dtype in NARROW for y in results):
        return [], []
    leaves = found[len(p.outputs) : len(p.outputs) + len(p.leaves())]
    return leaves, [k for k, y in enumerate(results) if y.requires_grad]


def widened(p: Program) -> Program:
    """The program with float64 in place of narrower floats."""
    inputs = tuple(x._replace(array=_wide(x.array)) for x in p.inputs)
    steps = tuple(
        s._replace(args=tuple(mapped(_wide, list(s.args))), attrs={k: _wide(v) for k, v in s.attrs.items()})
        for s in p.steps
    )
    return p.but(inputs=inputs, steps=steps)


def _wide(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return float64 if isinstance(value, DType) and value in NARROW else value
