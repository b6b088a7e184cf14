"""Small NumPy backends with one defect each.

Each names the ops it spoils, the level that must notice, and cases that must fail.
"""

import numpy as np

from odd.kernels import operands, results
from treadle.runtime.backend import ACCEPTS, Bound, Claim, into
from treadle.runtime.reference import ReferenceBackend, strided

GUARD = 1 << 16  # bytes around memory that a defect may leave


class Plain(ReferenceBackend):
    """The correct one: the reference of every kernel op, with one method per thing that may be done wrong."""

    level = "L1"
    ops: tuple[str, ...] = ()
    caught: tuple[str, ...] = ()  # parts of ids, one of which each must fail

    def candidates(self, op):
        return [Claim(op.name, None, (ACCEPTS["strided"],), None, True)] if op.tier == "kernel" else []

    def bind(self, call):
        found = self.candidates(call.op)
        return Bound(self.kernel(call), call.ins, found[0]) if found else None

    def kernel(self, call):
        """The bound kernel."""

        def run(*given):
            arrays, outs = operands(call, given, self.read)
            for out, y in zip(outs, self.results(call, arrays), strict=True):
                out[: y.nbytes] = y.reshape(-1).view(np.uint8)

        return into(run)

    def read(self, storage, sig):
        """An operand as an array."""
        return strided(storage, sig.dtype.np, sig.shape, sig.strides)

    def results(self, call, arrays):
        """All results; `spoil` may change the first."""
        ys = results(call, arrays)
        if call.op.name in self.ops:
            y = self.spoil(call, arrays, ys[0])
            ys[0] = np.ascontiguousarray(np.asarray(y).astype(ys[0].dtype)).reshape(ys[0].shape)
        return ys

    def spoil(self, call, arrays, y):
        """The first result, wrong."""
        return y


class DropsNaN(Plain):
    """max ignores NaN."""

    ops, caught = ("max",), ("max/f32/special",)

    def spoil(self, call, arrays, y):
        with np.errstate(all="ignore"):
            return (
                np.fmax.reduce(arrays[0], axis=call.attrs["axes"], keepdims=call.attrs["keepdims"])
                if arrays[0].size
                else y
            )


class RoundsHalfUp(Plain):
    """Ties are rounded up."""

    ops, caught = ("round",), ("round/f32/special", "round/f64/special")

    def spoil(self, call, arrays, y):
        with np.errstate(all="ignore"):
            return np.floor(arrays[0] + arrays[0].dtype.type(0.5)) if arrays[0].dtype.kind == "f" else y


