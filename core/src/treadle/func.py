"""What users see as `td.func`: torch.func's names for function transforms, and modules as functions of parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from treadle import tree
from treadle._tensor import Tensor
from treadle.autograd.forward import jvp as jvp
from treadle.autograd.transforms import grad as grad
from treadle.autograd.transforms import value_and_grad
from treadle.autograd.transforms import vjp as vjp
from treadle.batching.jacobian import hessian as hessian
from treadle.batching.jacobian import jacfwd as jacfwd
from treadle.batching.jacobian import jacobian as jacrev
from treadle.batching.vmap import vmap as vmap
from treadle.errors import ArgumentError
from treadle.op import FN

__all__ = [
    "functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "stack_module_state", "vjp",
    "vmap",
]  # fmt: skip


def grad_and_value(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function giving (the gradient of f, f(...)); with has_aux (gradient, (value, aux)).

    >>> import treadle as td
    >>> g, value = td.func.grad_and_value(lambda x: (x * x).sum())(td.tensor([1.0, 2.0]))
    >>> value.item()
    5.0
    """
    both = value_and_grad(f, argnums, has_aux)

    def run(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return found, value

    return run


def functional_call(
    module: Any, parameters: Any, args: Any = None, kwargs: Mapping[str, Any] | None = None, *,
    tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """Call a module with tensors from a dict (or several) in the place of its parameters and buffers of these names.

    tie_weights: a tensor that the module has under several names is replaced under all of them. strict: all names must
    be given. KeyError for names it does not have. The module has its own again afterwards.

    >>> import treadle as td
    >>> double = {"weight": td.full((1, 1), 2.0), "bias": td.zeros(1)}
    >>> td.func.functional_call(td.nn.Linear(1, 1), double, td.ones(1, 1)).tolist()
    [[2.0]]
    """
    given: dict[str, Tensor] = {}
    for part in (parameters,) if isinstance(parameters, Mapping) else parameters:
        if given.keys() & part.keys():
            raise ArgumentError(f"functional_call: given twice: {sorted(given.keys() & part.keys())}")
        given |= part
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    unknown, missing = sorted(given.keys() - own.keys()), sorted(own.keys() - given.keys())
    if unknown:
        raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer {', '.join(unknown)}")
    if tie_weights:
        given |= _tied(own, given)
        missing = [name for name in missing if name not in given]
    if strict and missing:
        raise KeyError(f"functional_call: missing with strict=True: {', '.join(missing)}")
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    places = [(module.get_submodule(path).__dict__, name, x) for (path, name), x in _split(given)]
    before = [members[name] for members, name, _ in places]
    try:
        for members, name, x in places:
            members[name] = x
        return module(*positional, **(kwargs or {}))
    finally:
        for (members, name, _), x in zip(places, before, strict=True):
            members[name] = x


def _split(given: dict[str, Tensor]) -> Any:
    for name, x in given.items():
        path, _, last = name.rpartition(".")
        yield (path, last), x


def _tied(own: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What takes the place of other names of the tensors that are replaced."""
    by_tensor: dict[int, Tensor] = {}
    for name, x in given.items():
        if by_tensor.setdefault(id(own[name]), x) is not x:
            raise ArgumentError(f"functional_call: {name} is tied to another name, for which another tensor is given")
    return {name: by_tensor[id(x)] for name, x in own.items() if name not in given and id(x) in by_tensor}


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and the buffers of equal modules, stacked along a new first axis: an ensemble for vmap.

    >>> import treadle as td
    >>> models = [td.nn.Linear(2, 1) for _ in range(3)]
    >>> parameters, buffers = td.func.stack_module_state(models)
    >>> parameters["weight"].shape
    (3, 1, 2)
    """
    if not models or any(type(m) is not type(models[0]) for m in models):
        raise ArgumentError("stack_module_state: one or more modules of one class are expected")
    return _stacked([dict(m.named_parameters()) for m in models]), _stacked([dict(m.named_buffers()) for m in models])


def _stacked(dicts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = tree.map(_stack, *dicts) if dicts[0] else {}
    for name, x in out.items():
        if dicts[0][name].requires_grad:
            out[name] = x.detach().requires_grad_()
    return out


def _stack(*xs: Tensor) -> Tensor:
    rows = [FN["reshape"](x.detach(), (1, *x.shape)) for x in xs]
    return FN["concat"](*rows, axis=0)
