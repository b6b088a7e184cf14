"""L0: what a device needs before it has a single kernel: identity, memory, copies between layouts, errors, processes,
no leaks.

Every op also runs once with the device's kernels hidden, so that host fallback and decompositions meet its memory.
"""

import gc
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from treadle import creation
from treadle.conformance import checks, layouts
from treadle.conformance.case import PASSED, Block, Case, Outcome, samples_for
from treadle.conformance.suites.kernels import chosen
from treadle.conformance.suites.refusals import usual
from treadle.conformance.tensors import same_bits
from treadle.dtypes import ALL, DType, uint8
from treadle.errors import DeviceError, OutOfMemoryError, TreadleError
from treadle.op import CATALOGUE, Op
from treadle.ops.samples import Arg
from treadle.runtime import plugins
from treadle.runtime.device import device as Device
from treadle.shapes import dense_strides
from treadle.sig import forget_rows

SHAPES = ((), (7,), (4, 5), (2, 3, 4), (0, 3), (67, 33), (3, 1, 2, 1, 4, 2))
TOO_MUCH = 1 << 50  # bytes
PATIENCE = 30.0  # seconds that a forked child may take
ROUNDS = 20


def blocks() -> Iterator[Block]:
    """Identity first, then memory, then processes, then every op without kernels."""
    yield Block(
        "identity/any",
        lambda: [Case(f"identity/any/{f.__name__[1:]}", _plain(f)) for f in (_manifest, _probe, _status, _index)],
    )
    for dtype in ALL:
        yield Block(f"layout/{dtype.short}", partial(copies, dtype))
    yield Block(
        "memory/any",
        lambda: [
            Case(f"memory/any/{f.__name__[1:]}", _plain(f)) for f in (_views, _apart, _nothing, _exhausted, _released)
        ],
    )
    yield Block("process/any", lambda: [Case(f"process/any/{f.__name__[1:]}", _plain(f)) for f in (_fork, _threads)])
    for op in CATALOGUE.values():
        yield Block(f"{op.name}/bare", partial(bare_cases, op))


def _plain(f: Callable[[Any], str | Outcome]) -> Callable[[Case, Any], Outcome]:
    """A check from a function of the device that returns what is wrong, if anything."""

    def check(case: Case, device: Any) -> Outcome:
        found = f(device)
        return found if isinstance(found, Outcome) else Outcome("F", found, np.inf) if found else PASSED

    return check


# ---- identity ------------------------------------------------------------------------------------------------------
def _manifest(device: Any) -> str:
    _, manifest = plugins.require(device.type)
    if device.type not in manifest.devices:
        return f"its manifest lists {list(manifest.devices)}, not {device.type!r}"
    if manifest.host != device.backend.host:
        return f"its manifest says host={manifest.host}, its backend host={device.backend.host}"
    return "" if manifest.load.count(":") == 1 else f"its manifest's load is not module:Class: {manifest.load!r}"


def _probe(device: Any) -> str:
    answer = plugins.REGISTRY.availability(plugins.require(device.type)[1])
    return "" if answer.ok else f"its probe says unavailable although the device works: {answer.reason}"


def _status(device: Any) -> str:
    plugin, _ = plugins.require(device.type)
    return "" if plugin.status in plugins.USABLE else f"its status is {plugin.status}: {plugin.reason}"


def _index(device: Any) -> str:
    count = device.backend.device_count()
    try:
        _ = Device(device.type, count).backend
    except DeviceError:
        return "" if count > 0 else "it has no device"
    return f"device {count} of {count} can be used"


# ---- copies --------------------------------------------------------------------------------------------------------
def copies(dtype: DType) -> list[Case]:
    """To the device in every layout and back; into every layout; one value everywhere."""
    made = []
    for n, shape in enumerate(SHAPES):
        for layout in layouts.PLACE:
            if layout == "dense" or layouts.fits(layout, shape):
                made.append(_copy(dtype, f"{layout}-{n}", _round_trip, shape, layout))
            if layout not in ("dense", "broadcast") and layouts.fits(layout, shape):
                made.append(_copy(dtype, f"into-{layout}-{n}", _written, shape, layout))
        made.append(_copy(dtype, f"fill-{n}", _filled, shape, "dense"))
    return made


