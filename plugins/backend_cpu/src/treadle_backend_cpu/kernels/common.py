"""What the kernel factories share: dtype groups, shapes as C wants them, arguments of bind."""

from math import prod

FLOATS = ("float16", "bfloat16", "float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTS = SIGNED + UNSIGNED
NUMBERS = INTS + FLOATS
ALL = ("bool", *NUMBERS)

STORAGE = 255  # scalar code of an operand that is always a Storage

BYTES_PER_NS = 16  # memory traffic of one thread from its caches, for estimates of work
FLOPS_PER_NS = 16  # arithmetic of one thread in plain vectorised loops, for estimates of work


def numel(shape):
    """Return how many elements a shape has."""
    return prod(shape)


def dense_strides(shape):
    """Return the row-major strides of a shape, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def collapse(shape, *strides):
    """Merge neighbouring dimensions that every operand walks through in one stride.

    Returns (shape, strides of the first operand, of the second, ...) as tuples, without dimensions
    of size 1. An empty shape stands for one element; a shape with a 0 in it collapses to (0,)."""
    if 0 in shape:
        return ((0,), *((1,) for _ in strides))
    merged = []  # (size, stride of each operand), outermost first
    for dim in zip(shape, *strides, strict=True):
        size, steps = dim[0], dim[1:]
        if size == 1:
            continue
        if merged and all(outer == step * size for outer, step in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    sizes = tuple(size for size, _ in merged)
    return (sizes, *(tuple(steps[k] for _, steps in merged) for k in range(len(strides))))


def split_axis(shape, axis):
    """Return (outer, n, inner): the elements before, along and after an axis of a dense tensor."""
    axis %= len(shape)
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def out_bytes(call):
    """Return the sizes of the results for native.bind: -1 for one that nobody wants."""
    return tuple(
        numel(spec.shape) * spec.dtype.itemsize if wanted else -1
        for spec, wanted in zip(call.outs, call.want, strict=True)
    )


def scalar_codes(call, code=None):
    """Return the scalar codes of the operands for native.bind.

    A Python number is converted to the dtype of `code`, by default that of the first operand that
    is a tensor. Absent operands have no code, since they are not passed."""
    if code is None:
        code = next((x.dtype.code for x in call.ins if hasattr(x, "dtype")), call.outs[0].dtype.code)
    return bytes(code if isinstance(x, type) else STORAGE for x in call.ins if x is not None)


def work(nbytes, flops=0):
    """Estimate the nanoseconds of a kernel from the bytes that it moves and its arithmetic."""
    return int(max(nbytes / BYTES_PER_NS, flops / FLOPS_PER_NS))
