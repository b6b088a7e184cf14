"""What the odd backends compute: the reference of every kernel op, on arrays that the backend finds for its storages."""

from treadle.op import CATALOGUE
from treadle.runtime.backend import kernel
from treadle.runtime.reference import compute
from treadle.sig import Sig

KERNELS = tuple(op.name for op in CATALOGUE.values() if op.tier == "kernel")


def claim(factory, layouts, names=KERNELS):
    """Declare that a factory provides every kernel op, for all element types, also written over an operand."""
    for name in names:
        kernel(name, layouts=layouts, inplace=True)(factory)
    return factory


def operands(call, given, read):
    """(operand arrays and numbers, with None for absent ones; the storages that are left: outputs)."""
    rest = iter(given)
    arrays = [None if x is None else read(next(rest), x) if isinstance(x, Sig) else next(rest) for x in call.ins]
    return arrays, list(rest)


def results(call, arrays):
    """The call's results as dense arrays of the declared types."""
    return compute(call.op, arrays, call.attrs, call.outs)
