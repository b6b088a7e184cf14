"""Passes that users bring: where they run, what they are held to, and that the others clean up after them."""

import numpy as np
import pytest

import treadle as td
from treadle.ir.graph import Graph, Node
from treadle.ir.rewrite import duplicate, substitute


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def device(request):
    with td.device(request.param):
        td.manual_seed(0)
        yield request.param


def swapped(old, new):
    """A pass that computes `new` where `old` was traced."""

    def run(graph):
        instead = {}
        for k, n in enumerate(graph.nodes):
            if n.op is old:
                graph.nodes[k] = Node(new, n.inputs, n.attrs, n.specs, n.line)
                instead |= zip(n.outputs, graph.nodes[k].outputs, strict=True)
        return substitute(graph, instead)

    return run


sin_to_cos = swapped(td.ops.sin, td.ops.cos)


def same(a, b):
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_they_run_one_after_the_other():
    x = td.randn(3, 4)
    passes = [sin_to_cos, swapped(td.ops.cos, td.ops.exp)]
    same(td.compile(lambda x: x.sin() + 1, passes=passes)(x), x.exp() + 1)
    same(td.compile(lambda x: x.sin() + 1, passes=passes[::-1])(x), x.cos() + 1)

    @td.compile(passes=[sin_to_cos])
    def decorated(x):
        return x.sin()

    same(decorated(x), x.cos())


def test_a_pass_may_return_another_graph():
    seen = []

    def copied(graph):
        seen.append(graph)
        return sin_to_cos(duplicate(graph)[0])

    w = td.ones(3)

    @td.compile(passes=[copied])
    def f(x):
        w.mul_(2)
        return (x * w).sin()

    x = td.randn(3)
    same(f(x), (x * 2).cos())
    same(f(x), (x * 4).cos())
    assert w.tolist() == [4, 4, 4] and len(seen) == 1


def test_forward_and_backward_are_two_graphs():
    """The derivative of sin was traced as a product with cos; the pass makes of that one with exp."""
    f = td.compile(lambda x: x.sin(), passes=[swapped(td.ops.cos, td.ops.exp)])
    x = td.randn(3, requires_grad=True)
    y = f(x)
    y.sum().backward()
    same(y, x.detach().sin())
    same(x.grad, x.detach().exp())


def test_branches_and_loops_from_the_inside():
    seen = []

    def noted(graph):
        seen.append([n.op.name for n in graph.nodes])
        return sin_to_cos(graph)

    def f(xs, p):
        def body(c, x):
            return c + td.cond(p, lambda v: v.sin(), lambda v: v * 2, x), None

        return td.scan(body, td.zeros(()), xs)[0].sin()

    compiled = td.compile(f, passes=[noted])
    xs = td.randn(4)
    np.testing.assert_allclose(compiled(xs, td.tensor(True)).item(), np.cos(np.cos(xs.numpy()).sum()), rtol=1e-5)
    np.testing.assert_allclose(compiled(xs, td.tensor(False)).item(), np.cos((2 * xs.numpy()).sum()), rtol=1e-5)
    assert [s for s in seen if "sin" in s or "cond" in s][-1] == ["scan", "sin"] and ["sin"] in seen
    before = len(seen)
    compiled(xs, td.tensor(True))
    assert len(seen) == before


def test_every_size_of_a_dynamic_batch():
    f = td.compile(lambda x: x.sin() - x.mean(0), dynamic=True, passes=[sin_to_cos])
    for n in (3, 5, 2):
        x = td.randn(n, 2)
        same(f(x), x.cos() - x.mean(0))
    assert f.traces == 1


def lost(graph):
    graph.outputs.pop()
    return graph


def narrower(graph):
    graph.outputs = [graph.inputs[0]]
    return graph


def unread(graph):
    graph.inputs.pop()
    return graph


def nothing(graph):
    graph.nodes.clear()


class Backwards:
    def __call__(self, graph):
        graph.nodes.reverse()
        return graph


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lost, "after lost: .*as many and of the types"),
        (narrower, "after narrower: .*as many and of the types"),
        (unread, "after unread: .*as many and of the types"),
        (nothing, "after nothing: a pass returns a graph, not NoneType"),
        (
            Backwards(),
            r"after Backwards: graph \w+: an operand is used before it is made(.|\n)*test_own_passes\.py:\d+",
        ),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_pass_that_breaks_a_graph_is_named(broken, problem, inside, monkeypatch):
    """Also where nobody asked for verifying."""
    monkeypatch.setattr("treadle.config.config.verify_passes", False)

    def f(x, y):
        return (x.exp() + y).sum()

    def branch(x, y):
        return td.cond(x.sum() > 0, f, f, x, y)

    compiled = td.compile(branch if inside else f, passes=[broken])
    for _ in range(2):  # and nothing is kept
        with pytest.raises(td.errors.GraphError, match=problem):
            compiled(td.ones(3), td.ones(3))
    assert td.compile(f)(td.ones(3), td.zeros(3)).item() > 0


def test_verify_notices_another_meaning(monkeypatch):
    monkeypatch.setattr("treadle.config.config.verify", True)
    x = td.randn(3)
    with pytest.raises(td.errors.VerifyError, match="every node alone is right: a pass"):
        td.compile(lambda x: x.sin(), passes=[sin_to_cos])(x)
    same(td.compile(lambda x: x.sin(), passes=[lambda g: g])(x), x.sin())


def test_an_outer_function_decides():
    inner = td.compile(lambda x: x.sin(), passes=[sin_to_cos])
    x = td.randn(3)
    same(td.compile(lambda x: inner(x) + 1)(x), x.sin() + 1)
    same(inner(x), x.cos())
    assert isinstance(td.graph(inner, x), Graph)
