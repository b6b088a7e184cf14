"""PyTorch's own sample inputs: every operation of its list that exists here, as function, method and in place, gives
its values, dtypes, shapes and gradients of first and second order."""

import itertools
import sys
import types
import unittest
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

try:
    import expecttest  # noqa: F401 - what the list imports for tests of its own
except ImportError:
    sys.modules["expecttest"] = types.ModuleType("expecttest")
    sys.modules["expecttest"].TestCase = unittest.TestCase
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

MOST = 24  # samples of one operation
KINDS = ["float64", "int64", "bool"]
DTYPES = {
    getattr(torch, n): getattr(td, n)
    for n in "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool".split()
}
# Random numbers are our own; of these only dtypes and shapes are compared.
RANDOM = {
    "bernoulli",
    "multinomial",
    "normal",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "dropout",
}
RANDOM |= {"uniform", "empty", "empty_like", "new_empty", "dropout2d", "scaled_dot_product_attention"}
# What is not offered, or differs by design (docs/from_pytorch.md): (operation, dtype or "", part of the message)
ABSENT = [
    ("norm", "", "p must be a number"),  # nuclear norm
    ("gather", "", "index must be int32 or int64"),  # empty indices of other types
    ("batch_norm", "", "two dimensions or more"),  # an empty vector
    *((name, "int64", "not defined for int64") for name in ("conv1d", "conv2d", "avg_pool2d", "max_pool2d", "linear")),
    ("sign", "bool", "not defined for bool"),
    ("square", "bool", "not defined for bool"),
]
UNORDERED = {"sort", "argsort", "topk"}  # which of equal values comes first
WIDER = {("clamp_min", "bool"), ("clamp_max", "bool")}  # bools are clamped as integers
NO_GRADIENT = {"norm", "fill_"}  # p = 0 counts, a filled tensor forgets: PyTorch's gradients there are zeros


def look(root, path):
    for name in path.split("."):
        root = getattr(root, name, None)
    return root


def targets(op):
    """(name, PyTorch's callable, ours) of every form in which an operation exists in both."""
    for name in dict.fromkeys([op.name, *(a.name for a in op.aliases)]):
        if look(td, name) is not None and look(torch, name) is not None:
            yield name, look(torch, name), look(td, name)
        for method in (name, f"{name}_"):
            if "." not in name and hasattr(td.Tensor, method) and hasattr(torch.Tensor, method):
                yield f"Tensor.{method}", *(_method(lib, method, method != name) for lib in (torch, td))


def _method(lib, name, copies):
    method = getattr(lib.Tensor, name)
    return (lambda x, *args, **kwargs: method(x.clone(), *args, **kwargs)) if copies else method


class Foreign(Exception):
    """An argument of a kind that does not exist here."""


def convert(x, memo):
    """PyTorch's arguments as ours, sharing memory and layout."""
    if isinstance(x, torch.Tensor):
        if x.dtype not in DTYPES or x.layout is not torch.strided:
            raise Foreign
        if id(x) not in memo:
            y = td.from_numpy(x.detach().resolve_neg().numpy())
            memo[id(x)] = y.requires_grad_() if x.requires_grad else y
        return memo[id(x)]
    if isinstance(x, torch.dtype):
        return DTYPES[x]
    if isinstance(x, (list, tuple)):
        return type(x)([convert(v, memo) for v in x]) if type(x) in (list, tuple) else tuple(x)
    if isinstance(x, dict):
        return {k: convert(v, memo) for k, v in x.items() if k not in ("layout", "device")}
    if isinstance(x, (torch.memory_format, torch.layout, torch.Generator, complex)):
        raise Foreign
    return x


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, (list, tuple)) else [x]


def array(x):
    x = x.detach() if hasattr(x, "detach") else x
    if isinstance(x, torch.Tensor):
        x = x + 0 if x._is_zerotensor() else x
        return (x.float() if x.dtype is torch.bfloat16 else x).numpy()
    return x.numpy() if isinstance(x, td.Tensor) else np.asarray(x)


