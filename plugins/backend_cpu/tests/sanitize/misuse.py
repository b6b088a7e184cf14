"""Wrong use of the native module: it must raise, and touch nothing."""

import contextlib

import numpy as np

from treadle_backend_cpu import _native as native

EDGES = (2**70, 2**63, 2**63 - 1, 2**62, 2**50, 65, 64, 63, 9, 8, 7, 2, 1, 0)
ODD = (*EDGES, *(-n for n in EDGES), None, "x", b"", 1.5, float("nan"), True, (), [1])
REFUSED = (
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
    IndexError,
    BufferError,
    ZeroDivisionError,
)
SMALL = 1 << 20  # larger sizes are asked for, but not written to


def _alloc(rnd):
    n = rnd.choice((*ODD, rnd.randrange(SMALL)))
    made = native.alloc(n)
    assert made.nbytes == int(n), (made, n)
    if made.nbytes <= SMALL:
        memoryview(made)[:] = bytes(made.nbytes)


def _view(rnd):
    owner = native.alloc(rnd.choice((0, 1, 8, 64, 100, 20_000)))
    x = owner.view(rnd.randint(0, owner.nbytes))
    if rnd.random() < 0.5:
        del owner
    for _ in range(3):
        with contextlib.suppress(*REFUSED):
            x = x.view(rnd.choice((*ODD, -x.nbytes, x.nbytes, x.nbytes + 1, rnd.randint(-50, 50))))
    memoryview(x)[:] = bytes(x.nbytes)


def _wrap(rnd):
    flat, table = np.zeros(rnd.choice((0, 1, 7, 100)), np.uint8), np.zeros((6, 4), np.float32)
    gaps = (table[::2], table.T, table[::-1], np.broadcast_to(np.zeros(1), (4,)))
    buffers = (bytearray(b"abc"), b"abc", memoryview(bytearray(9))[2:5])
    arrays = (flat, table, *gaps, *buffers, None, 3, np.zeros(2, object))
    made = native.wrap(rnd.choice(arrays))
    del flat, table, gaps, buffers, arrays
    memoryview(made)[:] = bytes(made.nbytes)


NAMES = (
    "add_f32",
    "neg_i8",
    "cast_f32_f64",
    "probe_copy",
    "reduce",
    "",
    "no_such",
    "add_f32\0",
    None,
    3,
)


def _bind(rnd):
    """Bind with arguments of wrong types and sizes; what is bound is not run."""
    good = ["probe_copy", 1, (8,), (8,), (), b"\xff", 0]
    k = rnd.randrange(len(good))
    tuples = ((), (1.5,), ("x",), (2**70,), (-1,), (-2,), (-(2**63),), (None,), [8], (1,) * 70_000)
    wrong = (
        NAMES,
        ODD,
        tuples,
        tuples,
        tuples,
        (b"", b"\xff\xff", b"\x0d", b"\x00", "x", None),
        ODD,
    )[k]
    good[k] = rnd.choice(wrong)
    if rnd.random() < 0.1:
        del good[rnd.randrange(len(good))]
    native.bind(*good)


def _call(rnd):
    """Call a bound kernel with wrong arguments."""
    n, outs = rnd.choice((1, 2, 3, 13)), rnd.choice((1, 2, 13))
    outs = min(n, outs)
    slots = bytes(rnd.choice((255, 255, 12, 4)) for _ in range(n))
    sizes = tuple(rnd.choice((8, 8, 8, -1)) for _ in range(outs))
    run = native.bind("probe_copy", n, sizes, (8,) * outs, (), slots, rnd.choice((0, 10**6)))
    pieces = (native.alloc(8), native.alloc(8), native.alloc(8), native.alloc(20_000), 1.5, 3)
    wrong = (*pieces, *pieces, None, "x", native.alloc(8), 2**64, native.alloc, object(), True)
    count = rnd.choice((0, n - 1, n, n, n, n + 1, n + outs, n + outs))
    given = [rnd.choice(wrong) for _ in range(count)]
    if count == n + outs:
        given[n:] = [rnd.choice((native.alloc(8), native.alloc(9), native.alloc(7), None, 5)) for _ in range(outs)]
    run(*given)


def _settings(rnd):
    rnd.choice((native.isa, native.names, native.memory_stats, native.trim, native.get_num_threads))()
    native.set_num_threads(rnd.choice((-1, 0, 1, 2, 3, 4, 2**31, 2**70, None, "x", 1.5)))


KINDS = (_alloc, _view, _view, _wrap, _bind, _call, _call, _call)


def once(rnd):
    """Do one wrong thing, or a right one beside it; anything but a plain refusal is an error."""
    kind = _settings if rnd.random() < 0.01 else rnd.choice(KINDS)
    with contextlib.suppress(*REFUSED):
        kind(rnd)
    if kind is _settings:
        native.set_num_threads(2)
