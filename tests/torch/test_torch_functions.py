"""Every public function and method against PyTorch's of the same name: values, shapes, dtypes, and gradients in
float64.

A case is a call with parameters named after operands (see `make`); it runs in both libraries, as a function and again
for every dtype that PyTorch takes.
"""

import inspect
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

SHAPES = {
    "A": (4, 5), "B": (4, 5), "C": (4, 5), "P": (4, 5), "Q": (4, 5), "U": (4, 5), "V": (5,), "W": (4,), "R": (4, 1),
    "S": (4, 4), "T": (2, 3, 4), "Y": (2, 4, 3),
    "Z": (), "E": (0, 3), "L": (5, 6), "N": (4, 5),
}  # fmt: skip
FIXED = {
    "I": np.array([[0, 3, 1], [4, 4, 2], [1, 0, 0], [2, 2, 3]]), "J": np.array([3, 0, 3]),
    "G": np.array([[0, 3], [1, 4], [2, 0], [4, 3]]), "M": np.random.default_rng(8).integers(0, 2, (4, 5)).astype(bool),
    "K": np.random.default_rng(9).integers(0, 2, (4, 5)).astype(bool), "D": np.array([[0, 1, 2, 0, 1]] * 2),
}  # fmt: skip


def make(name, kind):
    """One operand as a NumPy array: P and Q are positive, U lies in (-1, 1), N holds NaN and infinities, upper-case
    fixed ones are indices."""
    if name in FIXED:
        return FIXED[name]
    rng = np.random.default_rng(ord(name))
    shape = SHAPES[name]
    if kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in ("int64", "int32", "int8", "uint8"):
        low = 1 if name in "PQ" else 0 if kind == "uint8" else -5
        return rng.integers(low, 9, shape).astype(kind)
    x = rng.uniform(-0.9, 0.9, shape) if name == "U" else rng.standard_normal(shape)
    if name in "PQ":
        x = np.abs(x) + 0.3
    if name == "N":
        x.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, 0.0]
    return x


