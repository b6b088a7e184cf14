"""verify accepts what tracing and the passes make, and names what does not hold in other graphs."""

import numpy as np
import pytest
from graph_tools import CASES, load, same_graph, symbolic_graphs, tensors, traced_functions, watched

import treadle as td
from treadle.errors import GraphError, TreadleError
from treadle.ir.dim import Dim
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.text import parse, to_text
from treadle.ir.verify import verify
from treadle.op import CATALOGUE, GRAPH_OPS, GraphOp, Op
from treadle.spec import Spec

TRACED = [op for op in dict.fromkeys(op for op, _ in CASES) if op.category not in ("create", "host", "lists")]
SMALL = ["chain10_bwd", "gemm_64x784x256", "mlp_b64", "cnn_b64", "resnet18_train", "gpt_train"]


class Looks:
    """verify and the text form, on every graph that is shown."""

    def __init__(self):
        self.count = 0

    def __call__(self, g):
        self.count += 1
        text = to_text(verify(g))
        again = verify(parse(text))
        assert to_text(again) == text and same_graph(g, again)


@pytest.fixture
def looks(monkeypatch):
    look = Looks()
    watched(monkeypatch, look)
    yield look
    assert look.count


@pytest.mark.parametrize("workload", SMALL)
def test_benchmark_programs(workload, looks):
    step = getattr(load("benchmarks/programs.py").Programs("treadle"), workload)()
    td.compile(step)()


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("name", [name for name, _ in traced_functions()])
def test_compiled_functions(name, device, looks):
    with td.device(device):
        td.manual_seed(0)
        dict(traced_functions())[name]()


@pytest.mark.parametrize("kind", [td.float32, td.float16], ids=str)
@pytest.mark.parametrize("op", TRACED, ids=lambda op: op.name)
def test_ops_where_little_is_claimed(op, kind, monkeypatch):
    """Calls with aux values and backward, decomposed for a device that has few kernels."""
    look = Looks()
    watched(monkeypatch, look)
    with td.device("reference"):
        for other, sample in CASES:
            if other is op and look.count < 12:
                args = tensors(op, sample, kind)
                td.compile(lambda *xs, attrs=sample.attrs: op.fn(*xs, **attrs))(*args)
    assert look.count


def test_symbolic_graphs():
    for g in symbolic_graphs():
        verify(g)


def test_half_precision_on_a_device_that_claims_little(looks):
    with td.device("reference"):
        x = td.randn(4, 5).half()
        td.compile(lambda x: (td.nn.functional.layer_norm(x, (5,)), x.softmax(1), x.exp(), x @ x.t()))(x)


# ---- faults --------------------------------------------------------------------------------------------------------
TEXT = """
graph g(%0: float32[2, 3], %1: float32[3], #s0: float) {
  %2: float32[] = constant [2.0]
  %3: float32[2, 3] = expand(%1) {to=(2, 3)}
  %4: float32[2, 3] = add(%0, %3)
  %5: float32[2, 3], %6: float32[2, 1], _ = layer_norm(%4, %1, none) {ndim=1, eps=1e-05}
  %7: float32[3, 2] = permute(%5) {axes=(1, 0)}
  %8: float32[2, 2] = matmul(%5, %7)
  %9: float32[2, 2] = mul(%8, #s0)
  %10: float32[2, 3], %11: float32[] = clip_by_global_norm([%0], 1.0)
  return %9, %2
}
"""
F = td.float32


def of(g, name):
    return next(n for n in g.nodes if n.op.name == name)


def put(n, k, x):
    n.inputs = (*n.inputs[:k], x, *n.inputs[k + 1 :])


def respec(v, *shape, dtype=F):
    v.spec = Spec(shape, dtype)


def both(n, k, spec):
    n.specs = (*n.specs[:k], spec, *n.specs[k + 1 :])
    n.outputs[k].spec = spec


def extra(g):
    g.constants[Value(Spec((2,), F))] = np.zeros(3, np.float32)


