"""The passes that every device gets, on graphs that show what each does: the text before, and the text after."""

import pytest
from pass_tools import again, before_and_after, same_results

from treadle.compiler.passes import common_subexpressions, prune, simplify

CASES = {}  # what is shown -> (pass, text before, text after)


def case(what, run, before, after):
    CASES[what] = run, before.strip(), after.strip()


# ---- prune -----------------------------------------------------------------------------------------------------------
case(
    "Nodes and constants that lead to no output go.",
    prune,
    """
graph dead(%0: float32[2, 3], %1: float32[3]) {
  %2: float32[] = constant [2.0]
  %3: float32[] = constant [3.0]
  %4: float32[2, 3] = mul(%0, 2.0)
  %5: float32[2, 3] = sin(%4)
  %6: float32[2, 3] = expand(%3) {to=(2, 3)}
  %7: float32[2, 3] = add(%4, %6)
  %8: float32[3] = exp(%1)
  return %7
}
""",
    """
graph dead(%0: float32[2, 3], %1: float32[3]) {
  %2: float32[] = constant [3.0]
  %3: float32[2, 3] = mul(%0, 2.0)
  %4: float32[2, 3] = expand(%2) {to=(2, 3)}
  %5: float32[2, 3] = add(%3, %4)
  return %5
}
""",
)

case(
    "A result that nobody reads is marked where its op can leave it out: not that of sort.",
    prune,
    """
graph results(%0: float32[2, 3]) {
  %1: float32[2, 3], %2: float32[2, 1], %3: float32[2, 1] = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  %4: float32[2, 3], %5: int64[2, 3] = sort(%0) {descending=false}
  return %1, %4
}
""",
    """
graph results(%0: float32[2, 3]) {
  %1: float32[2, 3], _, _ = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  %2: float32[2, 3], %3: int64[2, 3] = sort(%0) {descending=false}
  return %1, %2
}
""",
)

# ---- narrow ----------------------------------------------------------------------------------------------------------
case(
    "Branches give what is read, and take what that needs.",
    prune,
    """
graph branches(%0: bool[], %1: float32[2], %2: float32[2]) {
  %3: float32[2], %4: float32[2] = cond(%0, [%1, %2]) {then=graph then(%0: float32[2], %1: float32[2]) {
    %2: float32[2] = sin(%0)
    %3: float32[2] = cos(%1)
    return %2, %3
  }, otherwise=graph otherwise(%0: float32[2], %1: float32[2]) {
    return %0, %1
  }}
  return %3
}
""",
    """
graph branches(%0: bool[], %1: float32[2], %2: float32[2]) {
  %3: float32[2] = cond(%0, [%1]) {then=graph then(%0: float32[2]) {
    %1: float32[2] = sin(%0)
    return %1
  }, otherwise=graph otherwise(%0: float32[2]) {
    return %0
  }}
  return %3
}
""",
)

case(
    "The carry %1 serves only what nobody reads; the carry %0 stays, as the next step reads it.",
    prune,
    """
graph loop(%0: float32[], %1: float32[], %2: float32[5], %3: float32[5], %4: float32[]) {
  %5: float32[], %6: float32[], %7: float32[5], %8: float32[5] = scan([%0, %1], [%2, %3], [%4]) {body=graph body(%0: float32[], %1: float32[], %2: float32[], %3: float32[], %4: float32[]) {
    %5: float32[] = add(%0, %2)
    %6: float32[] = mul(%1, %3)
    %7: float32[] = mul(%5, %4)
    return %5, %6, %7, %6
  }, carries=2, length=5, reverse=false}
  return %7
}
""",
    """
graph loop(%0: float32[], %1: float32[], %2: float32[5], %3: float32[5], %4: float32[]) {
  _, %5: float32[5] = scan([%0], [%2], [%4]) {body=graph body(%0: float32[], %1: float32[], %2: float32[]) {
    %3: float32[] = add(%0, %1)
    %4: float32[] = mul(%3, %2)
    return %3, %4
  }, carries=1, length=5, reverse=false}
  return %5
}
""",
)

case(
    "The condition is always read, so is what it needs.",
    prune,
    """
graph loop(%0: bool[], %1: float32[], %2: float32[], %3: float32[], %4: float32[]) {
  %5: float32[], %6: float32[] = while_loop(%0, [%1, %2], [%3, %4]) {body=graph body(%0: float32[], %1: float32[], %2: float32[], %3: float32[]) {
    %4: float32[] = add(%0, %2)
    %5: float32[] = mul(%1, %3)
    %6: bool[] = lt(%4, 10.0)
    return %6, %4, %5
  }, max_steps=none}
  return %5
}
""",
    """
graph loop(%0: bool[], %1: float32[], %2: float32[], %3: float32[], %4: float32[]) {
  %5: float32[] = while_loop(%0, [%1], [%3]) {body=graph body(%0: float32[], %1: float32[]) {
    %2: float32[] = add(%0, %1)
    %3: bool[] = lt(%2, 10.0)
    return %3, %2
  }, max_steps=none}
  return %5
}
""",
)

