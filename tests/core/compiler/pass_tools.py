"""What holds for every pass and every graph: tools of the tests of passes. A case is (pass, text before, text after)."""

import numpy as np

import treadle as td
from treadle.compiler.execute import Stepper
from treadle.compiler.lower import Plan
from treadle.ir.text import parse
from treadle.ir.verify import verify
from treadle.runtime import dispatch

REFERENCE = td.device("reference")


def before_and_after(case):
    """The pass makes the expected graph, and both can be."""
    run, before, after = case
    graph = verify(parse(before))
    assert str(graph) == before
    assert str(verify(run(graph))) == after


def again(case):
    """Nothing is left for the pass to do."""
    run, _, after = case
    assert str(run(parse(after))) == after


def same_results(case, roundings=0):
    """Both give the same, bit for bit or within so many roundings of the result's precision."""
    _, before, after = case
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arrays = [drawn(v.spec, rng) for v in parse(before).inputs]
        for a, b in zip(computed(parse(before), arrays), computed(parse(after), arrays), strict=True):
            if roundings:
                bound = roundings * np.finfo(a.dtype).eps
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
            else:
                assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def drawn(spec, rng):
    """An array of random values: positive, so that logarithms and roots are defined."""
    if spec.dtype.kind == "b":
        return np.array(rng.random(spec.shape) < 0.5)
    if spec.dtype.kind in "iu":
        return rng.integers(1, 100, spec.shape).astype(spec.dtype.np)
    return np.asarray(rng.random(spec.shape) + 0.25).astype(spec.dtype.np)


def computed(graph, arrays):
    """Its outputs, kernel by kernel on the NumPy device."""
    plan = Plan(graph, REFERENCE)
    storages = [dispatch.from_numpy(REFERENCE, a, "test") for a in arrays]
    made = Stepper(plan, plain=True)(*storages, *[0.5 for _ in graph.numbers])
    return [dispatch.to_numpy(REFERENCE, s, p.sig) for s, p in zip(made, plan.outputs, strict=True)]
