"""Checkpoints against PyTorch's: the same text, weights and input give the same values and gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.utils.checkpoint")

import treadle as td  # noqa: E402


def run(lib, arrays, way):
    """Loss, gradient of the input and of three weights, of one of which the function only closes over."""
    x, a, b, c = (lib.from_numpy(v.copy()).requires_grad_() for v in arrays)
    checkpoint, sequential = lib.utils.checkpoint.checkpoint, lib.utils.checkpoint.checkpoint_sequential

    def block(v, w, scale=1.0):
        return lib.tanh(v @ w * scale), (v @ c).sum()

    if way == "tuple":
        y, extra = checkpoint(block, x, a, use_reentrant=False, scale=0.5)
        y = checkpoint(block, y, b, use_reentrant=False)[0] + extra
    elif way == "nested":
        y = checkpoint(
            lambda v: checkpoint(lambda u: block(u, a)[0] @ b, v, use_reentrant=False).sin(), x, use_reentrant=False
        )
        y = y + c.sum()
    else:
        y = sequential(
            [lambda v: v @ a, lib.tanh, lambda v: v @ b, lib.sin, lambda v: v @ c], 2, x, use_reentrant=False
        )
    loss = (y * y).mean()
    loss.backward()
    return [loss.detach().numpy(), *(t.grad.numpy() for t in (x, a, b, c))]


@pytest.mark.parametrize("way", ["tuple", "nested", "sequential"])
def test_checkpoints_give_pytorchs_values(way):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in ((5, 4), (4, 4), (4, 4), (4, 4))]
    for ours, theirs in zip(run(td, arrays, way), run(torch, arrays, way), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
