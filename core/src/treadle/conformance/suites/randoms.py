"""graph: random programs, compiled on the device, against eager on the reference device and against NumPy.

A case's id, `random/SEED/NUMBER`, is all there is to make its program again.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from treadle.conformance.case import PASSED, Block, Case, Outcome
from treadle.conformance.programs.check import DERIVATIVE, examine
from treadle.conformance.programs.derivative import widened
from treadle.conformance.programs.generate import generate
from treadle.conformance.programs.script import script
from treadle.conformance.programs.shrink import shrink

NAME = "random"
SEED, COUNT = 0, 100  # of a run that does not say otherwise


def blocks(seed: int = SEED, count: int = COUNT) -> Iterator[Block]:
    """All programs of a seed are one block."""
    if count:
        yield Block(f"{NAME}/{seed}", partial(cases, seed, count))


def cases(seed: int, count: int) -> list[Case]:
    """The first programs of a seed, which are made when they are run."""
    return [Case(f"{NAME}/{seed}/{n}", check_program, option=(seed, n)) for n in range(count)]


def named(id: str) -> tuple[int, int]:
    """(seed, how many programs are needed to have this case among them); the defaults for an id of another suite."""
    name, *rest = id.split("/")
    if name == NAME and len(rest) == 2 and all(word.isdecimal() for word in rest):
        return int(rest[0]), int(rest[1]) + 1
    return SEED, COUNT


def check_program(case: Case, device: Any) -> Outcome:
    """The compiled program and its gradients give what eager on the reference device gives, and what NumPy gives."""
    fault, worst = examine(generate(*case.option), device.type)
    if fault is None:
        return Outcome(PASSED.status, "", worst)
    return Outcome("F", fault.text, np.inf)


def repro(case: Case, device: str) -> str:
    """A script that shows the fault in as few lines as were found in some seconds."""
    p = generate(*case.option)
    fault, _ = examine(p, device)
    if fault is None:
        return f"# {case.id} passes when it is run again"
    p, fault = shrink(p, device, fault)
    if fault.kind == DERIVATIVE:
        p = widened(p).but(calls=1)
    return script(p, device, fault, f"random program {case.id} of the conformance suite")
