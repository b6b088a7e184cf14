"""What a compiled function's memory is planned to be: every buffer's place and life, as a table or a picture."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from treadle.compiler.lower import Plan
from treadle.compiler.memory import arena, lives, lower_bound
from treadle.compiler.memory_picture import draw, human
from treadle.ir.printer import Printer
from treadle.spec import Spec


class Tenant(NamedTuple):
    """A tensor that lies in a buffer. name: as `print(plan.graph)` calls it, "copy" for one that no node made."""

    name: str
    op: str
    spec: Spec
    line: str  # the user's line that it came from

    def __str__(self) -> str:
        lines = ", ".join(Path(line).name for line in self.line.split(", "))
        return f"{self.name} = {self.op}: {self.spec}" + (f" ({lines})" if lines else "")


class PlannedBuffer(NamedTuple):
    """A piece of the arena. offset, nbytes: in bytes. first, last: steps, both included."""

    offset: int
    nbytes: int
    first: int
    last: int
    tenants: tuple[Tenant, ...]  # more than one where a result was computed over an operand


class MemoryPlan:
    """The arena of one graph: the memory that a call takes for its duration, apart from inputs, constants and outputs.

    peak: its size in bytes. lower_bound: the most bytes that are alive at one step, below which no plan can be.
    steps: the op of each step. outside: bytes of inputs, constants and outputs. backward: the plan of the gradient's
    graph, where the function can be differentiated from outside. A device whose backend does not run plans as a whole
    allocates buffer by buffer in its place.
    """

    def __init__(self, plan: Plan, backward: "MemoryPlan | None" = None) -> None:
        self.graph, self.backward = plan.graph, backward
        self.steps = tuple(s.call.op.name if s.call is not None else "copy" for s in plan.steps)
        alive, owner = lives(plan)
        offsets, self.peak = arena(alive)
        self.lower_bound = lower_bound(alive)
        here: dict[int, list[Tenant]] = {b: [] for b in alive}
        for b, tenant in _tenants(plan).items():
            if b in owner:
                here[owner[b]].append(tenant)
        self.buffers = tuple(
            PlannedBuffer(offsets[b], life.nbytes, life.first, life.last, tuple(here[b]))
            for b, life in sorted(alive.items(), key=lambda item: (item[1].first, offsets[item[0]]))
        )
        self.outside = dict.fromkeys(("input", "constant", "output"), 0)
        for buffer in plan.buffers:
            if buffer.kind in self.outside:
                self.outside[buffer.kind] += buffer.nbytes

    def table(self, top: int = 30) -> str:
        """The buffers as text, the largest first; top: how many."""
        lines = [
            f"arena of {human(self.peak)}, at least {human(self.lower_bound)} in any plan; "
            f"{len(self.buffers)} buffers, {len(self.steps)} steps",
            "outside of it: " + ", ".join(f"{kind}s {human(n)}" for kind, n in self.outside.items()),
            f"{'offset':>12} {'bytes':>12} {'steps':>11}  tensors",
        ]
        for b in sorted(self.buffers, key=lambda b: -b.nbytes)[:top]:
            tensors = "; ".join(map(str, b.tenants))
            lines.append(f"{b.offset:12} {b.nbytes:12} {f'{b.first} to {b.last}':>11}  {tensors}")
        if len(self.buffers) > top:
            lines.append(f"and {len(self.buffers) - top} smaller ones")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<memory plan: {len(self.buffers)} buffers, peak {self.peak} bytes>"

    def to_svg(self, path: str | Path | None = None) -> str:
        """Return the plan as an SVG picture, and write it to a file if path is given.

        A rectangle per buffer, its steps to the right and its bytes upwards; pointing at it shows the tensors in it.
        A line marks the peak, a dashed one the lower bound.
        """
        text = ElementTree.tostring(draw(self), encoding="unicode")
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


def _tenants(plan: Plan) -> dict[int, Tenant]:
    """What lies in each buffer that a step writes to, in the order of the steps."""
    names = Printer(plan.graph)
    found: dict[int, Tenant] = {}
    for v, p in plan.places.items():
        if v.node is not None and v.node.op.tier != "view":
            found[p.buffer] = Tenant(names.name(v), v.node.op.name, v.spec, v.node.line)
    ordered = {}
    for s in plan.steps:
        for p in chain(s.outs, s.ins):
            if hasattr(p, "buffer") and p.buffer not in ordered:
                copy = Tenant("copy", "copy", Spec(tuple(p.sig.shape), p.sig.dtype), s.line)
                ordered[p.buffer] = found.get(p.buffer, copy)
    return ordered
