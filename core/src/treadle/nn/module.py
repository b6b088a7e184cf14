"""Module: parameters, buffers and submodules under names, with PyTorch's meaning throughout.

A member lives in one place, the instance's ``__dict__``, so reading ``self.weight`` is an ordinary
attribute access; three dicts of names say which of the attributes are parameters, buffers and
modules. ``_parameters``, ``_buffers`` and ``_modules`` are views that write through.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Self

from treadle._tensor import Tensor
from treadle.autograd.grad_mode import no_grad
from treadle.dtypes import DType, bfloat16, float16, float32, float64
from treadle.errors import DTypeError
from treadle.nn import _state
from treadle.nn._hooks import Hook, Hooks, RemovableHandle, call_with_hooks
from treadle.nn._state import IncompatibleKeys
from treadle.nn.parameter import Parameter
from treadle.op import STATE, depends_on

PARAMETERS, BUFFERS, MODULES = "_parameter_names", "_buffer_names", "_module_names"
_WORDS = {PARAMETERS: "parameter", BUFFERS: "buffer", MODULES: "child module"}
_WANTED = {PARAMETERS: "Parameter", BUFFERS: "Tensor", MODULES: "Module"}


class Members(MutableMapping[str, Any]):
    """One kind of a module's members, as a mapping over the module's attributes."""

    def __init__(self, module: "Module", kind: str) -> None:
        self.module, self.kind = module, kind
        self.store, self.names = module.__dict__, module.__dict__[kind]

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.store[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.module._enter(self.kind, name, value)

    def __delitem__(self, name: str) -> None:
        del self.names[name]
        del self.store[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(dict(self))


class Module:
    """Be the base of a layer or model: assign parameters and modules, write ``forward``.

    >>> import treadle as td
    >>> class Scale(td.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = td.nn.Parameter(td.full((1,), 2.0))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(td.ones(2)).tolist(), list(Scale().state_dict())
    ([2.0, 2.0], ['factor'])
    """

    training: bool
    _parameter_names: dict[str, bool]
    _buffer_names: dict[str, bool]  # name -> persistent
    _module_names: dict[str, bool]
    _hooks: Hooks | None = None  # None while there are none: all that a call has to look at

    def __init__(self) -> None:
        self.__dict__.update(training=True, _parameter_names={}, _buffer_names={}, _module_names={})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's result; every subclass writes its own."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if STATE.special:
            depends_on(self, "training")
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return call_with_hooks(self, args, kwargs)

    # ---------------------------------------------------------------------------------- attributes
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._enter(PARAMETERS, name, value)
        elif isinstance(value, Module):
            self._enter(MODULES, name, value)
        elif name in self.__dict__ and (kind := self._kind_of(name)):
            if value is not None and not (kind == BUFFERS and isinstance(value, Tensor)):
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as {_WORDS[kind]} '{name}' "
                    f"({_WANTED[kind]} or None expected)"
                )
            self.__dict__[name] = value
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        kind = self._kind_of(name)
        if kind:
            del self.__dict__[kind][name]
        object.__delattr__(self, name)

    def _kind_of(self, name: str) -> str:
        """Return which dict of names holds name; an empty string for an ordinary attribute."""
        d = self.__dict__
        for kind in (PARAMETERS, BUFFERS, MODULES):
            if name in d.get(kind, ()):
                return kind
        return ""

    def _enter(self, kind: str, name: str, value: Any, mark: bool = True) -> None:
        """Make an attribute a member of one kind and of no other."""
        d = self.__dict__
        if kind not in d:
            raise AttributeError(f"cannot assign {_WORDS[kind]}s before Module.__init__() call")
        old = self._kind_of(name)
        if old and old != kind:
            del d[old][name]
        d[kind].setdefault(name, mark)
        d[name] = value

    def _check_name(self, kind: str, name: str) -> None:
        what = _WORDS[kind].removeprefix("child ")
        if kind not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')
        if hasattr(self, name) and name not in self.__dict__[kind]:
            raise KeyError(f"attribute '{name}' already exists")

    @property
    def _parameters(self) -> Members:
        return Members(self, PARAMETERS)

    @property
    def _buffers(self) -> Members:
        return Members(self, BUFFERS)

    @property
    def _modules(self) -> Members:
        return Members(self, MODULES)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under a name; None keeps the place without a value."""
        self._check_name(PARAMETERS, name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}' (Parameter or None required)"
            )
        self._enter(PARAMETERS, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter; persistent ones are in the state_dict.

        >>> import treadle as td
        >>> m = td.nn.Module()
        >>> m.register_buffer("count", td.zeros(1))
        >>> [name for name, _ in m.named_buffers()]
        ['count']
        """
        self._check_name(BUFFERS, name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        self._enter(BUFFERS, name, tensor)
        self._buffer_names[name] = persistent

    def register_module(self, name: str, module: "Module | None") -> None:
        """Add a submodule under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(MODULES, name)
        self._enter(MODULES, name, module)

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a submodule under a name."""
        self.register_module(name, module)

    # ----------------------------------------------------------------------------------- traversal
    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield the direct submodules with their names, each once."""
        seen = set()
        for name in tuple(self._module_names):
            module = self.__dict__[name]
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator["Module"]:
        """Yield the direct submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_modules(
        self, memo: set["Module"] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """Yield this module and all below it with their dotted names."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name in tuple(self._module_names):
            module = self.__dict__[name]
            if module is not None:
                below = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, below, remove_duplicate)

    def modules(self) -> Iterator["Module"]:
        """Yield this module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def _named_members(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else iter([(prefix, self)])
        )
        for path, module in modules:
            for name in tuple(module.__dict__[kind]):
                value = module.__dict__[name]
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters with their dotted names, in the order they were registered."""
        return self._named_members(PARAMETERS, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters, each once.

        >>> import treadle as td
        >>> sum(p.numel() for p in td.nn.Linear(3, 2).parameters())
        8
        """
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers with their dotted names."""
        return self._named_members(BUFFERS, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers, each once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    def get_submodule(self, target: str) -> "Module":
        """Return the module at a dotted name; AttributeError where the path breaks.

        >>> import treadle as td
        >>> td.nn.Sequential(td.nn.ReLU()).get_submodule("0")
        ReLU()
        """
        module = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{module._get_name()} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def _get_member(self, target: str, kind: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if name not in module.__dict__[kind]:
            raise AttributeError(f"{module._get_name()} has no {_WORDS[kind]} `{name}`")
        return module.__dict__[name]

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter at a dotted name; AttributeError where there is none."""
        return self._get_member(target, PARAMETERS)

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer at a dotted name; AttributeError where there is none."""
        return self._get_member(target, BUFFERS)

    def apply(self, fn: Callable[["Module"], None]) -> Self:
        """Call fn with every module below this one, then with this one; return self."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    # ---------------------------------------------------------------------------------- conversion
    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training, or to evaluation with mode=False."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Switch this module and all below it to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether gradients of the parameters are recorded."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the parameters' gradients, or fill them with zeros."""
        for p in self.parameters():
            if p.grad is None:
                continue
            if set_to_none:
                p.grad = None
            else:
                p.grad = p.grad.detach().zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Replace the values of all parameters, gradients and buffers; parameters keep identity."""
        for module in self.children():
            module._apply(fn)
        with no_grad():
            for name in self._parameter_names:
                p = self.__dict__[name]
                if p is not None:
                    grad = p.grad
                    p.grad = None
                    p.data = fn(p.data)
                    p.grad = None if grad is None else fn(grad)
            for name in self._buffer_names:
                b = self.__dict__[name]
                self.__dict__[name] = None if b is None else fn(b)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device and cast floating-point members: to(device), to(dtype), to(tensor).

        >>> import treadle as td
        >>> td.nn.Linear(2, 2).to(td.float64).weight.dtype
        treadle.float64
        """
        device, dtype = _to_arguments(*args, **kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise DTypeError(f"Module.to: only floating-point dtypes are accepted: {dtype}")

        def convert(t: Tensor) -> Tensor:
            target = dtype if t.is_floating_point() else None
            if device is not None:
                t = t.to(device)
            return t if target is None else t.to(target)

        return self._apply(convert)

    def cpu(self) -> Self:
        """Move all members to the host's device."""
        return self._apply(lambda t: t.cpu())

    def type(self, dst_type: DType) -> Self:
        """Cast all members, integers included."""
        return self._apply(lambda t: t.to(dst_type))

    def float(self) -> Self:
        """Cast floating-point members to float32."""
        return self.to(float32)

    def double(self) -> Self:
        """Cast floating-point members to float64."""
        return self.to(float64)

    def half(self) -> Self:
        """Cast floating-point members to float16."""
        return self.to(float16)

    def bfloat16(self) -> Self:
        """Cast floating-point members to bfloat16."""
        return self.to(bfloat16)

    # ---------------------------------------------------------------------------------- state_dict
    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Return parameters and persistent buffers by dotted name; they share memory with these.

        >>> import treadle as td
        >>> list(td.nn.Linear(2, 1).state_dict())
        ['weight', 'bias']
        """
        destination = OrderedDict() if destination is None else destination
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._module_names:
            module = self.__dict__[name]
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        return destination

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        _state.save_members(self, destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy a state_dict's values into this module; assign=True takes the tensors themselves.

        Raises RuntimeError for shapes that differ and, if strict, for missing or unexpected names.
        """
        return _state.load(self, state_dict, strict, assign)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        assign = local_metadata.get("assign_to_params_buffers", False)
        _state.load_members(self, state_dict, prefix, assign, missing_keys, error_msgs)
        _state.find_unexpected(self, state_dict, prefix, unexpected_keys)

    def _has_extra_state(self) -> bool:
        return type(self).get_extra_state is not Module.get_extra_state

    def get_extra_state(self) -> Any:
        """Return what state_dict should hold besides members; subclasses that need it write it."""
        raise NotImplementedError(f"{self._get_name()} has no extra state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what get_extra_state returned."""
        raise NotImplementedError(f"{self._get_name()} has no extra state")

    # --------------------------------------------------------------------------------------- hooks
    def _add_hook(self, place: str, hook: Hook, prepend: bool) -> RemovableHandle:
        if self._hooks is None:
            self.__dict__["_hooks"] = Hooks()
        return RemovableHandle(self, getattr(self._hooks, place)).add(hook, prepend)

    def _hooks_changed(self) -> None:
        """Forget the registry when it is empty, so that calls are direct again."""
        if not self._hooks:
            self.__dict__.pop("_hooks", None)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args) before forward; what it returns replaces the arguments."""
        return self._add_hook("forward_pre", Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call hook(module, args, output) after forward; what it returns replaces the output.

        >>> import treadle as td
        >>> m = td.nn.ReLU()
        >>> handle = m.register_forward_hook(lambda module, args, output: output + 1)
        >>> m(td.zeros(1)).item()
        1.0
        >>> handle.remove()
        """
        return self._add_hook("forward", Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_input, grad_output) when the gradients of the inputs are known.

        What it returns, if anything, replaces grad_input.
        """
        return self._add_hook("backward", Hook(hook), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_output) before the gradients go through the module.

        What it returns, if anything, replaces grad_output.
        """
        return self._add_hook("backward_pre", Hook(hook), prepend)

    # ---------------------------------------------------------------------------------------- repr
    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Return the text that stands between the parentheses of the module's repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): " + repr(self.__dict__[name]).replace("\n", "\n  ") for name in self._module_names]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        if not lines and not children:
            return f"{self._get_name()}()"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"

    def __dir__(self) -> list[str]:
        return sorted(k for k in object.__dir__(self) if not k[0].isdigit())


def _to_arguments(*args: Any, **kwargs: Any) -> tuple[Any, DType | None]:
    """Read the arguments of Module.to as Tensor.to does: device and dtype in any order."""
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    kwargs.pop("non_blocking", None)
    like = kwargs.pop("tensor", None)
    if kwargs:
        raise TypeError(f"Module.to: unexpected arguments: {', '.join(kwargs)}")
    for arg in (*args, like):
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, DType):
            dtype = arg
        elif arg is not None and not isinstance(arg, bool):
            device = arg
    return device, dtype