# ---- simplify --------------------------------------------------------------------------------------------------------
case(
    "A reshape of a reshape is one; to the shape it had it is none. What is dead then goes with the next prune.",
    simplify,
    """
graph reshapes(%0: float32[2, 3]) {
  %1: float32[6] = reshape(%0) {to=(6,)}
  %2: float32[3, 2] = reshape(%1) {to=(3, 2)}
  %3: float32[2, 3] = reshape(%2) {to=(2, 3)}
  %4: float32[3, 2] = exp(%2)
  %5: float32[2, 3] = sin(%3)
  return %4, %5
}
""",
    """
graph reshapes(%0: float32[2, 3]) {
  %1: float32[6] = reshape(%0) {to=(6,)}
  %2: float32[3, 2] = reshape(%0) {to=(3, 2)}
  %3: float32[2, 3] = reshape(%0) {to=(2, 3)}
  %4: float32[3, 2] = exp(%2)
  %5: float32[2, 3] = sin(%0)
  return %4, %5
}
""",
)

case(
    "Axes are put together: %2 takes axes (1, 2, 0) in the order (1, 0, 2).",
    simplify,
    """
graph permutes(%0: float32[2, 3, 4]) {
  %1: float32[3, 4, 2] = permute(%0) {axes=(1, 2, 0)}
  %2: float32[4, 3, 2] = permute(%1) {axes=(1, 0, 2)}
  %3: float32[2, 3, 4] = permute(%1) {axes=(2, 0, 1)}
  %4: float32[4, 3, 2] = exp(%2)
  %5: float32[2, 3, 4] = sin(%3)
  return %4, %5
}
""",
    """
graph permutes(%0: float32[2, 3, 4]) {
  %1: float32[3, 4, 2] = permute(%0) {axes=(1, 2, 0)}
  %2: float32[4, 3, 2] = permute(%0) {axes=(2, 1, 0)}
  %3: float32[2, 3, 4] = permute(%0) {axes=(0, 1, 2)}
  %4: float32[4, 3, 2] = exp(%2)
  %5: float32[2, 3, 4] = sin(%0)
  return %4, %5
}
""",
)

case(
    "One expand does it; one to the same shape is none.",
    simplify,
    """
graph expands(%0: float32[3]) {
  %1: float32[3] = expand(%0) {to=(3,)}
  %2: float32[1, 3] = expand(%1) {to=(1, 3)}
  %3: float32[2, 3] = expand(%2) {to=(2, 3)}
  %4: float32[2, 3] = exp(%3)
  return %4
}
""",
    """
graph expands(%0: float32[3]) {
  %1: float32[3] = expand(%0) {to=(3,)}
  %2: float32[1, 3] = expand(%0) {to=(1, 3)}
  %3: float32[2, 3] = expand(%0) {to=(2, 3)}
  %4: float32[2, 3] = exp(%3)
  return %4
}
""",
)

case(
    "Values never change, so a copy is the same; so is a cast to the dtype that it has.",
    simplify,
    """
graph same(%0: float32[3]) {
  %1: float32[3] = copy(%0)
  %2: float32[3] = cast(%1) {dtype=float32}
  %3: float64[3] = cast(%2) {dtype=float64}
  return %2, %3
}
""",
    """
graph same(%0: float32[3]) {
  %1: float32[3] = copy(%0)
  %2: float32[3] = cast(%0) {dtype=float32}
  %3: float64[3] = cast(%0) {dtype=float64}
  return %0, %3
}
""",
)

case(
    "Only what keeps every bit: adding 0.0 makes 0.0 of -0.0, and 0 times infinity is NaN.",
    simplify,
    """
graph neutral(%0: float32[3], %1: int32[3]) {
  %2: float32[3] = mul(%0, 1.0)
  %3: float32[3] = div(%2, 1)
  %4: float32[3] = pow(%3, 1.0)
  %5: float32[3] = exp(%4)
  %6: float32[3] = add(%0, 0.0)
  %7: float32[3] = sub(%0, 0.0)
  %8: float32[3] = mul(%0, 0.0)
  %9: int32[3] = div(%1, 1)
  %10: float32[3] = pow(1.0, %0)
  return %5, %6, %7, %8, %9
}
""",
    """
graph neutral(%0: float32[3], %1: int32[3]) {
  %2: float32[3] = mul(%0, 1.0)
  %3: float32[3] = div(%0, 1)
  %4: float32[3] = pow(%0, 1.0)
  %5: float32[3] = exp(%0)
  %6: float32[3] = add(%0, 0.0)
  %7: float32[3] = sub(%0, 0.0)
  %8: float32[3] = mul(%0, 0.0)
  %9: int32[3] = div(%1, 1)
  %10: float32[3] = pow(1.0, %0)
  return %5, %6, %7, %8, %1
}
""",
)

