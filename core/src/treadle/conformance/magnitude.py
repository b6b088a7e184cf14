"""A device that computes in float64 and carries, beside every value, the size of the terms it was made from.

Rounding each step of a formula moves its result by about eps times that size, whatever cancels afterwards: |a| + |b|
for a sum, the sum of |a||b| (times the root of the number of terms) for a product of matrices, |f'(x)| times the size
of x for a function. So one run of a composite, or of a whole gradient, yields both what is expected and how exactly it
can be expected.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.op import CATALOGUE, Op
from treadle.runtime import plugins
from treadle.runtime.backend import ACCEPTS, Backend, Call, Claim, into
from treadle.runtime.device import device as Device
from treadle.runtime.reference import compute
from treadle.shapes import dense_strides
from treadle.sig import Sig

NAME = "conformance_magnitude"
SQUARED = 2.0**-23  # two factors that both vanish leave the product of their errors
Rule = Callable[
    [Any, list[Any], list[Any], dict[str, Any]], Any
]  # (result, operands, their sizes, attributes) -> size of the result


class Plane:
    """Bytes, and for each float64 among them the size of its terms, from an offset on."""

    __slots__ = ("offset", "raw", "size")

    def __init__(self, raw: Any, size: Any, offset: int) -> None:
        self.raw, self.size, self.offset = raw, size, offset

    def read(self, which: Any, word: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """A view of `raw` or `size` in a layout; NumPy refuses one that leaves the memory."""
        if 0 in shape:
            return np.empty(shape, word)
        return np.ndarray(shape, word, which, self.offset, [s * np.dtype(word).itemsize for s in strides])


class MagnitudeBackend(Backend):
    """Kernels only for the kernel tier, so that composites decompose and their inner terms are seen."""

    def alloc(self, nbytes: int) -> Plane:
        return Plane(np.empty(nbytes, np.uint8), np.zeros(nbytes, np.uint8), 0)

    def h2d(self, storage: Plane, data: memoryview) -> None:
        raw = np.frombuffer(data, np.uint8)
        here = slice(storage.offset, storage.offset + raw.size)
        storage.raw[here] = raw
        if raw.size % 8 == 0:  # as if it were float64: for other types nobody reads it
            storage.size[here] = _finite(np.abs(raw.view(np.float64))).view(np.uint8)

    def d2h(self, storage: Plane, nbytes: int) -> Any:
        return storage.raw[storage.offset : storage.offset + nbytes].tobytes()

    def copy_strided(
        self, dst: Plane, src: Plane, itemsize: int, shape: Any, dst_strides: Any, src_strides: Any
    ) -> None:
        word = f"u{itemsize}"
        dst.read(dst.raw, word, shape, dst_strides)[...] = src.read(src.raw, word, shape, src_strides)
        dst.read(dst.size, word, shape, dst_strides)[...] = src.read(src.size, word, shape, src_strides)

    def view(self, storage: Plane, nbytes: int) -> Plane:
        return Plane(storage.raw, storage.size, storage.offset + nbytes)

    def candidates(self, op: Op) -> Any:
        return [Claim(op.name, None, (ACCEPTS["strided"],), _bind, False)] if op.tier == "kernel" else []


def _bind(backend: Any, call: Call) -> Any:
    rule: Any = RULES.get(call.op.name, _own_size)

    def run(*operands: Any) -> None:
        n = len(call.ins)
        values = [_value(x, p) for x, p in zip(call.ins, operands, strict=False)]
        results = compute(call.op, values, call.attrs, call.outs)
        with np.errstate(all="ignore"):
            size = rule(
                results,
                [_wide(v) for v in values],
                [_size(x, p, v) for x, p, v in zip(call.ins, operands, values, strict=False)],
                call.attrs,
            )
        for k, (spec, y, out) in enumerate(zip(call.outs, results, operands[n:], strict=True)):
            dense = dense_strides(spec.shape)
            out.read(out.raw, spec.dtype.np, spec.shape, dense)[...] = y
            if spec.dtype.name == "float64" and k == 0:
                out.read(out.size, np.float64, spec.shape, dense)[...] = np.where(
                    np.isfinite(y), np.nan_to_num(size, nan=0.0, posinf=np.inf), 0.0
                )

    return into(run)


def _value(operand: Any, plane: Any) -> Any:
    return (
        plane.read(plane.raw, operand.dtype.np, operand.shape, operand.strides) if isinstance(operand, Sig) else plane
    )


def _wide(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biu" else np.asarray(value, np.float64)


def _size(operand: Any, plane: Any, value: Any) -> Any:
    if isinstance(operand, Sig) and operand.dtype.name == "float64":
        return plane.read(plane.size, np.float64, operand.shape, operand.strides)
    return _finite(np.abs(np.asarray(value, np.float64)))


def _finite(size: Any) -> Any:
    """An infinite constant is exact, and what is not finite is compared by its kind."""
    return np.where(np.isfinite(size), size, 0.0)


# ---- rules ---------------------------------------------------------------------------------------------------------
def _own_size(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    return np.abs(ys[0].astype(np.float64))


def _function(slope: Callable[[Any, Any], Any]) -> Rule:
    """Of one operand: |y| + |f'| size(x)."""
    return lambda ys, xs, ms, attrs: (
        np.abs(ys[0]) + np.nan_to_num(np.abs(slope(xs[0], ys[0])) * ms[0], nan=0.0, posinf=np.inf)
    )


