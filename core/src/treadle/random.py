"""Random tensors: the same bits on every device, because every draw is a function of (seed, call number, element
index)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from treadle import creation, dtypes
from treadle._tensor import Tensor, set_requires_grad
from treadle.errors import ArgumentError, AutogradError
from treadle.op import CATALOGUE as OPS
from treadle.op import FN, INTERPRETER, STATE, tracing
from treadle.runtime.device import device as Device
from treadle.runtime.device import get_default_device
from treadle.shapes import sizes

_COUNTING = threading.Lock()  # no two draws may take the same call number


class Draws:
    """The random states that a function draws: noted when it runs first, and given out again when it runs again."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    @contextmanager
    def noted(self, again: bool) -> Iterator[None]:
        """Context manager: what is drawn inside is noted, or, if it runs again, is what was noted."""
        rest = iter(self.states) if again else None
        token = _DRAWS.set((self, rest, _DRAWS.get()))
        try:
            yield
        finally:
            _DRAWS.reset(token)


_DRAWS: ContextVar[Any] = ContextVar("treadle_draws", default=None)  # (draws, what is left to replay, those around)


@contextmanager
def unnoted() -> Iterator[None]:
    """Context manager: what is drawn inside is no affair of functions that are noted outside."""
    token = _DRAWS.set(None)
    try:
        yield
    finally:
        _DRAWS.reset(token)


def drawn(fresh: Callable[[], Any]) -> Any:
    """A random state: that of a run before, where a function runs again, else a fresh one."""
    scope = _DRAWS.get()
    if scope is None:
        return fresh()
    draws, rest, around = scope
    if rest is not None:
        state = next(rest, None)
        if state is None:
            raise AutogradError("checkpoint: the function drew more random numbers when it was computed again")
        return state
    token = _DRAWS.set(around)
    try:
        state = drawn(fresh)
    finally:
        _DRAWS.reset(token)
    draws.states.append(state)
    return state


class Generator:
    """A stream of random calls: a 64-bit seed and the number of calls drawn so far.

    >>> import treadle as td
    >>> a = td.rand(2, generator=td.Generator().manual_seed(1))
    >>> b = td.rand(2, generator=td.Generator().manual_seed(1))
    >>> td.equal(a, b)
    True
    """

    def __init__(self, device: Any = None) -> None:
        self.device = device
        self._seed, self._calls = 0, 0

    def manual_seed(self, seed: int) -> "Generator":
        """Start the stream of a seed (any integer; it is taken modulo 2**64) and return self."""
        self._seed, self._calls = int(seed) % 2**64, 0
        return self

    def initial_seed(self) -> int:
        """Return the seed."""
        return self._seed

    def seed(self) -> int:
        """Choose a seed from the operating system and return it."""
        self.manual_seed(int(np.random.SeedSequence().entropy) % 2**64)  # type: ignore[arg-type]
        return self._seed

    def get_state(self) -> Tensor:
        """Return the state: four uint32, seed and call number, low words first."""
        return creation.from_array(self._words())

    def set_state(self, state: Tensor) -> "Generator":
        """Continue from a state; ArgumentError if it is not four uint32."""
        if not isinstance(state, Tensor) or state.shape != (4,) or state.dtype is not dtypes.uint32:
            raise ArgumentError(f"set_state: a tensor of four uint32 expected: {state!r}")
        words = [int(w) for w in state.tolist()]
        self._seed, self._calls = words[0] | words[1] << 32, words[2] | words[3] << 32
        return self

    def _words(self) -> Any:
        return np.array(
            [self._seed & 0xFFFFFFFF, self._seed >> 32, self._calls & 0xFFFFFFFF, self._calls >> 32], np.uint32
        )

    def next_state(self, device: Device) -> Tensor:
        """Return the state of the next call on a device, and count the call."""
        return drawn(lambda: self._fresh(device))  # type: ignore[no-any-return]

    def _fresh(self, device: Device) -> Tensor:
        with _COUNTING:
            words = self._words()
            self._calls = (self._calls + 1) % 2**64
        return creation.from_array(words, device)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default stream of a seed and return its generator.

    >>> import treadle as td
    >>> _ = td.manual_seed(0)
    """
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default stream from the operating system; return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """Return the seed of the default stream."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """Return the state of the default stream."""
    return default_generator.get_state()


def set_rng_state(state: Tensor) -> None:
    """Continue the default stream from a state."""
    default_generator.set_state(state)


def next_state(device: Any = None, generator: Generator | None = None) -> Tensor:
    """Return the state of the next random call, as ops take it."""
    place = get_default_device() if device is None else Device(device)
    source = generator or default_generator
    if STATE.special and (i := INTERPRETER.get()) is not None:
        state = i.random_state(source, place)
        if state is not None:
            return state  # type: ignore[no-any-return]
    return source.next_state(place)


def _draw(
    op: str, given: tuple[Any, ...], size: Any, dtype: Any, device: Any, generator: Any, requires_grad: bool
) -> Tensor:
    kind = dtypes.get_default_dtype() if dtype is None else dtypes.dtype(dtype)
    if kind.kind != "f":
        raise ArgumentError(f"{op}: a floating-point type is needed: {kind.name}")
    shape = creation._shape(op, given, size)
    x = OPS[op](next_state(device, generator), shape, kind)
    if requires_grad:
        set_requires_grad(x, True)
    return x


def rand(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return uniform numbers in [0, 1).

    >>> import treadle as td
    >>> td.rand(2, 3).shape
    (2, 3)
    """
    return _draw("random_uniform", sizes, size, dtype, device, generator, requires_grad)


