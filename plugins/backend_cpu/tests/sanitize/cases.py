"""One random call of any op that the backend claims: operands, attributes and wanted results."""

import math
from typing import Any, NamedTuple

from bodies import Body, inputs, results
from operands import Indices, budget, operand, shape, size

from treadle.dtypes import ALL, bfloat16, float16, float32, float64, int32, int64, uint32
from treadle.dtypes import dtype as find_dtype
from treadle.errors import TreadleError
from treadle.op import CATALOGUE
from treadle.runtime.backend import Call
from treadle.sig import Sig
from treadle.spec import Spec

ELEMENTWISE = ("unary", "binary", "elementwise")


class Case(NamedTuple):
    """A call, and what its operands hold where that is not any value of their type."""

    call: Call
    fills: dict[int, Indices]


class Draft(NamedTuple):
    """Operands and attributes of a call whose results are not known yet."""

    ins: tuple[Any, ...]
    attrs: dict[str, Any]
    fills: dict[int, Indices] = {}


def case(rnd, op, dtype, given):
    """Return a random Case of an op for a dtype, or None; given attributes are not drawn."""
    draft = _draft(rnd, op, dtype)
    attrs = {**op.attrs, **draft.attrs, **given}
    specs = [Spec(x.shape, x.dtype) if isinstance(x, Sig) else x for x in draft.ins]
    try:
        outs = _outs(rnd, op, specs, attrs)
    except TreadleError:
        return None
    if sum(math.prod(s.shape) for s in outs) > 400_000:
        return None
    return Case(Call(op, draft.ins, outs, attrs, _want(rnd, op, outs)), draft.fills)


def _draft(rnd, op, dtype):
    if op.category in ELEMENTWISE:
        return _elementwise(rnd, op, dtype)
    return DRAFTS[op.name](rnd, op, dtype)


def _outs(rnd, op, specs, attrs):
    """Return the specs of the results and, mostly, of the values kept for the gradient."""
    if op.category in ("lists", "fused"):
        return attrs.pop("outs")
    if op.category in ELEMENTWISE:
        dims = next(s.shape for s in specs if isinstance(s, Spec))
        dtype = next(s.dtype for s, i in zip(specs, op.inputs, strict=True) if isinstance(s, Spec) and i.name != "c")
        return (Spec(dims, op.spec(*[Spec(dims, dtype)] * len(specs)).dtype),)
    if op.category == "create":
        return (op.spec(**attrs),)
    op.check(*specs, **attrs)
    outs = op.spec(*specs, **attrs)
    outs = outs if outs.__class__ is tuple else (outs,)
    if op.aux is None or rnd.random() < 0.3:
        return outs
    known = {i.name for i in op.aux.inputs}
    given = [s for s, i in zip(specs, op.inputs, strict=True) if i.name in known]
    more = op.aux.spec(*given, **{k: v for k, v in attrs.items() if k in op.aux.attrs})
    return outs + (more if more.__class__ is tuple else (more,))


def _want(rnd, op, outs):
    if op.category == "lists" or not op.partial:
        return (True,) * len(outs)
    some = [rnd.random() < 0.6 for _ in outs]
    some[rnd.randrange(len(some))] = True
    return tuple(some)


def _elementwise(rnd, op, dtype):
    dims = shape(rnd, 0, 6)
    ins = [operand(rnd, ALL[0] if i.name == "c" else dtype, dims) for i in op.inputs]
    for k in range(len(ins)):
        tensors = [j for j, x in enumerate(ins) if isinstance(x, Sig) and op.inputs[j].name != "c"]
        if tensors not in ([k], []) and rnd.random() < 0.12:
            ins[k] = _number_type(rnd, dtype if op.inputs[k].name != "c" else ALL[0])
    return Draft(tuple(ins), {})


def _number_type(rnd, dtype):
    return rnd.choice({"b": (bool,), "f": (int, float), "i": (int,), "u": (int,)}[dtype.kind])


# ---- one tensor ----------------------------------------------------------------------------------------------------
def _axes(rnd, rank):
    some = tuple(k for k in range(rank) if rnd.random() < 0.5)
    return some or ((rnd.randrange(rank),) if rank else ())


def _reduction(rnd, op, dtype):
    dims = shape(rnd, 0, 5)
    axes = _axes(rnd, len(dims))
    if op.name == "logsumexp" and axes and rnd.random() < 0.8:
        axes = tuple(range(axes[0], axes[-1] + 1))
    return Draft((operand(rnd, dtype, dims),), {"axes": axes, "keepdims": rnd.random() < 0.5})


