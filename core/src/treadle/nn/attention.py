"""Multi-head attention and the transformer encoder built of it."""

import copy
import math
from collections.abc import Callable
from typing import Any

from treadle import creation, ops
from treadle._tensor import Tensor
from treadle.api.linalg import matmul
from treadle.api.shape import cat
from treadle.errors import ArgumentError, ShapeError
from treadle.nn import functional as F
from treadle.nn import init
from treadle.nn.container import ModuleList
from treadle.nn.dropout import Dropout
from treadle.nn.functional.attention import additive_mask
from treadle.nn.linear import Linear
from treadle.nn.module import Module
from treadle.nn.norm import LayerNorm
from treadle.nn.parameter import Parameter


class MultiheadAttention(Module):
    """Attend with several heads: query (L, N, E), key (S, N, kdim), value (S, N, vdim).

    With batch_first=True N comes first; inputs without a batch leave it out: (L, E), (S, kdim) ...
    Returns the result and the weights (N, L, S), or None in their place with need_weights=False.

    >>> import treadle as td
    >>> layer = td.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = td.zeros(3, 5, 8)
    >>> y, weights = layer(x, x, x)
    >>> tuple(y.shape), tuple(weights.shape)
    ((3, 5, 8), (3, 5, 5))
    """

    in_proj_weight: Parameter | None  # (3·embed_dim, embed_dim) if all inputs have embed_dim
    q_proj_weight: Parameter | None  # else these three
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None  # (3·embed_dim,)
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ArgumentError(
                f"MultiheadAttention: embed_dim must be divisible by num_heads: {embed_dim}, {num_heads}"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.batch_first, self.head_dim = batch_first, embed_dim // num_heads
        self.add_zero_attn = add_zero_attn
        make = {"device": device, "dtype": dtype}
        packed = self.kdim == embed_dim and self.vdim == embed_dim
        shapes = {
            "q_proj_weight": None if packed else (embed_dim, embed_dim),
            "k_proj_weight": None if packed else (embed_dim, self.kdim),
            "v_proj_weight": None if packed else (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim) if packed else None,
            "in_proj_bias": (3 * embed_dim,) if bias else None,
        }
        for name, shape in shapes.items():
            p = None if shape is None else Parameter(creation.empty(shape, **make))
            self.register_parameter(name, p)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, **make)
        for name in ("bias_k", "bias_v"):
            p = Parameter(creation.empty((1, 1, embed_dim), **make)) if add_bias_kv else None
            self.register_parameter(name, p)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if getattr(self, name) is not None:
                init.xavier_uniform_(getattr(self, name))
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            same = query is key and key is value
            query = query.transpose(0, 1)
            key, value = (query, query) if same else (key.transpose(0, 1), value.transpose(0, 1))
        self._check_shapes(query, key, value)
        # as PyTorch, believe the hint only where no weights are asked for and nothing is padded
        causal = is_causal and key_padding_mask is None and not need_weights
        q, k, v = self._project(query, key, value)
        extra = k.shape[2] - key.shape[1]
        mask = self._merge_masks(q, None if causal else attn_mask, key_padding_mask, extra)
        y, weights = self._attend(q, k, v, mask, causal and not extra, need_weights)
        n, length = query.shape[:2]
        y = self.out_proj(y.transpose(1, 2).reshape(n, length, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _check_shapes(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Check (N, L, E), (N, S, kdim), (N, S, vdim)."""
        shapes = [tuple(x.shape) for x in (query, key, value)]
        sizes = (self.embed_dim, self.kdim, self.vdim)
        fits = all(len(s) == 3 and s[2] == size for s, size in zip(shapes, sizes, strict=True))
        if not fits or shapes[0][0] != shapes[1][0] or shapes[1][:2] != shapes[2][:2]:
            raise ShapeError(
                f"MultiheadAttention: query, key and value must be (N, L, {sizes[0]}), "
                f"(N, S, {sizes[1]}), (N, S, {sizes[2]}): {shapes}"
            )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return q (N, H, L, D), k and v (N, H, S', D); S' counts the appended positions."""
        w, b, e = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        if w is not None and query is key and key is value:
            q, k, v = ops.linear(query, w, b).chunk(3, -1)
        else:
            weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if w is not None:
                weights = (w[:e], w[e : 2 * e], w[2 * e :])
            biases: Any = (None,) * 3 if b is None else (b[:e], b[e : 2 * e], b[2 * e :])
            inputs = (query, key, value)
            q, k, v = (ops.linear(*args) for args in zip(inputs, weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = cat([k, self.bias_k.expand((k.shape[0], 1, e))], 1)
            v = cat([v, self.bias_v.expand((v.shape[0], 1, e))], 1)
        if self.add_zero_attn:
            zeros = creation.zeros((k.shape[0], 1, e), dtype=k.dtype, device=k.device)
            k, v = cat([k, zeros], 1), cat([v, zeros], 1)
        heads = (self.num_heads, self.head_dim)
        return tuple(x.reshape(*x.shape[:2], *heads).transpose(1, 2) for x in (q, k, v))

    def _merge_masks(self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None, extra: int) -> Tensor | None:
        """Return one additive mask (N or 1, H or 1, L or 1, S'); True in a bool mask is ignored."""
        merged = None
        if attn_mask is not None:
            attn_mask = additive_mask(_invert(attn_mask), q)
            lead = (1, 1) if attn_mask.dim() == 2 else (-1, self.num_heads)
            merged = attn_mask.reshape(*lead, *attn_mask.shape[-2:])
        if padding is not None:
            padding = additive_mask(_invert(padding), q)
            padding = padding.reshape(padding.shape[0], 1, 1, padding.shape[1])
            merged = padding if merged is None else merged + padding
        if merged is not None and extra:
            merged = F.pad(merged, (0, extra))
        return merged

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        p = self.dropout if self.training else 0.0
        if not weights:
            return F.scaled_dot_product_attention(q, k, v, mask, p, causal), None
        scores = matmul(q * math.sqrt(1.0 / self.head_dim), k.transpose(-2, -1))
        attention = ops.softmax(scores if mask is None else scores + mask, axis=scores.dim() - 1)
        attention = F.dropout(attention, p)
        return matmul(attention, v), attention


def _invert(mask: Tensor) -> Tensor:
    """Turn "True means ignore" into "True means attend"; float masks stay."""
    return mask if mask.is_floating_point() else ~mask


class TransformerEncoderLayer(Module):
    """Apply self-attention and a feed-forward net, each with residual, dropout and LayerNorm.

    >>> import treadle as td
    >>> layer = td.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> tuple(layer(td.zeros(3, 5, 8)).shape)
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        make = {"bias": bias, "device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **make)
        self.linear1 = Linear(d_model, dim_feedforward, **make)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **make)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, **make)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, **make)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = _activation(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        masks = (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = src + self._attention_block(self.norm1(src), *masks)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + self._attention_block(src, *masks))
        return self.norm2(x + self._feed_forward(x))

    def _attention_block(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, causal: bool) -> Tensor:
        y, _ = self.self_attn(x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=mask, is_causal=causal)
        return self.dropout1(y)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def _activation(activation: Any) -> Any:
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return F.relu if activation == "relu" else F.gelu


class TransformerEncoder(Module):
    """Apply num_layers copies of an encoder layer, then norm if one is given.

    >>> import treadle as td
    >>> layer = td.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> tuple(td.nn.TransformerEncoder(layer, num_layers=2)(td.zeros(3, 5, 8)).shape)
    (3, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(
                x,
                src_mask=mask,
                src_key_padding_mask=src_key_padding_mask,
                is_causal=bool(is_causal),
            )
        return x if self.norm is None else self.norm(x)