class IgnoresStrides(Plain):
    """Operands are read as if they were dense."""

    ops, caught = ("add",), ("add/f32/transposed", "add/f32/spaced", "add/i8/flipped", "add/f64/0.rows")

    def read(self, storage, sig):
        return np.resize(
            storage[: storage.size // sig.dtype.itemsize * sig.dtype.itemsize].view(sig.dtype.np), sig.shape
        )


class OneBatch(Plain):
    """Every batch of a product reads the first one's left operand."""

    ops, caught = ("dot_general", "matmul"), ("dot_general/f32/0", "matmul/f32/2")

    def spoil(self, call, arrays, y):
        a, b = arrays
        return np.matmul(np.broadcast_to(a[:1], a.shape), b) if len(a) else y


class Saturates(Plain):
    """Integer sums stop at the type's limits."""

    ops, caught = ("add",), ("add/i32/special", "add/u8/special")

    def spoil(self, call, arrays, y):
        if y.dtype.kind not in "iu":
            return y
        info = np.iinfo(y.dtype)
        return np.clip(np.add(*[np.asarray(a).astype(object) for a in arrays]), info.min, info.max)


class ThroughFloat(Plain):
    """int64 is computed in float64."""

    ops, caught = ("mul",), ("mul/i64/special",)

    def spoil(self, call, arrays, y):
        return arrays[0].astype(np.float64) * np.asarray(arrays[1]).astype(np.float64) if y.dtype == np.int64 else y


class NoKernel(Plain):
    """exp is left to the host."""

    ops, caught = ("exp",), ("exp/f32/0",)

    def candidates(self, op):
        return [] if op.name == "exp" else super().candidates(op)


class ClaimsMore(Plain):
    """tanh is claimed for half precision and declined there."""

    ops, caught = ("tanh",), ("tanh/f16/0",)

    def bind(self, call):
        return None if call.op.name == "tanh" and call.outs[0].dtype.itemsize == 2 else super().bind(call)


class UnstableSort(Plain):
    """Equal elements change places."""

    ops, caught = ("sort",), ("sort/i32/special", "sort/f32/special-1")

    def results(self, call, arrays):
        ys = super().results(call, arrays)
        if call.op.name == "sort" and ys[0].size:
            ties = np.lexsort((-ys[1], np.arange(ys[0].shape[-1]) * np.ones_like(ys[1])), axis=-1)
            same = np.concatenate([np.zeros((*ys[0].shape[:-1], 1), bool), ys[0][..., 1:] == ys[0][..., :-1]], -1)
            swapped = np.where(
                same, np.roll(ys[1], 1, -1), np.where(np.roll(same, -1, -1), np.roll(ys[1], -1, -1), ys[1])
            )
            ys[1] = np.take_along_axis(swapped, ties, -1)
        return ys


class SharesMemory(Plain):
    """floor of an integer is the operand itself."""

    ops, caught = ("floor",), ("floor/i32/alias",)

    def kernel(self, call):
        if call.op.name == "floor" and call.outs[0].dtype.kind == "i" and call.ins[0].layout == "dense":
            return lambda x: x
        return super().kernel(call)


class ChangesOperand(Plain):
    """neg is computed where its operand lies."""

    ops, caught = ("neg",), ("neg/f32/3",)

    def kernel(self, call):
        run = super().kernel(call).run

        def twice(x, out):
            run(x, out)
            x[: out.size] = out

        return into(twice) if call.op.name == "neg" and call.ins[0].layout == "dense" else into(run)


class LastTile(Plain):
    """What is left over after blocks of 64 is forgotten."""

    ops, caught = ("mul",), ("mul/f32/10", "mul/i32/10")

    def spoil(self, call, arrays, y):
        y = y.reshape(-1).copy()
        rest = y.size % 64 if y.size > 64 else 0
        y[y.size - rest :] = 0
        return y


class WrapsIndex(Plain):
    """An index out of range is taken modulo the size."""

    ops, caught = ("gather_nd",), ("gather_nd/errors",)

    def results(self, call, arrays):
        if call.op.name == "gather_nd" and arrays[0].size:
            arrays = [arrays[0], arrays[1] % np.array(arrays[0].shape[: arrays[1].shape[-1]])]
        return super().results(call, arrays)


class HalfSums(Plain):
    """Half precision is summed in half precision."""

    ops, caught = ("sum",), ("sum/f16/large",)

    def spoil(self, call, arrays, y):
        if y.dtype != np.float16 or not arrays[0].size:
            return y
        axes = call.attrs["axes"]
        moved = np.moveaxis(arrays[0], axes, range(len(axes))).reshape(
            -1, *[n for d, n in enumerate(arrays[0].shape) if d not in axes]
        )
        return np.add.accumulate(moved, axis=0, dtype=np.float16)[-1]


class Flushes(Plain):
    """Subnormal products are zero, and nothing says so."""

    ops, caught = ("mul",), ("mul/f32/special",)

    def spoil(self, call, arrays, y):
        return np.where(np.abs(y) < np.finfo(y.dtype).tiny, 0, y) if y.dtype == np.float32 else y


class LosesSign(Plain):
    """minimum(-0, +0) is +0."""

    ops, caught = ("minimum",), ("minimum/f32/special",)

    def spoil(self, call, arrays, y):
        return np.where(y == 0, np.zeros_like(y), y)


class TiesAreZero(Plain):
    """The larger of two equal numbers is zero."""

    ops, caught = ("maximum",), ("maximum/f32/special", "maximum/i32/special")

    def spoil(self, call, arrays, y):
        return np.where(arrays[0] == arrays[1], np.zeros_like(y), y)


class WritesEarly(Plain):
    """sub writes its first operand to the output before it reads the second."""

    ops, caught = ("sub",), ("sub/f32/inplace",)

    def kernel(self, call):
        if call.op.name != "sub" or any(isinstance(x, type) for x in call.ins):
            return super().kernel(call)

        def run(*given):
            (a, b), (out,) = operands(call, given, self.read)
            y = out[: call.outs[0].nbytes].view(call.outs[0].dtype.np).reshape(call.outs[0].shape)
            with np.errstate(all="ignore"):
                y[...] = a
                y[...] = y - b

        return into(run)


class WrongGradient(Plain):
    """A gradient of softmax, claimed natively, without its second term."""

    ops, caught = ("softmax_grad", "softmax"), ("softmax_grad/f32/0", "softmax/f32/grad")

    def candidates(self, op):
        return (
            [Claim(op.name, None, (ACCEPTS["strided"],), None, False)]
            if op.name == "softmax_grad"
            else super().candidates(op)
        )

    def results(self, call, arrays):
        return [np.asarray(arrays[0] * arrays[1])] if call.op.name == "softmax_grad" else super().results(call, arrays)


class Leaks(Plain):
    """Memory is never given back."""

    level, caught = "L0", ("memory/any/released",)

    def __init__(self):
        self.kept = []

    def alloc(self, nbytes):
        self.kept.append(super().alloc(nbytes))
        return self.kept[-1]

    def memory_stats(self):
        """Everything is live for ever."""
        return {"live": sum(x.nbytes for x in self.kept)}


class ForgetsOffsets(Plain):
    """A view begins where its base begins."""

    level, caught = "L0", ("memory/any/views", "layout/f32/offset")

    def alloc(self, nbytes):
        return super().alloc(nbytes + 2 * GUARD)[GUARD : GUARD + nbytes] if nbytes < GUARD else super().alloc(nbytes)

    def view(self, storage, nbytes):
        return storage


class WritesGaps(Plain):
    """Copying into a strided target fills the gaps between its rows too."""

    level, caught = "L0", ("layout/f32/into-rows",)

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        super().copy_strided(dst, src, itemsize, shape, dst_strides, src_strides)
        if len(shape) == 2 and dst_strides[1] == 1 and dst_strides[0] > shape[1]:
            dst[shape[1] * itemsize : dst_strides[0] * itemsize] = 77


class WrongMemoryError(Plain):
    """What is too large raises an exception of the allocator's own."""

    level, caught = "L0", ("memory/any/exhausted",)

    def alloc(self, nbytes):
        if nbytes > 1 << 40:
            raise OSError("device out of memory")
        return super().alloc(nbytes)


def _all(cls):
    return [x for sub in cls.__subclasses__() for x in (sub, *_all(sub))]


SABOTEURS = _all(Plain)
