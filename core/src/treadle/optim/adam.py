"""Adam and AdamW."""

from collections.abc import Iterable
from typing import Any

from treadle import ops
from treadle._tensor import Tensor
from treadle.errors import TraceError
from treadle.op import Live, tracing
from treadle.optim._fused import adam_step_, fresh_zeros
from treadle.optim.optimizer import Optimizer, number, require


class Adam(Optimizer):
    """Step by the running mean of the gradients over the root of that of their squares.

    weight_decay is added to the gradient; see AdamW for the decoupled form.

    >>> import treadle as td
    >>> w = td.ones(2, requires_grad=True)
    >>> opt = td.optim.Adam([w], lr=0.1)
    >>> (w * td.tensor([1.0, -100.0])).sum().backward(); opt.step()
    >>> [round(v, 3) for v in w.tolist()]
    [0.9, 1.1]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        require(lr >= 0.0, "learning rate", lr)
        require(eps >= 0.0, "epsilon value", eps)
        for i in (0, 1):
            require(0.0 <= betas[i] < 1.0, f"beta parameter at index {i}", betas[i])
        require(weight_decay >= 0.0, "weight_decay value", weight_decay)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _fixed(self, group: dict[str, Any]) -> Any:
        """lr and the first of betas are read anew at every step."""
        fixed = ("eps", "weight_decay", "maximize", "amsgrad", "decoupled_weight_decay")
        return group["betas"][1], *[group[name] for name in fixed]

    def _step_group(self, group: dict[str, Any]) -> None:
        # one list op per number of steps taken, which is one for all but frozen or new parameters
        lists: dict[Any, tuple[list[Tensor], ...]] = {}
        states: dict[Any, list[Any]] = {}
        amsgrad = group["amsgrad"]
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = 0
                state["exp_avg"] = fresh_zeros(p)
                state["exp_avg_sq"] = fresh_zeros(p)
                if amsgrad:
                    state["max_exp_avg_sq"] = fresh_zeros(p)
            key = (state["step"], p.dtype, p.device)
            entry = lists.get(key)
            if entry is None:
                entry = lists[key] = ([], [], [], [], [])
                states[key] = []
            states[key].append(state)
            entry[0].append(p)
            entry[1].append(g)
            entry[2].append(state["exp_avg"])
            entry[3].append(state["exp_avg_sq"])
            if amsgrad:
                entry[4].append(state["max_exp_avg_sq"])
        for key, entry in lists.items():
            (_amsgrad_step if amsgrad else _step)(group, states[key], *entry)


def _step(
    group: dict[str, Any],
    states: list[dict[str, Any]],
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    _: list[Tensor],
) -> None:

    def numbers() -> list[Any]:
        return [number(group["lr"]), _count(states), float(group["betas"][0])]

    adam_step_(
        params,
        grads,
        means,
        squares,
        Live(numbers, (float, int, float)),
        beta2=float(group["betas"][1]),
        eps=float(group["eps"]),
        weight_decay=float(group["weight_decay"]),
        decoupled=group["decoupled_weight_decay"],
        maximize=group["maximize"],
    )


def _count(states: list[dict[str, Any]]) -> int:
    """Count one more step of all these parameters; return how many it makes."""
    step: int = states[0]["step"] + 1
    for state in states:
        state["step"] = step
    return step


def _amsgrad_step(
    group: dict[str, Any],
    states: list[dict[str, Any]],
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    maxima: list[Tensor],
) -> None:
    """Step tensor by tensor with the largest mean square so far (Reddi et al. 2018)."""
    if tracing():
        raise TraceError("Adam: amsgrad=True cannot be compiled, its step count would become a constant")
    step = _count(states)
    (beta1, beta2), lr = group["betas"], number(group["lr"])
    decay, root = group["weight_decay"], (1.0 - beta2**step) ** 0.5
    for p, g, m, v, top in zip(params, grads, means, squares, maxima, strict=True):
        g = -g if group["maximize"] else g
        if decay and group["decoupled_weight_decay"]:
            p.mul_(1.0 - lr * decay)
        elif decay:
            g = g + p * decay
        m.mul_(beta1).add_(g * (1.0 - beta1))
        v.mul_(beta2).add_(g * g * (1.0 - beta2))
        top.copy_(ops.maximum(top, v))
        p.sub_(m / (top.sqrt() / root + group["eps"]) * (lr / (1.0 - beta1**step)))


class AdamW(Adam):
    """Step as Adam, with weight decay applied to the parameters themselves: p *= 1 - lr·decay.

    >>> import treadle as td
    >>> model = td.nn.Linear(2, 1)
    >>> td.optim.AdamW(model.parameters(), lr=1e-3).defaults["weight_decay"]
    0.01
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
