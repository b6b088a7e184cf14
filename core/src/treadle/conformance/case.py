"""Cases: one call of one op each, made from the op's declaration. A case has an id that never depends on the device.

`add/f32/broadcast-3`: op, element type under test, and the sample, with the layout or values that differ from the plain
ones.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from treadle.conformance import layouts, oracle
from treadle.conformance.tensors import flat, is_array, mapped
from treadle.dtypes import FLOATS, DType, float32
from treadle.op import ELEMENTWISE, Op
from treadle.ops.samples import Arg, Sample, default_samples

STATUSES = ("P", "F", "U", "FB")  # passed, failed, unsupported (declared), would have run on the host


class Outcome(NamedTuple):
    """What became of a case. worst: the largest error in units of what is allowed."""

    status: str
    text: str = ""
    worst: float = 0.0


PASSED = Outcome("P")


@dataclass(frozen=True, eq=False)
class Case:
    """One check. The fields after `check` describe a call; cases about the runtime have none."""

    id: str
    check: Callable[["Case", Any], Outcome]
    op: Op | None = None
    dtype: DType | None = None
    args: tuple[Any, ...] = ()  # Arg, array, number, None, or a list of these, per operand
    attrs: dict[str, Any] = field(default_factory=dict)
    layouts: tuple[str, ...] = ()  # one per tensor operand; none: all dense
    option: Any = None

    def arrays(self) -> list[Any]:
        """The operands as NumPy arrays, the same for every device and run."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        made = [mapped(partial(self._made, k=k, rng=rng), [a])[0] for k, a in enumerate(self.args)]
        return _arranged(made, self.layouts)

    def _made(self, a: Any, k: int, rng: Any) -> Any:
        if isinstance(a, Arg):
            return a.make(rng, self._dtype_of(k))
        return a(rng) if callable(a) else a

    def _dtype_of(self, k: int) -> DType:
        """Statistics beside half-precision operands are float32."""
        assert self.op is not None and self.dtype is not None
        statistic = self.op.inputs[k].name in ("mean", "rstd", "var", "lse") and self.op.main != k
        return float32 if statistic and self.dtype.itemsize == 2 else self.dtype

    def place(self, arrays: list[Any], device: Any) -> list[Any]:
        """The operands on a device, in this case's layouts."""
        rest = iter(self.layouts) if self.layouts else iter(lambda: "dense", "")
        # type: ignore[no-any-return]
        return mapped(lambda a: layouts.place(a, next(rest), device) if is_array(a) else a, arrays)

    def operands(self, device: Any) -> list[Any]:
        """The operands on a device: for repros."""
        return self.place(self.arrays(), device)

    def expected(self) -> list[Any]:
        """What the call must give, rounded to the results' types: for repros."""
        assert self.op is not None
        return [e.value.astype(e.spec.dtype.np) for e in oracle.expected(self.op, self.arrays(), self.attrs)]


def _arranged(values: list[Any], chosen: tuple[str, ...]) -> list[Any]:
    """Arrays that will be placed by repetition become constant along the repeated axis."""
    if "broadcast" not in chosen:
        return values
    rest = iter(chosen)

    def arranged(a: Any) -> Any:
        return layouts.repeat(a) if is_array(a) and next(rest) == "broadcast" else a

    return mapped(arranged, values)  # type: ignore[no-any-return]


class Block(NamedTuple):
    """The cases of one op and element type, made when they are needed."""

    name: str
    make: Callable[[], list[Case]]


def tensors_in(args: tuple[Any, ...]) -> list[Arg]:
    """The tensor operands of a sample, in order."""
    return [a for a in flat(list(args)) if isinstance(a, Arg)]


def dtypes_of(op: Op) -> list[DType]:
    """The element types an op is tested for, in a fixed order."""
    return sorted(op.dtypes, key=lambda d: d.code)


def samples_for(op: Op, dtype: DType) -> Iterator[tuple[int, Sample]]:
    """The op's samples that make sense for an element type, with their numbers."""
    for n, sample in enumerate(default_samples(op)):
        if op.category == "bits" and sample.attrs["dtype"].itemsize != dtype.itemsize:
            continue
        numbers = [a for a in sample.args if isinstance(a, (int, float))]
        if op.category in ELEMENTWISE and numbers:
            if dtype.kind == "b" or (dtype.kind in "iu" and any(isinstance(a, float) for a in numbers)):
                continue  # a number of a higher category changes the type that is computed in
            if dtype.kind == "u" and min(numbers) < 0:
                continue
        if op.category == "create":
            if dtype.kind != "f" and any(isinstance(a, float) for a in numbers):
                continue
            sample = sample._replace(attrs={**sample.attrs, "dtype": dtype})
        yield n, sample


def differentiable(op: Op) -> bool:
    """Whether gradients of an op exist and are checked."""
    return op.vjp != {} and op.differentiable and bool(op.dtypes & FLOATS) and op.tier != "host"
