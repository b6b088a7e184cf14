"""Gradient rules against the differentiated decomposition, and both orders against finite differences, in float64."""

import numpy as np
import pytest
from declared import DEVICE, DIFFERENTIABLE, call, float_cases, leaves, operands

import treadle as td
from treadle.conformance.tensors import flat
from treadle.dtypes import float64
from treadle.eager import resolve

SMALL = 24  # elements: checked one by one; larger samples along random directions
STEP = 1e-6
every_op = pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)


def compared(op, most=4096):
    """Cases whose gradient is the derivative: not of roundings to a narrower type, nor where PyTorch defines it
    otherwise."""
    for made in float_cases(op, most):
        if made.attrs.get("dtype", float64) is float64 and made.attrs.get("padding_idx", -1) < 0:
            yield made


def float_results(made, tensors):
    return [y for y in flat(call(made, tensors)) if y.dtype.kind == "f"]


def weights_of(results, seed=5):
    rng = np.random.default_rng(seed)
    return [td.tensor(rng.standard_normal(y.shape), device=DEVICE) for y in results]


def gradients(results, xs, create_graph=False):
    """Gradients of the results, weighted at random, for all of xs; zeros where there is no path."""
    pairs = [(y, w) for y, w in zip(results, weights_of(results), strict=True) if y.requires_grad]
    if not pairs:
        return [x * 0 for x in xs]
    found = td.autograd.grad(
        [y for y, _ in pairs], xs, [w for _, w in pairs], create_graph=create_graph, allow_unused=True
    )
    return [x.new_zeros(x.shape) if g is None else g for x, g in zip(xs, found, strict=True)]


def defined(made, tensors):
    """Whether the rule has a gradient for these attributes."""
    try:
        gradients(float_results(made, tensors), [x for x in tensors if x.requires_grad])
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize(
    "op", [op for op in DIFFERENTIABLE if op.vjp and op.decompose is not None], ids=lambda op: op.name
)
def test_rule_agrees_with_the_differentiated_decomposition(op):
    for made in compared(op):
        args = operands(made, leaf=True)
        xs = [x for x in leaves(args) if x.requires_grad]
        by_rule = gradients(float_results(made, leaves(args)), xs)
        attrs = tuple(made.attrs.get(a, d) for a, d in op.attrs.items())
        inlined = [y for y in flat(resolve.inline(op, tuple(args), attrs)) if y.dtype.kind == "f"]
        for a, b in zip(by_rule, gradients(inlined, xs), strict=True):
            np.testing.assert_allclose(
                a.detach().numpy_copy(), b.detach().numpy_copy(), rtol=1e-10, atol=1e-10, err_msg=made.id
            )


def along_directions(f, xs, seed=9):
    """The gradient of a weighted result against central differences along one random direction per operand."""
    results = f(xs)
    weights = [w.numpy_copy() for w in weights_of(results)]
    rng = np.random.default_rng(seed)
    for x, g in zip(xs, gradients(results, xs), strict=True):
        v = rng.standard_normal(x.shape)
        sides = []
        for step in (STEP, -STEP):
            moved = [
                (
                    td.tensor(y.detach().numpy_copy() + step * v, device=DEVICE) if y is x else y.detach()
                ).requires_grad_()
                for y in xs
            ]
            sides.append(
                sum(float((y.detach().numpy_copy() * w).sum()) for y, w in zip(f(moved), weights, strict=True))
            )
        exact = float((g.detach().numpy_copy() * v).sum())
        scale = sum(float(np.abs(w).sum()) for w in weights)
        assert abs(exact - (sides[0] - sides[1]) / (2 * STEP)) <= 1e-6 * (1 + abs(exact) + scale), (
            f"operand of shape {x.shape}"
        )


def checked(made, order):
    """Compare gradients of one order with differences of the order before."""
    given = leaves(operands(made, leaf=True))
    if not defined(made, given):
        return
    xs = [x for x in given if x.requires_grad]

    def function(moved):
        rest = iter(moved)
        results = float_results(made, [next(rest) if x.requires_grad else x for x in given])
        return results if order == 1 else gradients(results, moved, create_graph=True)

    if sum(x.numel() for x in xs) > SMALL:
        along_directions(function, xs)
    elif order == 1:
        assert td.autograd.gradcheck(lambda *moved: tuple(function(list(moved))), xs)
    else:
        assert td.autograd.gradgradcheck(lambda *moved: tuple(checked_results(made, given, moved)), xs)


def checked_results(made, given, moved):
    rest = iter(moved)
    return float_results(made, [next(rest) if x.requires_grad else x for x in given])


@every_op
def test_first_order(op):
    for made in compared(op):
        checked(made, 1)


@every_op
def test_second_order(op):
    for made in list(compared(op, 512))[:6]:
        checked(made, 2)
