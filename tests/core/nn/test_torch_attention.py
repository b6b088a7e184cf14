"""Attention against PyTorch: masks, head counts, weights, encoder layers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def to_td(t):
    return None if t is None else td.from_numpy(t.detach().numpy().copy())


def close(ours, theirs, tol=3e-5):
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=tol, atol=tol)


def floats(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASKS = {
    "none": None,
    "bool": torch.ones(5, 7).tril(2).bool(),
    "float": floats(2, 1, 5, 7, seed=5),
    "heads": floats(3, 5, 7, seed=6) > -0.5,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_sdpa(mask, scale):
    q, k, v = floats(2, 3, 5, 4), floats(2, 3, 7, 4, seed=1), floats(2, 3, 7, 6, seed=2)
    ours = [to_td(t).requires_grad_() for t in (q, k, v)]
    theirs = [t.clone().requires_grad_() for t in (q, k, v)]
    m = MASKS[mask]
    p = td.nn.functional.scaled_dot_product_attention(*ours, attn_mask=to_td(m), scale=scale)
    r = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=m, scale=scale)
    close(p, r)
    (p * p).sum().backward()
    (r * r).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad, 1e-4)


@pytest.mark.parametrize(
    "shapes", [((5, 4), (7, 4)), ((2, 5, 4), (2, 7, 4)), ((2, 1, 3, 5, 4), (1, 2, 3, 7, 4))], ids=str
)
def test_sdpa_other_ranks(shapes):
    q, k = floats(*shapes[0]), floats(*shapes[1], seed=1)
    f, g = td.nn.functional.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention
    close(f(to_td(q), to_td(k), to_td(k), is_causal=True), g(q, k, k, is_causal=True))
    m = torch.ones(5, 7).tril(1).bool()
    close(f(to_td(q), to_td(k), to_td(k), to_td(m)), g(q, k, k, m))


def test_sdpa_grouped_heads():
    q, k = floats(2, 6, 5, 4), floats(2, 2, 5, 4, seed=1)
    f, g = td.nn.functional.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention
    close(f(to_td(q), to_td(k), to_td(k), enable_gqa=True), g(q, k, k, enable_gqa=True))


OPTIONS = [
    {}, {"batch_first": True}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True},
    {"kdim": 6, "vdim": 10, "batch_first": True}, {"kdim": 6, "vdim": 10, "bias": False, "add_bias_kv": True},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masks", ["none", "attn", "padding", "both", "float"])
@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no_weights"])
def test_multihead_attention(options, masks, need_weights):
    theirs = torch.nn.MultiheadAttention(8, 2, **options)
    ours = td.nn.MultiheadAttention(8, 2, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})
    q, k, v = (
        floats(3, 5, 8),
        floats(3, 7, options.get("kdim", 8), seed=1),
        floats(3, 7, options.get("vdim", 8), seed=2),
    )
    if not options.get("batch_first"):
        q, k, v = (t.transpose(0, 1).contiguous() for t in (q, k, v))
    attn = torch.ones(5, 7).triu(3).bool() if masks in ("attn", "both") else None
    if masks == "float":
        attn = floats(6, 5, 7, seed=4)
    padding = torch.arange(7).expand(3, 7) >= torch.tensor([[7], [5], [6]]) if masks in ("padding", "both") else None
    named = {"attn_mask": attn, "key_padding_mask": padding}
    y, w = ours(*map(to_td, (q, k, v)), need_weights=need_weights, **{n: to_td(m) for n, m in named.items()})
    z, u = theirs(q, k, v, need_weights=need_weights, **named)
    close(y, z)
    assert (w is None) == (u is None)
    if w is not None:
        close(w, u)


def test_multihead_attention_self_unbatched_and_causal():
    theirs, ours = torch.nn.MultiheadAttention(8, 4), td.nn.MultiheadAttention(8, 4)
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})
    x = floats(5, 8)
    a, b = to_td(x), x
    for average in (True, False):
        y, w = ours(a, a, a, average_attn_weights=average)
        z, u = theirs(b, b, b, average_attn_weights=average)
        close(y, z)
        close(w, u)
    mask = torch.ones(5, 5).triu(1).bool()
    y, _ = ours(a, a, a, attn_mask=to_td(mask), is_causal=True, need_weights=False)
    z, _ = theirs(b, b, b, attn_mask=mask, is_causal=True, need_weights=False)
    close(y, z)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        ours(a, a, a, is_causal=True)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder(norm_first, activation):
    options = {
        "dim_feedforward": 16,
        "dropout": 0.0,
        "activation": activation,
        "norm_first": norm_first,
        "batch_first": True,
    }
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, **options), 2, torch.nn.LayerNorm(8), enable_nested_tensor=False
    )
    ours = td.nn.TransformerEncoder(td.nn.TransformerEncoderLayer(8, 2, **options), 2, td.nn.LayerNorm(8))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})
    x = floats(3, 5, 8)
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [4]])
    close(ours(to_td(x)), theirs(x))
    close(ours(to_td(x), src_key_padding_mask=to_td(padding)), theirs(x, src_key_padding_mask=padding))
    mask = torch.ones(5, 5).triu(1).bool()
    y, z = ours(to_td(x), mask=to_td(mask), is_causal=True), theirs(x, mask=mask, is_causal=True)
    close(y, z)
    y.sum().backward()
    z.sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad, 1e-4)
