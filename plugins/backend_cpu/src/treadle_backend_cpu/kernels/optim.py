"""Optimizer steps and gradient clipping over lists of tensors: one call for all parameters."""

from itertools import accumulate

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, STORAGE, numel, out_bytes, work

NUMBER = 12  # learning rates, momenta, step numbers and norms are passed as float64


def _bind(call, lists, numbers, ints, floats):
    """Bind a list op with so many lists and numbers, or decline what the C code does not take."""
    n = call.attrs["n"]
    tensors, rest = call.ins[: n * lists], call.ins[n * lists :]
    if not n or len(rest) != numbers or not all(call.want):
        return None
    if not all(isinstance(x, type) for x in rest):
        return None
    if len({x.dtype.name for x in (*tensors, *call.outs)}) != 1:
        return None
    starts = accumulate((numel(x.shape) for x in tensors[:n]), initial=0)
    nbytes = sum(numel(x.shape) for x in (*tensors, *call.outs)) * tensors[0].dtype.itemsize
    codes = bytes([STORAGE] * len(tensors) + [NUMBER] * numbers)
    ints, name = (tensors[0].dtype.code, n, *ints, *starts), call.op.name
    return native.bind(name, len(call.ins), out_bytes(call), ints, floats, codes, work(nbytes))


@kernel("sgd_step", dtypes=FLOATS, layouts="dense", inplace=True)
def sgd_step(backend, call):
    """Bind a step of SGD; without momentum there are no buffers."""
    a = call.attrs
    ints = tuple(int(a[name]) for name in ("nesterov", "maximize", "first"))
    floats = tuple(float(a[name]) for name in ("dampening", "weight_decay"))
    return _bind(call, 3 if len(call.outs) > a["n"] else 2, 2, ints, floats)


@kernel("adam_step", dtypes=FLOATS, layouts="dense", inplace=True)
def adam_step(backend, call):
    """Bind a step of Adam or, decoupled, AdamW."""
    a = call.attrs
    floats = tuple(float(a[name]) for name in ("beta2", "eps", "weight_decay"))
    return _bind(call, 4, 3, (int(a["decoupled"]), int(a["maximize"])), floats)


@kernel("clip_by_global_norm", dtypes=FLOATS, layouts="dense", inplace=True)
def clip_by_global_norm(backend, call):
    """Bind the scaling of all tensors so that their common norm does not exceed a limit."""
    return _bind(call, 1, 1, (), ())
