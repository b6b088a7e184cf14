"""Pictures: Graphviz's text of a graph."""

import re
import stat
import sys

import pytest

import treadle as td
from treadle.errors import UnsupportedError
from treadle.ir.graph import Graph
from treadle.ir.picture import quoted, to_dot, to_svg
from treadle.ir.text import parse

TEXT = r"""
graph "a\"b\\"(%0: float32[2, 3], %1: float32[3], #s0: float) {
  %2: float32[] = constant [2.0]
  %3: float32[2, 3] = expand(%1) {to=(2, 3)}
  %4: float32[2, 3] = add(%0, %3)
  %5: float32[2, 3] = mul(%4, #s0)
  %6: float32[2, 3] = add(%5, 1.5)
  %7: float32[2, 3], %8: float32[] = clip_by_global_norm([%6, %6], 1.0)
  return %7, %2
}
""".replace("%7: float32[2, 3], %8", "%7: float32[2, 3], _, %8")
STRING = r'"(?:[^"\\]|\\.)*"'
ATTR = rf"\w+=(?:{STRING}|\w+)"
LINE = re.compile(rf"  (?:node|edge|\w+|\w+ -> \w+)(?: \[{ATTR}(?:, {ATTR})*\])?;")


def lines_of(g):
    first, *lines, last = to_dot(g).split("\n")
    assert re.fullmatch(rf"digraph {STRING} {{", first) and last == "}"
    for line in lines:
        assert LINE.fullmatch(line), line
    return lines


def test_every_node_and_edge_is_there():
    lines = lines_of(parse(TEXT))
    edges = [line.split(" [")[0].strip(" ;") for line in lines if "->" in line]
    assert sorted(edges) == sorted(
        ["v1 -> n0", "v0 -> n1", "n0 -> n1", "n1 -> n2", "v3 -> n2", "n2 -> n3", "n3 -> n4", "n4 -> o0", "v2 -> o1"]
    )
    text = "\n".join(lines)
    assert 'label="constant %2: float32[]"' in text and 'label="#s0"' in text and r"expand\lto=(2, 3)\l" in text
    assert r"add\loperands 1.5\l" in text and '[label="%7: float32[2, 3]"]' in text


def test_categories_have_colours():
    lines = lines_of(parse(TEXT))
    colours = [re.search(r'n\d+ .*fillcolor="(#\w+)"', line) for line in lines]
    view, add, mul, _, lists = [c[1] for c in colours if c]
    assert add == mul and len({view, add, lists}) == 3


def test_everything_is_quoted():
    assert quoted('a"b\\') == r'"a\"b\\"' and quoted("a\nb\\n") == r'"a\lb\\n\l"' and quoted("") == '""'
    assert to_dot(Graph('x"; evil [')).startswith(r'digraph "x\"; evil [" {')


def test_graphs_as_they_are_traced():
    g = td.graph(lambda x: (x.softmax(1) @ x.t()).sum(), td.TensorSpec((td.Dim("N"), 3), td.float32))
    assert any("float32[N, 3]" in line for line in lines_of(g))


def test_svg_needs_graphviz(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install"):
        to_svg(parse(TEXT))
    dot, program = tmp_path / "dot", tmp_path / "dot.py"
    dot.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')  # a path may have spaces in it
    dot.chmod(dot.stat().st_mode | stat.S_IXUSR)
    program.write_text("import sys\nassert sys.argv[1:] == ['-Tsvg']\nprint('<svg>', len(sys.stdin.read()))\n")
    assert to_svg(parse(TEXT)).startswith("<svg> ")
    program.write_text("import sys\nsys.exit('no fonts')\n")
    with pytest.raises(UnsupportedError, match="no fonts"):
        to_svg(parse(TEXT))
