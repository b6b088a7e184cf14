"""A random program from a seed.

Every step is tried in eager on the reference device and kept if it is allowed there and gives numbers of a usual size;
so what comes out is a program that eager runs. Which lines there may be is in `lines`; here they are put together.
"""

from collections.abc import Callable

import numpy as np

from treadle.conformance.programs.lines import FORMS, Draw
from treadle.conformance.programs.program import INSIDE, OUTSIDE, Program, Step, runner
from treadle.conformance.programs.session import REFUSALS, Session, usual
from treadle.errors import TreadleError

LEAST, MOST = 2, 16  # steps
MOST_OUTPUTS = 4
TRIES = 50  # lines tried per program
STEEPEST = 1e6  # of gradients: above, rounding is all there is to see


def generate(seed: int, number: int) -> Program:
    """Program `number` of a seed: the same for every device and run, as long as the declarations are the same."""
    rng = np.random.default_rng([seed, number])
    while True:
        made = _attempt(rng)
        if made is not None:
            return made


def _attempt(rng: np.random.Generator) -> Program | None:
    gradient = str(rng.choice(["", INSIDE, OUTSIDE], p=[0.4, 0.35, 0.25]))
    session = Session()
    draw = Draw(rng, session, bool(gradient))
    draw.first_inputs()
    wanted = int(rng.integers(LEAST, MOST + 1))
    forms = [f for f, _ in FORMS]
    weights = np.array([w for _, w in FORMS])
    for _ in range(TRIES):
        if len(session.steps) >= wanted:
            break
        line: Callable[[Draw], Step | None] = forms[rng.choice(len(forms), p=weights / weights.sum())]
        keep = session.mark()
        step = line(draw)
        if step is None or not session.try_step(step):
            session.back_to(keep)
        if session.spoilt:
            return None
    return _finished(rng, session, gradient) if session.steps else None


def _finished(rng: np.random.Generator, session: Session, gradient: str) -> Program | None:
    made = [name for step in session.steps for name in step.results]
    read = {name for step in session.steps for name in step.reads()}
    outputs = [n for n in made if n not in read and rng.random() < 0.7][-MOST_OUTPUTS:]
    if not outputs or rng.random() < 0.25:
        outputs.append(str(rng.choice(made if made and rng.random() < 0.8 else list(session.values))))
    if rng.random() < 0.9:
        outputs = list(dict.fromkeys(outputs))  # else one of them may be there twice
    used = {n for step in session.steps for n in step.reads()} | set(outputs)
    inputs = tuple(x for x in session.inputs if x.name in used)
    p = Program(inputs, tuple(session.steps), tuple(outputs), gradient)
    if gradient and not _has_gradient(p):
        p = p.but(gradient="", inputs=tuple(x._replace(leaf=False) for x in inputs))
    return p if _runs_again(p) else None


def _runs_again(p: Program) -> bool:
    """Whether the second call is allowed too, with what the first has written into inputs that are closed over."""
    if not any(x.closed for x in p.inputs) or not any(s.writes for s in p.steps):
        return True
    try:
        return all(usual(a) for a in runner(p.but(gradient=""))("reference", lambda f: f))
    except REFUSALS:
        return False


def _has_gradient(p: Program) -> bool:
    """Whether eager finds finite gradients that are not huge."""
    if not p.leaves():
        return False
    try:
        found = runner(p)("reference", lambda f: f)
    except (TreadleError, TypeError, NotImplementedError):  # no gradient, or a value that it needs was written over
        return False
    here = found[len(p.outputs) : len(p.outputs) + len(p.leaves())]
    given = [g for g in here if g is not None]
    return bool(given) and all(bool(np.isfinite(g).all()) and bool((np.abs(g) < STEEPEST).all()) for g in given)
