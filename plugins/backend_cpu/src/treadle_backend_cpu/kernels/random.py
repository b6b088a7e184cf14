"""Random numbers and dropout; their bits are part of the contract: csrc/random.c has every step."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, numel, out_bytes, work

FLOPS = {"random_bits": 50, "random_uniform": 60, "random_normal": 120}  # of one element


def _fill(backend, call):
    y = call.outs[0]
    if call.op.name != "random_bits" and y.dtype.name not in FLOATS:
        return None
    ints, n = (numel(y.shape), y.dtype.code), numel(y.shape)
    nanoseconds = work(n * y.dtype.itemsize, n * FLOPS[call.op.name])
    return native.bind(call.op.name, 1, out_bytes(call), ints, (), b"\xff", nanoseconds)


for _name in FLOPS:
    kernel(_name, dtypes=("uint32",), layouts="dense")(_fill)


@kernel("dropout", dtypes=FLOATS, layouts="dense", inplace=True)
def dropout(backend, call):
    """Bind dropout, whose mask comes from the state alone."""
    x = call.ins[0]
    n = numel(x.shape)
    ints, p = (n, x.dtype.code), (float(call.attrs["p"]),)
    nanoseconds = work(2 * n * x.dtype.itemsize, n * FLOPS["random_uniform"])
    return native.bind("dropout", 2, out_bytes(call), ints, p, b"\xff\xff", nanoseconds)
