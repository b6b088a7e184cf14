"""A program and its fault as a script of its own: it needs treadle and NumPy, and ends with an error while the fault is
there."""

import numpy as np

from treadle.conformance.programs.check import DERIVATIVE, GRADIENT, NUMPY, RAISES, Fault
from treadle.conformance.programs.program import Program, array_text, program_text


def script(p: Program, device: str, fault: Fault, title: str) -> str:
    """Return the text."""
    wrap = "lambda f: td.compile(f, dynamic=True)" if p.dynamic else "td.compile"
    head = [f"# {title}", *[f"# {line}" for line in fault.text.splitlines()[:3]]]
    lines = [*head, "import numpy as np", "", "import treadle as td", "", "", program_text(p), "", ""]
    if fault.kind == DERIVATIVE:
        return "\n".join([*lines, *_slope(p, fault)])
    if fault.kind == RAISES:
        return "\n".join([*lines, 'run("reference", lambda f: f)  # eager runs it', f'run("{device}", {wrap})', ""])
    lines.append(f'got = run("{device}", {wrap})[{fault.which}]')
    if fault.kind == NUMPY:
        lines.append(f"want = {array_text(np.asarray(fault.want))}  # by NumPy")
    else:
        lines.append(f'want = run("reference", lambda f: f)[{fault.which}]')
    if GRADIENT in fault.text:  # one that is not there is one of zeros
        lines.append("got = np.zeros_like(want) if got is None else got")
        lines.append("want = np.zeros_like(got) if want is None else want")
    lines += ['print("got", got.tolist())', 'print("want", want.tolist())']
    return "\n".join([*lines, *_verdict(fault), ""])


def _verdict(fault: Fault) -> list[str]:
    allowed = np.asarray(fault.allowed)
    lines = ['assert (got.dtype, got.shape) == (want.dtype, want.shape), "another type or shape"']
    if fault.want.dtype.kind == "f" and allowed.shape == fault.want.shape and (allowed > 0).any():
        allowed = np.where(np.isfinite(allowed), allowed, np.finfo(np.float64).max)
        with np.errstate(all="ignore"):
            plain = (np.abs(np.subtract(fault.got, fault.want, dtype=np.float64)) > allowed.max()).any()
        text = repr(float(allowed.max())) if plain else array_text(allowed)
        return [
            *lines,
            f"allowed = {text}",
            'assert (abs(got - want) <= allowed).all(), "rounding does not explain it"',
        ]
    if fault.want.dtype.kind != "f" and (allowed > 0).any():
        return [*lines, f"asked = {array_text(np.asarray(allowed == 0))}", "assert (got == want)[asked].all()"]
    return [*lines, 'assert got.tobytes() == want.tobytes(), "other bits"']


def _slope(p: Program, fault: Fault) -> list[str]:
    """The gradient in eager, along a direction, beside differences of the program in NumPy."""
    first, count = len(p.outputs), len(p.leaves())
    ways = ", ".join(array_text(fault.allowed[name]) for name in p.leaves())
    return [
        f'gradients = run("reference", lambda f: f)[{first}:{first + count}]',
        f"ways = [{ways}]",
        "got = sum((g * way).sum() for g, way in zip(gradients, ways, strict=True) if g is not None)",
        f"want = {fault.want!r}  # how fast the program changes along these ways, by central differences",
        'print("got", got)',
        'print("want", want)',
        'assert abs(got - want) <= 1e-3 * max(abs(got), abs(want)) + 1e-6, "not the slope"',
        "",
    ]
