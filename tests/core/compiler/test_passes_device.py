"""The passes that look at a device or at memory, and all passes together: the text before, and the text after."""

import pytest
from pass_tools import REFERENCE, again, before_and_after, same_results

from treadle.compiler.passes import legalise, optimize, split_steps

CASES = {}  # what is shown -> (pass, text before, text after)


def case(what, run, before, after):
    CASES[what] = run, before.strip(), after.strip()


def on_reference(graph):
    return legalise(graph, REFERENCE)


def everything(graph):
    return optimize(graph, REFERENCE)


# ---- legalise --------------------------------------------------------------------------------------------------------
case(
    "layer_norm is not claimed and becomes its decomposition; gelu_tanh is claimed and stays.",
    on_reference,
    """
graph tree(%0: float32[2, 4], %1: float32[4], %2: float32[4]) {
  %3: float32[2, 4], _, _ = layer_norm(%0, %1, %2) {ndim=1, eps=1e-05}
  %4: float32[2, 4] = gelu_tanh(%3)
  return %4
}
""",
    """
graph tree(%0: float32[2, 4], %1: float32[4], %2: float32[4]) {
  %3: float32[2, 1] = mean(%0) {axes=(1,), keepdims=true}
  %4: float32[2, 4] = expand(%3) {to=(2, 4)}
  %5: float32[2, 4] = sub(%0, %4)
  %6: float32[2, 4] = mul(%5, %5)
  %7: float32[2, 1] = mean(%6) {axes=(1,), keepdims=true}
  %8: float32[2, 1] = add(%7, 1e-05)
  %9: float32[2, 1] = rsqrt(%8)
  %10: float32[2, 4] = expand(%3) {to=(2, 4)}
  %11: float32[2, 4] = sub(%0, %10)
  %12: float32[2, 4] = expand(%9) {to=(2, 4)}
  %13: float32[2, 4] = mul(%11, %12)
  %14: float32[2, 4] = expand(%1) {to=(2, 4)}
  %15: float32[2, 4] = mul(%13, %14)
  %16: float32[2, 4] = expand(%2) {to=(2, 4)}
  %17: float32[2, 4] = add(%15, %16)
  %18: float32[2, 4] = gelu_tanh(%17)
  return %18
}
""",
)

case(
    "Half precision is computed in float32, and results that are wanted beside the first are there.",
    on_reference,
    """
graph half(%0: float16[2, 4]) {
  %1: float16[2, 4], _, %2: float32[2, 1] = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  return %1, %2
}
""",
    """
graph half(%0: float16[2, 4]) {
  %1: float32[2, 4] = cast(%0) {dtype=float32}
  %2: float32[2, 1] = mean(%1) {axes=(1,), keepdims=true}
  %3: float32[2, 4] = expand(%2) {to=(2, 4)}
  %4: float32[2, 4] = sub(%1, %3)
  %5: float32[2, 4] = mul(%4, %4)
  %6: float32[2, 1] = mean(%5) {axes=(1,), keepdims=true}
  %7: float32[2, 1] = add(%6, 1e-05)
  %8: float32[2, 1] = rsqrt(%7)
  %9: float32[2, 4] = expand(%2) {to=(2, 4)}
  %10: float32[2, 4] = sub(%1, %9)
  %11: float32[2, 4] = expand(%8) {to=(2, 4)}
  %12: float32[2, 4] = mul(%10, %11)
  %13: float16[2, 4] = cast(%12) {dtype=float16}
  return %13, %8
}
""",
)

case(
    "What is claimed stays, whatever it could be decomposed to.",
    on_reference,
    """
graph few(%0: float32[2, 3]) {
  %1: float32[2, 3] = log_softmax(%0) {axis=1}
  %2: float32[2, 3] = exp(%1)
  return %2
}
""",
    """
graph few(%0: float32[2, 3]) {
  %1: float32[2, 3] = log_softmax(%0) {axis=1}
  %2: float32[2, 3] = exp(%1)
  return %2
}
""",
)

# ---- split_steps -----------------------------------------------------------------------------------------------------
case(
    "Large tensors are stepped alone, as soon as nobody reads them any more; small ones together.",
    split_steps,
    """
graph step(%0: float32[64, 64], %1: float32[64], %2: float32[64, 64], %3: float32[64, 64], %4: float32[8], #lr: float) {
  %5: float32[64, 64] = matmul(%3, %2)
  %6: float32[64, 64] = relu(%5)
  %7: float32[64, 64] = matmul(%6, %0)
  %8: float32[64] = sum(%7) {axes=(0,), keepdims=false}
  %9: float32[64, 64] = sin(%7)
  %10: float32[8] = exp(%4)
  %11: float32[64, 64], %12: float32[64], %13: float32[64, 64], %14: float32[8] = sgd_step([%0, %1, %2, %4], [%6, %8, %9, %10], [], #lr, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, maximize=false, first=false}
  return %11, %12, %13, %14
}
""",
    """
graph step(%0: float32[64, 64], %1: float32[64], %2: float32[64, 64], %3: float32[64, 64], %4: float32[8], #lr: float) {
  %5: float32[64, 64] = matmul(%3, %2)
  %6: float32[64, 64] = relu(%5)
  %7: float32[64, 64] = matmul(%6, %0)
  %8: float32[64, 64] = sgd_step([%0], [%6], [], #lr, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, maximize=false, first=false}
  %9: float32[64] = sum(%7) {axes=(0,), keepdims=false}
  %10: float32[64, 64] = sin(%7)
  %11: float32[64, 64] = sgd_step([%2], [%10], [], #lr, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, maximize=false, first=false}
  %12: float32[8] = exp(%4)
  %13: float32[64], %14: float32[8] = sgd_step([%1, %4], [%9, %12], [], #lr, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, maximize=false, first=false}
  return %8, %13, %11, %14
}
""",
)


# ---- all of them -------------------------------------------------------------------------------------------------------
case(
    "Each pass finds what the one before prepared: the copy, then equal views and sums; of relu_grad's parts too.",
    everything,
    """
graph all(%0: float32[2, 3]) {
  %1: float32[2, 3] = copy(%0)
  %2: float32[3, 2] = permute(%1) {axes=(1, 0)}
  %3: float32[3, 2] = permute(%0) {axes=(1, 0)}
  %4: float32[3] = sum(%2) {axes=(1,), keepdims=false}
  %5: float32[3] = sum(%3) {axes=(1,), keepdims=false}
  %6: float32[3] = mul(%4, 1.0)
  %7: float32[3] = add(%6, %5)
  %8: float32[3] = relu_grad(%7, %4)
  return %8
}
""",
    """
graph all(%0: float32[2, 3]) {
  %1: float32[3, 2] = permute(%0) {axes=(1, 0)}
  %2: float32[3] = sum(%1) {axes=(1,), keepdims=false}
  %3: float32[3] = add(%2, %2)
  %4: bool[3] = le(%2, 0)
  %5: float32[3] = where(%4, 0.0, %3)
  return %5
}
""",
)


@pytest.mark.parametrize("what", CASES)
def test_before_and_after(what):
    before_and_after(CASES[what])


@pytest.mark.parametrize("what", CASES)
def test_a_second_time_changes_nothing(what):
    again(CASES[what])


@pytest.mark.parametrize("what", CASES)
def test_both_compute_the_same(what):
    same_results(CASES[what], roundings=8 * (CASES[what][0] is on_reference))
