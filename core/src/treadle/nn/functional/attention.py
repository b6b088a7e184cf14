"""Scaled dot-product attention as a function."""

import math

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.api.linalg import matmul
from treadle.api.math import where
from treadle.dtypes import bool_
from treadle.errors import ArgumentError, ShapeError
from treadle.nn.functional.activation import dropout
from treadle.shapes import broadcast


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(query keyᵀ·scale + mask) value: (..., L, E), (..., S, E), (..., S, Ev).

    A bool mask says which keys may be attended to; a float mask is added. is_causal lets query i
    see the keys 0 to i. The scale defaults to 1/sqrt(E).

    >>> import treadle as td
    >>> q, kv = td.zeros(1, 2, 3, 4), td.ones(1, 2, 5, 4)
    >>> tuple(td.nn.functional.scaled_dot_product_attention(q, kv, kv).shape)
    (1, 2, 3, 4)
    """
    if is_causal and attn_mask is not None:
        raise ArgumentError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    if enable_gqa:
        key, value = _repeat_heads(query, key), _repeat_heads(query, value)
    if dropout_p > 0.0:
        mask = _causal_mask(query, key) if is_causal else attn_mask
        return matmul(_weights(query, key, mask, scale, dropout_p), value)
    if query.dim() == 4 and key.dim() == 4 and value.dim() == 4:
        batch = query.shape[:2]
        if key.shape[:2] == batch and value.shape[:2] == batch:
            return _native(query, key, value, attn_mask, scale, is_causal)
    return _folded(query, key, value, attn_mask, scale, is_causal)


def _native(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    if mask is not None:
        mask = mask.expand((*q.shape[:3], k.shape[2]))
    return ops.attention(q, k, v, mask, scale=scale, causal=causal)


def _folded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool) -> Tensor:
    """Broadcast the leading dimensions and fold them into one batch dimension of a single head."""
    batch = broadcast("scaled_dot_product_attention", *(tuple(x.shape[:-2]) for x in (q, k, v)))
    count = math.prod(batch)

    def fold(x: Tensor) -> Tensor:
        return x.expand((*batch, *x.shape[-2:])).reshape(count, 1, *x.shape[-2:])

    if mask is not None:
        mask = fold(mask.expand((*mask.shape[:-2], q.shape[-2], k.shape[-2])))
    y = ops.attention(fold(q), fold(k), fold(v), mask, scale=scale, causal=causal)
    return y.reshape(*batch, q.shape[-2], v.shape[-1])


def _repeat_heads(query: Tensor, x: Tensor) -> Tensor:
    """Repeat each head of x for the group of query heads that shares it."""
    heads, have = query.shape[-3], x.shape[-3]
    if heads % have:
        raise ShapeError(f"enable_gqa: query heads must be a multiple of key's: {heads}, {have}")
    return x.repeat_interleave(heads // have, -3)


def _causal_mask(q: Tensor, k: Tensor) -> Tensor:
    rows = creation.arange(q.shape[-2], device=q.device).unsqueeze(1)
    return creation.arange(k.shape[-2], device=q.device) <= rows


def additive_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask to be added: a bool mask's False becomes -inf."""
    if mask.dtype is not bool_:
        return mask
    zeros = creation.zeros(mask.shape, dtype=like.dtype, device=like.device)
    return where(mask, zeros, -math.inf)


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, scale: float, dropout_p: float) -> Tensor:
    scores = matmul(q * scale, k.transpose(-2, -1))
    if mask is not None:
        scores = scores + additive_mask(mask, scores)
    return dropout(ops.softmax(scores, axis=scores.dim() - 1), dropout_p)