CASES = {
    # ---- elementwise
    "abs absolute neg negative sign square exp expm1 sin cos tanh erf relu sigmoid sinh cosh atan asinh tan exp2 trunc floor ceil round frac": lambda f, A: f(A),
    "sqrt log log1p log2 log10 rsqrt reciprocal": lambda f, P: f(P),
    "asin acos atanh": lambda f, U: f(U),
    "acosh": lambda f, P: f(P + 1),
    "maximum minimum atan2 arctan2 eq ne lt le gt ge add sub mul multiply subtract": lambda f, A, B: f(A, B),
    "div divide true_divide fmod remainder floor_divide pow": lambda f, P, Q: f(P, Q),
    "bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor": lambda f, A, B: f(A, B),
    "bitwise_not logical_not isnan isinf isfinite signbit": lambda f, A: f(A),
    "bitwise_left_shift bitwise_right_shift": lambda f, A, P: f(A, P),
    "copysign": lambda f, A, B: f(A, B),
    "softmax log_softmax": lambda f, A: (f(A, 0), f(A, -1), f(A, dim=1)),
    "lerp": lambda f, A, B, U: (f(A, B, 0.3), f(A, B, U)),
    "addcmul": lambda f, A, B, C: (f(A, B, C), f(A, B, C, value=2)),
    "addcdiv": lambda f, A, B, P: (f(A, B, P), f(A, B, P, value=2)),
    "clamp clip": lambda f, A: (f(A, -1, 1), f(A, min=0), f(A, max=0)),
    "clamp_min clamp_max": lambda f, A: f(A, 0),
    "nan_to_num": lambda f, N: (f(N), f(N, nan=1.0, posinf=2.0, neginf=-2.0)),
    "masked_fill": lambda f, A, M: f(A, M, 2),
    "isclose": lambda f, A, B: f(A, B, atol=0.5),
    "allclose": lambda f, A, B: [f(A, A), f(A, B)],
    "equal": lambda f, A, B: [f(A, A), f(A, B)],
    # ---- reductions
    "sum prod mean": lambda f, A, T: (f(A), f(A, 0), f(A, dim=1, keepdim=True), f(T, 1)),
    "sum mean amax amin var std logsumexp": lambda f, T: (f(T, dim=(0, 2)), f(T, dim=(-1, 0), keepdim=True)),
    "var std": lambda f, A: (f(A), f(A, 0), f(A, 1, keepdim=True), f(A, dim=1, correction=0), f(A, unbiased=False)),
    "max min": lambda f, A, B: (f(A), *f(A, 0), *f(A, dim=1, keepdim=True), f(A, B)),
    "amax amin": lambda f, A: (f(A), f(A, 0), f(A, dim=(0, 1), keepdim=True)),
    "argmax argmin": lambda f, A: (f(A), f(A, 0), f(A, dim=1, keepdim=True)),
    "any all": lambda f, A: (f(A), f(A, 0), f(A, dim=1, keepdim=True)),
    "logsumexp": lambda f, A: (f(A, 0), f(A, 1, keepdim=True)),
    "cumsum": lambda f, A: (f(A, 0), f(A, dim=-1)),
    "norm": lambda f, A: (f(A), f(A, 1), f(A, 3, 0), f(A, dim=1, keepdim=True), f(A, float("inf"), 1),
    f(A, float("-inf")), f(A, 0)),
    "sort": lambda f, A: (*f(A), *f(A, 0, descending=True), *f(A, dim=1, stable=True)),
    "argsort": lambda f, A: (f(A), f(A, 0, descending=True)),
    "topk": lambda f, A: (*f(A, 2), *f(A, 3, 0, largest=False)),
    "median": lambda f, A: (f(A), *f(A, 1), *f(A, dim=0, keepdim=True)),
    # ---- shapes
    "reshape": lambda f, A: (f(A, (5, 4)), f(A, (2, -1))),
    "permute": lambda f, T: f(T, (2, 0, 1)),
    "transpose swapaxes swapdims": lambda f, T: (f(T, 0, 2), f(T, -1, 1)),
    "t": lambda f, A, V: (f(A), f(V)),
    "movedim moveaxis": lambda f, T: (f(T, 0, 2), f(T, (0, 1), (2, 0))),
    "broadcast_to": lambda f, R: f(R, (2, 4, 5)),
    "squeeze": lambda f, R: (f(R), f(R, 1), f(R, 0), f(R, (0, 1))),
    "unsqueeze": lambda f, A: (f(A, 0), f(A, -1)),
    "flatten": lambda f, T: (f(T), f(T, 1), f(T, 0, 1)),
    "unflatten": lambda f, T: f(T, 2, (2, -1)),
    "ravel": lambda f, T: f(T),
    "narrow": lambda f, A: (f(A, 1, 2, 3), f(A, 0, 0, 0)),
    "select": lambda f, T: (f(T, 1, 2), f(T, -1, -1)),
    "unbind": lambda f, T: (*f(T), *f(T, 1)),
    "split": lambda f, A: (*f(A, 2), *f(A, [1, 3, 1], 1)),
    "chunk": lambda f, A: (*f(A, 3), *f(A, 2, dim=1)),
    "flip": lambda f, T: (f(T, (0,)), f(T, (0, 2)), f(T, [-1])),
    "roll": lambda f, A: (f(A, 2), f(A, 1, 0), f(A, (1, -2), (0, 1))),
    "tile": lambda f, A: (f(A, (2,)), f(A, (2, 1, 3))),
    "repeat_interleave": lambda f, A: (f(A, 2), f(A, 2, 1), f(A, 3, dim=0)),
    "diagonal": lambda f, T, S: (f(S), f(S, 1), f(S, -2), f(T, 0, 1, 2)),
    "diag": lambda f, S, W: (f(S), f(S, 1), f(W), f(W, -1)),
    "tril triu": lambda f, A, T: (f(A), f(A, 1), f(T, -1)),
    "gather": lambda f, A, I: (f(A, 1, I), f(A, -1, I)),
    "take_along_dim": lambda f, A, I: f(A, I, 1),
    "scatter": lambda f, A, G, L: (f(A, 1, G, L), f(A, 1, G[:2, :1], 2)),
    "scatter_add": lambda f, A, I, B: f(A, 1, I, B),
    "index_select": lambda f, A, J: (f(A, 0, J), f(A, 1, J)),
    "take": lambda f, A, I: f(A, I),
    "masked_select": lambda f, A, M: f(A, M),
    "nonzero": lambda f, A, M: (f(A), f(M)),
    "clone": lambda f, A: f(A),
    "is_tensor is_floating_point numel": lambda f, A: [f(A)],
    "detach": lambda f, A: f(A),
    # ---- products
    "matmul": lambda f, A, V, L, T, Y: (f(A, L), f(A, V), f(V, L), f(V, V), f(T, Y), f(T, Y[0])),
    "mm": lambda f, A, L: f(A, L),
    "bmm": lambda f, T, Y: f(T, Y),
    "dot": lambda f, V: f(V, V),
    "outer": lambda f, V, W: f(V, W),
    "mv": lambda f, A, V: f(A, V),
    "addmm": lambda f, S, A, B: (f(S, A, B.t()), f(S, A, B.t(), beta=3, alpha=2)),
}  # fmt: skip

