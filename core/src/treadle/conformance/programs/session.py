"""A program in the making: its values as tensors on the reference device, line by line."""

from typing import Any, NamedTuple

import numpy as np

import treadle as td
from treadle.conformance.programs.program import Input, Step, input_text, step_text
from treadle.errors import TreadleError
from treadle.op import CATALOGUE

DEVICE = "reference"
LARGEST, LEAST = 1e5, 1e-20  # of numbers; zero is allowed
MAY_COPY = frozenset({"reshape", "as_strided"})
ELEMENTS = 600  # of a value
REFUSALS = (TreadleError, ZeroDivisionError, ArithmeticError, ValueError, IndexError, TypeError)


class Mark(NamedTuple):
    """How far a session had come."""

    inputs: int
    steps: int
    names: tuple[str, ...]


class Session:
    """values: name -> tensor. spoilt: a write left numbers that no program should have."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self.scope: dict[str, Any] = {"td": td, "np": np, "device": DEVICE}
        self.values: dict[str, Any] = {}
        self.root: dict[str, str] = {}  # whose memory a value shares
        self.frozen: set[str] = set()  # memory that nothing may be written into
        self.count = 0
        self.spoilt = False

    def name(self, letter: str) -> str:
        """A name that nothing has."""
        self.count += 1
        return f"{letter}{self.count - 1}"

    def array(self, name: str) -> Any:
        """The elements of a value."""
        return self.values[name].detach().numpy()

    def add_input(self, x: Input) -> str:
        """Take in another input."""
        self.inputs.append(x)
        self.root[x.name] = x.name
        if x.place == "expanded":  # a write would show in all elements that share the memory
            self.frozen.add(x.name)
        self._keep(x.name, eval(input_text(x), self.scope))
        return x.name

    def try_step(self, step: Step) -> bool:
        """Carry out a step; False, and nothing is kept, where it is refused or its results are no usual numbers."""
        try:
            exec(step_text(step), self.scope)
        except REFUSALS:
            return False
        if step.writes:
            self.spoilt = not usual(self.array(step.writes))
        elif not all(usual(self.scope[name].detach().numpy()) for name in step.results):
            return False
        for name in step.results:
            self._keep(name, self.scope[name])
        self.steps.append(step)
        self._share(step)
        return True

    def _share(self, step: Step) -> None:
        """Note whose memory the results show. Whether a reshape copies depends on the layout, and a compiled function
        takes its arguments as if they were row-major: so what may be either is not written to."""
        shares = step.form == "index" or (step.form == "op" and CATALOGUE[step.what].tier == "view")
        for name in step.results:
            root = self.root[name] = self.root[step.args[0].name] if shares else name
            laid = any(x.name == root and x.place not in ("dense", "offset") for x in self.inputs)
            if laid and step.what in MAY_COPY:
                self.frozen.add(root)

    def _keep(self, name: str, value: Any) -> None:
        self.scope[name] = self.values[name] = value

    def mark(self) -> Mark:
        """Where to go back to if the next line fails."""
        return Mark(len(self.inputs), len(self.steps), tuple(self.values))

    def back_to(self, mark: Mark) -> None:
        """Forget what came after a mark; of writes there are none, since they end a line."""
        del self.inputs[mark.inputs :], self.steps[mark.steps :]
        self.values = {name: self.values[name] for name in mark.names}


def usual(a: Any) -> bool:
    """Whether an array is small, and its numbers are finite, neither huge nor next to nothing."""
    if a.size > ELEMENTS:
        return False
    if a.dtype.kind != "f":
        return a.dtype.kind == "b" or bool((np.abs(a.astype(np.float64)) < 1e15).all())
    size = np.abs(a.astype(np.float64))
    return bool((np.isfinite(size) & (size < LARGEST) & ((size == 0) | (size > LEAST))).all())
