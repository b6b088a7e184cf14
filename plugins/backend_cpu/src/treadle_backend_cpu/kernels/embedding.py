"""Rows of a table by number, and the gradient of the table."""

from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, numel, out_bytes, work
from treadle_backend_cpu.kernels.softmax import compute_name

INDICES = ("int32", "int64")


@kernel("embedding", dtypes=FLOATS, layouts="dense")
def embedding(backend, call):
    """Bind a gather of whole rows, which are moved as bytes."""
    w, i = call.ins
    if i.dtype.name not in INDICES:
        return None
    row = w.shape[1] * w.dtype.itemsize
    ints = (int(i.dtype.itemsize == 8), w.shape[0], numel(i.shape), row)
    return native.bind("embedding", 2, out_bytes(call), ints, (), b"\xff\xff", work(2 * numel(i.shape) * row))


@kernel("embedding_grad", dtypes=FLOATS, layouts="dense")
def embedding_grad(backend, call):
    """Bind the sum of the rows of g that belong to each row of the table."""
    g, i = call.ins
    if i.dtype.name not in INDICES:
        return None
    rows, width = call.outs[0].shape
    ints = (int(i.dtype.itemsize == 8), rows, numel(i.shape), width, g.dtype.code, call.attrs["padding_idx"])
    nbytes = (numel(g.shape) + rows * width) * g.dtype.itemsize
    name = compute_name("embedding_grad", g.dtype)
    return native.bind(name, 2, out_bytes(call), ints, (), b"\xff\xff", work(nbytes))
