"""Level: one function under vmap while it runs, as the interpreter of what it calls.

Levels are stacked: each knows the interpreter that was current when it was entered, and its rules run under that one.
So a level does not know whether what is outside of it is eager execution, a trace for compilation, or another level.
"""

import contextlib
from typing import Any

from treadle import tape
from treadle._tensor import Tensor
from treadle.batching import function, rules
from treadle.batching.device import CURRENT, BatchedDevice, Cell, batched, parts, show
from treadle.batching.special import example
from treadle.eager.lists import run_inplace_list
from treadle.errors import BatchError
from treadle.op import FN, INTERPRETER, Interpreter, Live, Op, interpreting, outside
from treadle.sig import dense_sig

RANDOMNESS = ("error", "different", "same")


class Level(Interpreter):
    """The batch of one call of a function under vmap. Used as a context manager while that function runs."""

    lifts = True

    def __init__(self, size: int, randomness: str) -> None:
        self.size, self.randomness = size, randomness
        self.before = INTERPRETER.get()  # what rules run under
        self.parent = CURRENT.get()
        self.number: int = 1 if self.parent is None else self.parent.number + 1
        self.recorded, self.asked = tape.grad_enabled(), tape.ASKED.get()
        self.twins: dict[int, tuple[Tensor, Tensor]] = {}  # id of a tensor from outside -> it, what stands for it
        self.alive = False

    def __enter__(self) -> "Level":
        self.alive = True
        self.scope = interpreting(self)
        self.scope.__enter__()
        self.tokens = CURRENT.set(self), tape.ASKED.set(None)
        return self

    def __exit__(self, *exc: object) -> None:
        CURRENT.reset(self.tokens[0])
        tape.ASKED.reset(self.tokens[1])
        self.scope.__exit__(*exc)
        del self.scope, self.tokens  # they would form a cycle with the level
        self.alive = False
        self.twins.clear()

    def outside(self) -> "_Outside":
        """Context manager: what is done inside is done at the level outside, and recorded if it records."""
        return _Outside(self)

    def recording(self) -> bool:
        """Whether the level outside records what rules do now: not inside of a no_grad of the function."""
        asked = tape.ASKED.get()
        return self.recorded if asked is None else asked

    @contextlib.contextmanager
    def unrecorded(self) -> Any:
        """Context manager: the level outside records nothing of what is done inside."""
        before, self.recorded = self.recorded, False
        asked = tape.ASKED.set(None)
        try:
            yield
        finally:
            self.recorded = before
            tape.ASKED.reset(asked)

    # ---- in and out ------------------------------------------------------------------------------------------------
    def wrap(self, value: Tensor, has_batch: bool) -> Tensor:
        """A tensor of this level over one of the level outside."""
        shape = value.shape[1:] if has_batch else value.shape
        sig = dense_sig(value.dtype, tuple(shape), batched(value.device, self.number))
        return Tensor(Cell(self, sig.nbytes, value, has_batch), sig)

    def enter(self, value: Tensor, has_batch: bool) -> Tensor:
        """The same over a tensor from outside: writes go through to it."""
        x = self.wrap(value, has_batch)
        x.storage.outer = True
        return x

    def admit(self, value: Tensor, has_batch: bool) -> Tensor:
        """The same over a tensor from any level outside."""
        return self.wrap(value if self.before is None else self.before.lift(value), has_batch)

    def unwrap(self, x: Tensor) -> tuple[Tensor, bool]:
        """The tensor of the level outside that x shows, and whether it has the batch axis."""
        x = self.lift(x)
        with self.outside():
            return show(x.storage, x.sig)

    def leave(self, x: Tensor) -> Tensor:
        """The same with the batch axis in front, whether examples differ or not."""
        value, has_batch = self.unwrap(x)
        if not has_batch:
            with self.outside():
                value = FN["expand"](value, (self.size, *value.shape))
        return value

    def lift(self, x: Any) -> Any:
        device = x.sig.device
        if device.__class__ is BatchedDevice:
            cell, _, _ = parts(x.storage)
            if cell.level is self:
                return x
            if cell.level.number >= self.number:
                raise BatchError("tensors of two functions under vmap meet: one was kept from another call")
        found = self.twins.get(id(x))
        if found is None:
            inner = x if self.before is None else self.before.lift(x)
            found = self.twins[id(x)] = (x, self.enter(inner, False))
        return found[1]

    def lift_all(self, x: Any) -> Any:
        """The same for what an op takes: tensors, and lists of them."""
        if isinstance(x, Tensor):
            return self.lift(x)
        if x.__class__ is list or x.__class__ is tuple:
            return x.__class__(self.lift_all(y) for y in x)
        return x

    # ---- as an interpreter -----------------------------------------------------------------------------------------
    def __call__(self, op: Op, args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        args = tuple([self.lift_all(a) for a in args])
        if op.tier == "host":
            found = self.each(lambda x: op.fn(x, **dict(zip(op.attrs, attrs, strict=False))), args)
            return found if len(found) > 1 else found[0]
        return self.plainly(op, args, attrs)

    def each(self, f: Any, args: Any) -> Any:
        """Call f at the level outside, once for every example; results must agree in shape."""
        pairs = [(None, False) if a is None else self.unwrap(a) for a in args]
        values, flags = [v for v, _ in pairs], [b for _, b in pairs]
        with self.outside():
            if any(flags):
                results = rules.looped(f, values, flags, self.size)
            else:
                made = f(*values)
                results = made if isinstance(made, tuple) else (made,)
        return tuple(self.wrap(y, any(flags)) for y in results)

    def place(self, device: Any) -> Any:
        if device.__class__ is BatchedDevice and device.number >= self.number:
            return device
        return batched(device if self.before is None else self.before.place(device), self.number)

    def write(self, f: Any, x: Any, *args: Any) -> Any:
        twin, given = self.lift(x), [self.lift_all(a) for a in args]
        with outside():
            f(twin, *given)
        return x

    def guard(self, owner: Any, attribute: str) -> None:
        if self.before is not None:
            self.before.guard(owner, attribute)

    def step(self, op: Op, lists: Any, numbers: Any, attrs: dict[str, Any]) -> Any:
        """An in-place list op, by its decomposition."""
        lifted = [[self.lift(x) for x in xs] for xs in lists]
        with outside():
            return run_inplace_list(op, lifted, numbers.read() if isinstance(numbers, Live) else numbers, attrs)

    def apply(self, function_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = tape.grad_enabled() and any(isinstance(x, Tensor) and x.node is not None for x in args)
        if own or not self.recording() or not any(isinstance(x, Tensor) and on_tape(x) for x in args):
            return NotImplemented
        return function.apply(self, function_class, args, kwargs)

    def again(self) -> Any:
        return super().again() if self.before is None else self.before.again()

    def random_state(self, generator: Any, device: Any) -> Any:
        if self.randomness == "error":
            raise BatchError(
                "a random number is drawn inside of a function under vmap: say with randomness='different' or 'same' "
                "whether the examples get different numbers"
            )
        with self.outside():
            while device.__class__ is BatchedDevice and device.number >= self.number:
                device = device.inner
            state = None if self.before is None else self.before.random_state(generator, device)
            state = self.wrap(generator.next_state(device) if state is None else state, False)
        state.storage.spread = self.randomness == "different"
        return state


class _Outside:
    __slots__ = ("level", "tokens")

    def __init__(self, level: Level) -> None:
        self.level = level

    def __enter__(self) -> None:
        level, asked = self.level, tape.ASKED.get()
        self.tokens = (
            INTERPRETER.set(level.before),
            tape.GRAD_MODE.set(level.recording()),
            tape.ASKED.set(level.asked if asked is None else asked),
        )

    def __exit__(self, *exc: object) -> None:
        INTERPRETER.reset(self.tokens[0])
        tape.GRAD_MODE.reset(self.tokens[1])
        tape.ASKED.reset(self.tokens[2])


def on_tape(x: Tensor) -> bool:
    """Whether a tape outside of x's level leads to it."""
    cell, _, _ = parts(x.storage)
    value = cell.value
    return value is not None and (
        value.node is not None or (value.device.__class__ is BatchedDevice and on_tape(value))
    )


__all__ = ["RANDOMNESS", "Level", "example", "on_tape"]
