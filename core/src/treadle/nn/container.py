"""Containers: modules and parameters in sequences and dicts."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from treadle._tensor import Tensor
from treadle.nn.module import Module
from treadle.nn.parameter import Parameter


def _position(owner: Any, index: Any) -> int:
    """Return index as a non-negative position; IndexError outside the sequence."""
    i, n = operator.index(index), len(owner)
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of range")
    return i % n


class _Sequence(Module):
    """What Sequential and ModuleList share: submodules named 0, 1, 2 ..."""

    def _of(self, modules: list[Any]) -> Any:
        """Return a sequence of the same class."""
        return type(self)(modules)  # type: ignore[call-arg]

    def _values(self) -> list[Any]:
        d = self.__dict__
        return [d[name] for name in self._module_names]

    def _refill(self, modules: Iterable[Any]) -> None:
        for name in tuple(self._module_names):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._select(index)
        return self._values()[_position(self, index)]

    def _select(self, index: slice) -> Any:
        return self._of(self._values()[index])

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, list(self._module_names)[_position(self, index)], module)

    def __delitem__(self, index: int | slice) -> None:
        modules = self._values()
        del modules[index if isinstance(index, slice) else _position(self, index)]
        self._refill(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end; return self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; return self."""
        for module in tuple(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the position index, which counts as list.insert's."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        modules = self._values()
        modules.insert(index, module)
        self._refill(modules)
        return self

    def pop(self, index: int | slice) -> Any:
        """Take a module out and return it."""
        module = self[index]
        del self[index]
        return module


class Sequential(_Sequence):
    """Call modules one after the other, each with what the one before returned.

    >>> import treadle as td
    >>> model = td.nn.Sequential(td.nn.Linear(4, 8), td.nn.ReLU(), td.nn.Linear(8, 2))
    >>> tuple(model(td.zeros(3, 4)).shape), len(model[1:])
    ((3, 2), 2)
    """

    @overload
    def __init__(self, *args: Module) -> None: ...
    @overload
    def __init__(self, arg: Mapping[str, Module], /) -> None: ...
    def __init__(self, *args: Any) -> None:
        super().__init__()
        by_name = len(args) == 1 and isinstance(args[0], Mapping)
        named = args[0] if by_name else {str(i): module for i, module in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        d = self.__dict__
        for name in self._module_names:
            input = d[name](input)
        return input

    def _select(self, index: slice) -> "Sequential":
        names = list(self._module_names)[index]
        return type(self)({name: self.__dict__[name] for name in names})

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._module_names)
        gone = names[index] if isinstance(index, slice) else [names[_position(self, index)]]
        for name in gone:
            delattr(self, name)
        self._refill(self._values())

    def __add__(self, other: "Sequential") -> "Sequential":
        if not isinstance(other, Sequential):
            raise ValueError(
                f"add operator supports only objects of Sequential class, but {type(other).__name__} is given."
            )
        return Sequential(*self, *other)

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(other)

    def __mul__(self, times: int) -> "Sequential":
        if not isinstance(times, int):
            raise TypeError(f"Sequential can be multiplied by int only: {type(times).__name__}")
        if times <= 0:
            raise ValueError(f"Sequential can be multiplied by a positive number only: {times}")
        return Sequential(*(module for _ in range(times) for module in self))

    __rmul__ = __mul__


class ModuleList(_Sequence):
    """Hold modules in a list, so that they are found as submodules.

    >>> import treadle as td
    >>> layers = td.nn.ModuleList([td.nn.Linear(2, 2) for _ in range(3)])
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList([*self, *other])

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __repr__(self) -> str:
        """Show equal neighbours once, with their number."""
        texts = [repr(module) for module in self]
        if not texts:
            return self._get_name() + "()"
        lines, start = [], 0
        for i in range(1, len(texts) + 1):
            if i < len(texts) and texts[i] == texts[start]:
                continue
            place, times = f"({start})", ""
            if i - start > 1:
                place, times = f"({start}-{i - 1})", f"{i - start} x "
            lines.append(f"{place}: {times}{texts[start]}".replace("\n", "\n  "))
            start = i
        return self._get_name() + "(\n  " + "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """Hold modules in a dict that keeps its order.

    >>> import treadle as td
    >>> heads = td.nn.ModuleDict({"a": td.nn.ReLU(), "b": td.nn.Tanh()})
    >>> list(heads), heads["b"]
    (['a', 'b'], Tanh())
    """

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._module_names)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._module_names))

    def __contains__(self, key: str) -> bool:
        return key in self._module_names

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return pairs of name and module."""
        return self._modules.items()

    def clear(self) -> None:
        """Remove all modules."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take a module out and return it."""
        return self._modules.pop(key)

    def update(self, modules: Any) -> None:
        """Add modules from a mapping or from pairs, replacing those of equal name."""
        for key, module in modules.items() if hasattr(modules, "items") else modules:
            self[key] = module


def _as_parameter(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and not isinstance(value, Parameter)
    return Parameter(value) if is_plain else value


class ParameterList(Module):
    """Hold parameters in a list; tensors put in become parameters.

    >>> import treadle as td
    >>> weights = td.nn.ParameterList([td.ones(2), td.ones(3)])
    >>> [tuple(p.shape) for p in weights], list(weights.state_dict())
    ([(2,), (3,)], ['0', '1'])
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        self.extend(() if values is None else values)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(self._size)])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, str(_position(self, index)))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(_position(self, index)), _as_parameter(value))

    def append(self, value: Any) -> Self:
        """Add a value at the end; return self."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end; return self."""
        for value in tuple(values):
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def extra_repr(self) -> str:
        return "\n".join(
            f"({i}): {type(p).__name__} containing: [{p.dtype} of size {tuple(p.shape)}]"
            for i, p in enumerate(self)
            if isinstance(p, Tensor)
        )


class ParameterDict(Module):
    """Hold parameters in a dict that keeps its order; tensors put in become parameters.

    >>> import treadle as td
    >>> list(td.nn.ParameterDict({"scale": td.ones(2)}).state_dict())
    ['scale']
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        self.update({} if parameters is None else parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._keys and hasattr(self, key):
            raise KeyError(f"attribute '{key}' already exists")
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._keys))

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._keys.keys()

    def values(self) -> Iterable[Any]:
        """Return the parameters."""
        return [self[key] for key in self._keys]

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of name and parameter."""
        return [(key, self[key]) for key in self._keys]

    def update(self, parameters: Any) -> None:
        """Add parameters from a mapping or from pairs."""
        for key, value in parameters.items() if hasattr(parameters, "items") else parameters:
            self[key] = value
