"""Whether calls are recorded: a context variable, so threads and tasks are independent. Each works as decorator too."""

import functools
import inspect
from contextvars import ContextVar
from typing import Any

from treadle.op import STATE
from treadle.tape import ASKED, GRAD_MODE

is_grad_enabled = GRAD_MODE.get
_INFERENCE: ContextVar[bool] = ContextVar("treadle_inference", default=False)


class _Mode:
    value = False
    asks = True  # whether it speaks for all tapes, or only for the one at hand

    def __new__(cls, mode: Any = True) -> Any:
        """`@no_grad` without brackets decorates the function it is given."""
        return cls()(mode) if callable(mode) else object.__new__(cls)

    def __init__(self) -> None:
        self._tokens: list[Any] = []

    def _set(self) -> None:
        value = self.value and not (self.asks and _INFERENCE.get())
        asked = ASKED.set(value) if STATE.special and self.asks else None
        self._tokens.append((GRAD_MODE.set(value), asked))

    def __enter__(self) -> Any:
        self._set()
        return self

    def __exit__(self, *exc: object) -> None:
        mode, asked = self._tokens.pop()
        GRAD_MODE.reset(mode)
        if asked is not None:
            ASKED.reset(asked)

    def again(self) -> Any:
        """A fresh one of the same meaning: every call of a decorated function has its own."""
        return type(self)()

    def __call__(self, function: Any) -> Any:
        if inspect.isgeneratorfunction(function):
            return functools.wraps(function)(lambda *args, **kwargs: self._each_step(function(*args, **kwargs)))

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.again():
                return function(*args, **kwargs)

        return inside

    def _each_step(self, generator: Any) -> Any:
        """Run every step of a generator inside, and its consumer outside."""
        sent = None
        while True:
            with self.again():
                try:
                    item = generator.send(sent)
                except StopIteration as end:
                    return end.value
            sent = yield item


class no_grad(_Mode):
    """Record nothing inside.

    >>> import treadle as td
    >>> x = td.ones(2, requires_grad=True)
    >>> with td.no_grad():
    ...     (x * 2).requires_grad
    False
    """


class enable_grad(_Mode):
    """Record inside, also within no_grad, but not within inference_mode.

    >>> import treadle as td
    >>> with td.no_grad(), td.enable_grad():
    ...     td.is_grad_enabled()
    True
    """

    value = True


class set_grad_enabled(_Mode):
    """Record or not; takes effect at once, and as a context manager ends with the block.

    >>> import treadle as td
    >>> with td.set_grad_enabled(False):
    ...     td.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.value = bool(mode)
        self._set()

    def __enter__(self) -> Any:
        return self

    def __call__(self, function: Any) -> Any:
        self.__exit__()  # as a decorator it changes nothing now
        return super().__call__(function)

    def again(self) -> Any:
        return _Set(self.value)


class _Set(_Mode):
    def __init__(self, value: bool) -> None:
        super().__init__()
        self.value = value


class recording(_Set):
    """Record or not on the tape at hand: what a transform does for itself, which says nothing about tapes outside."""

    asks = False

    def __new__(cls, mode: Any = True) -> Any:
        return object.__new__(cls)

    def again(self) -> Any:
        return recording(self.value)


class inference_mode(_Mode):
    """Record nothing inside; like no_grad, and says that no result will ever be trained on.

    >>> import treadle as td
    >>> with td.inference_mode():
    ...     td.is_inference_mode_enabled()
    True
    """

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self.mode = mode
        self.value = not mode

    def __enter__(self) -> Any:
        self._tokens.append(_INFERENCE.set(self.mode))
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        _INFERENCE.reset(self._tokens.pop())

    def again(self) -> Any:
        return inference_mode(self.mode)


def is_inference_mode_enabled() -> bool:
    """Whether inference_mode is on.

    >>> import treadle as td
    >>> td.is_inference_mode_enabled()
    False
    """
    return _INFERENCE.get()
