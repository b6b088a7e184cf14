"""Elementwise kernels: one factory serves every op of the core that declares a C expression.

The C side is generated from the same declarations (tools/generate_elementwise.py); what is decided
here, once per signature, is how each operand's layout is walked."""

import re

from treadle.dtypes import dtype as find_dtype
from treadle.ops import CATALOGUE
from treadle.runtime.backend import kernel
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.common import (
    STORAGE,
    collapse,
    dense_strides,
    numel,
    out_bytes,
    work,
)

DENSE, PERIODIC, STRIDED, TRANSPOSED = range(4)  # how elementwise.c walks an operand
MAX_PERIOD = 512  # elements that a repeated operand's tile has room for
LONG_ROW = 128  # elements of a row that is worth a tile of its own
MANY = 1 << 14  # elements of a transposed operand that is worth gathering in blocks
HEAVY = re.compile(r"\b(exp|exp2|log|expm1|log1p|sin|cos|tanh|erf|pow|atan2|rem|trunc_div|trunc_rem)\(")
HEAVY_FLOPS = 32  # what one call of such a function costs


def _period(shape, strides):
    """Return after how many elements an operand repeats; 0 if it does not, or not densely."""
    first = next((d for d, stride in enumerate(strides) if stride), len(shape))
    return numel(shape[first:]) if strides[first:] == dense_strides(shape[first:]) else 0


def _mode(shape, strides):
    """Return (mode, period) of an operand whose dimensions are collapsed."""
    if strides == dense_strides(shape):
        return DENSE, 0
    period = _period(shape, strides)
    if 0 < period <= MAX_PERIOD:
        return PERIODIC, period
    last, nearest = abs(strides[-1]), min((abs(s) for s in strides if s), default=0)
    transposed = last > 1 and nearest < last and numel(shape) >= MANY
    return (TRANSPOSED if transposed else STRIDED), 0


def _simplicity(modes):
    """Return 1 if all operands are dense, 2 if they are dense or one number, else 0."""
    if all(mode == DENSE for mode, _ in modes):
        return 1
    return 2 if all(found in ((DENSE, 0), (PERIODIC, 1)) for found in modes) else 0


def elementwise_ints(shape, operands):
    """Return the parameters of elementwise.c for operands' strides over the result's shape.

    None stands for the strides of a Python number."""
    if numel(shape) == 1:
        shape, operands = (1,), [(1,)] * len(operands)
    else:
        shape, *operands = collapse(shape, *((0,) * len(shape) if s is None else s for s in operands))
    modes = [_mode(shape, strides) for strides in operands]
    by_row = shape[-1] >= LONG_ROW and any(
        mode == STRIDED and strides[-1] == 1 for (mode, _), strides in zip(modes, operands, strict=True)
    )
    head = (numel(shape), _simplicity(modes), int(by_row), len(shape), *shape)
    return head + tuple(n for found, strides in zip(modes, operands, strict=True) for n in (*found, *strides))


def _number_code(operand, names, call):
    """Return the scalar code of one operand; a number takes the dtype of the tensors beside it."""
    name, x = operand
    if not isinstance(x, type):
        return STORAGE
    if name == "c":
        return find_dtype("bool").code
    return _computed(call, names).code


def _computed(call, names):
    """Return the dtype that the kernel is named by: the operands' but for a condition `c`."""
    found = (x.dtype for name, x in zip(names, call.ins, strict=True) if name != "c" and not isinstance(x, type))
    return next(found, call.outs[0].dtype)


def elementwise(backend, call):
    """Bind the generated kernel of an op to the layouts of its operands."""
    names = [operand.name for operand in call.op.inputs]
    dtype, shape = _computed(call, names), call.outs[0].shape
    ints = elementwise_ints(shape, [None if isinstance(x, type) else x.strides for x in call.ins])
    scalars = bytes(_number_code(operand, names, call) for operand in zip(names, call.ins, strict=True))
    flops = numel(shape) * (1 + HEAVY_FLOPS * len(HEAVY.findall(_expression(call.op, dtype))))
    cost = work(numel(shape) * dtype.itemsize * (len(names) + 1), flops)
    return native.bind(f"{call.op.name}_{dtype.short}", len(names), out_bytes(call), ints, (), scalars, cost)


def _expression(op, dtype):
    """Return the C expression of an op for a dtype, or None."""
    if isinstance(op.c_expr, dict):
        return op.c_expr.get({"b": "bool", "i": "int", "u": "uint", "f": "float"}[dtype.kind])
    return op.c_expr


_built = frozenset(native.names())
for _op in CATALOGUE.values():
    _dtypes = [dtype for dtype in _op.dtypes if f"{_op.name}_{dtype.short}" in _built]
    if _op.c_expr is not None and _dtypes:
        kernel(_op.name, dtypes=_dtypes, layouts="strided", inplace=True)(elementwise)
