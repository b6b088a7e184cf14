"""explain: which kernel each op of a call ran on: native, decomposed, a copy, or the host."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.eager import resolve as resolving
from treadle.op import Interpreter, Op, interpreting


class Report:
    """What ran where: rows of (op, operand, how), in order; printed it is a summary per device."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []  # device, op, dtype, how

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """How many calls ran which way, per device."""
        out: dict[str, Counter[str]] = {}
        for device, _, _, how in self.rows:
            out.setdefault(device, Counter())[how] += 1
        return out

    def __str__(self) -> str:
        lines = []
        for device, ways in self.counts.items():
            total = sum(ways.values())
            text = f"{device}: {ways['native']}/{total} calls native"
            for how in ("decomposed", "copy", "view", "host"):
                names = Counter(f"{op} {kind}" for d, op, kind, h in self.rows if d == device and h == how)
                if names:
                    shown = ", ".join(f"{n}x {name}" if n > 1 else name for name, n in sorted(names.items()))
                    text += f", {sum(names.values())} {how} [{shown}]"
            lines.append(text)
        return "\n".join(lines) or "no ops ran"

    __repr__ = __str__


class _Explainer(Interpreter):
    """An interpreter that runs calls as eager does and notes how each was resolved.

    Decompositions are noted op by op.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __call__(self, op: Op, args: Any, attrs: Any) -> Any:
        how, x = _how(op, args, attrs)
        if x is not None:
            self.report.rows.append((str(x.device), op.name, x.dtype.name, how))
        return self.plainly(op, args, attrs)


def _how(op: Op, args: Any, attrs: Any) -> tuple[str, Any]:
    """How a call is resolved, and the tensor it is reported for."""
    x = next((a for a in tree.leaves(list(args)) if isinstance(a, Tensor)), None)
    if x is None or op.tier in ("view", "copy", "host"):
        return op.tier if op.tier != "view" else "view", x
    if op.category == "lists":
        return ("native" if x.device.backend.claimed(op.name, x.dtype) else "decomposed"), x
    try:
        plain, _ = resolving._normal(op, args)
        return resolving.lookup(op, plain, attrs)[0].how, x
    except Exception:  # the call itself is about to raise the real error
        return "native", x


def explain(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """Run f and return a report of how each op was resolved on its device.

    >>> import treadle as td
    >>> with td.device("reference"):
    ...     print(td.explain(lambda x: x + 1, td.ones(2)))
    reference:0: 1/1 calls native
    """
    report = Report()
    with interpreting(_Explainer(report)):
        f(*args, **kwargs)
    return report
