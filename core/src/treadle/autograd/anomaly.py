"""Anomaly mode: remember where each op was called, and name that line when its gradient fails or is not finite."""

import traceback
from contextlib import ContextDecorator
from typing import Any

import numpy as np

from treadle._tensor import Tensor
from treadle.errors import AutogradError
from treadle.op import Interpreter, Op, interpreting
from treadle.tape import Rule


class _Anomaly(Interpreter):
    """An interpreter that makes every call as eager does, and tags the node it leaves with the user's line."""

    def __init__(self, check_nan: bool) -> None:
        self.check_nan = check_nan

    def __call__(self, op: Op, args: Any, attrs: Any) -> Any:
        out = self.plainly(op, args, attrs)
        for y in out if isinstance(out, tuple) else (out,):
            if isinstance(y, Tensor) and y.node is not None:
                self.tag(y.node, op.name)
        return out

    def tag(self, edge: Any, name: str) -> None:
        node = edge[0] if edge.__class__ is tuple else edge
        if node[0] == 0:
            return
        line, rule, check = _user_line(), node[1], self.check_nan

        def run(n: Any, g: Any) -> Any:
            try:
                grads = rule.run(n, g)
            except Exception as e:
                e.add_note(f"anomaly: the forward call of {name} was at {line}")
                raise
            for k, r in enumerate(grads):
                if (
                    check
                    and isinstance(r, Tensor)
                    and not np.isfinite(r.detach().numpy_copy().astype(np.float64)).all()
                ):
                    raise AutogradError(
                        f"anomaly: the gradient of {name} for operand {k} is not finite; its forward call was at {line}"
                    )
            return grads

        node[1] = Rule(rule.name, rule.count, run, rule.saves, rule.several, rule.results)


def _user_line() -> str:
    """The innermost frame outside of this package."""
    for frame in reversed(traceback.extract_stack()):
        where = frame.filename.replace("\\", "/")
        if "/treadle/" not in where and not where.startswith("<op "):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "an unknown line"


class detect_anomaly(ContextDecorator):
    """Name the user's line of an op whose gradient raises or is not finite. Slow; for debugging.

    >>> import treadle as td
    >>> x = td.zeros(1, requires_grad=True)
    >>> with td.autograd.detect_anomaly():
    ...     y = x.sqrt()
    ...     try:
    ...         y.backward()
    ...     except td.errors.AutogradError as e:
    ...         print("not finite" in str(e))
    True
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan

    def __enter__(self) -> "detect_anomaly":
        self.scope = interpreting(_Anomaly(self.check_nan))
        self.scope.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.scope.__exit__(*exc)