def _copy(dtype: DType, name: str, check: Any, shape: tuple[int, ...], layout: str) -> Case:
    return Case(f"layout/{dtype.short}/{name}", check, CATALOGUE["copy"], dtype, (Arg(shape),), {}, (layout,))


def _same(got: Any, want: Any) -> Outcome:
    if got.shape == want.shape and same_bits(got, want).all():
        return PASSED
    return Outcome(
        "F",
        f"{int((~same_bits(got, want)).sum()) if got.shape == want.shape else 'all'} of {want.size} elements differ",
        np.inf,
    )


def _round_trip(case: Case, device: Any) -> Outcome:
    """Elements survive the way to the device, a strided read there, and the way back."""
    (array,) = case.arrays()
    (x,) = case.place([array], device)
    return _same(x.numpy_copy(), array)


def _written(case: Case, device: Any) -> Outcome:
    """copy_strided writes through a layout and leaves what lies between its elements alone."""
    (array,) = case.arrays()
    (x,) = case.place([array], device)
    whole = x.root
    before = whole.numpy_copy()
    new = np.flip(array).copy()
    x.copy_(creation.from_array(new, device))
    found = _same(x.numpy_copy(), new)
    if found.status == "P" and (whole.numpy_copy() != before).sum() > array.size:
        return Outcome("F", "elements outside of the target were written", np.inf)
    return found


def _filled(case: Case, device: Any) -> Outcome:
    assert case.dtype is not None
    (array,) = case.arrays()
    value = True if case.dtype.kind == "b" else 3
    return _same(
        creation.full(array.shape, value, case.dtype, device).numpy_copy(), np.full(array.shape, value, array.dtype)
    )


# ---- memory --------------------------------------------------------------------------------------------------------
def _bytes(device: Any, n: int = 24) -> tuple[Any, Any]:
    array = np.arange(n, dtype=np.uint8)
    return array, creation.from_array(array, device)


def _views(device: Any) -> str:
    """Handles into the middle of a storage, and from there back and forth."""
    backend = device.backend
    array, x = _bytes(device)
    for steps in ((5,), (5, 7), (20, 3), (12, -7), (23, -23)):
        handle = x.storage
        for step in steps:
            handle = backend.view(handle, step)
        at = sum(steps)
        if bytes(backend.d2h(handle, 1)) != array[at : at + 1].tobytes():
            return f"a view moved by {steps} does not start at byte {at}"
    handle = backend.view(x.storage, 4)
    backend.h2d(handle, memoryview(bytes(3)))
    del handle
    array[4:7] = 0
    return (
        ""
        if same_bits(x.numpy_copy(), array).all()
        else "writing through a view changes other bytes than those it points to"
    )


def _apart(device: Any) -> str:
    """Two storages share nothing, and a handle keeps its memory alive."""
    array, x = _bytes(device)
    y = creation.full((24,), 9, uint8, device)
    kept = device.backend.view(x.storage, 8)
    del x
    gc.collect()
    z = creation.full((24,), 1, uint8, device)
    if bytes(device.backend.d2h(kept, 16)) != array[8:].tobytes():
        return "a view's memory was reused while the view was alive"
    return "" if (y.numpy_copy() == 9).all() and (z.numpy_copy() == 1).all() else "storages share memory"


def _nothing(device: Any) -> str:
    """Allocations and copies of no bytes."""
    x = creation.empty(0, device=device)
    y = creation.from_array(np.empty((3, 0), np.float32), device)
    device.backend.copy_strided(x.storage, y.storage, 4, (3, 0), dense_strides((3, 0)), dense_strides((3, 0)))
    return (
        ""
        if x.numpy_copy().shape == (0,) and CATALOGUE["copy"].fn(y).numpy_copy().shape == (3, 0)
        else "empty tensors change their shape"
    )


def _exhausted(device: Any) -> str:
    """An allocation that cannot be had raises OutOfMemoryError, and the tensors there are keep working."""
    array, x = _bytes(device)
    try:
        creation.empty(TOO_MUCH, dtype=uint8, device=device)
    except OutOfMemoryError as e:
        if device.type not in str(e):
            return f"the error does not name the device: {e}"
    else:
        return "no error was raised"
    return (
        "" if same_bits(x.numpy_copy(), array).all() and checks.works(device) else "a tensor is damaged after the error"
    )