FUNCTIONS_ONLY = {
    "where": lambda f, M, A, B: (f(M, A, B), f(M, A, 0), f(M, 1, B), *f(M)),
    "cat concat concatenate": lambda f, A, B, V: (f([A, B]), f((A, B), 1), f([A, B], dim=-1), f([V])),
    "stack": lambda f, A, B: (f([A, B]), f((A, B), 1), f([A, B], dim=-1)),
    "hstack vstack": lambda f, A, B, V: (f([A, B]), f((V, V))),
    "broadcast_tensors": lambda f, A, V: (*f(A, V),),
    "meshgrid": lambda f, V, W: (*f(V, W, indexing="ij"), *f(V, W, indexing="xy")),
    "zeros_like ones_like": lambda f, A: f(A),
    "full_like": lambda f, A: f(A, 3),
}
METHODS_ONLY = {
    "view": lambda f, A: (f(A, 5, 4), f(A, -1), f(A, (2, -1))),
    "reshape": lambda f, A: (f(A, 5, 4), f(A, -1)),
    "view_as reshape_as": lambda f, S, T: f(T.reshape(2, 12)[:, :8].reshape(4, 4), S),
    "expand": lambda f, R: (f(R, 4, 5), f(R, -1, 3), f(R, 2, 4, 5)),
    "expand_as": lambda f, R, A: f(R, A),
    "repeat": lambda f, A: (f(A, 2, 1), f(A, 2, 1, 3)),
    "permute": lambda f, T: f(T, 2, 0, 1),
    "flip": lambda f, T: f(T, 0, 1),
    "unfold": lambda f, A: (f(A, 1, 3, 2), f(A, 0, 2, 1)),
    "where": lambda f, A, M, B: f(A, M, B),
    "contiguous": lambda f, T: f(T.permute(2, 0, 1)),
    "index_put": lambda f, A, J: (f(A, (J,), A[0] * 0 + 1, accumulate=True),),
    "type_as": lambda f, A, I: f(A, I),
    "double half bfloat16 float int long short char bool": lambda f, A: f(A),
    "byte": lambda f, P: f(P),
    "new_zeros new_ones": lambda f, A: (f(A, 2, 3), f(A, (2,))),
    "new_full": lambda f, A: f(A, (2, 3), 2),
    "tolist item numel nelement dim stride is_contiguous element_size is_floating_point size": lambda f, Z: [f(Z)],
    "softplus gelu": None,
}
IN_PLACE = {
    "neg_ abs_ exp_ relu_ sigmoid_ tanh_ floor_ ceil_ round_ square_ sin_ cos_ sign_ trunc_ zero_": lambda f, A: f(A),
    "sqrt_ log_ reciprocal_ rsqrt_": lambda f, P: f(P),
    "clamp_": lambda f, A: f(A, -1, 1),
    "clamp_min_ clamp_max_ fill_": lambda f, A: f(A, 1),
    "add_ sub_ mul_ copy_": lambda f, A, B: f(A, B),
    "div_ pow_ remainder_ floor_divide_": lambda f, P, Q: f(P, Q),
    "bitwise_and_ bitwise_or_ bitwise_xor_ logical_and_ logical_or_": lambda f, A, B: f(A, B),
    "lerp_": lambda f, A, B: f(A, B, 0.3),
    "addcmul_": lambda f, A, B, C: f(A, B, C, value=2),
    "addcdiv_": lambda f, A, B, P: f(A, B, P, value=2),
    "nan_to_num_": lambda f, N: f(N),
    "tril_ triu_": lambda f, A: f(A),
    "scatter_add_": lambda f, A, I, B: f(A, 1, I, B),
    "scatter_": lambda f, A, J: f(A, 1, J[None, :1], 2),
    "masked_fill_": lambda f, A, M: f(A, M, 2),
    "index_put_": lambda f, A, J: f(A, (J,), A[0] * 0 + 1, accumulate=True),
}
# Covered elsewhere: creation, random numbers, conversions, modes and tools.
ELSEWHERE = set(
    "arange as_tensor asarray empty empty_like eye from_dlpack from_numpy full linspace ones tensor zeros "
    "manual_seed seed initial_seed rand randn randint randperm "
    "rand_like randn_like normal bernoulli multinomial get_rng_state set_rng_state set_printoptions "
    "is_grad_enabled is_inference_mode_enabled get_default_dtype "
    "set_default_dtype promote_types get_default_device set_default_device plugins register_backend "
    "cond compile graph hessian jacobian jvp scan vmap while_loop checkpoint custom_vjp grad value_and_grad vjp explain get_num_threads "
    "set_num_threads load save dtype".split()
)


