"""Operands of samples on the reference device, for checks that need no other backend."""

import numpy as np

import treadle as td
from treadle.conformance.case import Case, differentiable, samples_for, tensors_in
from treadle.conformance.tensors import flat, mapped
from treadle.dtypes import FLOATS, float64
from treadle.op import CATALOGUE

DEVICE = td.device("reference")
POSITIVE = {"log", "log1p", "sqrt", "rsqrt"}  # elsewhere the function is not defined, so differences say nothing
FLOAT_OPS = [op for op in CATALOGUE.values() if op.dtypes & FLOATS]
DIFFERENTIABLE = [op for op in CATALOGUE.values() if differentiable(op)]


def case(op, n, sample, dtype=float64):
    return Case(f"{op.name}/{dtype.short}/{n}", None, op, dtype, sample.args, sample.attrs)


def float_cases(op, most=4096, dtype=float64):
    """Cases of the op's samples whose operands have no more than `most` elements."""
    for n, sample in samples_for(op, dtype):
        if sum(int(np.prod(a.shape)) for a in tensors_in(sample.args)) <= most:
            yield case(op, n, sample, dtype)


def operands(made, leaf=False):
    """The case's operands as tensors; float ones require grad with `leaf`.

    Points next to a kink are moved away from it.
    """
    arrays = made.arrays()
    if made.op.name in POSITIVE:
        arrays = [np.asarray(np.abs(a) + 0.1) for a in arrays]
    if made.op.kinks is not None and all(isinstance(a, np.ndarray) for a in arrays):
        near = made.op.kinks(*arrays)
        arrays[0] = np.asarray(np.where(near, arrays[0] + 0.01, arrays[0]))
    tensors = mapped(lambda a: td.tensor(a, device=DEVICE) if isinstance(a, np.ndarray) else a, arrays)
    if leaf:
        mapped(lambda x: x.requires_grad_() if isinstance(x, td.Tensor) and x.dtype is td.float64 else x, tensors)
    return tensors


def call(made, tensors):
    """The op of a case on tensors in the order of its leaves."""
    rest = iter(tensors)
    args = mapped(lambda a: next(rest) if isinstance(a, np.ndarray) else a, made.arrays())
    given = args[0] if made.op.inputs[0].many and made.op.category != "lists" else args
    return made.op.fn(*given, **made.attrs)


def leaves(tensors):
    return [x for x in flat(tensors) if isinstance(x, td.Tensor)]
