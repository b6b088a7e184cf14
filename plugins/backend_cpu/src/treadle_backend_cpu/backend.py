"""CpuBackend: host memory from the caching allocator, kernels bound in C."""

from treadle.errors import OutOfMemoryError
from treadle.runtime.backend import Backend, both
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels import MODULES
from treadle_backend_cpu.kernels.copy import copy_strided
from treadle_backend_cpu.program import compile_plan

NATIVE = type(native.alloc)


class CpuBackend(Backend):
    """The processor this runs on."""

    host = True
    kernel_modules = MODULES
    features = frozenset({"inplace"})

    def alloc(self, nbytes):
        try:
            return native.alloc(nbytes)
        except MemoryError:
            raise OutOfMemoryError(f"cpu: cannot allocate {nbytes} bytes") from None

    def h2d(self, storage, data):
        memoryview(storage)[: len(data)] = data

    def d2h(self, storage, nbytes):
        return memoryview(storage)[:nbytes]

    def copy_strided(self, dst, src, itemsize, shape, dst_strides, src_strides):
        copy_strided(dst, shape, dst_strides, src, src_strides, itemsize)

    def view(self, storage, nbytes):
        return storage.view(nbytes)

    def fill(self, storage, pattern, count):
        one = native.alloc(len(pattern))
        memoryview(one)[: len(pattern)] = pattern
        copy_strided(storage, (count,), (1,), one, (0,), len(pattern))

    def host_view(self, storage):
        return storage

    def wrap_host(self, buffer):
        return native.wrap(buffer)

    def bind(self, call):
        bound = super().bind(call)
        if bound is None or not isinstance(bound.run, NATIVE):
            return bound
        return bound._replace(run=both(bound.run))

    def compile(self, plan):
        return compile_plan(plan)

    def memory_stats(self, reset_peak=False):
        """Bytes and blocks of the allocator: live, peak, cached."""
        return native.memory_stats(reset_peak)

    def empty_cache(self):
        """Give cached blocks back to the system."""
        native.trim()

    def set_num_threads(self, n):
        native.set_num_threads(n)

    def get_num_threads(self):
        return native.get_num_threads()
