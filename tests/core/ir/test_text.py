"""The text of a graph is read back as the same graph; what is wrong in a text is named with its place."""

import random
import re
import struct

import numpy as np
import pytest
from graph_tools import ALL, CASES, FLOATS, arrays, graphs, one_node, same_graph, symbolic_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

import treadle as td
from treadle.errors import FormatError
from treadle.ir.dim import Dim, Ratio
from treadle.ir.graph import Graph, Node, Number, Value
from treadle.ir.text import parse, to_text
from treadle.ir.verify import verify
from treadle.op import GRAPH_OPS, GraphOp
from treadle.spec import Spec


def examples(count):
    return settings(max_examples=count, deadline=None, database=None, derandomize=True)


def round_trip(g):
    text = to_text(g)
    again = verify(parse(text))
    assert to_text(again) == text and same_graph(g, again)
    return text


@pytest.fixture(scope="module")
def hold():
    """An op that takes any attribute."""
    op = GraphOp("hold", "x -> y", spec=lambda x, a, n=3: x)
    yield op
    del GRAPH_OPS["hold"]


def holding(op, a):
    g = Graph()
    x = g.input(Spec((3,), td.float32))
    g.outputs = list(g.add(Node(op, (x,), {"a": a, "n": 3}, (x.spec,))).results())
    return g


ALL_FORMS = """\
graph main[M: 0 to 8, N: 1 to inf](%0: float32[N, 3], %1: float32[4, 3], %2: int64[M, 2*N + 1], %3: int8[], #lr: float) {
  %4: float32[2] = constant [0.1, -0.0]
  %5: bool[] = constant [true]
  %6: int8[20] = constant base64[20] "AAECAwQFBgcICQoLDA0ODxAREhM="
  %7: float64[] = constant ratio(1.0, <N + 1>, 0.5)
  %8: float32[N, 4] = linear(%0, %1, none)
  %9: float32[N, 4], _, _ = layer_norm(%8, none, none) {ndim=1, eps=1e-05}
  %10: float32[4*N] = reshape(%9) {to=(<4*N>,)}
  %11: float32[4] = subscript(%9) {items=(0, (0, 4, 1))}
  %12: float16[N, 4] = cast(%9) {dtype=float16}
  _: float32[N, 4] = mul(%9, -2)
  %13: float32[4, 3] = sgd_step([%1], [%1], [], #lr, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, \
maximize=false, first=false}
  () = sgd_step([], [], [], 0.1, 0.0) {dampening=0.0, nesterov=false, weight_decay=0.0, \
maximize=false, first=false}
  return %10, %10, %0
}"""


def test_every_form():
    assert round_trip(parse(ALL_FORMS)) == ALL_FORMS


def test_layout_is_free_and_names_are_given_anew():
    g = parse("graph f(%x:float32[2,],)# of vectors\n{%twice : float32 [2]=mul ( %x,2 , )# doubled\nreturn %twice,}")
    assert to_text(g) == "graph f(%0: float32[2]) {\n  %1: float32[2] = mul(%0, 2)\n  return %1\n}" == str(g)


def test_attributes_that_are_not_given_have_their_defaults():
    g = parse('graph "" (%0: float32[2, 3]) { %1: float32[2] = sum(%0) {axes=(1,)} return %1 }')
    assert g.nodes[0].attrs == {"axes": (1,), "keepdims": False} and g.name == ""


@pytest.mark.parametrize("op", dict.fromkeys(op for op, _ in CASES), ids=lambda op: op.name)
def test_every_op(op):
    for other, sample in CASES:
        if other is op:
            round_trip(one_node(op, sample))
            round_trip(one_node(op, sample, aux=False))


@examples(150)
@given(graphs())
def test_random_graphs(g):
    round_trip(g)


@examples(300)
@given(arrays())
def test_constants_of_any_bits(made):
    g = Graph()
    g.outputs = [g.constant(*made)]
    round_trip(g)


