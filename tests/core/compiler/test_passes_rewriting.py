"""The passes that replace nodes by fewer or smaller ones: the text before, the text after, and the same values."""

import numpy as np
import pytest
from pass_tools import REFERENCE, again, before_and_after, computed, drawn, same_results

import treadle as td
import treadle.nn.functional as F
from treadle.compiler.passes import activations, fold_batch_norm, fold_constants, prune, recognise, relu_after_pooling
from treadle.ir.text import parse

CASES = {}  # what is shown -> (pass, text before, text after, roundings)


def case(what, run, before, after, roundings=0):
    CASES[what] = (run, before.strip(), after.strip()), roundings


def folded(graph):
    return prune(fold_constants(graph, REFERENCE))


def recognised(graph):
    return prune(recognise(graph))


def normalised(graph):
    return fold_batch_norm(graph, REFERENCE)


# ---- constant folding ------------------------------------------------------------------------------------------------
case(
    "What depends on constants alone is computed; a view of a constant stays one.",
    folded,
    """
graph positions(%0: float32[2, 4]) {
  %1: int64[4] = iota(0, 1) {size=4, dtype=int64}
  %2: float32[4] = cast(%1) {dtype=float32}
  %3: float32[4] = mul(%2, 0.5)
  %4: float32[2, 4] = expand(%3) {to=(2, 4)}
  %5: float32[2, 4] = add(%0, %4)
  return %5
}
""",
    """
graph positions(%0: float32[2, 4]) {
  %1: float32[4] = constant [0.0, 0.5, 1.0, 1.5]
  %2: float32[2, 4] = expand(%1) {to=(2, 4)}
  %3: float32[2, 4] = add(%0, %2)
  return %3
}
""",
)
case(
    "A result of more than 1 MiB is computed at every call.",
    folded,
    """
graph large(%0: float32[512, 1024]) {
  %1: float32[] = constant [2.0]
  %2: float32[512, 1024] = expand(%1) {to=(512, 1024)}
  %3: float32[512, 1024] = exp(%2)
  %4: float32[512, 1024] = add(%0, %3)
  return %4
}
""",
    """
graph large(%0: float32[512, 1024]) {
  %1: float32[] = constant [2.0]
  %2: float32[512, 1024] = expand(%1) {to=(512, 1024)}
  %3: float32[512, 1024] = exp(%2)
  %4: float32[512, 1024] = add(%0, %3)
  return %4
}
""",
)

# ---- relu below pooling ----------------------------------------------------------------------------------------------
case(
    "relu and its gradient move to where a quarter of the elements is left.",
    relu_after_pooling,
    """
graph pooled(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 2, 2]) {
  %2: float32[1, 2, 4, 4] = relu(%0)
  %3: float32[1, 2, 2, 2], %4: int64[1, 2, 2, 2] = max_pool2d(%2) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %5: float32[1, 2, 4, 4] = max_pool2d_grad(%1, %4) {input_size=(1, 2, 4, 4)}
  %6: float32[1, 2, 4, 4] = relu_grad(%5, %2)
  return %3, %6
}
""",
    """
graph pooled(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 2, 2]) {
  %2: float32[1, 2, 2, 2], %3: int64[1, 2, 2, 2] = max_pool2d(%0) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %4: float32[1, 2, 2, 2] = relu(%2)
  %5: float32[1, 2, 2, 2] = relu_grad(%1, %4)
  %6: float32[1, 2, 4, 4] = max_pool2d_grad(%5, %3) {input_size=(1, 2, 4, 4)}
  return %4, %6
}
""",
)
case(
    "Indices that somebody else reads are those of relu's result.",
    relu_after_pooling,
    """
graph indices(%0: float32[1, 2, 4, 4]) {
  %1: float32[1, 2, 4, 4] = relu(%0)
  %2: float32[1, 2, 2, 2], %3: int64[1, 2, 2, 2] = max_pool2d(%1) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  return %2, %3
}
""",
    """
graph indices(%0: float32[1, 2, 4, 4]) {
  %1: float32[1, 2, 4, 4] = relu(%0)
  %2: float32[1, 2, 2, 2], %3: int64[1, 2, 2, 2] = max_pool2d(%1) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  return %2, %3
}
""",
)
case(
    "A gradient that is read before relu_grad stays where it is.",
    relu_after_pooling,
    """
graph unmasked(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 2, 2]) {
  %2: float32[1, 2, 4, 4] = relu(%0)
  %3: float32[1, 2, 2, 2], %4: int64[1, 2, 2, 2] = max_pool2d(%2) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %5: float32[1, 2, 4, 4] = max_pool2d_grad(%1, %4) {input_size=(1, 2, 4, 4)}
  %6: float32[1, 2, 4, 4] = relu_grad(%5, %2)
  return %3, %5, %6
}
""",
    """
graph unmasked(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 2, 2]) {
  %2: float32[1, 2, 4, 4] = relu(%0)
  %3: float32[1, 2, 2, 2], %4: int64[1, 2, 2, 2] = max_pool2d(%2) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %5: float32[1, 2, 4, 4] = max_pool2d_grad(%1, %4) {input_size=(1, 2, 4, 4)}
  %6: float32[1, 2, 4, 4] = relu_grad(%5, %2)
  return %3, %5, %6
}
""",
)

