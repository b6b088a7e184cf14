"""Optimizer: parameter groups, per-parameter state and their state_dict, as PyTorch has them."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from treadle._tensor import Tensor
from treadle.autograd.grad_mode import enable_grad, no_grad
from treadle.errors import ArgumentError
from treadle.op import depends_on


class Optimizer:
    """Be the base of optimizers: a subclass writes ``_step_group``.

    params are tensors, (name, tensor) pairs or dicts with "params" and options of their own.

    >>> import treadle as td
    >>> w = td.ones(1, requires_grad=True)
    >>> opt = td.optim.SGD([w], lr=0.5)
    >>> w.sum().backward(); opt.step(); w.tolist()
    [0.5]
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or "
                f"dicts, but got {type(params).__name__}"
            )
        if defaults.get("differentiable"):
            raise ArgumentError(f"{type(self).__name__}: differentiable=True is not supported")
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        self._step_called = False  # schedulers warn when they come first
        self._changes = 0  # how often groups or state were exchanged for others
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; the defaults fill the rest.

        >>> import treadle as td
        >>> opt = td.optim.SGD([td.ones(1, requires_grad=True)], lr=0.1)
        >>> opt.add_param_group({"params": [td.ones(2, requires_grad=True)], "lr": 0.01})
        >>> [g["lr"] for g in opt.param_groups]
        [0.1, 0.01]
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the "
                "ordering of tensors in sets will change between runs. Please use a list instead."
            )
        params = [params] if isinstance(params, Tensor) else list(params)
        if params and all(isinstance(p, tuple) for p in params):
            group["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        group["params"] = params
        self._check_params(group)
        for name, default in self.defaults.items():
            group.setdefault(name, default)
        self.param_groups.append(group)
        self._changes += 1

    def _check_params(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p)}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
        ids = [id(p) for p in group["params"]]
        if len(ids) != len(set(ids)):
            raise ValueError("some parameters appear more than once in a parameter group")
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        if not taken.isdisjoint(ids):
            raise ValueError("some parameters appear in more than one parameter group")
        named = ["param_names" in g for g in (group, *self.param_groups)]
        if any(named) != all(named):
            raise ValueError("all optimizer param groups should be with/without names.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = p.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return closure()'s loss if one is given."""
        depends_on(self, "_fixed_options")
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                self._step_group(group)
        self._step_called = True
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        raise NotImplementedError

    @property
    def _fixed_options(self) -> Any:
        """What becomes part of a trace of `step`: another value is another trace."""
        return self._changes, *map(self._fixed, self.param_groups)

    def _fixed(self, group: dict[str, Any]) -> Any:
        """The options of a group that `_step_group` uses as Python values: here all that are no tensors."""
        return [(k, v) for k, v in group.items() if k != "params" and not isinstance(v, Tensor)]

    def state_dict(self) -> dict[str, Any]:
        """Return state and groups with parameters replaced by their position.

        >>> import treadle as td
        >>> opt = td.optim.Adam([td.ones(1, requires_grad=True)], lr=0.1)
        >>> saved = opt.state_dict()
        >>> saved["param_groups"][0]["params"], saved["state"]
        ([0], {})
        """
        index: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                index.setdefault(id(p), len(index))
            packed = {k: v for k, v in group.items() if k != "params"}
            packed["params"] = [index[id(p)] for p in group["params"]]
            groups.append(packed)
        state = {index[id(p)]: value for p, value in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what state_dict returned; ValueError if the groups differ in number or size."""
        saved = copy.deepcopy(state_dict["param_groups"])
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        for group, new in zip(self.param_groups, saved, strict=True):
            if len(group["params"]) != len(new["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
                )
        indices = chain.from_iterable(g["params"] for g in saved)
        params = chain.from_iterable(g["params"] for g in self.param_groups)
        by_index = dict(zip(indices, params, strict=True))
        self.state = defaultdict(dict)
        for i, values in state_dict["state"].items():
            p = by_index[i]
            self.state[p] = {k: self._load_value(p, k, v) for k, v in values.items()}
        for group, new in zip(self.param_groups, saved, strict=True):
            new["params"] = group["params"]
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
        self.param_groups = [{**self.defaults, **new} for new in saved]
        self._changes += 1

    @staticmethod
    def _load_value(param: Tensor, key: str, value: Any) -> Any:
        """Copy one saved value to the parameter's device and dtype; step is a plain number here."""
        if key == "step":
            return int(value.item()) if isinstance(value, Tensor) else int(value)
        if not isinstance(value, Tensor):
            return value
        value = value.to(param.device)
        return value.to(param.dtype).clone() if param.is_floating_point() else value.clone()

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            for key in sorted(k for k in group if k != "params"):
                text += f"    {key}: {group[key]}\n"
        return text + ")"


def number(value: Any) -> float:
    """Return an option that may be a 0-d tensor as a Python number."""
    return value.item() if isinstance(value, Tensor) else value


def require(condition: bool, text: str, value: Any) -> None:
    """Raise PyTorch's ValueError for an option outside its range."""
    if not condition:
        raise ValueError(f"Invalid {text}: {value}")
