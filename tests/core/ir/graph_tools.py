"""Graphs for tests: one node for every sample of every op, random ones, and those that tracing and the passes make."""

import importlib.util
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import treadle as td
from treadle.compiler import compiled
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.rules import results_of
from treadle.op import CATALOGUE, ELEMENTWISE
from treadle.ops.samples import Arg, default_samples
from treadle.shapes import broadcast
from treadle.spec import Spec

TESTS = Path(__file__).resolve().parents[2]


def load(path):
    """A module by its place under tests/."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, TESTS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- structure -----------------------------------------------------------------------------------------------------
def same_value(a, b):
    return a.__class__ is b.__class__ and repr(a) == repr(b) if isinstance(a, float) else _plain(a, b)


def _plain(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, Graph):
        return isinstance(b, Graph) and same_graph(a, b)
    return a.__class__ is b.__class__ and a == b


def same_graph(a, b):
    """Whether two graphs are one in structure: constants bit for bit, attributes and numbers with their classes."""
    twin = dict(zip([*a.inputs, *a.constants], [*b.inputs, *b.constants], strict=True))
    assert a.name == b.name and all(x.spec == y.spec for x, y in twin.items())
    for x, y in zip(a.constants.values(), b.constants.values(), strict=True):
        assert x.tobytes() == y.tobytes() if isinstance(x, np.ndarray) else x == y
    assert [(n.name, n.kind) for n in a.numbers] == [(n.name, n.kind) for n in b.numbers]
    live = dict(zip(a.numbers, b.numbers, strict=True))
    for m, n in zip(a.nodes, b.nodes, strict=True):
        assert m.op is n.op and m.specs == n.specs and m.attrs.keys() == n.attrs.keys()
        for x, y in zip(m.inputs, n.inputs, strict=True):
            if isinstance(x, Value | Number):
                assert {**twin, **live}[x] is y
            else:
                assert [twin[v] for v in x] == list(y) if isinstance(x, tuple) else same_value(x, y)
        assert all(same_value(m.attrs[k], n.attrs[k]) for k in m.attrs)
        for x, y in zip(m.outputs, n.outputs, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert x.spec == y.spec and y.node is n and y.index == x.index
                twin[x] = y
    assert [twin[v] for v in a.outputs] == b.outputs
    return True


# ---- made by hand --------------------------------------------------------------------------------------------------
FIXED = {"int64": td.int64, "int32": td.int32, "uint32": td.uint32, "bool": td.bool, "float32": td.float32}
CASES = [
    (op, s)
    for op in CATALOGUE.values()
    for s in default_samples(op)
    if op.name != "bitcast" or s.attrs["dtype"].itemsize == 4
]


def spec_of(op, a):
    main = next(d for d in (td.float32, td.int32, td.uint32) if d in op.dtypes)
    return Spec(a.shape, FIXED.get(a.kind, main))


def operands(op, sample, make, number=lambda kind: 2.0):
    """The operands of a sample as nodes have them; make(spec) gives a Value."""
    args = [a if not isinstance(a, Arg) else spec_of(op, a) for a in sample.args]
    shape = broadcast(op.name, *(a.shape for a in args if isinstance(a, Spec))) if op.category in ELEMENTWISE else None
    out = []
    for a, i in zip(args, op.inputs, strict=True):
        if isinstance(a, list):
            out.append(tuple(make(spec_of(op, x)) for x in a))
        elif isinstance(a, Spec):
            kind = td.bool if i.name == "c" else a.dtype
            out.append(make(a if shape is None else Spec(shape, kind)))
        else:
            out.append(number(a) if i.number else a)
    return tuple(out)


def tensors(op, sample, kind):
    """The operands of a sample as tensors on the default device; floats of a kind want a gradient."""
    rng = np.random.default_rng(0)

    def made(a):
        if not isinstance(a, Arg):
            return a
        main = kind if kind in op.dtypes and op.name != "bitcast" else spec_of(op, a).dtype
        x = td.from_numpy(a.make(rng, main)).to(td.get_default_device())
        return x.requires_grad_() if x.dtype.kind == "f" else x

    return [made(x) for a in sample.args for x in (a if isinstance(a, list) else [a])]


def node_of(op, sample, make, want=lambda n: [True] * n, aux=True, number=lambda a: a):
    inputs, attrs = operands(op, sample, make, number), {**op.attrs, **sample.attrs}
    if op.category == "host":
        declared = [Spec((3, inputs[0].spec.ndim), td.int64)]
    else:
        declared = [None] * (len(op.results) + len(op.aux_names) * aux)
    specs = results_of(op, inputs, attrs, declared)
    return Node(op, inputs, attrs, specs, "somewhere.py:7", want(len(specs)))


def one_node(op, sample, aux=True):
    """A graph of one call of an op."""
    g = Graph(op.name)
    g.outputs = list(g.add(node_of(op, sample, g.input, aux=aux)).results())
    return g


ALL = td.dtypes.ALL
BITS = st.integers(0, 2**64 - 1)
FLOATS = BITS.map(lambda b: float(np.array(b, np.uint64).view(np.float64))) | st.sampled_from([0.0, -0.0, 1e16, 0.1])


@st.composite
def arrays(draw, spec=None):
    """An array of any bits."""
    spec = spec or Spec(draw(st.sampled_from([(), (0,), (3,), (2, 3), (17,), (2, 3, 4)])), draw(st.sampled_from(ALL)))
    data = np.frombuffer(draw(st.binary(min_size=spec.nbytes, max_size=spec.nbytes)), np.uint8)
    data = data % 2 if spec.dtype.kind == "b" else data
    return data.view(spec.dtype.np).reshape(spec.shape), spec


@st.composite
def graphs(draw):
    """Random graphs: any ops, operands that are inputs, constants or results of others, unwanted results, numbers."""
    g = Graph(draw(st.sampled_from(["main", "two words", "", 'a"b\\\n']) | st.text(max_size=5)))

    def known(spec):
        values = [*g.inputs, *g.constants, *[v for n in g.nodes for v in n.results()]]
        return [v for v in values if v.spec == spec]

    def make(spec):
        found = known(spec)
        if found and draw(st.booleans()):
            return draw(st.sampled_from(found))
        if spec.size < 20 and draw(st.integers(0, 2)) == 0:
            return g.constant(draw(arrays(spec))[0], spec)
        return g.input(spec)

    def number(a):
        which = draw(st.integers(0, 2))
        if which == 0:
            g.numbers.append(Number(f"n{len(g.numbers)}", draw(st.sampled_from([int, float]))))
            return g.numbers[-1]
        return draw(FLOATS) if which == 1 else draw(st.integers())

    def want(n):
        return draw(st.lists(st.booleans(), min_size=n, max_size=n))

    for op, sample in draw(st.lists(st.sampled_from(CASES), max_size=6)):
        g.add(node_of(op, sample, make, want, draw(st.booleans()), number))
    values = [*g.inputs, *g.constants, *[v for n in g.nodes for v in n.results()]]
    g.outputs = draw(st.lists(st.sampled_from(values), max_size=4)) if values else []
    return g


# ---- made by tracing and the passes --------------------------------------------------------------------------------
def watched(monkeypatch, look):
    """From now on, look(graph) is called before and after the passes of every compiled function."""
    optimize = compiled.optimize

    def watching(graph, device, own=()):
        look(graph)
        look(optimize(graph, device, own))
        return graph

    monkeypatch.setattr(compiled, "optimize", watching)


def traced_functions():
    """(name, a function of no arguments that compiles and runs something)."""
    fixed, dynamic = load("core/compiler/test_compile.py"), load("core/compiler/test_dynamic.py")
    for f in (fixed.windows, fixed.slices, fixed.inner_gradient, fixed.second_order, fixed.created):
        yield f.__name__, lambda f=f: td.compile(f)(td.randn(4, 4))
    for name in fixed.STEPPERS:
        yield name, lambda name=name: fixed.test_a_training_step(name, 0)
    yield "any batch", dynamic.test_a_training_step_for_every_batch_size
    yield "any batch, from outside", dynamic.test_gradients_from_outside


def symbolic_graphs():
    """Graphs with symbolic sizes."""
    dynamic = load("core/compiler/test_dynamic.py")
    x = td.TensorSpec((td.Dim("N", 2), 6), td.float32)
    yield td.graph(dynamic.several, x)
    yield td.graph(dynamic.network(), td.TensorSpec((td.Dim("N", 2), 2, 6, 6), td.float32))