BREAKERS = [
    (lambda g: g.nodes.reverse(), "used before it is made"),
    (lambda g: g.nodes.pop(0), "an operand belongs to no node before it"),
    (lambda g: g.nodes.append(g.nodes[0]), "%3 is defined twice"),
    (lambda g: g.inputs.append(g.inputs[0]), "%0 is defined twice"),
    (lambda g: g.inputs.append(of(g, "add").outputs[0]), "an input or constant is the result of add"),
    (lambda g: put(of(g, "add"), 0, parse(TEXT).inputs[0]), "belongs to no node before it"),
    (lambda g: put(of(g, "add"), 0, None), "operand 'a' must be a value or a number, not none"),
    (lambda g: put(of(g, "add"), 0, True), "operand 'a' must be a value or a number, not bool True"),
    (lambda g: put(of(g, "add"), 0, np.float32(1)), "operand 'a' must be a value or a number, not float32"),
    (lambda g: put(of(g, "matmul"), 0, None), "operand 'a' must be a value, not none"),
    (lambda g: put(of(g, "layer_norm"), 0, None), "operand 'x' must be a value, not none"),
    (lambda g: put(of(g, "add"), 0, g.inputs[1]), r"broadcast to one shape first: \[3\], \[2, 3\]"),
    (lambda g: put(of(g, "mul"), 1, Number("t", float)), "the number t is not declared"),
    (lambda g: put(of(g, "clip_by_global_norm"), 0, g.inputs[0]), "operand 'xs' must be a list of values"),
    (lambda g: put(of(g, "clip_by_global_norm"), 0, ()), "must not be empty"),
    (lambda g: put(of(g, "clip_by_global_norm"), 0, (Value(Spec((2,), F)),)), "belongs to no node before it"),
    (lambda g: setattr(of(g, "add"), "inputs", of(g, "add").inputs * 2), r"takes 2 operands \(a b\), not 4"),
    (lambda g: of(g, "layer_norm").attrs.pop("eps"), "attribute 'eps' is missing"),
    (lambda g: of(g, "add").attrs.update(n=1), "add has no attribute 'n'; it has none"),
    (lambda g: of(g, "permute").attrs.update(axes=(1, 2)), r"axes must be in \[-2, 2\)"),
    (lambda g: of(g, "expand").attrs.update(to=slice(2)), "'to' holds slice, which is nothing that a graph can hold"),
    (lambda g: of(g, "expand").attrs.update(to=(2, 4)), "does not broadcast"),
    (lambda g: of(g, "layer_norm").attrs.update(eps="x"), "'eps' must be a number, not a string"),
    (lambda g: of(g, "layer_norm").attrs.update(ndim=7), "ndim 7 must be in"),
    (lambda g: respec(of(g, "add").outputs[0], 2, 4), r"result 0 is said to be float32\[2, 4\], but add gives"),
    (lambda g: both(of(g, "add"), 0, Spec((2, 3), td.float64)), "said to be float64"),
    (lambda g: both(of(g, "clip_by_global_norm"), 1, Spec((1,), F)), r"clip_by_global_norm gives float32\[\]"),
    (lambda g: respec(g.inputs[0], 2, 3, dtype=td.int32), "operands must have one dtype: int32, float32"),
    (lambda g: respec(g.inputs[1], 3, dtype=td.float64), "float"),
    (lambda g: respec(g.inputs[0], 2, -3), "not negative"),
    (lambda g: respec(g.inputs[0], 2.0, 3), "sizes must be integers"),
    (lambda g: setattr(of(g, "add"), "outputs", ()), r"add has 1 results, not 0 \(of 1 specs\)"),
    (lambda g: setattr(of(g, "add").outputs[0], "index", 1), "does not say that it is that"),
    (lambda g: setattr(of(g, "add").outputs[0], "node", None), "does not say that it is that"),
    (lambda g: g.outputs.append(Value(Spec((), F))), "output 2 is not defined"),
    (lambda g: g.outputs.append(None), "output 2 is not defined"),
    (lambda g: g.numbers.append(Number("s0", int)), "'s0' of kind .* needs a name of its own"),
    (lambda g: g.numbers.append(Number("s 1", int)), "'s 1' of kind"),
    (lambda g: g.numbers.append(Number("s1", str)), "to be int or float"),
    (extra, r"a constant of type float32\[2\] has the data of float32\[3\]"),
    (lambda g: g.constants.update({Value(Spec((), F)): 1.0}), "a constant must be an array"),
    (lambda g: g.constants.update({Value(Spec((), td.bool)): Dim("N")}), r"a constant of type bool\[\] cannot be N"),
    (lambda g: (g.input(Spec((Dim("N"),), F)), g.input(Spec((Dim("N", 2),), F))), "two sizes are called N"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "problem"), BREAKERS, ids=range(len(BREAKERS)))
