"""Call large kernels from several Python threads at once, for ThreadSanitizer.

    python tests/sanitize/run.py thread tests/sanitize/callers.py [seconds]

All callers share the bound kernels and one pool; some change the number of threads, allocate and
free beside them. Every result must be bit-equal to that of a single caller."""

import random
import sys
import threading
import time

import numpy as np

from treadle.dtypes import float32, int64
from treadle.op import CATALOGUE
from treadle.runtime.backend import Call
from treadle.sig import Sig, dense_sig
from treadle.spec import Spec
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.backend import CpuBackend

CALLERS = 4
JOBS = (
    ("add", ((300, 400), (300, 400)), {}),
    ("exp", ((90_000,),), {}),
    ("sum", ((300, 400),), {"axes": (1,), "keepdims": False}),
    ("sum", ((100_000,),), {"axes": (0,), "keepdims": False}),
    ("matmul", ((150, 130), (130, 170)), {}),
    ("softmax", ((300, 200),), {"axis": 1}),
    ("conv2d", ((4, 8, 24, 24), (16, 8, 3, 3), (16,)), {"padding": (1, 1)}),
    ("max_pool2d", ((8, 16, 32, 32),), {"kernel_size": (2, 2), "stride": (2, 2)}),
    ("layer_norm", ((300, 256), (256,), (256,)), {}),
    ("attention", ((2, 4, 64, 32),) * 3 + (None,), {"scale": 0.2}),
    ("sort", ((64, 500),), {}),
    ("cumsum", ((64, 900),), {"axis": 1}),
    ("cross_entropy", ((500, 100), (500,), None), {}),
    ("max_pool2d_grad", ((8, 16, 16, 16),) * 2, {"input_size": (8, 16, 32, 32)}),
)
INDICES = {"cross_entropy": 1, "max_pool2d_grad": 1}  # the operand that holds int64 numbers


def prepare(backend, rnd, name, shapes, attrs):
    """Return (bound kernel, its operands, its results as bytes)."""
    op = CATALOGUE[name]
    kinds = [int64 if INDICES.get(name) == k else float32 for k in range(len(shapes))]
    ins = tuple(s and dense_sig(d, s, None) for s, d in zip(shapes, kinds, strict=True))
    attrs = {**op.attrs, **attrs}
    outs = op.spec(*[x and Spec(x.shape, x.dtype) for x in ins], **attrs)
    outs = outs if outs.__class__ is tuple else (outs,)
    outs = tuple(Spec(ins[0].shape if op.category in ("unary", "binary") else o.shape, o.dtype) for o in outs)
    bound = backend.bind(Call(op, ins, outs, attrs, (True,) * len(outs)))
    given = [filled(rnd, x) for x in ins if isinstance(x, Sig)]
    run = bound.run.run
    return run, given, contents(run(*given))


def filled(rnd, sig):
    """Return a storage of ordinary numbers; zeros for indices."""
    made = native.alloc(sig.nbytes)
    if sig.dtype is int64:
        memoryview(made)[:] = bytes(sig.nbytes)
    else:
        numbers = np.random.default_rng(rnd.randrange(1000)).standard_normal(sig.size)
        memoryview(made)[:] = numbers.astype(sig.dtype.np).tobytes()
    return made


def contents(made):
    """Return the bytes of one or several results."""
    return [bytes(memoryview(m)) for m in (made if isinstance(made, tuple) else (made,))]


def caller(jobs, seed, until, failures):
    """Call random jobs until the time is over."""
    rnd = random.Random(seed)
    while time.monotonic() < until:
        k = rnd.randrange(len(jobs))
        run, given, expected = jobs[k]
        if contents(run(*given)) != expected:
            failures.append(JOBS[k])
        if rnd.random() < 0.1:
            native.set_num_threads(rnd.choice((1, 2, 3, 4)))
        if rnd.random() < 0.1:
            kept = [native.alloc(rnd.choice((10, 5_000, 3_000_000))) for _ in range(4)]
            native.memory_stats()
            del kept
            native.trim()


def main(seconds=20.0):
    """Run the callers; return the exit status."""
    rnd, backend, failures = random.Random(0), CpuBackend(), []
    native.set_num_threads(3)
    jobs = [prepare(backend, rnd, *job) for job in JOBS]
    until = time.monotonic() + float(seconds)
    threads = [threading.Thread(target=caller, args=(jobs, k, until, failures)) for k in range(CALLERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(f"{len(jobs)} kernels, {CALLERS} callers, {len(failures)} wrong results {failures[:3]}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
