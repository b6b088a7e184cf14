"""Hooks of a Module: their registry, the handles that remove them, and the call that runs them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from treadle import tape
from treadle._tensor import Tensor


class Hook(NamedTuple):
    """One registered function and how it wants to be called."""

    call: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


class RemovableHandle:
    """Remove a hook again: by ``remove()`` or at the end of a ``with`` block."""

    def __init__(self, module: Any, hooks: dict[int, Hook]) -> None:
        self.module, self.hooks = module, hooks
        self.id = max(hooks, default=0) + 1

    def add(self, hook: Hook, prepend: bool) -> "RemovableHandle":
        earlier = dict(self.hooks) if prepend else {}
        if prepend:
            self.hooks.clear()
        self.hooks[self.id] = hook
        self.hooks.update(earlier)
        return self

    def remove(self) -> None:
        self.hooks.pop(self.id, None)
        self.module._hooks_changed()

    def __enter__(self) -> "RemovableHandle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Hooks:
    """All hooks of one module; it exists only once a hook has been registered."""

    __slots__ = ("backward", "backward_pre", "forward", "forward_pre")

    def __init__(self) -> None:
        self.forward_pre: dict[int, Hook] = {}
        self.forward: dict[int, Hook] = {}
        self.backward_pre: dict[int, Hook] = {}
        self.backward: dict[int, Hook] = {}

    def __bool__(self) -> bool:
        return any(getattr(self, place) for place in self.__slots__)


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run module.forward between its hooks, as PyTorch orders them."""
    hooks: Hooks = module._hooks
    for hook in tuple(hooks.forward_pre.values()):
        args, kwargs = _run_pre(hook, module, args, kwargs)
    watch = BackwardWatch(module, hooks) if hooks.backward or hooks.backward_pre else None
    output, done = None, set()
    try:
        if watch is not None:
            args = watch.enter(args)
        output = module.forward(*args, **kwargs)
        for key, hook in tuple(hooks.forward.items()):
            done.add(key)
            output = _run_forward(hook, module, args, kwargs, output)
        return output if watch is None else watch.leave(output)
    except Exception:
        for key, hook in tuple(hooks.forward.items()):
            if hook.always_call and key not in done:
                output = _run_forward(hook, module, args, kwargs, output)
        raise


def _run_pre(
    hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not hook.with_kwargs:
        result = hook.call(module, args)
        if result is None:
            return args, kwargs
        return (result if isinstance(result, tuple) else (result,)), kwargs
    result = hook.call(module, args, kwargs)
    if result is None:
        return args, kwargs
    if isinstance(result, tuple) and len(result) == 2:
        return result
    raise RuntimeError(
        f"register_forward_pre_hook: a hook with_kwargs must return None or (args, kwargs): {type(result).__name__}"
    )


def _run_forward(hook: Hook, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if hook.with_kwargs:
        result = hook.call(module, args, kwargs, output)
    else:
        result = hook.call(module, args, output)
    return output if result is None else result


Grads = tuple[Tensor | None, ...]


class BackwardWatch:
    """One call of a module with backward hooks: sees the gradients of its outputs and inputs.

    All tensors at the way in (and out) go through one node of the tape, so that their gradients
    come together. They pass as copies: what is written into them later must not reach values that
    ops of the module have saved.
    """

    def __init__(self, module: Any, hooks: Hooks) -> None:
        self.module = module
        self.before, self.after = tuple(hooks.backward_pre.values()), tuple(hooks.backward.values())
        self.grad_outputs: Grads = ()
        self.inputs = 0  # arguments, tensors or not
        self.places: list[int] = []  # which of them have a gradient

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.inputs = len(args)
        found = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        if not found or not tape.grad_enabled():
            return args
        self.places = found
        passed = dict(zip(found, _joined([args[i] for i in found], self._at_inputs), strict=True))
        return tuple(passed.get(i, a) for i, a in enumerate(args))

    def leave(self, output: Any) -> Any:
        outputs = output if isinstance(output, tuple) else (output,)
        found = [i for i, y in enumerate(outputs) if isinstance(y, Tensor) and y.requires_grad]
        if not found or not tape.grad_enabled():
            return output

        def at_outputs(grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            return self._at_outputs(grads, found, len(outputs))

        passed = dict(zip(found, _joined([outputs[i] for i in found], at_outputs), strict=True))
        changed = tuple(passed.get(i, y) for i, y in enumerate(outputs))
        if not isinstance(output, tuple):
            return changed[0]
        return type(output)(*changed) if hasattr(output, "_fields") else changed

    def _at_outputs(self, grads: Sequence[Tensor | None], places: list[int], count: int) -> Sequence[Tensor | None]:
        self.grad_outputs = _spread(grads, places, count)
        for hook in self.before:
            changed = hook.call(self.module, self.grad_outputs)
            if changed is not None:
                self.grad_outputs = changed if isinstance(changed, tuple) else (changed,)
        if not self.places:  # no input has a gradient, so this is the only chance
            self._run_after((None,) * self.inputs)
        return [self.grad_outputs[i] for i in places]

    def _at_inputs(self, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        changed = self._run_after(_spread(grads, self.places, self.inputs))
        return [changed[i] for i in self.places]

    def _run_after(self, grad_inputs: Grads) -> Grads:
        for hook in self.after:
            changed = hook.call(self.module, grad_inputs, self.grad_outputs)
            if changed is not None:
                grad_inputs = changed if isinstance(changed, tuple) else (changed,)
        return grad_inputs


def _spread(grads: Sequence[Tensor | None], places: list[int], count: int) -> Grads:
    by_place = dict(zip(places, grads, strict=True))
    return tuple(by_place.get(i) for i in range(count))


def _joined(tensors: list[Tensor], run: Callable[[Any], Any]) -> list[Tensor]:
    """Return copies of tensors whose gradients all go through run."""
    rule = tape.Rule("module_hook", len(tensors), lambda node, g: run(g), False, len(tensors))
    node = [tape.next_id(), rule, *(t.node for t in tensors)]
    copies = [t.detach().clone() for t in tensors]
    for k, c in enumerate(copies):
        c.node = (node, k)
    return copies
