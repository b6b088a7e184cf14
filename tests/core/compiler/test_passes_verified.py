"""Every graph is verified after every pass, and the pass that breaks one is named."""

import os
import subprocess
import sys

import pytest

import treadle as td
from treadle.compiler import passes
from treadle.config import config

PASSES = [
    "prune", "simplify", "common_subexpressions", "prune", "fold_constants", "recognise", "prune", "relu_after_pooling",
    "fold_batch_norm", "activations", "legalise", "fold_constants", "simplify", "common_subexpressions", "prune",
    "split_steps", "fuse",
]  # fmt: skip


def scanned(xs):
    return td.scan(lambda c, x: (c + x.sin(), c * 2), td.zeros(()), xs)[1]


def test_every_test_runs_with_it(monkeypatch):
    """Also the graphs of branches and loops, each when it is made ready."""
    seen = []
    right = passes._verify
    monkeypatch.setattr(passes, "_verify", lambda graph, after: seen.append(after) or right(graph, after))
    td.compile(scanned)(td.ones(3))
    assert config.verify_passes and seen == 2 * ["tracing", *PASSES]


def test_child_processes_of_tests_have_it_too():
    assert os.environ["TREADLE_VERIFY_PASSES"] == "1"
    code = "from treadle.config import config; print(config.verify_passes)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def backwards(graph):
    graph.nodes.reverse()
    return graph


@pytest.mark.parametrize("name", PASSES)
def test_the_pass_that_breaks_a_graph_is_named(name, monkeypatch):
    broken = lambda graph, device=None: backwards(graph)  # noqa: E731
    broken.__name__ = f"broken_{name}"
    monkeypatch.setattr(passes, name, broken)
    with pytest.raises(td.errors.GraphError, match=rf"after broken_{name}: .*used before it is made(.|\n)*\.py:\d+"):
        td.compile(lambda x: x.exp().sin())(td.ones(3))


def test_verify_includes_it(monkeypatch):
    monkeypatch.setattr(config, "verify_passes", False)
    monkeypatch.setattr(passes, "simplify", backwards)
    for verify in (False, True):
        monkeypatch.setattr(config, "verify", verify)
        with pytest.raises(td.errors.GraphError if verify else KeyError, match="after backwards" if verify else None):
            td.compile(lambda x: x.exp().sin())(td.ones(3))