def close(ours, theirs, tolerance=1e-7):
    if str(getattr(theirs, "dtype", "")) in ("torch.float32", "torch.float16", "torch.bfloat16"):
        tolerance = 3e-6  # of integers, by other formulas
    a, b = array(ours).astype(np.float64), array(theirs).astype(np.float64)
    assert a.shape == b.shape
    size = max([1.0, *np.abs(b[np.isfinite(b)])])  # terms of this size may have cancelled
    if not np.allclose(a, b, tolerance, tolerance * size, equal_nan=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance * size)


def same(name, kind, ours, theirs):
    assert len(ours) == len(theirs)
    short = name.removeprefix("Tensor.").removesuffix("_").split(".")[-1]
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if hasattr(b, "dtype"):
            assert tuple(a.shape) == tuple(b.shape)
            assert (short, kind) in WIDER or str(a.dtype).split(".")[-1] == str(b.dtype).split(".")[-1]
        tied = short in UNORDERED and (k or short == "argsort")
        if not tied and short not in RANDOM:
            close(a, b)


def weights(x):
    return np.cos(np.arange(x.numel())).reshape(tuple(x.shape)) + 0.5


def gradients(lib, results, leaves, twice):
    """First order with weights, and second order of a curved sum of it; None where there is none."""
    out = [y for y in results if isinstance(y, lib.Tensor) and y.requires_grad]
    given = [lib.tensor(weights(y), dtype=y.dtype) for y in out]
    first = lib.autograd.grad(out, leaves, given, allow_unused=True, create_graph=twice)
    curved = [g for g in first if g is not None and g.requires_grad]
    if not curved:
        return first, [None] * len(leaves)
    total = sum([(g * g * lib.tensor(weights(g), dtype=g.dtype)).sum() for g in curved])
    return first, lib.autograd.grad(total, leaves, allow_unused=True)


def same_gradients(ours, theirs, memo, sample, twice):
    leaves = [x for x in flat([sample.input, sample.args, list(sample.kwargs.values())]) if isinstance(x, torch.Tensor)]
    leaves = list({id(x): x for x in leaves if x.requires_grad}.values())
    if not leaves or not any(isinstance(y, torch.Tensor) and y.requires_grad for y in theirs):
        return
    try:
        expected = gradients(torch, theirs, leaves, twice)
    except (RuntimeError, NotImplementedError):
        return  # no gradient there
    got = gradients(td, ours, [memo[id(x)] for x in leaves], twice)
    for order in (0, 1):
        for a, b in zip(got[order], expected[order], strict=True):
            if b is not None and not (a is None and not b.any()):
                close(a, b, 1e-6)


def absent(op, kind, error):
    return any(op.name.split(".")[-1] == n and k in ("", kind) and text in str(error) for n, k, text in ABSENT)


def check(op, kind, sample):
    for form, (name, theirs_of, ours_of) in enumerate(targets(op)):
        try:
            theirs = flat(theirs_of(sample.input, *sample.args, **sample.kwargs))
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue  # not in this form
        memo = {}
        try:
            args, kwargs = convert([sample.input, *sample.args], memo), convert(sample.kwargs, memo)
        except Foreign:
            continue
        try:
            ours = flat(ours_of(*args, **kwargs))
            same(name, kind, ours, theirs)
            if kind == "float64" and name.split(".")[-1] not in RANDOM | NO_GRADIENT:
                same_gradients(ours, theirs, memo, sample, twice=not form)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            if not absent(op, kind, error):
                raise AssertionError(f"{name}({sample.input}, {sample.args}, {sample.kwargs})"[:800]) from error


HERE = [op for op in op_db if next(targets(op), None)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", HERE, ids=[f"{op.name} {op.variant_test_name}".strip() for op in HERE])
def test_samples(op):
    torch.manual_seed(0)
    for kind in KINDS:
        dtype = getattr(torch, kind)
        if op.supports_dtype(dtype, "cpu"):
            grad = dtype.is_floating_point and op.supports_autograd
            for sample in itertools.islice(op.sample_inputs_func(op, "cpu", dtype, grad), MOST):
                check(op, kind, sample)


def test_the_list_was_found():
    assert len(HERE) > 250
