"""A device in another process: memory is bytes over there, handles are integers, and everything goes through a pipe.

Only reads and kernels that may raise wait for an answer. Handles are given back when they die; the far side never sees
a pointer.
"""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

from odd.kernels import claim
from treadle.errors import DeviceError, OutOfMemoryError
from treadle.runtime.backend import Backend, into
from treadle.sig import Sig

LIMIT = 1 << 40
RAISING = {"div", "rem", "gather_nd", "scatter_nd"}


class Handle:
    """The number of a block over there, and an offset; `base` is the handle that owns the block."""

    __slots__ = ("base", "dead", "nbytes", "number", "offset")

    def __init__(self, number, nbytes, dead):
        self.number, self.offset, self.nbytes, self.dead, self.base = number, 0, nbytes, dead, None

    def at(self, nbytes):
        """A handle further on (or back) in the same block."""
        view = Handle(self.number, 0, None)
        view.offset, view.base = self.offset + nbytes, self.base or self
        return view

    def __del__(self):
        if self.dead is not None:
            self.dead.append((self.number, self.nbytes))


def reference(backend, call):
    """Bind the op's reference over there; what comes back is nothing, or an error."""
    ins = tuple((x.dtype, x.shape, x.strides) if isinstance(x, Sig) else x for x in call.ins)
    number = backend.ask("bind", call.op.name, ins, call.attrs, tuple(call.outs))
    waits = call.op.name in RAISING

    def run(*given):
        backend.ask(
            "run", number, tuple((x.number, x.offset) if isinstance(x, Handle) else x for x in given), wait=waits
        )

    return into(run)


claim(reference, "strided")


class Remote(Backend):
    """The near side of the pipe."""

    kernel_modules = (sys.modules[__name__],)

    def __init__(self):
        self.owner, self.lock, self.dead = os.getpid(), threading.RLock(), deque()
        self.next, self.live, self.peak = 0, 0, 0
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        worker = str(Path(__file__).with_name("remote_worker.py"))
        self.process = subprocess.Popen(
            [sys.executable, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        atexit.register(self.close)

    def close(self):
        """End the far side."""
        if os.getpid() == self.owner and self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(10)
            self.process.stdout.close()

    def ask(self, what, *details, wait=False):
        """Send a request; with `wait` return the answer, or raise the error that is one.

        Numbers are given out on this side.
        """
        if os.getpid() != self.owner:
            raise DeviceError(f"{self.name}: a forked process cannot use its parent's connection; start it with spawn")
        with self.lock:
            while self.dead:
                number, nbytes = self.dead.popleft()
                self.live -= nbytes
                pickle.dump(("free", 0, (number,), False), self.process.stdin)
            self.next += 1
            pickle.dump((what, self.next, details, wait), self.process.stdin)
            if not wait:
                return self.next
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def alloc(self, nbytes):
        if nbytes > LIMIT:
            raise OutOfMemoryError(f"{self.name}: cannot allocate {nbytes} bytes")
        number = self.ask("alloc", nbytes)
        self.live += nbytes
        return Handle(number, nbytes, self.dead)

    def h2d(self, storage, data):
        self.ask("h2d", storage.number, storage.offset, bytes(data))

    def d2h(self, storage, nbytes):
        return self.ask("d2h", storage.number, storage.offset, nbytes, wait=True)

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        self.ask(
            "copy",
            (dst.number, dst.offset),
            (src.number, src.offset),
            itemsize,
            tuple(shape),
            tuple(dst_strides),
            tuple(src_strides),
        )

    def view(self, storage, nbytes):
        return storage.at(nbytes)

    def synchronize(self):
        self.ask("nothing", wait=True)

    def memory_stats(self):
        """Bytes that are alive over there."""
        self.synchronize()
        return {"live": self.live}
