"""L1: gradients of every differentiable op, recorded and computed on the device in float32 and float64."""

from treadle.conformance.case import Case, differentiable, samples_for, tensors_in
from treadle.conformance.checks import check_gradient
from treadle.dtypes import DType, float32, float64
from treadle.op import Op

MOST = 4096  # elements: larger samples only repeat what smaller ones show


def gradient_cases(op: Op, dtype: DType) -> list[Case]:
    """Gradients for all float operands of the op's samples."""
    if dtype not in (float32, float64) or not differentiable(op):
        return []
    made = []
    for n, sample in samples_for(op, dtype):
        operands = tensors_in(sample.args)
        sizes = [a.shape for a in operands if a.kind not in ("bool", "int64", "int32", "uint32")]
        if sizes and sum(_count(x) for x in sizes) <= MOST:
            made.append(Case(f"{op.name}/{dtype.short}/grad-{n}", check_gradient, op, dtype, sample.args, sample.attrs))
    return made


def _count(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
