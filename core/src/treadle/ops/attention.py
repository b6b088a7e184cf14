"""Scaled dot-product attention (Vaswani et al. 2017) with the log-sum-exp as an aux value, so that its gradient
recomputes
probabilities instead of keeping them (Dao et al. 2022)."""

from typing import Any

from treadle.dtypes import float32, int32
from treadle.errors import ShapeError
from treadle.op import MIXED, Op, composite
from treadle.ops.contraction import matmul
from treadle.ops.elementwise import eq, exp, where
from treadle.ops.manipulation import transpose_last
from treadle.ops.reduction import sum_
from treadle.ops.samples import Arg, bools, raises, s
from treadle.ops.softmax import logsumexp
from treadle.shapes import equal, numel
from treadle.spec import Spec

INF = float("inf")


def _lse_spec(q: Spec, k: Spec, mask: Spec | None = None, scale: float = 1.0, causal: bool = False) -> Spec:
    # half precision would be an error of all probabilities that the gradient makes of it
    return Spec((*_spec(q, k, k, mask).shape[:3], 1), float32 if q.dtype.itemsize == 2 else q.dtype)


def _grad_spec(g: Spec, q: Spec, k: Spec, v: Spec, mask: Spec | None, y: Spec, lse: Spec, scale: float = 1.0,
        causal: bool = False) -> Any:
    equal("attention_grad", g.shape, y.shape, _spec(q, k, v, mask).shape)
    equal("attention_grad", lse.shape, (*q.shape[:3], 1))
    return q, k, v


def _spec(q: Spec, k: Spec, v: Spec, mask: Spec | None = None, scale: float = 1.0, causal: bool = False) -> Spec:
    if (
        not (q.ndim == k.ndim == v.ndim == 4)
        or q.shape[:2] != k.shape[:2]
        or k.shape[:3] != v.shape[:3]
        or q.shape[3] != k.shape[3]
    ):
        raise ShapeError(
            f"attention: q (B, H, M, D), k (B, H, N, D), v (B, H, N, E) expected: {q.shape}, {k.shape}, {v.shape}"
        )
    if mask is not None and mask.shape != (*q.shape[:3], k.shape[2]):
        raise ShapeError(f"attention: mask must be (B, H, M, N) = {(*q.shape[:3], k.shape[2])}: {mask.shape}")
    return Spec((*q.shape[:3], v.shape[3]), q.dtype)


def _scores(q: Any, k: Any, mask: Any, scale: float, causal: bool) -> Any:
    x = matmul(q, transpose_last(k)) * scale  # (B, H, M, D) @ (B, H, D, N)
    if mask is not None:
        x = where(mask, x, -INF) if mask.dtype.kind == "b" else x + mask
    if causal:
        rows, columns = x.shape[-2:]
        x = where(x.new_arange(columns, dtype=int32) <= x.new_arange(rows, dtype=int32).reshape(rows, 1), x, -INF)
    return x


def _lse(q: Any, k: Any, mask: Any = None, scale: float = 1.0, causal: bool = False) -> Any:
    return logsumexp(_scores(q, k, mask, scale, causal), (3,), True)


def _probabilities(q: Any, k: Any, mask: Any, lse: Any, scale: float, causal: bool) -> Any:
    return exp(_scores(q, k, mask, scale, causal) - where(eq(lse, -INF), 0.0,
        lse))  # a row that sees nothing is all zeros


def _attention(q: Any, k: Any, v: Any, mask: Any, lse: Any, scale: float = 1.0, causal: bool = False) -> Any:
    return matmul(_probabilities(q, k, mask, lse, scale, causal), v)


def _attention_grad(g: Any, q: Any, k: Any, v: Any, mask: Any, y: Any, lse: Any, scale: float = 1.0,
        causal: bool = False) -> Any:
    p = _probabilities(q, k, mask, lse, scale, causal)
    ds = p * (matmul(g, transpose_last(v)) - sum_(g * y, (3,), True)) * scale
    return matmul(ds, k), matmul(transpose_last(ds), q), matmul(transpose_last(p), g)


def _mask_grad(g: Any, q: Any, k: Any, v: Any, mask: Any, y: Any, lse: Any, scale: float, causal: bool) -> Any:
    to = mask.dtype
    g, q, k, v, mask, y = (a.to(lse.dtype) for a in (g, q, k, v, mask, y))  # rounded once, at the end
    p = _probabilities(q, k, mask, lse, scale, causal)
    return (p * (matmul(g, transpose_last(v)) - sum_(g * y, (3,), True))).to(to)


def _cases(*lead: Any) -> list[Any]:
    q, k, v = (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7)
    square = ((1, 2, 7, 4),) * 3
    return [s(q, k, v, None, scale=0.4), s(*square, None, scale=0.5, causal=True),
        s(q, k, v, bools(2, 3, 4, 6), scale=1.0), s(q, k, v, (2, 3, 4, 6), scale=1.0)]


def _grad_cases() -> list[Any]:
    out = []
    for c in _cases():
        q, k, v, mask = c.args
        y = Arg((*q.shape[:3], v.shape[3]))
        out.append(s(y, q, k, v, mask, y, Arg((*q.shape[:3], 1), "positive"), **c.attrs))
    return out


attention_lse: Op = composite("attention_lse", "q k mask? -> lse", _lse, spec=_lse_spec,
    batch="q:0 k:0 mask:0 -> 0",
    samples=[s(c.args[0], c.args[1], c.args[3], **c.attrs) for c in _cases()[:2]], num=MIXED,
    doc="Return the log-sum-exp of the attention scores of every query.",
    errors=[raises(ShapeError, "expected", (2, 3, 4, 5), (2, 3, 6, 4), None)])
attention_grad: Op = composite("attention_grad", "g q k v mask? y lse -> gq gk gv", _attention_grad, spec=_grad_spec,
    cost=lambda gq, g, q, k, v, *rest, **attrs: 2 * numel(q.shape[:-1]) * k.shape[-2]
        * (3 * q.shape[-1] + 2 * v.shape[-1]),
    batch="g:0 q:0 k:0 v:0 mask:0 y:0 lse:0 -> 0 0 0",
    samples=_grad_cases(), num=MIXED, doc="Return the gradients of attention for queries, keys and values.",
    errors=[raises(ShapeError, "must be equal", (1, 2, 4, 3), *((1, 2, 3, 4),) * 3, None, (1, 2, 3, 4), (1, 2, 3, 1))])
attention: Op = composite("attention", "q k v mask? -> y", _attention, {"q k v": attention_grad, "mask": _mask_grad},
    aux=(attention_lse, "lse"), spec=_spec, samples=_cases(),
    cost=lambda y, q, k, v, mask=None, **attrs: 2 * numel(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1]),
    batch="q:0 k:0 v:0 mask:0 -> 0",
    num=MIXED,
    doc="Return softmax(q k' * scale + mask) v; a query that may see nothing gets zeros.",
    errors=[raises(ShapeError, "expected", (2, 3, 4, 5), (2, 3, 6, 4), (2, 3, 6, 7), None),
        raises(ShapeError, "mask must be", *((1, 2, 3, 4),) * 3, bools(1, 2, 3, 4))])
