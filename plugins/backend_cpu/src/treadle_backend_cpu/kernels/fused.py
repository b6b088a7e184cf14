"""Fused elementwise regions: a body becomes code for the machine of fused.c, once per signature."""

from treadle.dtypes import dtype as find_dtype
from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import FLOATS, STORAGE, collapse, numel, out_bytes
from treadle_backend_cpu.kernels.elementwise import DENSE, LONG_ROW, STRIDED, TRANSPOSED, _mode, _period
from treadle_backend_cpu.kernels.fused_code import FORMS, Declined, code_of

TASK = 4000  # nanoseconds that make a task, about
LARGE = 32 << 20  # bytes of a result that is written past the caches: TD_STREAM_BYTES
PIECE = 2048  # elements: tasks are whole multiples
STAGED, DENSE_INPUTS, LATE = 1, 2, 4  # FUSED_STAGED, FUSED_DENSE, FUSED_LATE
MAX_CODES = 1024
_codes = {}


def region_ints(shape, kinds, strides, result_kinds, code, transposed=True):
    """Return the parameters of fused.c; None where an input is transposed, if that is to be declined."""
    n = numel(shape)
    if n == 1:
        shape, strides = (1,), [(1,)] * len(kinds)
    else:
        shape, *strides = collapse(shape, *strides)
    inputs, by_row, dense = [], False, True
    for kind, each in zip(kinds, strides, strict=True):
        mode, _ = _mode(shape, each)
        if mode == TRANSPOSED and not transposed:
            return None
        dense &= mode == DENSE
        by_row |= mode == STRIDED and shape[-1] >= LONG_ROW
        inputs += [FORMS[kind], mode, 0 if mode == DENSE else _period(shape, each), *each]
    grain = max(1, min(32, round(TASK / code.cost / PIECE)), min(128, n // (64 * PIECE))) * PIECE
    chunk = n if n <= 2 * grain else grain
    head = (n, chunk, shape[-1] if by_row else 0, len(kinds), len(result_kinds), len(code.constants), code.slots)
    plain = code.staged and not any(FORMS[k] for k in (*kinds, *result_kinds))
    known = STAGED * plain | DENSE_INPUTS * (plain and dense) | LATE * code.late
    words = (len(code.words), known, len(shape), *shape, *inputs, *(FORMS[k] for k in result_kinds))
    return (*head, *words, *code.constants, *code.words)


def region_code(kinds, attrs, kind, large):
    """Return the Code of a body, None where there is none; regions come again and again."""
    key = (kinds, repr(attrs["body"]), attrs["results"], kind, large)  # repr: 1.0 == 1, and 0.0 == -0.0
    if key not in _codes:
        if len(_codes) >= MAX_CODES:
            _codes.clear()
        try:
            _codes[key] = code_of(kinds, attrs["body"], attrs["results"], kind, large)
        except Declined:
            _codes[key] = None
    return _codes[key]


def bound_region(call, transposed):
    """Bind a region, or decline it."""
    kinds = tuple(x.dtype.name for x in call.ins)
    kind, shape = "float64" if "float64" in kinds else "float32", tuple(call.outs[0].shape)
    code = region_code(kinds, call.attrs, kind, call.outs[0].dtype.itemsize * numel(shape) >= LARGE)
    results = [spec.dtype.name for spec in call.outs]
    if code is None or code.results != results:
        return None
    ints = region_ints(shape, kinds, [x.strides for x in call.ins], results, code, transposed)
    if ints is None:
        return None
    name, cost = f"fused_{find_dtype(kind).short}", int(numel(shape) * code.cost)
    return native.bind(name, len(kinds), out_bytes(call), ints, (), bytes([STORAGE]) * len(kinds), cost)


@kernel("fused", dtypes=FLOATS, layouts="broadcast0", inplace=True)
def fused_of_copies(backend, call):
    """Take what `fused` declines: inputs whose layout is neither dense nor repeated come as dense copies."""
    return bound_region(call, True)


@kernel("fused", dtypes=FLOATS, layouts="strided", inplace=True)
def fused(backend, call):
    """Bind a region whose inputs can be read row by row."""
    return bound_region(call, False)