def randn(
    *sizes: Any,
    size: Any = None,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return standard normal numbers.

    >>> import treadle as td
    >>> td.randn(2, 3).dtype
    treadle.float32
    """
    return _draw("random_normal", sizes, size, dtype, device, generator, requires_grad)


def rand_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return uniform numbers with the input's shape, dtype and device."""
    kind, place = dtype or input.dtype, device or input.device
    return rand(input.shape, dtype=kind, device=place, requires_grad=requires_grad)


def randn_like(input: Tensor, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return normal numbers with the input's shape, dtype and device."""
    kind, place = dtype or input.dtype, device or input.device
    return randn(input.shape, dtype=kind, device=place, requires_grad=requires_grad)


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Return normal numbers of a mean and standard deviation (numbers with a size, or tensors)."""
    shaped = next((v for v in (mean, std) if isinstance(v, Tensor)), None)
    shape = size if size is not None else shaped.shape if shaped is not None else ()
    return (
        randn(
            tuple(shape),
            dtype=dtype if dtype is not None or shaped is None else shaped.dtype,
            device=device or (shaped.device if shaped is not None else None),
            generator=generator,
        )
        * std
        + mean
    )


def randint(
    low: int = 0,
    high: Any = None,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    generator: Generator | None = None,
) -> Tensor:
    """Return integers in [low, high); randint(high, size) starts at 0.

    >>> import treadle as td
    >>> td.randint(10, (3,)).dtype
    treadle.int64
    """
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    shape, span = sizes("randint", size), int(high) - int(low)
    if span <= 0 or low < -(2**63) or high > 2**63:
        raise ArgumentError(f"randint: low must be below high, and both fit int64: [{low}, {high})")
    kind = dtypes.int64 if dtype is None else dtypes.dtype(dtype)
    state = next_state(device, generator)
    bits = FN["random_bits"](state, (*shape, 2)).to(
        dtypes.uint64
    )  # 64 bits a number: the bias of % is below 2**-32 for 32-bit spans
    wide = FN["bit_or"](FN["shl"](bits[..., 0], 32), bits[..., 1])
    return (FN["rem"](wide, span).to(dtypes.int64) + int(low)).to(kind)


def randperm(n: int, *, dtype: Any = None, device: Any = None, generator: Generator | None = None) -> Tensor:
    """Return a random permutation of 0 ... n - 1.

    >>> import treadle as td
    >>> sorted(td.randperm(4).tolist())
    [0, 1, 2, 3]
    """
    count = sizes("randperm", (n,))[0]
    bits = FN["random_bits"](next_state(device, generator), (count, 2)).to(dtypes.int64)
    keys = FN["bit_or"](FN["shl"](FN["shr"](bits[:, 0], 1), 32), bits[:, 1])
    return FN["sort"](keys)[1].to(dtypes.int64 if dtype is None else dtypes.dtype(dtype))


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Return 1 with the probabilities given, else 0, in their dtype.

    >>> import treadle as td
    >>> td.bernoulli(td.ones(2))
    tensor([1., 1.])
    """
    u = FN["random_uniform"](
        next_state(input.device, generator),
        input.shape,
        dtypes.float64 if input.dtype is dtypes.float64 else dtypes.float32,
    )
    return (u < input).to(input.dtype)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Return indices drawn with the input as weights along its last dimension (Gumbel's trick, with replacement once
    for every draw).

    ArgumentError for weights that are negative, not finite, or all zero in a row.
    """
    p = input
    if p.dtype.kind != "f":
        raise ArgumentError(f"multinomial: weights must be of a floating-point type: {p.dtype.name}")
    if not tracing() and not bool(((p >= 0) & (p < float("inf"))).all() & (p.sum(-1) > 0).all()):
        raise ArgumentError("multinomial: weights must be finite, not negative, and not all zero")
    if p.ndim not in (1, 2) or num_samples < 1 or (not replacement and num_samples > p.shape[-1]):
        raise ArgumentError(
            f"multinomial: cannot draw {num_samples} of shape {p.shape} "
            f"{'with' if replacement else 'without'} replacement"
        )
    shape = (*p.shape[:-1], num_samples, p.shape[-1]) if replacement else p.shape
    u = FN["random_uniform"](next_state(p.device, generator), shape, dtypes.float32)
    score = p.log().unsqueeze(-2) if replacement else p.log()
    score = score - (-((u + 1e-20).log())).log()
    return score.argmax(-1) if replacement else score.topk(num_samples).indices


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill x with uniform numbers in [a, b) and return it."""
    return x.copy_(rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) * (b - a) + a)


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill x with normal numbers and return it."""
    return x.copy_(randn(x.shape, dtype=x.dtype, device=x.device, generator=generator) * std + mean)


def bernoulli_(x: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill x with 1 at probability p, else 0, and return it."""
    return x.copy_(bernoulli(x.new_full(x.shape, p, dtype=dtypes.float32), generator=generator))


for _f in (uniform_, normal_, bernoulli_):
    setattr(Tensor, _f.__name__, _f)
