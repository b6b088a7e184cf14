"""The plan of a graph within a budget of memory."""

from typing import Any

from treadle.compiler.lower import Plan
from treadle.compiler.memory import arena, lives
from treadle.compiler.passes.lean import lean, peak_of
from treadle.errors import ArgumentError
from treadle.ir.graph import Graph
from treadle.ir.rewrite import duplicate

Budget = int | float | None
TRIES = 4  # how often the target is corrected by what the plan took more than was judged


def checked(budget: Budget) -> Budget:
    """A budget as the user gave it: bytes, a fraction, or None."""
    right = (
        budget is None or (budget.__class__ is int and budget > 0) or (budget.__class__ is float and 0 < budget <= 1)
    )
    if not right:
        raise ArgumentError(f"compile: memory_budget must be bytes (int) or a fraction (float up to 1.0): {budget!r}")
    return budget


def working_bytes(plan: Plan) -> int:
    """Bytes that a call takes for its duration, besides inputs and outputs."""
    return arena(lives(plan)[0])[1]


def planned(graph: Graph, device: Any, donated: dict[int, int], budget: Budget) -> Plan:
    """The plan of a graph, which may be changed; ArgumentError where it does not fit a budget."""
    if budget is None:
        return Plan(lean(graph, device, donated), device, donated)
    plan = Plan(graph, device, donated)
    whole = least = working_bytes(plan)
    limit = budget if isinstance(budget, int) else int(budget * whole)
    target = peak_of(graph, device) - (whole - limit)  # what is judged differs from what the plan takes
    for _ in range(TRIES):
        if least <= limit:
            return plan
        plan = Plan(lean(duplicate(graph)[0], device, donated, max(target, 1)), device, donated)
        taken = working_bytes(plan)
        least, target = min(least, taken), target - (taken - limit)
    if least > limit:
        raise ArgumentError(
            f"compile: memory_budget={budget!r} ({limit} bytes) cannot be met: of {whole} bytes, {least} remain"
        )
    return plan