case(
    "A gradient of relu that does not come from the pooling keeps it where it is.",
    relu_after_pooling,
    """
graph another(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 4, 4]) {
  %2: float32[1, 2, 4, 4] = relu(%0)
  %3: float32[1, 2, 2, 2], _ = max_pool2d(%2) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %4: float32[1, 2, 4, 4] = relu_grad(%1, %2)
  return %3, %4
}
""",  # noqa: E501
    """
graph another(%0: float32[1, 2, 4, 4], %1: float32[1, 2, 4, 4]) {
  %2: float32[1, 2, 4, 4] = relu(%0)
  %3: float32[1, 2, 2, 2], _ = max_pool2d(%2) {kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=false}
  %4: float32[1, 2, 4, 4] = relu_grad(%1, %2)
  return %3, %4
}
""",  # noqa: E501
)

# ---- epilogues -------------------------------------------------------------------------------------------------------
case(
    "relu becomes part of the product or the convolution before it.",
    activations,
    """
graph relus(%0: float32[3, 4], %1: float32[5, 4], %2: float32[5], %3: float32[1, 2, 4, 4], %4: float32[3, 2, 3, 3]) {
  %5: float32[3, 5] = linear(%0, %1, %2)
  %6: float32[3, 5] = relu(%5)
  %7: float32[1, 3, 2, 2] = conv2d(%3, %4, none) {stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1}
  %8: float32[1, 3, 2, 2] = relu(%7)
  return %6, %8
}
""",
    """
graph relus(%0: float32[3, 4], %1: float32[5, 4], %2: float32[5], %3: float32[1, 2, 4, 4], %4: float32[3, 2, 3, 3]) {
  %5: float32[3, 5] = fused_linear(%0, %1, %2) {activation="relu"}
  %6: float32[1, 3, 2, 2] = fused_conv2d(%3, %4, none, none) {stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, activation="relu"}
  return %5, %6
}
""",  # noqa: E501
)
case(
    "A product that somebody else reads keeps its relu apart.",
    activations,
    """
graph read(%0: float32[3, 4], %1: float32[5, 4]) {
  %2: float32[3, 5] = linear(%0, %1, none)
  %3: float32[3, 5] = relu(%2)
  %4: float32[3, 5] = add(%3, %2)
  return %4
}
""",
    """
graph read(%0: float32[3, 4], %1: float32[5, 4]) {
  %2: float32[3, 5] = linear(%0, %1, none)
  %3: float32[3, 5] = relu(%2)
  %4: float32[3, 5] = add(%3, %2)
  return %4
}
""",
)
case(
    "BatchNorm with known statistics becomes a scale and a bias of the convolution before it.",
    normalised,
    """
graph norm(
    %0: float32[1, 2, 4, 4],
    %1: float32[3, 2, 3, 3],
    %2: float32[3],
    %3: float32[3],
    %4: float32[3],
    %5: float32[3],
    %6: float32[3]
) {
  %7: float32[1, 3, 2, 2] = conv2d(%0, %1, %2) {stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1}
  %8: float32[1, 3, 2, 2] = batch_norm_inference(%7, %3, %4, %5, %6) {eps=1e-05}
  return %8
}
""",  # noqa: E501
    """
graph norm(
    %0: float32[1, 2, 4, 4],
    %1: float32[3, 2, 3, 3],
    %2: float32[3],
    %3: float32[3],
    %4: float32[3],
    %5: float32[3],
    %6: float32[3]
) {
  %7: float32[3] = add(%4, 1e-05)
  %8: float32[3] = rsqrt(%7)
  %9: float32[3] = mul(%8, %5)
  %10: float32[3] = sub(%2, %3)
  %11: float32[3] = mul(%10, %9)
  %12: float32[3] = add(%11, %6)
  %13: float32[1, 3, 2, 2] = fused_conv2d(%0, %1, %12, %9) {stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, activation="none"}
  return %13
}
""",  # noqa: E501
    roundings=32,
)

