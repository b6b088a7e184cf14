"""A failing case as a few lines that anybody can paste: they use the suite only for the operands and the expected
values."""

from typing import Any

from treadle.conformance.case import Case
from treadle.conformance.checks import check_call
from treadle.conformance.suites import graphs, loads, randoms
from treadle.conformance.tensors import flat


def repro(case: Case, device: str) -> str:
    """Return a stand-alone script that shows a case's result beside what is expected."""
    if case.check is randoms.check_program:
        return randoms.repro(case, device)
    if case.op is None or case.check is not check_call:
        return _again(case, device)
    lines = ["import treadle as td", "from treadle.conformance import find", f"case = find({case.id!r})"]
    names = ", ".join(i.name for i in case.op.inputs)
    lines.append(f"{names}{',' * (len(case.op.inputs) == 1)} = case.operands(td.device({device!r}))")
    lines.append(f"print(td.fallback('error') and td.ops.CATALOGUE[{case.op.name!r}]({_call(case)}))")
    return "\n".join([*lines, "print(*case.expected())"])


def _call(case: Case) -> str:
    assert case.op is not None
    operands = [f"*{i.name}" if i.many and case.op.category != "lists" else i.name for i in case.op.inputs]
    return ", ".join([*operands, *[f"{k}={_text(v)}" for k, v in case.attrs.items()]])


def _text(value: Any) -> str:
    return repr(value).replace("treadle.", "td.") if any("treadle." in repr(v) for v in flat([value])) else repr(value)


def _again(case: Case, device: str) -> str:
    call = f"run({device!r}, {_level(case)!r}, case={case.id!r})"
    return f"from treadle.conformance import run\nresult = {call}\nprint(result.outcomes)"


def _level(case: Case) -> str:
    return {loads.__name__: "L0", graphs.__name__: "graph"}.get(case.check.__module__, "L1")