def test_faults_are_named(breaks, problem):
    g = verify(parse(TEXT))
    breaks(g)
    with pytest.raises(GraphError, match=problem) as e:
        verify(g)
    assert str(e.value).startswith("graph g: ") and isinstance(e.value, TreadleError)
    assert to_text(g)  # a broken graph can be looked at


def test_the_node_and_its_line_are_shown():
    g = parse(TEXT)
    of(g, "add").outputs[0].spec, of(g, "add").line = Spec((2,), F), "model.py:12"
    with pytest.raises(GraphError) as e:
        verify(g)
    assert str(e.value).endswith("\n  in %4: float32[2] = add(%0, %3) (from model.py:12)")


def test_numbers_must_go_with_the_dtype():
    for kind, number in ((td.int32, 2.0), (td.bool, 2)):
        g = Graph()
        x = g.input(Spec((2,), kind))
        g.add(Node(td.ops.maximum, (x, number), {}, (x.spec,)))
        with pytest.raises(GraphError, match="does not go with"):
            verify(g)


def test_the_dtype_of_numbers_alone_is_the_declared_one():
    for text in ("%c, 1.0, 2.0", "%c, 1, 2.0", "%c, 1, 2"):
        verify(parse(f"graph g(%c: bool[2]) {{ %y: float64[2] = where({text}) return %y }}"))
    for text in ("%c, 1.0, 2.0", "%c, 1, 2.0"):
        with pytest.raises(TreadleError, match="Python float does not go with int64"):
            parse(f"graph g(%c: bool[2]) {{ %y: int64[2] = where({text}) return %y }}")
    with pytest.raises(TreadleError, match="the condition must be bool, not int8"):
        parse("graph g(%c: int8[2]) { %y: float64[2] = where(%c, 1, 2) return %y }")


def test_an_op_that_is_not_in_the_catalogue():
    op = Op("strange", "x -> y", tier="kernel", spec=lambda x: x)
    g = Graph()
    x = g.input(Spec((2,), F))
    g.add(Node(op, (x,), {}, (x.spec,)))
    verify(g)
    del CATALOGUE["strange"]
    with pytest.raises(GraphError, match="strange is not an op of the catalogue"):
        verify(g)


def test_graphs_in_attributes_are_checked():
    op = GraphOp("hold", "x -> y", spec=lambda x, body: x)
    try:
        g, inner = Graph("outer"), parse(TEXT)
        x = g.input(Spec((2,), F))
        g.add(Node(op, (x,), {"body": (None, inner)}, (x.spec,)))
        verify(g)
        inner.nodes.pop(0)
        with pytest.raises(GraphError, match="graph outer: graph g: an operand belongs to no node before it"):
            verify(g)
    finally:
        del GRAPH_OPS["hold"]


def test_regions_of_copies_are_checked():
    """No text can write outside of a result."""
    regions = [[(0, ((3,), (1,), 0))], [(0, ((2,), (1,), 1))], [(0, ((2,), (1.0,), 0))]]
    problems = ["goes into a region of shape", "elements outside of", "sizes and strides must be integers"]
    op = Op("strange", "x -> y", tier="copy", category="copy", spec=lambda x: x)
    try:
        for layout, problem in zip(regions, problems, strict=True):
            op.layout = lambda out, x, layout=layout: layout
            with pytest.raises(TreadleError, match=problem):
                parse("graph f(%x: float32[2]) { %y: float32[2] = strange(%x) return %y }")
    finally:
        del CATALOGUE["strange"]


def test_rules_that_raise_anything_are_faults():
    def spec(x):
        raise ZeroDivisionError("by nothing")

    op = Op("strange", "x -> y", tier="kernel", spec=spec)
    try:
        for rule, problem in ((spec, "cannot use these .* ZeroDivisionError"), (lambda x: None, "its rules give None")):
            op.spec = rule
            g = Graph()
            x = g.input(Spec((2,), F))
            g.add(Node(op, (x,), {}, (x.spec,)))
            with pytest.raises(GraphError, match=problem):
                verify(g)
    finally:
        del CATALOGUE["strange"]
