"""A memory plan as SVG: a rectangle per buffer, over its steps and its bytes."""

from typing import Any
from xml.etree.ElementTree import Element, SubElement

from treadle.ir.picture import COLOURS, OTHER
from treadle.op import op_named

WIDTH, HEIGHT = 960, 420  # of the plane that the rectangles lie in, in pixels
LEFT, TOP, RIGHT, BOTTOM = 90, 40, 20, 130
NAMED = 64  # steps, up to which each has the name of its op below it
TICKS = 8
FONT = {"font-family": "sans-serif", "font-size": "11"}


def human(nbytes: int) -> str:
    """A number of bytes for people: 1536 is 1.5 KiB."""
    if nbytes < 1024:
        return f"{nbytes} B"
    size, units = nbytes / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.1f} {units[0]}"


def draw(plan: Any) -> Element:
    """The picture of a MemoryPlan."""
    steps, most = max(len(plan.steps), 1), max(plan.peak, 1)
    size = {"width": str(LEFT + WIDTH + RIGHT), "height": str(TOP + HEIGHT + BOTTOM)}
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, **FONT})
    SubElement(root, "rect", {**size, "fill": "white"})
    _text(root, LEFT, TOP - 22, f"{len(plan.buffers)} buffers, peak {plan.peak} bytes, {steps} steps").set("id", "head")
    plane = SubElement(root, "g", id="buffers")
    for b in plan.buffers:
        _buffer(plane, b, WIDTH / steps, HEIGHT / most)
    _steps(root, plan)
    _bytes(root, most)
    _level(root, "lower-bound", plan.lower_bound, most, "6 4", f"lower bound {human(plan.lower_bound)}", 12)
    _level(root, "peak", plan.peak, most, "none", f"peak {human(plan.peak)}", -4)
    return root


def _buffer(plane: Element, b: Any, step: float, byte: float) -> None:
    """step, byte: how many pixels each takes."""
    op = op_named(b.tenants[0].op) if b.tenants else None
    x, width = LEFT + b.first * step, (b.last - b.first + 1) * step
    y, height = TOP + HEIGHT - (b.offset + b.nbytes) * byte, b.nbytes * byte
    rectangle = SubElement(plane, "rect", x=f"{x}", y=f"{y}", width=f"{width}", height=f"{height}", stroke="#555555")
    rectangle.set("stroke-width", "0.5")
    rectangle.set("fill", OTHER if op is None else COLOURS.get(op.category, OTHER))
    what = "\n".join([*map(str, b.tenants), f"{b.nbytes} bytes at {b.offset}, steps {b.first} to {b.last}"])
    SubElement(rectangle, "title").text = what


def _steps(root: Element, plan: Any) -> None:
    """The axis below: names of ops, or numbers where there are too many."""
    count = len(plan.steps)
    every = 1 if count <= NAMED else -(-count // TICKS)
    for k in range(0, count, every):
        x, y = LEFT + (k + 0.5) * WIDTH / count, TOP + HEIGHT + 12
        label = _text(root, x, y, plan.steps[k] if every == 1 else f"step {k}")
        label.set("transform", f"rotate(50 {x:.6g} {y:.6g})")


def _bytes(root: Element, most: int) -> None:
    """The axis to the left."""
    for k in range(0, TICKS + 1, 2):
        label = _text(root, LEFT - 6, TOP + HEIGHT * (1 - k / TICKS) + 4, human(most * k // TICKS))
        label.set("text-anchor", "end")


def _level(root: Element, name: str, nbytes: int, most: int, dashes: str, label: str, down: int) -> None:
    """A line across at a number of bytes."""
    y = TOP + HEIGHT * (1 - nbytes / most)
    line = SubElement(root, "line", id=name, x1=str(LEFT), x2=str(LEFT + WIDTH), y1=f"{y:.6g}", y2=f"{y:.6g}")
    line.set("stroke", "#c0392b")
    line.set("stroke-dasharray", dashes)
    SubElement(line, "title").text = f"{label}: {nbytes} bytes"
    _text(root, LEFT + WIDTH, y + down, label).set("text-anchor", "end")


def _text(root: Element, x: float, y: float, text: str) -> Element:
    made = SubElement(root, "text", x=f"{x:.6g}", y=f"{y:.6g}")
    made.text = text
    return made