def operands(lib, f, kind, grad=False):
    out = []
    for name in list(inspect.signature(f).parameters)[1:]:
        array = make(name, kind)
        x = lib.tensor(array)
        if name not in FIXED:
            x = x.to(getattr(lib, kind))
            if grad:
                x.requires_grad_()
        out.append(x)
    return out


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def call(lib, target, f, args):
    return flat(f(target, *args))


def array(x):
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach()
    return (x.float() if str(x.dtype).endswith("bfloat16") else x).numpy()


def same_dtype(a, b):
    return not hasattr(b, "dtype") or str(a.dtype).split(".")[-1] == str(b.dtype).split(".")[-1]


TOLERANCE = {"float64": 1e-9, "float32": 3e-5, "float16": 1e-2, "bfloat16": 6e-2}


def compare(name, ours, theirs, tol):
    assert len(ours) == len(theirs), name
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert same_dtype(a, b), f"{name} result {k}: {a.dtype} for {b.dtype}"
        assert array(a).shape == array(b).shape, f"{name} result {k}: {array(a).shape} for {array(b).shape}"
        np.testing.assert_allclose(
            array(a).astype(np.float64), array(b).astype(np.float64), rtol=tol, atol=tol, err_msg=f"{name} result {k}"
        )


def all_cases():
    for table, kinds in ((CASES, "fm"), (FUNCTIONS_ONLY, "f"), (METHODS_ONLY, "m"), (IN_PLACE, "i")):
        for number, (names, f) in enumerate(table.items()):
            for name in names.split():
                for kind in kinds if f is not None else "":
                    where = td.Tensor if kind in "mi" else td
                    if hasattr(where, name) and hasattr(torch.Tensor if kind in "mi" else torch, name):
                        yield pytest.param(name, kind, f, id=f"{'x.' if kind in 'mi' else ''}{name}-{number}")


def target(lib, name, kind):
    if kind == "f":
        return getattr(lib, name)
    method = getattr(lib.Tensor, name)
    return method if kind == "m" else lambda x, *args, **kw: method(x.clone(), *args, **kw)


ALL = list(all_cases())


@pytest.mark.parametrize("name, kind, f", ALL)
def test_values_and_gradients(name, kind, f):
    """In float64: results, and the gradients of a weighted sum of them."""
    theirs_in, ours_in = operands(torch, f, "float64", True), operands(td, f, "float64", True)
    try:
        theirs = call(torch, target(torch, name, kind), f, theirs_in)
    except (RuntimeError, TypeError):
        pytest.skip("PyTorch does not take floats here")
    ours = call(td, target(td, name, kind), f, ours_in)
    compare(name, ours, theirs, TOLERANCE["float64"])
    totals = []
    for lib, results in ((torch, theirs), (td, ours)):
        total = None
        for y in results:
            if hasattr(y, "requires_grad") and y.requires_grad:
                weights = lib.tensor(np.cos(np.arange(y.numel()).reshape(tuple(y.shape))) + 1.5)
                part = (y.to(lib.float64) * weights).sum()
                total = part if total is None else total + part
        totals.append(total)
    if name in ("logical_and_", "logical_or_"):
        return  # PyTorch keeps the history of what was overwritten
    if totals[0] is None:
        assert totals[1] is None or "Not" in str(theirs[0].grad_fn)
        return
    try:
        totals[0].backward()
    except (RuntimeError, NotImplementedError):
        return  # PyTorch has no gradient here
    if totals[1] is not None:
        totals[1].backward()
    for a, b in zip(ours_in, theirs_in, strict=True):
        if b.grad is not None and not (a.grad is None and not b.grad.any()):
            np.testing.assert_allclose(
                array(a.grad), array(b.grad), rtol=1e-8, atol=1e-8, err_msg=f"gradient of {name}"
            )


