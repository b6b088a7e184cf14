"""Stochastic gradient descent, plain, with momentum or Nesterov's."""

from collections.abc import Iterable
from typing import Any

from treadle._tensor import Tensor
from treadle.errors import TraceError
from treadle.op import Live, tracing
from treadle.optim._fused import fresh_zeros, sgd_step_
from treadle.optim.optimizer import Optimizer, number, require


class SGD(Optimizer):
    """Step p -= lr·g, where momentum turns g into a running sum of gradients.

    >>> import treadle as td
    >>> w = td.ones(1, requires_grad=True)
    >>> opt = td.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     opt.zero_grad(); (w * w).sum().backward(); opt.step()
    >>> round(w.item(), 3)
    0.46
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require(lr >= 0.0, "learning rate", lr)
        require(momentum >= 0.0, "momentum value", momentum)
        require(weight_decay >= 0.0, "weight_decay value", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _fixed(self, group: dict[str, Any]) -> Any:
        """lr and momentum are read anew at every step."""
        fixed = ("dampening", "weight_decay", "nesterov", "maximize")
        return group["momentum"] != 0, *[group[name] for name in fixed]

    def _step_group(self, group: dict[str, Any]) -> None:
        # the first step of a parameter fills its buffer, so these go apart from the others
        lists: dict[Any, tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
        momentum = group["momentum"]
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            state = self.state[p] if momentum else {}
            first = bool(momentum) and state.get("momentum_buffer") is None
            if first:
                state["momentum_buffer"] = fresh_zeros(p)
                if tracing() and group["dampening"]:
                    raise TraceError("SGD: with dampening the first step differs; take one before compiling")
                first = not tracing()  # with zeros in the buffer the first step is like all others
            params, grads, bufs = lists.setdefault((first, p.dtype, p.device), ([], [], []))
            params.append(p)
            grads.append(g)
            if momentum:
                bufs.append(state["momentum_buffer"])
        for (first, _, _), (params, grads, bufs) in lists.items():
            sgd_step_(
                params,
                grads,
                bufs,
                Live(lambda: [number(group["lr"]), float(group["momentum"])], (float, float)),
                dampening=float(group["dampening"]),
                nesterov=group["nesterov"],
                weight_decay=float(group["weight_decay"]),
                maximize=group["maximize"],
                first=first,
            )
