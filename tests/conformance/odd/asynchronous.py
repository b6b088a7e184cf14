"""A device that only promises: every call is queued for a thread, and an error waits there for the next
synchronisation.

A kernel that fails spoils its result, not the queue; the first error since the last synchronisation is raised, with the
op's name.
"""

import os
import queue
import sys
import threading

import numpy as np

from odd.kernels import claim, operands, results
from treadle.errors import OutOfMemoryError
from treadle.runtime.backend import Backend, into
from treadle.runtime.reference import strided

LIMIT = 1 << 40


class Memory:
    """A block that counts itself while it lives, and an offset into it."""

    live = 0

    def __init__(self, raw, offset=0, counted=0):
        self.raw, self.offset, self.counted = raw, offset, counted
        Memory.live += counted

    def __del__(self):
        Memory.live -= self.counted

    @property
    def bytes(self):
        return self.raw[self.offset :]


class View(Memory):
    """Another place in a block, which it keeps alive."""

    def __init__(self, base, offset):
        super().__init__(base.raw, offset)
        self.base = getattr(base, "base", base)


def read(storage, sig):
    """The operand in its layout; strides may lead back before the handle's offset."""
    if 0 in sig.shape:
        return np.empty(sig.shape, sig.dtype.np)
    return np.ndarray(
        sig.shape, sig.dtype.np, storage.raw, storage.offset, [s * sig.dtype.itemsize for s in sig.strides]
    )


def reference(backend, call):
    """Bind the op's reference, to be run later."""

    def work(given):
        arrays, outs = operands(call, given, read)
        for out, y in zip(outs, results(call, arrays), strict=True):
            out.bytes[: y.nbytes] = y.reshape(-1).view(np.uint8)

    return into(lambda *given: backend.later(call.op.name, work, given))


claim(reference, "strided")


class Asynchronous(Backend):
    """The queue and its thread."""

    kernel_modules = (sys.modules[__name__],)
    features = frozenset({"async"})

    def __init__(self):
        self.error = None
        self.start()
        os.register_at_fork(
            before=lambda: self.queue.join(), after_in_child=self.start
        )  # threads do not survive a fork

    def start(self):
        """A new queue with a thread of its own."""
        self.queue = queue.Queue()
        threading.Thread(target=self.serve, args=(self.queue,), daemon=True).start()

    def serve(self, tasks):
        """Do what is queued, for ever."""
        while True:
            name, work, details = tasks.get()
            try:
                work(details)
            except Exception as e:
                self.error = self.error or type(e)(f"{name}: {e}")
            del work, details
            tasks.task_done()

    def later(self, name, work, details):
        """Queue a task."""
        self.queue.put((name, work, details))

    def synchronize(self):
        self.queue.join()
        error, self.error = self.error, None
        if error is not None:
            raise error

    def alloc(self, nbytes):
        if nbytes > LIMIT:
            raise OutOfMemoryError(f"{self.name}: cannot allocate {nbytes} bytes")
        return Memory(np.zeros(nbytes, np.uint8), 0, nbytes)

    def h2d(self, storage, data):
        self.later("h2d", self.put, (storage, bytes(data)))

    def put(self, details):
        """Copy bytes to a storage."""
        storage, data = details
        storage.bytes[: len(data)] = np.frombuffer(data, np.uint8)

    def d2h(self, storage, nbytes):
        self.synchronize()
        return storage.bytes[:nbytes].tobytes()

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        self.later("copy", self.copy, (dst, src, np.dtype(f"u{itemsize}"), shape, dst_strides, src_strides))

    def copy(self, details):
        """Copy between two layouts."""
        dst, src, word, shape, dst_strides, src_strides = details
        strided(dst.bytes, word, shape, dst_strides)[...] = strided(src.bytes, word, shape, src_strides)

    def view(self, storage, nbytes):
        return View(storage, storage.offset + nbytes)

    def memory_stats(self):
        """Bytes that are alive."""
        return {"live": Memory.live}
