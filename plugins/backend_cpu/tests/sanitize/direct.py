"""Calls of kernels that no op binds by itself: copies, casts of a type to itself, gemm, probes."""

import math

from operands import budget, filled, number, operand, shape, size, storage

from treadle.dtypes import ALL, float32
from treadle.sig import dense_sig, sig_of
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.copy import copy_strided
from treadle_backend_cpu.kernels.elementwise import elementwise_ints


def copy(rnd):
    """Copy between two layouts as the core does for views: the target never meets itself."""
    dtype, dims = rnd.choice(ALL), shape(rnd, 0, 6)
    x = operand(rnd, dtype, dims)
    y = sig_of(dtype, dims, _apart(rnd, dims), None)
    source, _ = filled(rnd, x)
    target, _ = filled(rnd, y)
    copy_strided(target, dims, tuple(y.strides), source, tuple(x.strides), dtype.itemsize)


def _apart(rnd, dims):
    """Return strides, not zero, that give every element its own place."""
    order = list(range(len(dims)))
    if rnd.random() < 0.6:
        rnd.shuffle(order)
    result, step = [0] * len(dims), 1
    for k in reversed(order):
        step += rnd.choice((0, 0, 0, 1, 3))
        result[k] = step if rnd.random() < 0.8 else -step
        step *= max(dims[k], 1)
    return tuple(result)


def fill(rnd, backend):
    """Fill a storage with one element's bytes."""
    dtype, count = rnd.choice(ALL), size(rnd, budget(rnd)) - (rnd.random() < 0.1)
    pattern, _ = filled(rnd, dense_sig(dtype, (), None))
    target = storage(rnd, count * dtype.itemsize, dtype.itemsize)
    backend.fill(target, bytes(memoryview(pattern)), count)


def same_cast(rnd, short):
    """Run the cast of a type to itself, which the factory replaces by a copy."""
    dtype = next(d for d in ALL if d.short == short)
    dims = shape(rnd, 0, 6)
    x = operand(rnd, dtype, dims)
    nbytes = math.prod(dims) * dtype.itemsize
    ints = elementwise_ints(x.shape, [x.strides])
    run = native.bind(f"cast_{short}_{short}", 1, (nbytes,), ints, (), b"\xff", rnd.choice((0, 10**6)))
    source, _ = filled(rnd, x)
    run(source) if rnd.random() < 0.5 else run(source, storage(rnd, nbytes, dtype.itemsize))


def gemm(rnd):
    """Run the product that other kernels build on, with any of what it offers."""
    m, n, k = (size(rnd, 80) for _ in range(3))
    k -= rnd.random() < 0.05
    a, b = operand(rnd, float32, (m, k)), operand(rnd, float32, (k, n))
    has, act = rnd.randrange(8), rnd.randrange(2)
    more = [dims for bit, dims in enumerate(((m, n), (n,), (m,))) if has >> bit & 1]
    given = [filled(rnd, x)[0] for x in (a, b, *(dense_sig(float32, dims, None) for dims in more))]
    ints = (m, n, k, *a.strides, *b.strides, act, has)
    alpha = (rnd.choice((1.0, 0.0, -0.5)),)
    run = native.bind("gemm_f32", len(given), (4 * m * n,), ints, alpha, b"\xff" * len(given), 1000)
    run(*given) if rnd.random() < 0.5 else run(*given, storage(rnd, 4 * m * n, 4))


def probe(rnd, name):
    """Run one of the kernels that exist for tests."""
    n = size(rnd, 3000) - (rnd.random() < 0.1)
    work = rnd.choice((0, 10**6))
    if name == "probe_copy":
        dtype = rnd.choice(ALL)
        sizes = (n * dtype.itemsize,) * rnd.randint(1, 30)
        given = [filled(rnd, dense_sig(dtype, (n,), None))[0] for _ in sizes]
        native.bind(name, len(sizes), sizes, sizes, (), b"\xff" * len(sizes), work)(*given)
    elif name == "probe_fill":
        dtype = rnd.choice(ALL)
        run = native.bind(name, 1, (n * dtype.itemsize,), (n, dtype.itemsize), (), bytes([dtype.code]), work)
        try:
            run(number(rnd, rnd.choice((bool, int, float))))
        except OverflowError:
            pass
    elif name == "probe_fail":
        _fail(
            rnd,
            native.bind(name, 0, (8,), (rnd.randint(0, 9), n, rnd.randrange(n + 1)), (1.5,), b"", work),
        )
    elif name == "probe_tasks":
        native.bind(name, 0, (8 * n,), (n, rnd.choice((0, 100))), (), b"", work)()
    else:
        native.bind(name, 0, (), (n,), (), b"", work)()


def _fail(rnd, run):
    try:
        run()
    except (IndexError, ZeroDivisionError, MemoryError, ValueError, SystemError):
        pass
