"""What a Module writes into a state_dict and takes back from one."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle._tensor import Tensor
from treadle.autograd.grad_mode import no_grad
from treadle.nn.parameter import Parameter

if TYPE_CHECKING:
    from treadle.nn.module import Module

EXTRA = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """The names that a load which is not strict found on one side only."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        missing, unexpected = self
        return f"_IncompatibleKeys(missing_keys={missing}, unexpected_keys={unexpected})"


def local_members(module: "Module") -> dict[str, Tensor]:
    """Return a module's own parameters and persistent buffers that have a value."""
    d = module.__dict__
    names = [*d["_parameter_names"], *(n for n, keep in d["_buffer_names"].items() if keep)]
    return {n: d[n] for n in names if d[n] is not None}


def save_members(module: "Module", destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Enter a module's own members into a state_dict."""
    for name, value in local_members(module).items():
        destination[prefix + name] = value if keep_vars else value.detach()
    if module._has_extra_state():
        destination[prefix + EXTRA] = module.get_extra_state()


def load(module: "Module", state_dict: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Give every module below its part of a state_dict and report what did not fit."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}.")
    rest = OrderedDict(state_dict)
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []

    def walk(m: "Module", prefix: str) -> None:
        local = {"assign_to_params_buffers": assign}
        m._load_from_state_dict(rest, prefix, local, True, missing, unexpected, errors)
        for name in m._module_names:
            child = m.__dict__[name]
            if child is not None:
                walk(child, f"{prefix}{name}.")

    walk(module, "")
    if strict:
        for word, keys in (("Missing", missing), ("Unexpected", unexpected)):
            if keys:
                names = ", ".join(f'"{k}"' for k in keys)
                errors.insert(0, f"{word} key(s) in state_dict: {names}. ")
    if errors:
        text = "\n\t".join(errors)
        raise RuntimeError(f"Error(s) in loading state_dict for {type(module).__name__}:\n\t{text}")
    return IncompatibleKeys(missing, unexpected)


def load_members(
    module: "Module",
    state_dict: dict[str, Any],
    prefix: str,
    assign: bool,
    missing: list[str],
    errors: list[str],
) -> None:
    """Copy a module's own members from a state_dict."""
    for name, member in local_members(module).items():
        key = prefix + name
        if key not in state_dict:
            missing.append(key)
            continue
        problem = _load_one(module, name, member, state_dict[key], assign)
        if problem:
            errors.append(problem.format(key=key))
    if module._has_extra_state():
        if prefix + EXTRA in state_dict:
            module.set_extra_state(state_dict[prefix + EXTRA])
        else:
            missing.append(prefix + EXTRA)


def _load_one(module: "Module", name: str, member: Tensor, value: Any, assign: bool) -> str:
    """Load one member; return what is wrong, with {key} for its name."""
    if not isinstance(value, Tensor):
        return (
            'While copying the parameter named "{key}", expected a Tensor from checkpoint but '
            f"received {type(value).__name__}"
        )
    if tuple(member.shape) == () and tuple(value.shape) == (1,):
        value = value[0]  # checkpoints of very old versions hold scalars so
    if tuple(value.shape) != tuple(member.shape):
        return (
            f"size mismatch for {{key}}: copying a param with shape {tuple(value.shape)} from "
            f"checkpoint, the shape in current model is {tuple(member.shape)}."
        )
    if not assign:
        with no_grad():
            member.copy_(value)
    elif isinstance(member, Parameter):
        if not isinstance(value, Parameter):
            value = Parameter(value, requires_grad=member.requires_grad)
        setattr(module, name, value)
    else:
        setattr(module, name, value)
    return ""


def find_unexpected(module: "Module", state_dict: dict[str, Any], prefix: str, unexpected: list[str]) -> None:
    """List the names under prefix that belong to no member and no submodule."""
    known = local_members(module)
    for key in state_dict:
        if not key.startswith(prefix):
            continue
        head, dot, _ = key[len(prefix) :].partition(".")
        if dot:
            if head not in module._module_names:
                unexpected.append(key)
        elif head not in known and not (head == EXTRA and module._has_extra_state()):
            unexpected.append(key)