def _released(device: Any) -> str | Outcome:
    """What tensors and results held is given back when they die."""
    _work(device)
    if "live" not in device.backend.memory_stats():
        return _watched(device)
    before = _live(device)
    for _ in range(ROUNDS):
        _work(device)
    after = _live(device)
    return "" if after <= before else f"{after - before} bytes more are live after {ROUNDS} rounds of the same work"


def _work(device: Any) -> None:
    x = creation.from_array(np.ones((32, 16), np.float32), device, True)
    y = CATALOGUE["mul"].fn(CATALOGUE["permute"].fn(x, (1, 0)), 2.0)
    CATALOGUE["sum"].fn(y, (0, 1)).backward()


def _live(device: Any) -> int:
    gc.collect()
    device.backend.synchronize()
    return int(device.backend.memory_stats()["live"])


def _watched(device: Any) -> str | Outcome:
    """Without counts: whether a storage object dies with its tensor."""
    x = _bytes(device)[1]
    try:
        watch = weakref.ref(x.storage)
    except TypeError:
        return Outcome("U", "no memory_stats, and its storages cannot be watched")
    del x
    gc.collect()
    device.backend.synchronize()
    return "" if watch() is None else "a storage outlives its tensor"


# ---- processes -----------------------------------------------------------------------------------------------------
def _fork(device: Any) -> str | Outcome:
    """A forked child can use the device, or is told so by a TreadleError; it never hangs or dies."""
    if not hasattr(os, "fork"):
        return Outcome("U", "this system has no fork")
    _, x = _bytes(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads: exactly what is tried here
        pid = os.fork()
    if pid == 0:
        os._exit(_in_child(device, x))
    return CHILD.get(_wait(pid), "a forked child hung or died")


CHILD = {
    0: "",
    3: "",
    2: "a forked child computes wrong results",
    4: "a forked child fails with an exception that is no TreadleError",
}


def _in_child(device: Any, x: Any) -> int:
    try:
        return 0 if x.numpy_copy()[5] == 5 and checks.works(device) else 2
    except TreadleError:
        return 3
    except BaseException:
        return 4


def _wait(pid: int) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def _threads(device: Any) -> str:
    """Several threads may use the device at once."""
    wrong: list[str] = []

    def use(k: int) -> None:
        try:
            x = creation.from_array(np.full((50,), k, np.float32), device)
            for _ in range(ROUNDS):
                if (CATALOGUE["add"].fn(x, x).numpy_copy() != 2 * k).any():
                    wrong.append("threads get each other's results")
        except Exception as e:
            wrong.append(f"{type(e).__name__}: {e}")

    workers = [threading.Thread(target=use, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return wrong[0] if wrong else ""


# ---- ops without kernels -------------------------------------------------------------------------------------------
@contextmanager
def bare(device: Any) -> Iterator[None]:
    """Inside, the device claims no kernel."""
    backend = device.backend
    backend.bind = lambda call: None
    forget_rows()
    try:
        yield
    finally:
        del backend.bind
        forget_rows()


def bare_cases(op: Op) -> list[Case]:
    """The op's first sample, and one with a matrix in a transposed layout."""
    dtype = usual(op)
    given = list(samples_for(op, dtype))
    n, sample = chosen(given)[0]
    made = [Case(f"{op.name}/bare/0", _without_kernels, op, dtype, given[0][1].args, given[0][1].attrs)]
    shapes = [a.shape for a in sample.args if isinstance(a, Arg)]
    if (
        op.category not in ("create", "lists")
        and op.tier != "host"
        and any(layouts.fits("transposed", x) for x in shapes)
    ):
        each = tuple("transposed" if layouts.fits("transposed", x) else "dense" for x in shapes)
        made.append(
            Case(f"{op.name}/bare/transposed-{n}", _without_kernels, op, dtype, sample.args, sample.attrs, each)
        )
    return made


def _without_kernels(case: Case, device: Any) -> Outcome:
    with bare(device):
        return checks.check_call(case, device)
