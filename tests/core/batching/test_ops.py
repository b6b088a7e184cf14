"""Every op of the catalogue under vmap, for all its declared samples: values, and gradients inside and outside."""

import pytest
from batches import OPS, SIZE, batches, each, same

import treadle as td
from treadle.batching import rules
from treadle.conformance.case import differentiable

every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
DIFFERENTIABLE = pytest.mark.parametrize("op", [op for op in OPS if differentiable(op)], ids=lambda op: op.name)


@every_op
def test_values(op):
    count = 0
    for batch in batches(op):
        xs = batch.tensors()
        got = td.vmap(batch, in_dims=batch.in_dims)(*xs)
        for a, b in zip(got, each(batch, batch, xs), strict=True):
            same(a, b, (batch.case.id, batch.flags))
        count += 1
    assert count or op.category == "create"


@every_op
def test_nested(op):
    """One level maps over all operands, another over the last that is batched."""
    for batch in list(batches(op, 300))[:4]:
        xs = batch.tensors()
        last = max(k for k, b in enumerate(batch.flags) if b)
        both = [td.stack([x] * 2) if k == last and op.tier == "host" else x for k, x in enumerate(xs)]
        both = [td.stack([x, x.flip(0)]) if k == last and op.tier != "host" else x for k, x in enumerate(both)]
        outer = tuple(0 if k == last else None for k in range(len(xs)))
        got = td.vmap(td.vmap(batch, in_dims=batch.in_dims), in_dims=outer)(*both)
        rows = [each(batch, batch, [x[k] if j == last else x for j, x in enumerate(both)]) for k in range(2)]
        for a, b in zip(got, zip(*rows, strict=True), strict=True):
            same(a, td.stack(list(b)), (batch.case.id, batch.flags))


def test_no_op_runs_example_by_example(monkeypatch):
    """Every op that is no host op has a rule or a decomposition."""
    looped = []
    monkeypatch.setattr(
        rules, "looped", lambda f, given, flags, size: looped.append(f) or LOOPED(f, given, flags, size)
    )
    for op in OPS:
        if op.tier != "host":
            for batch in batches(op, 100):
                td.vmap(batch, in_dims=batch.in_dims)(*batch.tensors())
                assert not looped, (op.name, batch.flags)


LOOPED = rules.looped


def test_an_op_of_somebody_else_runs_example_by_example():
    op = td.ops.Op(
        "rowsum_of_squares", "x -> y", tier="kernel", category="odd", spec=lambda x: td.TensorSpec(x.shape[:1], x.dtype),
        reference=lambda x: (x * x).sum(1), vjp={"x": lambda g, x: x * (g * 2.0).reshape(-1, 1)},
    )  # fmt: skip
    try:
        with td.fallback("allow"):
            x = td.randn(SIZE, 4, 2, dtype=td.float64)
            same(td.vmap(op)(x), (x * x).sum(2))
            same(td.grad(lambda x: td.vmap(op)(x).sum())(x), 2 * x)
            same(td.vmap(td.grad(lambda x: op(x).sum()))(x), 2 * x)
    finally:
        td.ops.CATALOGUE.pop(op.name)


def test_a_declared_rule_is_a_function_too():
    def rule(operands, batched, attrs, want):
        (x,) = operands
        assert batched == [True] and attrs == {"by": 3} and want == (True,)
        return x * attrs["by"]

    op = td.ops.Op(
        "scaled_by",
        "x -> y",
        tier="composite",
        spec=lambda x, by: x,
        decompose=lambda x, by: x * by,
        vjp={},
        batch=rule,
    )
    try:
        x = td.randn(SIZE, 2)
        same(td.vmap(lambda v: op(v, by=3))(x), x * 3)
    finally:
        td.ops.CATALOGUE.pop(op.name)


def gradients(f, xs, which):
    """Gradients of a weighted sum of f's float results for the operands `which`, zeros where there are none."""

    def loss(*chosen):
        given = list(xs)
        for k, x in zip(which, chosen, strict=True):
            given[k] = x
        results = [y for y in f(*given) if y.dtype is td.float64]
        return chosen[0].sum() * 0 + sum(((y * (k + 1.5)) * y.detach().cos()).sum() for k, y in enumerate(results))

    return td.grad(loss, argnums=tuple(range(len(which))))(*[xs[k] for k in which])


def floats(xs):
    return [k for k, x in enumerate(xs) if x.dtype is td.float64]


def defined(batch, xs):
    """Whether the op has a gradient for these attributes."""
    try:
        gradients(batch, batch.example(xs, 0), floats(xs))
    except NotImplementedError:
        return False
    return True


@DIFFERENTIABLE
def test_gradients_inside(op):
    """vmap of the gradient: the tape is recorded on batched tensors."""
    for batch in batches(op, 300):
        xs = batch.tensors()
        if not defined(batch, xs):
            continue
        f = lambda *one: gradients(batch, list(one), floats(xs))
        got = td.vmap(f, in_dims=batch.in_dims)(*xs)
        for a, b in zip(got, each(f, batch, xs), strict=True):
            same(a, b, (batch.case.id, batch.flags))


@DIFFERENTIABLE
def test_gradients_outside(op):
    """The gradient of vmap: the tape outside records what the rules do."""
    for batch in batches(op, 300):
        xs = batch.tensors()
        if not defined(batch, xs):
            continue
        got = gradients(td.vmap(batch, in_dims=batch.in_dims), xs, floats(xs))
        want = gradients(lambda *all: each(batch, batch, all), xs, floats(xs))
        for a, b in zip(got, want, strict=True):
            same(a, b, (batch.case.id, batch.flags))