# ---- common_subexpressions -------------------------------------------------------------------------------------------
case(
    "Equal constants are one, and then equal nodes are.",
    common_subexpressions,
    """
graph equal(%0: float32[3]) {
  %1: float32[3] = constant [1.0, 2.0, 3.0]
  %2: float32[3] = constant [1.0, 2.0, 3.0]
  %3: float32[3] = add(%0, %1)
  %4: float32[3] = add(%0, %2)
  %5: float32[3] = exp(%3)
  %6: float32[3] = exp(%4)
  %7: float32[3] = mul(%5, %6)
  return %7
}
""",
    """
graph equal(%0: float32[3]) {
  %1: float32[3] = constant [1.0, 2.0, 3.0]
  %2: float32[3] = constant [1.0, 2.0, 3.0]
  %3: float32[3] = add(%0, %1)
  %4: float32[3] = exp(%3)
  %5: float32[3] = mul(%4, %4)
  return %5
}
""",
)

case(
    "0.0 is not -0.0, 2 is not 2.0, operands have an order, attributes differ; #lr is one number within a call.",
    common_subexpressions,
    """
graph different(%0: float32[3], %1: int32[3], #lr: float) {
  %2: float32[] = constant [0.0]
  %3: float32[] = constant [-0.0]
  %4: float32[3] = mul(%0, 0.0)
  %5: float32[3] = mul(%0, -0.0)
  %6: float32[3] = mul(%0, 2)
  %7: float32[3] = mul(%0, 2.0)
  %8: float32[3] = mul(%0, #lr)
  %9: float32[3] = mul(%0, #lr)
  %10: float32[3] = sub(%0, %4)
  %11: float32[3] = sub(%4, %0)
  %12: float32[1] = sum(%0) {axes=(0,), keepdims=true}
  %13: float32[] = sum(%0) {axes=(0,), keepdims=false}
  return %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13
}
""",
    """
graph different(%0: float32[3], %1: int32[3], #lr: float) {
  %2: float32[] = constant [0.0]
  %3: float32[] = constant [-0.0]
  %4: float32[3] = mul(%0, 0.0)
  %5: float32[3] = mul(%0, -0.0)
  %6: float32[3] = mul(%0, 2)
  %7: float32[3] = mul(%0, 2.0)
  %8: float32[3] = mul(%0, #lr)
  %9: float32[3] = sub(%0, %4)
  %10: float32[3] = sub(%4, %0)
  %11: float32[1] = sum(%0) {axes=(0,), keepdims=true}
  %12: float32[] = sum(%0) {axes=(0,), keepdims=false}
  return %2, %3, %4, %5, %6, %7, %8, %8, %9, %10, %11, %12
}
""",
)

case(
    "Of one state come the same numbers, of two states others.",
    common_subexpressions,
    """
graph random(%0: uint32[4], %1: uint32[4]) {
  %2: float32[3] = random_uniform(%0) {shape=(3,), dtype=float32}
  %3: float32[3] = random_uniform(%0) {shape=(3,), dtype=float32}
  %4: float32[3] = random_uniform(%1) {shape=(3,), dtype=float32}
  return %2, %3, %4
}
""",
    """
graph random(%0: uint32[4], %1: uint32[4]) {
  %2: float32[3] = random_uniform(%0) {shape=(3,), dtype=float32}
  %3: float32[3] = random_uniform(%1) {shape=(3,), dtype=float32}
  return %2, %2, %3
}
""",
)

case(
    "Nodes that want other results may be other kernels: a kernel that gives no statistics can be faster.",
    common_subexpressions,
    """
graph wanted(%0: float32[2, 3]) {
  %1: float32[2, 3], %2: float32[2, 1], %3: float32[2, 1] = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  %4: float32[2, 3], _, _ = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  %5: float32[2, 3], _, _ = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  return %1, %2, %3, %4, %5
}
""",
    """
graph wanted(%0: float32[2, 3]) {
  %1: float32[2, 3], %2: float32[2, 1], %3: float32[2, 1] = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  %4: float32[2, 3], _, _ = layer_norm(%0, none, none) {ndim=1, eps=1e-05}
  return %1, %2, %3, %4, %4
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
    same_results(CASES[what])