def second_order(lib, name, kind, f):
    """Gradients of the squared gradients of a weighted sum of the results."""
    args = operands(lib, f, "float64", True)
    total = None
    for y in call(lib, target(lib, name, kind), f, args):
        if hasattr(y, "requires_grad") and y.requires_grad:
            weights = lib.tensor(np.cos(np.arange(y.numel()).reshape(tuple(y.shape))) + 1.5)
            part = (y.to(lib.float64).sin() * weights).sum()
            total = part if total is None else total + part
    wanted = [x for x in args if x.requires_grad]
    first = lib.autograd.grad(total, wanted, create_graph=True, allow_unused=True)
    penalty = sum([(g * g).sum() for g in first if g is not None and g.requires_grad])
    return lib.autograd.grad(penalty, wanted, allow_unused=True)


@pytest.mark.parametrize("name, kind, f", [p for p in ALL if p.values[1] != "i"])
def test_second_order(name, kind, f):
    try:
        theirs = second_order(torch, name, kind, f)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return  # no second order there
    ours = second_order(td, name, kind, f)
    for a, b in zip(ours, theirs, strict=True):
        if b is not None and not (a is None and not b.any()):
            np.testing.assert_allclose(array(a), array(b), rtol=1e-7, atol=1e-8, err_msg=name)


LEGACY = {"any", "all", "square", "sign", "sign_"}  # uint8 as a kind of bool; bool as a number
ORDERED = {
    "sort",
    "argsort",
    "topk",
    "median",
    "max",
    "min",
}  # which of equal values comes first is PyTorch's to choose


@pytest.mark.parametrize("name, kind, f", ALL)
def test_dtypes(name, kind, f):
    """Where PyTorch takes a dtype, so do we, with the same result type and values."""
    for kind_of in ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool"):
        if name in LEGACY and kind_of in ("uint8", "bool"):
            continue
        try:
            theirs = call(torch, target(torch, name, kind), f, operands(torch, f, kind_of))
        except (RuntimeError, TypeError, IndexError, ValueError, OverflowError):
            continue
        ours = call(td, target(td, name, kind), f, operands(td, f, kind_of))
        if name in ORDERED and kind_of != "float32":
            pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b.dtype is not torch.int64]
            ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        compare(f"{name} of {kind_of}", ours, theirs, TOLERANCE.get(kind_of, 2e-5))


def as_view(a, layout):
    """A tensor with the values of `a` that lies in memory in another way."""
    if layout == "flipped":
        return td.tensor(np.flip(a).copy()).flip(*range(a.ndim)) if a.ndim else td.tensor(a)
    if layout == "transposed":
        return td.tensor(a.T.copy()).permute(*range(a.ndim)[::-1])
    wide = np.zeros(tuple(2 * n + 1 for n in a.shape), a.dtype)
    wide[tuple(slice(1, None, 2) for _ in a.shape)] = a
    return td.tensor(wide)[tuple(slice(1, None, 2) for _ in a.shape)] if a.ndim else td.tensor(a)


@pytest.mark.parametrize(
    "name, kind, f", [p for p in ALL if p.values[0] not in ("view", "view_as", "is_contiguous", "stride")]
)
def test_layouts(name, kind, f):
    """Operands that are views of every kind give what contiguous ones give, in floats and in integers."""
    for kind_of, layout in itertools.product(("float64", "int64"), ("flipped", "transposed", "stepped")):
        arrays = [make(n, kind_of) for n in list(inspect.signature(f).parameters)[1:]]
        try:
            plain = call(td, target(td, name, kind), f, [td.tensor(a) for a in arrays])
        except (RuntimeError, TypeError):
            continue
        views = [as_view(a, layout) for a in arrays]
        got = call(td, target(td, name, kind), f, views)
        for a, b in zip(got, plain, strict=True):
            np.testing.assert_allclose(array(a), array(b), rtol=1e-12, atol=1e-12, err_msg=f"{name} {layout} {kind_of}")


def test_every_public_function_has_a_case():
    covered = {n for table in (CASES, FUNCTIONS_ONLY) for names in table for n in names.split()} | ELSEWHERE
    public = {n for n in dir(td) if not n.startswith("_") and inspect.isroutine(getattr(td, n))}
    assert not public - covered, sorted(public - covered)


def test_every_in_place_method_has_a_case():
    covered = {n for names in IN_PLACE for n in names.split()} | {
        "requires_grad_",
        "detach_",
        "uniform_",
        "normal_",
        "bernoulli_",
    }
    assert not {n for n in dir(td.Tensor) if n.endswith("_") and not n.startswith("_")} - covered