def _pair(slopes: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Rule:
    """Of two operands: |y| + |df/da| size(a) + |df/db| size(b)."""

    def rule(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
        da, db = slopes(xs[0], xs[1], ys[0])
        return (
            np.abs(ys[0])
            + np.nan_to_num(np.abs(da) * ms[0], posinf=np.inf)
            + np.nan_to_num(np.abs(db) * ms[1], posinf=np.inf)
        )

    return rule


def _terms(x: Any, attrs: Any) -> float:
    return float(np.sqrt(np.prod([x.shape[a] for a in attrs["axes"]])))


def _sum(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    return _terms(xs[0], attrs) * ms[0].sum(attrs["axes"], keepdims=attrs["keepdims"])


def _prod(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    return _terms(xs[0], attrs) * ms[0].prod(attrs["axes"], keepdims=attrs["keepdims"])


def _largest(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    return ms[0].max(attrs["axes"], keepdims=attrs["keepdims"])


def _dot(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    a, b = np.abs(xs[0]), np.abs(xs[1])
    return np.sqrt(a.shape[2]) * (
        0.5 * (np.matmul(ms[0], b) + np.matmul(a, ms[1])) + SQUARED * np.matmul(ms[0], ms[1])
    )  # (B, M, K) @ (B, K, N)


def _scatter(ys: Any, xs: Any, ms: Any, attrs: Any) -> Any:
    return CATALOGUE["scatter_nd"].reference(ms[0], xs[1], ms[2], **attrs)


RULES: dict[str, Rule] = {
    "add": lambda ys, xs, ms, attrs: ms[0] + ms[1],
    "sub": lambda ys, xs, ms, attrs: ms[0] + ms[1],
    "neg": lambda ys, xs, ms, attrs: ms[0],
    "abs": lambda ys, xs, ms, attrs: ms[0],
    "maximum": lambda ys, xs, ms, attrs: np.maximum(ms[0], ms[1]),
    "minimum": lambda ys, xs, ms, attrs: np.maximum(ms[0], ms[1]),
    "where": lambda ys, xs, ms, attrs: np.where(xs[0], ms[1], ms[2]),
    "cast": lambda ys, xs, ms, attrs: ms[0],
    "mul": lambda ys, xs, ms, attrs: np.abs(xs[1]) * ms[0] + np.abs(xs[0]) * ms[1] + SQUARED * ms[0] * ms[1],
    "div": _pair(lambda a, b, y: (1 / b, y / b)),
    "rem": _pair(lambda a, b, y: (1.0, np.trunc(a / b))),
    "pow": _pair(lambda a, b, y: (b * y / a, y * np.log(np.abs(a)))),
    "atan2": _pair(lambda a, b, y: (b / (a * a + b * b), a / (a * a + b * b))),
    "sqrt": _function(lambda x, y: 0.5 / y),
    "exp": _function(lambda x, y: y),
    "log": _function(lambda x, y: 1 / x),
    "expm1": _function(lambda x, y: y + 1),
    "log1p": _function(lambda x, y: 1 / (1 + x)),
    "sin": _function(lambda x, y: np.cos(x)),
    "cos": _function(lambda x, y: np.sin(x)),
    "tanh": _function(lambda x, y: 1 - y * y),
    "erf": _function(lambda x, y: 1.1283791670955126 * np.exp(-x * x)),
    "sum": _sum, "prod": _prod, "max": _largest, "min": _largest, "dot_general": _dot, "scatter_nd": _scatter,
    "gather_nd": lambda ys, xs, ms, attrs: CATALOGUE["gather_nd"].reference(ms[0], xs[1]),
    "sort": lambda ys, xs, ms, attrs: np.take_along_axis(ms[0], ys[1], -1),
}  # fmt: skip


def magnitude_device() -> Device:
    """The device, provided to this process at the first use."""
    if NAME not in plugins.REGISTRY.providers:
        plugins.register_backend(NAME, MagnitudeBackend)
    return Device(NAME)


def sizes_of(x: Any) -> Any:
    """The size of the terms behind each element of a float64 tensor on that device."""
    dense = CATALOGUE["copy"].fn(x.detach())
    return dense.storage.read(dense.storage.size, np.float64, x.shape, dense_strides(x.shape)).copy()