@pytest.mark.parametrize("dtype", [d for d in ALL if d.kind == "f"], ids=str)
def test_every_half_float_and_the_edges_of_others_survive(dtype):
    count = 1 << 16
    if dtype.itemsize == 2:
        a = np.arange(count, dtype=np.uint16).view(dtype.np)
    else:
        word = np.dtype(f"u{dtype.itemsize}")
        edge = np.array([0, 1, 2, 1 << 22, 1 << 23], word)
        top = np.array([0, 1, 0x7F, 0x3F8, 0x7F8, 0x7FF, 0xFF8, 0xFFF], word) << word.type(8 * dtype.itemsize - 12)
        a = (edge[:, None] | top).view(dtype.np)
    g = Graph()
    for part in np.array_split(a.reshape(-1), max(a.size // 4096, 3)):
        g.constant(part.copy(), Spec(part.shape, dtype))
        for x in part[:: 97 if dtype.itemsize == 2 else 1]:
            g.constant(np.array(x), Spec((), dtype))
    round_trip(g)


ATOMS = (
    st.none() | st.booleans() | st.integers() | FLOATS | st.text() | st.sampled_from(ALL)
    | st.sampled_from([Dim("N") + 1, 2 * Dim("M", 0, 9), 1.5 / Dim("N"), (Dim("N") + 1) / Dim("M", 0, 9) * 0.5])
)  # fmt: skip


@examples(300)
@given(a=st.recursive(ATOMS, lambda x: st.lists(x, max_size=3).map(tuple)))
def test_attributes_keep_value_and_type(a, hold):
    round_trip(holding(hold, a))


@pytest.mark.parametrize("x", [2, 2.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf"), 5e-324, 10**40])
def test_numbers_keep_value_and_class(x):
    g = Graph()
    v = g.input(Spec((2,), td.float32))
    g.outputs = list(g.add(Node(td.ops.mul, (v, x), {}, (v.spec,))).results())
    round_trip(g)
    y = parse(to_text(g)).nodes[0].inputs[1]
    assert y.__class__ is x.__class__ and (y == x if x.__class__ is int else struct.pack("d", y) == struct.pack("d", x))


def test_graphs_in_attributes(hold):
    inner = holding(hold, (1, holding(hold, None)))
    inner.name = "two words"
    outer = holding(hold, (inner, inner.nodes[0].attrs["a"][1]))
    text = round_trip(outer)
    assert text.splitlines()[2] == "    %1: float32[3] = hold(%0) {a=(1, graph main(%0: float32[3]) {"
    outer.nodes[0].line = inner.nodes[0].line = "model.py:3"
    assert to_text(outer, lines=True).count("  # model.py:3\n") == 2


def test_graphs_with_symbolic_sizes():
    for g in symbolic_graphs():
        text = to_text(g)
        assert "N: 2 to inf" in text and "<4*N>" in text or "N - 1" in text
        assert to_text(verify(parse(text))) == text and same_graph(g, parse(text))


def test_lines_are_comments():
    def f(x):
        return x.exp()

    g = td.graph(f, td.ones(2))
    assert re.search(r"exp\(%0\)  # .*test_text\.py:\d+\n", to_text(g, lines=True))
    assert parse(to_text(g, lines=True)).nodes[0].line == "text:2" and same_graph(g, parse(to_text(g, lines=True)))


def test_long_heads_are_broken():
    g = Graph()
    for _ in range(20):
        g.input(Spec((64, 64), td.float32))
    assert round_trip(g).splitlines()[1] == "    %0: float32[64, 64],"


def test_what_should_not_be_there_is_printed_too():
    g, v = Graph(), Value(Spec((2,), td.float32))
    g.add(Node(td.ops.mul, (v, {1}), {"a": slice(2)}, (v.spec,)))
    g.outputs = [v, None]
    text = to_text(g)
    assert "%0: float32[2] = mul(%?, ?{1}) {a=?slice(None, 2, None)}" in text and "return %?, %?" in text
    with pytest.raises(FormatError):
        parse(text)


# ---- faults --------------------------------------------------------------------------------------------------------
def at(text, marker="^"):
    """The text without its marker, and the place that the marker shows."""
    before = text[: text.index(marker)]
    return text.replace(marker, ""), before.count("\n") + 1, len(before) - before.rfind("\n")


HEAD = "graph f(%x: float32[2, 3], #s: float) {\n"
FAULTS = [
    ("^", "expected graph, found the end of the text"),
    ("^module f", "expected graph, found module"),
    ("graph ^(", "expected the name of the graph"),
    ('graph ^"\\x" () {}', "not a string"),
    ("graph f(%x: ^float33[2])", "expected a dtype such as float32, found float33"),
    ("graph f(%x: float32[^K])", "unknown name 'K'"),
    ("graph f(%x: ^float32[-1])", "not negative"),
    ("graph f(%x: float32[^2 +])", "expected a size"),
    ("graph f(%x: float32[^(2)", "expected , or \\] after this"),
    ("graph f(%x: ^float32[" + "1," * 17 + "])", "17 dimensions are more than the 16"),
    ("graph f(%x: ^float32[9999999999, 9999999999])", "more than any memory"),
    ("graph f[N: 1 to inf, ^N: 1 to 2]()", "N is declared twice"),
    ("graph f[^N: 3 to 2]()", "range of N is empty"),
    ("graph f[N: 1 to ^x]()", "expected a whole number, found x"),
    ("graph f[N: ^" + "9" * 4001 + " to inf]()", "more than 4000 digits"),
    ("graph f(%x: int8[], ^%x: int8[])", "%x is defined twice"),
    ("graph f(#a: int, ^#a: int)", "#a is declared twice"),
    ("graph f(#a: ^bool)", "expected int or float, found bool"),
    ("graph f(^x: int8[])", "expected an input such as %0"),
    ("graph f(%x: int8[] ^%y: int8[])", "expected , or \\), found %y"),
    ("graph f() {^", "expected a value such as %0, _ or return, found the end"),
    ("graph f() {return} ^more", "expected the end of the text, found more"),
    ("graph f() {return ^%x}", "%x is not defined here"),
    ("graph f() {return ^$}", "unknown character"),
    (HEAD + "%y: float32[2, 3] = ^neq(%x)", "unknown op neq"),
    (HEAD + "%y: float32[2, 3] = ^3", "expected an op"),
    (HEAD + "%y: float32[2, 3] = neg(^%z)", "%z is not defined here"),
    (HEAD + "%y: float32[2, 3] = neg(^%y)", "%y is not defined here"),
    (HEAD + "^%x: float32[2, 3] = neg(%x)", "%x is defined twice"),
    (HEAD + "%y: float32[2, 3] = ^neg(%x, %x)", r"neg takes 1 operands \(x\), not 2"),
    (HEAD + "%y: float32[2, 3] = ^neg(none)", "operand 'x' must be a value or a number, not none"),
    (HEAD + "%y: float32[2, 3] = ^neg(1.0)", "one operand at least must be a value"),
    (HEAD + "%y: float32[2, 3] = ^softmax(2) {axis=1}", "operand 'x' must be a value, not int 2"),
    (HEAD + "%y: float32[2, 3] = ^softmax([%x]) {axis=1}", "operand 'x' must be a value, not a list"),
    (HEAD + "%y: float32[2, 3] = ^concat(%x) {axis=1}", "operand 'xs' must be a list of values, not a value"),
    (HEAD + "%y: float32[2, 3] = ^pad(%x, %x) {widths=((0, 0), (0, 0))}", "operand 'value' must be a number"),
    (HEAD + "%y: float32[2, 3] = mul(%x, ^#t)", "#t is not declared"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) ^return", "attribute axis of softmax is missing"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) {^axes=1}", "softmax has no attribute axes; it has axis"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) {axis=1, ^axis=1}", "axis is given twice"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) {axis ^1}", "expected =, found 1"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) {^1}", "expected the name of an attribute, found 1"),
    (HEAD + "%y: float32[2, 3] = softmax(%x) {axis=^}", "expected a number, found }"),
    (HEAD + "%y: float32[2, 3] = ^softmax(%x) {axis=2}", r"axis must be in \[-2, 2\): 2"),
    (HEAD + "%y: float32[2, 3] = ^softmax(%x) {axis=1.0}", r"axis must be in \[-2, 2\): 1.0"),
    (HEAD + "%y: float32[2] = ^sum(%x) {axes=(1,), keepdims=none}", "'keepdims' must be a number, not none"),
    (HEAD + "^%y: float32[3, 2] = neg(%x)", r"%y is declared float32\[3, 2\], but neg gives float32\[2, 3\]"),
    (HEAD + "^%y: float64[2, 3] = neg(%x)", r"%y is declared float64\[2, 3\], but neg gives float32\[2, 3\]"),
    (HEAD + "^_: float64[2, 3] = neg(%x)", "_ is declared float64"),
    (HEAD + "%y: float32[2, 3], _ = ^neg(%x)", "neg has 1 results, not 2"),
    (HEAD + "%y: float32[2, 3], _ = ^layer_norm(%x, none, none)", "layer_norm has 1 results, or 3, not 2"),
    (HEAD + "_ = ^nonzero(%x)", "their types must be given|so their types"),
    (HEAD + "%y: float32[2, 3] = ^bit_not(%x)", "bit_not is not defined for float32"),
    (HEAD + "%y: float32[2, 3] = ^reshape(%x) {to=(2, 4)}", "no such view"),
    (HEAD + "%y: float32[2, 3] = ^reshape(%x) {to=(2.0, 3)}", "sizes and strides must be integers|must be integers"),
    (HEAD + "%y: float32[3] = ^subscript(%x) {items=(2, (0, 3, 1))}", "elements outside of float32"),
    (HEAD + "%y: float32[2, 3] = ^write(%x, %x) {items=((1, 2, 1), (0, 3, 1))}", "elements outside of float32"),
    (HEAD + "%y: float32[2, 3] = ^linear(%x, %x, %x)", "linear: bias"),
    (HEAD + '%y: float32[2, 3] = ^reshape(%x) {to="ab"}', "cannot use these operands and attributes|integers"),
    (HEAD + "%y: float32[2, 3] = ^sgd_step([%x], [%x, %x], [], #s, 0.0)", "'grads' has 2 values where the first has 1"),
    (HEAD + "%z: float32[3] = sum(%x) {axes=(0,)} %y: float32[3] = ^sgd_step([%z], [%x], [], #s, 0.0)", "'grads' has shape"),
    (HEAD + "%y: float32[2, 3] = mul(%x, <^K>)", "unknown name 'K'"),
    (HEAD + "%y: float32[2, 3] = mul(%x, ^ratio(1, 2))", "expected ratio"),
    (HEAD + "%y: float32[2, 3] = mul(%x, ^1e999)", "too large for float64"),
    (HEAD + "%y: float32[2, 3] = mul(%x, ^0x1p5000)", "too large for float64"),
    (HEAD + "%y: float32[2, 3] = mul(%x, nan^(0x3))", "not the bits of a NaN of type float64"),
    (HEAD + "%y: float32[2, 3] = sum(%x) {axes=" + "(" * 40 + "^(", "nested deeper than 40"),
    (HEAD + "%y: float32[2] = constant ^[1.0]", r"1 elements for float32\[2\], which has 2"),
    (HEAD + "%y: float16[1] = constant [^70000.0]", "too large for float16"),
    (HEAD + "%y: int8[1] = constant [^128]", "out of range for int8"),
    (HEAD + "%y: int8[1] = constant [^1.5]", "expected a whole number, found 1.5"),
    (HEAD + "%y: bool[1] = constant [^1]", "expected true or false"),
    (HEAD + "%y: int8[1] = constant base64[^2] \"AAA=\"", r"2 bytes for int8\[1\], which has 1"),
    (HEAD + "%y: int8[1] = constant base64[1] ^\"AAA=\"", "2 bytes, not 1"),
    (HEAD + "%y: int8[1] = constant base64[1] ^\"A\"", "not base64"),
    (HEAD + "%y: bool[1] = constant base64[1] ^\"Ag==\"", "neither 0 nor 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_named_with_their_place(text, problem):
    text, line, column = at(text)
    with pytest.raises(FormatError, match=problem) as e:
        parse(text)
    assert str(e.value).startswith(f"line {line}, column {column}: ")


def test_views_of_symbolic_sizes():
    """What may be inside is accepted; what can never be is refused."""
    text = "graph f[M: 1 to 8, N: 2 to inf](%x: float32[N]) {{ %y: float32[{0}] = subscript(%x) {{items=((1, <{0}>, 1),)}} return %y }}"
    for count in ("M", "N - 1"):
        round_trip(parse(text.format(count)))
    with pytest.raises(FormatError, match=r"elements outside of float32\[N\]"):
        parse(text.format("N"))


def test_a_constant_has_one_named_result():
    for left in ("_: int8[]", "%y: int8[], %z: int8[]", "_", "()"):
        with pytest.raises(FormatError, match="a constant has one result"):
            parse(f"graph f() {{ {left} = constant [1] return }}")
    with pytest.raises(FormatError, match=r"cannot be <|int64\[1\] cannot be N"):
        parse("graph f[N: 1 to inf]() { %y: int64[1] = constant <N> return }")
    with pytest.raises(FormatError, match="no symbolic sizes"):
        parse("graph f[N: 1 to inf]() { %y: int64[N] = constant [1] return }")


WORDS = ["-", "nan", "ratio(", "<N>", "none", "(" * 50, "[", "{", "99999999999999999999", "0", "-1", "1e999", "0x1p9999",
    "graph", "constant", "base64", "**", "%", "#", "\\", '"', "é", "true", "floordiv(", "float16", "_", "\0"]  # fmt: skip


def damaged(text, rng):
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        i, j, k = (rng.randrange(len(text) + 1) for _ in range(3))
        width = rng.choice([1, 2, 5, 20, 100])
        way = rng.randrange(5)
        if way == 0:
            text = text[:i] + text[i + width :]
        elif way == 1:
            text = text[:i] + text[k : k + width] + text[i:]
        elif way == 2:
            text = text[:i] + rng.choice(WORDS) + text[i + rng.choice([0, 1, 3]) :]
        elif way == 3:
            tokens = re.findall(r"\w+|\W", text) or [""]
            tokens[rng.randrange(len(tokens))] = rng.choice([*tokens, *WORDS])
            text = "".join(tokens)
        else:
            text = text[: max(i, j)]
    return text


def test_damaged_texts_are_refused_or_are_graphs(hold):
    """Whatever happens to a text: FormatError with a place, or a graph of which everything holds."""
    rng = random.Random(0)
    step = parse(ALL_FORMS)
    texts = [ALL_FORMS, to_text(holding(hold, (step, "text", 1.5, (None, td.int8)))), *map(to_text, symbolic_graphs())]
    read = 0
    for _ in range(1500):
        text = damaged(rng.choice(texts), rng)
        try:
            g = parse(text)
        except FormatError as e:
            assert re.match(r"line \d+, column \d+: .", str(e))
        else:
            read += 1
            assert to_text(parse(to_text(verify(g)))) == to_text(g)
    assert read > 15


def test_numbers_of_graphs_are_read_by_nobody():
    g = parse("graph f(#lr: float, #n: int) { return }")
    assert [(n.name, n.kind, n.read) for n in g.numbers] == [("lr", float, None), ("n", int, None)]
    assert isinstance(g.numbers[0], Number) and Ratio(1, Dim("N")) == Ratio(1, Dim("N"))