# ---- recognition -----------------------------------------------------------------------------------------------------
case(
    "Softmax written out; the logarithm of a softmax.",
    recognised,
    """
graph softmaxes(%0: float32[4, 6], %1: float32[4, 6]) {
  %2: float32[4, 1] = max(%0) {axes=(1,), keepdims=true}
  %3: float32[4, 6] = expand(%2) {to=(4, 6)}
  %4: float32[4, 6] = sub(%0, %3)
  %5: float32[4, 6] = exp(%4)
  %6: float32[4, 1] = sum(%5) {axes=(1,), keepdims=true}
  %7: float32[4, 6] = expand(%6) {to=(4, 6)}
  %8: float32[4, 6] = true_div(%5, %7)
  %9: float32[4, 6] = softmax(%1) {axis=0}
  %10: float32[4, 6] = log(%9)
  return %8, %10
}
""",
    """
graph softmaxes(%0: float32[4, 6], %1: float32[4, 6]) {
  %2: float32[4, 6] = softmax(%0) {axis=1}
  %3: float32[4, 6] = log_softmax(%1) {axis=0}
  return %2, %3
}
""",
    roundings=8,
)
case(
    "What a backward goes on reading is not recognised.",
    recognised,
    """
graph kept(%0: float32[4, 6]) {
  %1: float32[4, 1] = max(%0) {axes=(1,), keepdims=true}
  %2: float32[4, 6] = expand(%1) {to=(4, 6)}
  %3: float32[4, 6] = sub(%0, %2)
  %4: float32[4, 6] = exp(%3)
  %5: float32[4, 1] = sum(%4) {axes=(1,), keepdims=true}
  %6: float32[4, 6] = expand(%5) {to=(4, 6)}
  %7: float32[4, 6] = true_div(%4, %6)
  return %7, %4
}
""",
    """
graph kept(%0: float32[4, 6]) {
  %1: float32[4, 1] = max(%0) {axes=(1,), keepdims=true}
  %2: float32[4, 6] = expand(%1) {to=(4, 6)}
  %3: float32[4, 6] = sub(%0, %2)
  %4: float32[4, 6] = exp(%3)
  %5: float32[4, 1] = sum(%4) {axes=(1,), keepdims=true}
  %6: float32[4, 6] = expand(%5) {to=(4, 6)}
  %7: float32[4, 6] = true_div(%4, %6)
  return %7, %4
}
""",
)
case(
    "Layer-norm written out, with its weight and its bias.",
    recognised,
    """
graph norm(%0: float32[4, 6], %1: float32[6], %2: float32[6]) {
  %3: float32[4, 1] = mean(%0) {axes=(1,), keepdims=true}
  %4: float32[4, 6] = expand(%3) {to=(4, 6)}
  %5: float32[4, 6] = sub(%0, %4)
  %6: float32[4, 6] = square(%5)
  %7: float32[4, 1] = mean(%6) {axes=(1,), keepdims=true}
  %8: float32[4, 1] = add(%7, 1e-05)
  %9: float32[4, 1] = rsqrt(%8)
  %10: float32[4, 6] = expand(%9) {to=(4, 6)}
  %11: float32[4, 6] = mul(%5, %10)
  %12: float32[4, 6] = expand(%1) {to=(4, 6)}
  %13: float32[4, 6] = mul(%12, %11)
  %14: float32[4, 6] = expand(%2) {to=(4, 6)}
  %15: float32[4, 6] = add(%13, %14)
  return %15
}
""",
    """
graph norm(%0: float32[4, 6], %1: float32[6], %2: float32[6]) {
  %3: float32[4, 6] = layer_norm(%0, %1, %2) {ndim=1, eps=1e-05}
  return %3
}
""",
    roundings=32,
)
case(
    "Attention written out, causal where a constant hides what comes later.",
    recognised,
    """
graph heads(%0: float32[1, 2, 3, 4], %1: float32[1, 2, 3, 4], %2: float32[1, 2, 3, 5]) {
  %3: bool[3, 3] = constant [false, true, true, false, false, true, false, false, false]
  %4: float32[1, 2, 4, 3] = permute(%1) {axes=(0, 1, 3, 2)}
  %5: float32[1, 2, 3, 3] = matmul(%0, %4)
  %6: float32[1, 2, 3, 3] = mul(%5, 0.5)
  %7: bool[1, 2, 3, 3] = expand(%3) {to=(1, 2, 3, 3)}
  %8: float32[1, 2, 3, 3] = where(%7, -inf, %6)
  %9: float32[1, 2, 3, 3] = softmax(%8) {axis=3}
  %10: float32[1, 2, 3, 5] = matmul(%9, %2)
  return %10
}
""",
    """
graph heads(%0: float32[1, 2, 3, 4], %1: float32[1, 2, 3, 4], %2: float32[1, 2, 3, 5]) {
  %3: float32[1, 2, 3, 5] = attention(%0, %1, %2, none) {scale=0.5, causal=true}
  return %3
}
""",
    roundings=16,
)
case(
    "A mask that may hide a whole row stays: its NaN would become zeros.",
    recognised,
    """
graph masked(%0: float32[1, 2, 3, 4], %1: bool[1, 2, 3, 3]) {
  %2: float32[1, 2, 4, 3] = permute(%0) {axes=(0, 1, 3, 2)}
  %3: float32[1, 2, 3, 3] = matmul(%0, %2)
  %4: float32[1, 2, 3, 3] = where(%1, -inf, %3)
  %5: float32[1, 2, 3, 3] = softmax(%4) {axis=3}
  %6: float32[1, 2, 3, 4] = matmul(%5, %0)
  return %6
}
""",
    """
graph masked(%0: float32[1, 2, 3, 4], %1: bool[1, 2, 3, 3]) {
  %2: float32[1, 2, 4, 3] = permute(%0) {axes=(0, 1, 3, 2)}
  %3: float32[1, 2, 3, 3] = matmul(%0, %2)
  %4: float32[1, 2, 3, 3] = where(%1, -inf, %3)
  %5: float32[1, 2, 3, 3] = softmax(%4) {axis=3}
  %6: float32[1, 2, 3, 4] = matmul(%5, %0)
  return %6
}
""",
)


