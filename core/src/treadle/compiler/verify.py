"""TREADLE_VERIFY=1: every compiled call is compared with the traced graph run kernel by kernel, as eager would.

Where they differ, the graph is run once more with every node's results as outputs, against the NumPy reference, and the
first node that differs is named with the user's line.
"""

from typing import Any

import numpy as np

from treadle.compiler.execute import Stepper
from treadle.compiler.lower import Plan
from treadle.errors import VerifyError
from treadle.ir.graph import Graph, Node
from treadle.ir.rewrite import duplicate
from treadle.runtime import dispatch
from treadle.runtime.device import device as Device
from treadle.runtime.plugins import BUILT_IN

TOLERANCE = {2: 2e-2, 4: 1e-4, 8: 1e-9}  # of the largest element, by bytes per element; integers must be equal


class Checked:
    """An executable that checks another one at every call."""

    def __init__(self, run: Any, plan: Plan, before: Graph) -> None:
        self.run, self.plan = run, plan
        self.plain = Stepper(Plan(duplicate(before)[0], plan.device, plan.donated), plain=True)

    def __call__(self, *operands: Any) -> Any:
        plan, device = self.plan, self.plan.device
        count = len(plan.inputs)
        given = [_array(device, s, p.sig) for s, p in zip(operands[:count], plan.inputs, strict=True)]
        copies = [dispatch.from_numpy(device, a, "verify") for a in given]
        want = list(self.plain(*copies, *operands[count:]))
        made = list(self.run(*operands))
        free = [p.sig for k, p in enumerate(plan.outputs) if k not in plan.donated]
        pairs = [(a, b, s) for a, b, s in zip(made, want, free, strict=True)]
        pairs += [(operands[k], copies[k], plan.inputs[k].sig) for k in plan.donated.values()]
        for n, (a, b, sig) in enumerate(pairs):
            if not close(_array(device, a, sig), _array(device, b, sig)):
                raise VerifyError(
                    f"compile: output {n} ({sig}) differs from eager; {self.where(given, operands[count:])}"
                )
        return made

    def where(self, inputs: list[Any], numbers: Any) -> str:
        """The first node of the optimised graph whose results are not the reference's."""
        results = [_everything(self.plan.graph, d, inputs, numbers) for d in (self.plan.device, Device(BUILT_IN))]
        for (node, mine), (_, right) in zip(*results, strict=True):
            if not all(close(a, b) for a, b in zip(mine, right, strict=True)):
                return f"the first node that does is {node.op.name} {node.attrs}, written at {node.line}"
        return "every node alone is right: a pass, or the plan of its memory, is to blame"


def _everything(graph: Graph, device: Any, inputs: list[Any], numbers: Any) -> list[tuple[Node, list[Any]]]:
    """All results of all nodes on a device."""
    copy, _ = duplicate(graph)
    nodes = [n for n in copy.nodes if n.op.tier != "view"]
    copy.outputs = [v for n in nodes for v in n.results()]
    plan = Plan(copy, device)
    storages = [dispatch.from_numpy(device, a, "verify") for a in inputs]
    run = device.backend.compile(plan) or Stepper(plan)
    arrays = iter([_array(device, s, p.sig) for s, p in zip(run(*storages, *numbers), plan.outputs, strict=True)])
    return [(n, [next(arrays) for _ in n.results()]) for n in nodes]


def _array(device: Any, storage: Any, sig: Any) -> Any:
    return dispatch.to_numpy(device, storage, sig)


def close(a: Any, b: Any) -> bool:
    """Whether two results agree: equal for integers, for floats within a part of the largest element."""
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return False
    finite = np.isfinite(y)
    size = np.abs(y[finite]).max(initial=0.0)
    return bool(np.abs(x[finite] - y[finite]).max(initial=0.0) <= TOLERANCE[a.dtype.itemsize] * size)
