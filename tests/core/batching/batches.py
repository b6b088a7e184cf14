"""Batches of operands made from the declared samples, and loops to compare with."""

import numpy as np

import treadle as td
from treadle.conformance.case import Case, samples_for, tensors_in
from treadle.conformance.tensors import flat, mapped
from treadle.dtypes import float32, float64
from treadle.op import CATALOGUE, GraphOp

SIZE = 3
OPS = [op for op in CATALOGUE.values() if not isinstance(op, GraphOp)]


def usual(op):
    """The element type an op is tested with."""
    wanted = (float64, float32, *sorted(op.dtypes, key=lambda d: d.code))
    return next(d for d in wanted if d in op.dtypes)


def cases(op, most=2000):
    """Cases of the op's samples that are not large."""
    dtype = usual(op)
    for n, sample in samples_for(op, dtype):
        if sum(int(np.prod(a.shape)) for a in tensors_in(sample.args)) <= most:
            yield Case(f"{op.name}/{dtype.short}/{n}", None, op, dtype, sample.args, sample.attrs)


def examples(case):
    """Operands of SIZE calls: lists of arrays, numbers, None, and lists of these."""
    count = 1 if case.op.tier == "host" else SIZE  # where the data decides on shapes, they must agree
    made = [Case(f"{case.id}#{k}", None, case.op, case.dtype, case.args, case.attrs).arrays() for k in range(count)]
    return [away(case.op, made[k % count]) for k in range(SIZE)]


def away(op, arrays):
    """Operands inside of the domain and not next to a kink."""
    if op.name in ("log", "log1p", "sqrt", "rsqrt"):
        arrays = [np.asarray(np.abs(a) + 0.1) for a in arrays]
    if op.kinks is not None and all(isinstance(a, np.ndarray) for a in arrays):
        arrays[0] = np.asarray(np.where(op.kinks(*arrays), arrays[0] + 0.01, arrays[0]))
    return arrays


def choices(case):
    """Which tensor operands are batched: all, the first, the last, and all but the first."""
    n = len([a for a in flat(list(case.args)) if hasattr(a, "shape")])
    found = [(True,) * n, (True,) + (False,) * (n - 1), (False,) * (n - 1) + (True,), (False,) + (True,) * (n - 1)]
    return list(dict.fromkeys(c for c in found if any(c))) if n else []


class Batch:
    """One case with a choice of batched operands: the function of one example, its arguments, and the loop."""

    def __init__(self, case, flags):
        self.case, self.op, self.flags = case, case.op, flags
        self.rows = [[a for a in flat(e) if isinstance(a, np.ndarray)] for e in examples(case)]
        first = self.rows[0]
        self.arguments = [np.stack([row[k] for row in self.rows]) if b else first[k] for k, b in enumerate(flags)]
        self.template = examples(case)[0]
        self.in_dims = tuple(0 if b else None for b in flags)

    def tensors(self):
        return [td.tensor(a) for a in self.arguments]

    def call(self, *xs):
        rest = iter(xs)
        args = mapped(lambda a: next(rest) if isinstance(a, np.ndarray) else a, self.template)
        given = args[0] if self.op.inputs[0].many and self.op.category != "lists" else args
        return self.op.fn(*given, **self.case.attrs)

    def __call__(self, *xs):
        """The results of one example, those that there are."""
        return [y for y in flat(self.call(*xs)) if y is not None]

    def example(self, xs, k):
        return [x[k] if b else x for x, b in zip(xs, self.flags, strict=True)]


def each(f, batch, xs):
    """Results of a loop over the examples, stacked."""
    made = [f(*batch.example(xs, k)) for k in range(SIZE)]
    return [td.stack(list(column)) for column in zip(*made, strict=True)]


def batches(op, most=2000):
    for case in cases(op, most):
        for flags in choices(case):
            yield Batch(case, flags)


def same(got, want, what="", tolerance=1e-9):
    assert got.shape == want.shape and got.dtype is want.dtype, (what, got.shape, want.shape, got.dtype, want.dtype)
    a, b = got.detach().numpy_copy(), want.detach().numpy_copy()
    if got.dtype.kind == "f":
        tolerance = {8: tolerance, 4: 2e-5}.get(got.dtype.itemsize, 1e-2)
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), tolerance, tolerance, err_msg=str(what))
    else:
        np.testing.assert_array_equal(a, b, err_msg=str(what))