@pytest.mark.parametrize("what", CASES)
def test_before_and_after(what):
    before_and_after(CASES[what][0])


@pytest.mark.parametrize("what", CASES)
def test_a_second_time_changes_nothing(what):
    again(CASES[what][0])


@pytest.mark.parametrize("what", CASES)
def test_both_compute_the_same(what):
    case, roundings = CASES[what]
    same_results(case, roundings)


def test_relu_below_pooling_with_negative_equal_and_missing_numbers():
    """Windows whose greatest element is negative, zero, repeated or NaN; a gradient is not lost or doubled."""
    (_, before, after), _ = CASES["relu and its gradient move to where a quarter of the elements is left."]
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = rng.integers(-2, 3, (1, 2, 4, 4)).astype(np.float32)
        x[rng.random(x.shape) < 0.1] = np.nan
        g = drawn(parse(before).inputs[1].spec, rng)
        for a, b in zip(computed(parse(before), [x, g]), computed(parse(after), [x, g]), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_a_network_at_inference(device):
    """Convolutions with BatchNorm, relu and pooling, compiled: what eager gives, and no norm is left."""
    with td.device(device):
        td.manual_seed(0)
        conv = lambda i, o, k, **kw: [td.nn.Conv2d(i, o, k, **kw), td.nn.BatchNorm2d(o)]  # noqa: E731
        layers = [*conv(3, 8, 7, stride=2, padding=3, bias=False), td.nn.ReLU(), td.nn.MaxPool2d(2)]
        layers += [*conv(8, 32, 1), td.nn.ReLU(), *conv(32, 32, 3, padding=1), td.nn.ReLU(), *conv(32, 4, 3)]
        model = td.nn.Sequential(*layers, td.nn.Flatten(), td.nn.Linear(100, 10), td.nn.ReLU())
        for m in model:
            if isinstance(m, td.nn.BatchNorm2d):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
        model.eval()
        compiled, x = td.compile(model), td.randn(2, 3, 28, 28)
        with td.no_grad():
            np.testing.assert_allclose(compiled(x).numpy(), model(x).numpy(), rtol=2e-5, atol=2e-5)
            model[1].running_mean.add_(1.0)  # statistics are read anew at every call
            np.testing.assert_allclose(compiled(x).numpy(), model(x).numpy(), rtol=2e-5, atol=2e-5)
        (entry,) = next(iter(compiled.entries.values()))
        ops = [n.op.name for n in entry.found.graph.nodes]
        assert "batch_norm_inference" not in ops
        assert device == "reference" or [ops.count(name) for name in ("fused_conv2d", "fused_linear", "relu")] == [
            4,
            1,
            1,
        ]


def test_training_through_recognised_ops():
    """A softmax written out in a training step has the gradients of eager."""

    def loss(x):
        e = (x - x.amax(1, keepdim=True)).exp()
        p = e / e.sum(1, keepdim=True)
        return -(p.log() * F.softmax(x.detach() * 2, 1)).sum()

    x = td.randn(5, 7)
    a, b = td.grad(loss)(x), td.compile(td.grad(loss))(x)
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