def _axis(rnd, op, dtype):
    dims = shape(rnd, 1, 4)
    ins = tuple(operand(rnd, dtype, dims) for _ in op.inputs)
    attrs = {"axis": rnd.randrange(len(dims))}
    if "keepdims" in op.attrs:
        attrs["keepdims"] = rnd.random() < 0.5
    return Draft(ins, attrs)


def _cast(rnd, op, dtype):
    return Draft((operand(rnd, dtype, shape(rnd, 0, 6)),), {"dtype": rnd.choice(ALL)})


def _sort(rnd, op, dtype):
    return Draft((operand(rnd, dtype, shape(rnd, 0, 3)),), {"descending": rnd.random() < 0.5})


# ---- products ------------------------------------------------------------------------------------------------------
def _product_sizes(rnd, cap=None):
    cap = cap or rnd.choices((2_000, 60_000, 2_000_000), (80, 19, 1))[0]
    sizes = [size(rnd, 300) for _ in range(3)]
    while math.prod(sizes) > cap:
        k = rnd.randrange(3)
        sizes[k] = size(rnd, max(sizes[k] // 2, 1))
    if rnd.random() < 0.04:
        sizes[rnd.randrange(3)] = 0
    return sizes


def _dot_general(rnd, op, dtype):
    m, n, k = _product_sizes(rnd)
    batch = rnd.choice((0, 1, 1, 2, 3, 5))
    return Draft((operand(rnd, dtype, (batch, m, k)), operand(rnd, dtype, (batch, k, n))), {})


def _matmul(rnd, op, dtype):
    m, n, k = _product_sizes(rnd)
    batch = shape(rnd, 0, 3, 12)
    a, b = (tuple(d if rnd.random() < 0.7 else 1 for d in batch[rnd.choice((0, 0, len(batch) // 2)) :]) for _ in "ab")
    return Draft((operand(rnd, dtype, (*a, m, k)), operand(rnd, dtype, (*b, k, n))), {})


def _linear(rnd, op, dtype):
    m, n, k = _product_sizes(rnd)
    lead = rnd.choice(((), (m,), (m, 2), (3, m), (0, m)))
    b = operand(rnd, dtype, (n,)) if rnd.random() < 0.6 else None
    return Draft((operand(rnd, dtype, (*lead, k)), operand(rnd, dtype, (n, k)), b), _activation(rnd, op))


def _activation(rnd, op):
    return {"activation": rnd.choice(("none", "relu"))} if op.name.startswith("fused") else {}


def _pair(rnd, low, high):
    return rnd.randint(low, high), rnd.randint(low, high)


def _conv_parts(rnd):
    """Return (shape of x, of w, attributes) of a convolution that is not too large."""
    while True:
        kernel = rnd.choice(((1, 1), (3, 3), (2, 3), _pair(rnd, 1, 5)))
        attrs = {
            "stride": rnd.choice(((1, 1), (1, 1), (2, 2), _pair(rnd, 1, 3))),
            "padding": rnd.choice(((0, 0), (1, 1), _pair(rnd, 0, 4))),
            "dilation": rnd.choice(((1, 1), (1, 1), _pair(rnd, 1, 3))),
            "groups": rnd.choice((1, 1, 1, 2, 3)),
        }
        inner, outer = (size(rnd, rnd.choice((4, 9, 70))) for _ in "io")
        batch = rnd.choice((0, 1, 1, 2, 3))
        image = rnd.choice((_pair(rnd, 1, 12), (size(rnd, 40), size(rnd, 70))))
        if inner * outer * math.prod(image) * math.prod(kernel) * attrs["groups"] * max(batch, 1) < 300_000:
            groups = attrs["groups"]
            return (batch, inner * groups, *image), (outer * groups, inner, *kernel), attrs


def _conv2d(rnd, op, dtype):
    x, w, attrs = _conv_parts(rnd)
    b, scale = (operand(rnd, dtype, w[:1]) if rnd.random() < 0.6 else None for _ in range(2))
    more = (scale,) if op.name == "fused_conv2d" else ()
    return Draft((operand(rnd, dtype, x), operand(rnd, dtype, w), b, *more), attrs | _activation(rnd, op))


def _conv_grad(rnd, op, dtype):
    while True:
        x, w, attrs = _conv_parts(rnd)
        try:
            y = CATALOGUE["conv2d"].spec(Spec(x, dtype), Spec(w, dtype), None, **attrs).shape
        except TreadleError:
            continue
        if op.name == "conv2d_input_grad":
            return Draft((operand(rnd, dtype, y), operand(rnd, dtype, w)), {**attrs, "input_size": x})
        return Draft((operand(rnd, dtype, y), operand(rnd, dtype, x)), {**attrs, "weight_size": w})


# ---- pooling -------------------------------------------------------------------------------------------------------
def _pool_parts(rnd, op):
    """Return (shape of x, shape of y, attributes)."""
    average = op.name.startswith("avg")
    while True:
        kernel = rnd.choice(((2, 2), (3, 3), _pair(rnd, 1, 5)))
        attrs = {
            "kernel_size": kernel,
            "stride": rnd.choice((kernel, (2, 2), _pair(rnd, 1, 4))),
            "padding": rnd.choice(((0, 0), tuple(rnd.randint(0, k // 2) for k in kernel))),
            "ceil_mode": rnd.random() < 0.4,
        }
        if average:
            attrs["count_include_pad"] = rnd.random() < 0.5
        else:
            attrs["dilation"] = rnd.choice(((1, 1), (1, 1), _pair(rnd, 1, 3)))
        planes = rnd.choice(((1, 1), (2, 3), (0, 2), (3, 0), (1, size(rnd, 20))))
        x = (*planes, *rnd.choice((_pair(rnd, 1, 12), (size(rnd, 33), size(rnd, 70)))))
        try:
            y = CATALOGUE["avg_pool2d" if average else "max_pool2d"].spec(Spec(x, float32), **attrs).shape
        except TreadleError:
            continue
        if min(y[2:]) > 0:
            return x, y, attrs


def _pool(rnd, op, dtype):
    x, _, attrs = _pool_parts(rnd, op)
    return Draft((operand(rnd, dtype, x),), attrs)


def _avg_pool_grad(rnd, op, dtype):
    x, y, attrs = _pool_parts(rnd, op)
    return Draft((operand(rnd, dtype, y),), {**attrs, "input_size": x})


def _max_pool_grad(rnd, op, dtype):
    x, y, _ = _pool_parts(rnd, op)
    plane = Indices(x[2] * x[3])
    return Draft((operand(rnd, dtype, y), operand(rnd, int64, y, True)), {"input_size": x}, {1: plane})


# ---- normalisation -------------------------------------------------------------------------------------------------
def _statistic(dtype):
    return float32 if dtype in (float16, bfloat16) else dtype


def _maybe(rnd, dtype, dims):
    return operand(rnd, dtype, dims) if rnd.random() < 0.6 else None


def _eps(rnd):
    return rnd.choice((1e-5, 1e-3, 0.0, 1.0))


def _layer_norm(rnd, op, dtype):
    dims = shape(rnd, 1, 4)
    ndim = rnd.randint(1, len(dims))
    w, b = _maybe(rnd, dtype, dims[-ndim:]), _maybe(rnd, dtype, dims[-ndim:])
    return Draft((operand(rnd, dtype, dims), w, b), {"ndim": ndim, "eps": _eps(rnd)})


def _layer_norm_grad(rnd, op, dtype):
    dims = shape(rnd, 1, 4)
    ndim = rnd.randint(1, len(dims))
    kept = dims[:-ndim] + (1,) * ndim
    mean, rstd = (operand(rnd, _statistic(dtype), kept) for _ in "mr")
    w = _maybe(rnd, dtype, dims[-ndim:])
    return Draft((operand(rnd, dtype, dims), operand(rnd, dtype, dims), w, mean, rstd), {"ndim": ndim})


def _batch_norm(rnd, op, dtype):
    dims = shape(rnd, 2, 5)
    w, b = (_maybe(rnd, dtype, dims[1:2]) for _ in "wb")
    return Draft((operand(rnd, dtype, dims), w, b), {"eps": _eps(rnd)})


def _batch_norm_grad(rnd, op, dtype):
    dims = shape(rnd, 2, 5)
    mean, var = (operand(rnd, _statistic(dtype), dims[1:2]) for _ in "mv")
    w = _maybe(rnd, dtype, dims[1:2])
    return Draft((operand(rnd, dtype, dims), operand(rnd, dtype, dims), w, mean, var), {"eps": _eps(rnd)})


def _batch_norm_inference(rnd, op, dtype):
    dims = shape(rnd, 2, 5)
    statistic = rnd.choice((dtype, _statistic(dtype)))
    mean, var = (operand(rnd, statistic, dims[1:2]) for _ in "mv")
    w, b = (_maybe(rnd, dtype, dims[1:2]) for _ in "wb")
    return Draft((operand(rnd, dtype, dims), mean, var, w, b), {"eps": _eps(rnd)})


# ---- attention and loss --------------------------------------------------------------------------------------------
def _attention_parts(rnd, dtype):
    cap = rnd.choices((3_000, 60_000, 1_000_000), (70, 28, 2))[0]
    while True:
        b, h = rnd.choice((1, 1, 2, 3)), rnd.choice((1, 1, 2, 3))
        m, n, d, e = (size(rnd, 150) for _ in range(4))
        if rnd.random() < 0.05:
            b, m, n, d, e = (0 if rnd.random() < 0.3 else v for v in (b, m, n, d, e))
        if b * h * m * n * max(d, e, 1) <= cap:
            break
    kind = rnd.choice((None, None, ALL[0], dtype))
    mask = None if kind is None else operand(rnd, kind, (b, h, m, n))
    q, k, v = (operand(rnd, dtype, (b, h, *s)) for s in ((m, d), (n, d), (n, e)))
    attrs = {"scale": rnd.choice((1.0, 0.125, 0.0, -1.0)), "causal": rnd.random() < 0.4}
    return (q, k, v, mask), (b, h, m, e), attrs


def _attention(rnd, op, dtype):
    ins, _, attrs = _attention_parts(rnd, dtype)
    return Draft(ins, attrs)


def _attention_grad(rnd, op, dtype):
    ins, y, attrs = _attention_parts(rnd, dtype)
    lse = operand(rnd, rnd.choice((dtype, _statistic(dtype))), (*y[:3], 1))
    return Draft((operand(rnd, dtype, y), *ins, operand(rnd, dtype, y), lse), attrs)


def _loss_parts(rnd, dtype):
    n, c = shape(rnd, 2, 2)
    ignore = rnd.choice((-100, 0, c - 1, 255, -1))
    attrs = {
        "label_smoothing": rnd.choice((0.0, 0.1, 1.0)),
        "ignore_index": ignore,
        "reduction": rnd.choice(("mean", "sum", "none")),
    }
    t = operand(rnd, rnd.choice((int64, int64, int32)), (n,), True)
    return (
        operand(rnd, dtype, (n, c)),
        t,
        _maybe(rnd, dtype, (c,)),
        attrs,
        Indices(c, spare=ignore, outside=0.05),
    )


def _cross_entropy(rnd, op, dtype):
    x, t, w, attrs, classes = _loss_parts(rnd, dtype)
    return Draft((x, t, w), attrs, {1: classes})


def _cross_entropy_grad(rnd, op, dtype):
    x, t, w, attrs, classes = _loss_parts(rnd, dtype)
    rows = x.shape[:1]
    g = operand(rnd, dtype, rows if attrs["reduction"] == "none" else ())
    lse = operand(rnd, rnd.choice((dtype, _statistic(dtype))), rows)
    return Draft((g, x, t, w, lse), attrs, {2: classes})


# ---- indexing ------------------------------------------------------------------------------------------------------
def _tuples(rnd, dtype):
    """Return (operand, indices into it, what these hold)."""
    dims = shape(rnd, 1, 4, min(budget(rnd), 3000))
    k = rnd.randint(0 if rnd.random() < 0.05 else 1, len(dims))
    lead = shape(rnd, 0, 2, 40)
    i = operand(rnd, rnd.choice((int32, int64)), (*lead, k), True)
    return operand(rnd, dtype, dims), i, Indices(*dims[:k], wraps=True)


def _gather_nd(rnd, op, dtype):
    x, i, fill = _tuples(rnd, dtype)
    return Draft((x, i), {}, {1: fill})


def _scatter_nd(rnd, op, dtype):
    x, i, fill = _tuples(rnd, dtype)
    u = operand(rnd, dtype, (*i.shape[:-1], *x.shape[i.shape[-1] :]))
    return Draft((x, i, u), {"mode": rnd.choice(("set", "add", "mul", "min", "max"))}, {1: fill})


def _embedding(rnd, op, dtype):
    rows, width = shape(rnd, 2, 2, 3000)
    i = operand(rnd, rnd.choice((int32, int64)), shape(rnd, 0, 3, 60), True)
    padding = rnd.choice((-1, 0, max(rows - 1, 0)))
    if op.name == "embedding":
        return Draft((operand(rnd, dtype, (rows, width)), i), {"padding_idx": padding}, {1: Indices(rows)})
    attrs = {"num_embeddings": rows, "padding_idx": padding}
    return Draft((operand(rnd, dtype, (*i.shape, width)), i), attrs, {1: Indices(rows)})


def _iota(rnd, op, dtype):
    kinds = (int, float) if dtype.kind == "f" else (int,)
    return Draft(
        (rnd.choice(kinds), rnd.choice(kinds)),
        {"size": size(rnd, budget(rnd)) - (rnd.random() < 0.1), "dtype": dtype},
    )


# ---- random numbers ------------------------------------------------------------------------------------------------
def _random(rnd, op, dtype):
    attrs = {"shape": shape(rnd, 0, 4)}
    if "dtype" in op.attrs:
        attrs["dtype"] = dtype
    return Draft((operand(rnd, uint32, (4,), True),), attrs)


def _dropout(rnd, op, dtype):
    p = rnd.choice((0.0, 0.1, 0.5, 1.0))
    return Draft((operand(rnd, dtype, shape(rnd, 0, 4)), operand(rnd, uint32, (4,), True)), {"p": p})


# ---- lists ---------------------------------------------------------------------------------------------------------
def _list(rnd, op, dtype):
    """Lists of dense tensors; the results replace all but the gradients."""
    attrs = _step_attrs(rnd, op)
    dims = [shape(rnd, 0, 3, 200) for _ in range(rnd.choice((1, 2, 3, 7, 30)))]
    momentum = rnd.random() < 0.5
    lists = [i.name for i in op.inputs if i.many and (i.name != "bufs" or momentum)]
    sigs = [operand(rnd, dtype, d, True) for _ in lists for d in dims]
    targets = sum(name != "grads" for name in lists)
    outs = tuple(Spec(d, dtype) for _ in range(targets) for d in dims)
    if op.name == "clip_by_global_norm":
        outs += (Spec((), dtype),)
    numbers = [rnd.choice((float, int)) for i in op.inputs if i.number]
    return Draft((*sigs, *numbers), {**attrs, "n": len(dims), "outs": outs})


def _step_attrs(rnd, op):
    some = {name: rnd.random() < 0.5 for name in ("nesterov", "maximize", "first", "decoupled") if name in op.attrs}
    some |= {name: rnd.choice((0.0, x)) for name, x in (("dampening", 0.5), ("weight_decay", 0.01)) if name in op.attrs}
    return some


# ---- regions -------------------------------------------------------------------------------------------------------
def _fused(rnd, op, dtype):
    floats = [d.name for d in ((dtype,) if dtype is float64 else (dtype, rnd.choice((float16, bfloat16, float32))))]
    kinds = [dtype.name, *inputs(rnd, floats)[1:]]
    dims, body = shape(rnd, 0, 5), Body(rnd, kinds, floats, rnd.randint(1, 14))
    ins = tuple(operand(rnd, find_dtype(kind), dims) for kind in kinds)
    return Draft(ins, {**body.attrs, "n": len(ins), "outs": results(kinds, dims, body.attrs, find_dtype)})


DRAFTS = {
    "fused": _fused,
    "cast": _cast,
    "bitcast": _cast,
    "sort": _sort,
    "dot_general": _dot_general,
    "matmul": _matmul,
    **dict.fromkeys(("linear", "fused_linear"), _linear),
    **dict.fromkeys(("conv2d", "fused_conv2d"), _conv2d),
    "avg_pool2d_grad": _avg_pool_grad,
    "max_pool2d_grad": _max_pool_grad,
    "layer_norm": _layer_norm,
    "layer_norm_grad": _layer_norm_grad,
    "batch_norm": _batch_norm,
    "batch_norm_grad": _batch_norm_grad,
    "batch_norm_inference": _batch_norm_inference,
    "attention": _attention,
    "attention_grad": _attention_grad,
    "cross_entropy": _cross_entropy,
    "cross_entropy_grad": _cross_entropy_grad,
    "gather_nd": _gather_nd,
    "scatter_nd": _scatter_nd,
    "iota": _iota,
    "dropout": _dropout,
    **dict.fromkeys(("conv2d_input_grad", "conv2d_weight_grad"), _conv_grad),
    **dict.fromkeys(("max_pool2d", "max_pool2d_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(("embedding", "embedding_grad"), _embedding),
    **dict.fromkeys(("random_bits", "random_uniform", "random_normal"), _random),
    **dict.fromkeys(("sgd_step", "adam_step", "clip_by_global_norm"), _list),
    **dict.fromkeys(("sum", "prod", "max", "min", "logsumexp"), _reduction),
    **dict.fromkeys(("argmax", "argmin", "cumsum"), _axis),
    **dict.fromkeys(("softmax", "softmax_grad", "log_softmax", "log_softmax_grad"), _axis),
}
