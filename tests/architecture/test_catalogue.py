"""Every op has samples, errors and docs; every public function has a docstring with an example that runs."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import treadle as td
from treadle.op import CATALOGUE


@pytest.mark.parametrize("op", CATALOGUE.values(), ids=lambda op: op.name)
def test_op_is_documented(op):
    assert op.doc, f"{op.name} has no doc"


@pytest.mark.parametrize("op", CATALOGUE.values(), ids=lambda op: op.name)
def test_op_has_samples(op):
    assert op.samples or op.category in ("unary", "binary"), f"{op.name} has no samples"


def modules():
    yield td
    for info in pkgutil.walk_packages(td.__path__, "treadle."):
        if not info.name.startswith(("treadle.demo", "treadle.conformance.pytest_plugin", "treadle.__main__")):
            yield importlib.import_module(info.name)


@pytest.mark.parametrize("module", list(modules()), ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert not failed


def test_public_names_are_documented():
    missing = []
    for name in dir(td):
        value = getattr(td, name)
        if (
            name.startswith("_")
            or not (inspect.isfunction(value) or inspect.isclass(value))
            or isinstance(value, td.DType)
        ):
            continue
        if not inspect.getdoc(value):
            missing.append(name)
    assert not missing, missing
