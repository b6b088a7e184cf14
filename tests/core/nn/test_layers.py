"""Layers against NumPy, and what they say when arguments do not fit."""

import math

import numpy as np
import pytest

import treadle as td
from treadle import nn
from treadle.nn import functional as F


def array(x):
    return x.detach().numpy()


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_batch_norm_running_statistics():
    x = floats(6, 3)
    layer = nn.BatchNorm1d(3, momentum=0.2)
    for _ in range(2):
        y = layer(td.tensor(x))
    np.testing.assert_allclose(array(y), (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4, atol=1e-5)
    left = 0.8**2
    np.testing.assert_allclose(array(layer.running_mean), (1 - left) * x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(layer.running_var), left + (1 - left) * x.var(0, ddof=1), rtol=1e-5)
    assert layer.num_batches_tracked.item() == 2
    layer.eval()(td.tensor(x))
    assert layer.num_batches_tracked.item() == 2
    layer.reset_running_stats()
    assert layer.running_var.tolist() == [1.0] * 3


def test_batch_norm_refuses_single_values_and_wrong_ranks():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(td.ones(1, 3))
    with pytest.raises(ValueError, match=r"expected 2D or 3D input \(got 4D input\)"):
        nn.BatchNorm1d(3)(td.ones(1, 3, 2, 2))
    with pytest.raises(ValueError, match="expected 4D"):
        nn.BatchNorm2d(3)(td.ones(1, 3))


def test_old_checkpoints_lack_the_batch_counter():
    layer = nn.BatchNorm1d(2)
    state = layer.state_dict()
    del state["num_batches_tracked"]
    layer.load_state_dict(state)


def test_dropout():
    td.manual_seed(0)
    x = td.ones(100, 100)
    y = array(nn.Dropout(0.3)(x))
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(1 / 0.7))}
    assert abs((y == 0).mean() - 0.3) < 0.02
    assert not (array(nn.Dropout(0.3)(x)) == y).all()
    assert array(nn.Dropout(1.0)(x)).sum() == 0
    channels = array(nn.Dropout2d(0.5)(td.ones(8, 16, 3, 3))).reshape(128, 9)
    assert (channels.min(1) == channels.max(1)).all() and 0.2 < (channels[:, 0] == 0).mean() < 0.8
    z = td.ones(50, requires_grad=True)
    out = nn.Dropout(0.5)(z)
    out.sum().backward()
    np.testing.assert_array_equal(array(z.grad), array(out))
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


def test_inplace_activations():
    x = td.tensor([-1.0, 2.0])
    assert nn.ReLU(inplace=True)(x) is x and x.tolist() == [0.0, 2.0]
    y = td.tensor([-1.0, 2.0])
    F.leaky_relu(y, 0.5, inplace=True)
    assert y.tolist() == [-0.5, 2.0]


def test_activations_at_extremes():
    x = td.tensor([-math.inf, -1e4, 0.0, 1e4, math.inf, math.nan], requires_grad=True)
    for f in (F.elu, F.selu, F.softplus, F.logsigmoid, F.leaky_relu):
        y = array(f(x))
        assert np.isnan(y[-1]) and np.isfinite(y[1:4]).all(), f
    g = td.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    F.elu(g).sum().backward()
    assert g.grad.tolist() == [0.0, 1.0, 1.0]
    h = td.tensor([-1.0, 0.5, 1.0, 2.0], requires_grad=True)
    F.hardtanh(h).sum().backward()
    assert h.grad.tolist() == [0.0, 1.0, 0.0, 0.0]


def test_errors_say_what_would_do():
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.Conv2d(1, 1, 3, padding_mode="mirror")
    with pytest.raises(ValueError, match="not supported for strided"):
        nn.Conv2d(1, 1, 3, padding="same", stride=2)
    with pytest.raises(ValueError, match="divisible by groups"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(NotImplementedError, match="max_norm"):
        nn.Embedding(3, 2, max_norm=1.0)(td.tensor([0]))
    with pytest.raises(ValueError, match="padding_idx"):
        nn.Embedding(3, 2, padding_idx=3)
    with pytest.raises(ValueError, match="normalized_shape"):
        nn.LayerNorm(3)(td.ones(2, 4))
    with pytest.raises(ValueError, match="gelu"):
        F.gelu(td.ones(1), approximate="other")
    with pytest.raises(ValueError, match="without the classes"):
        F.cross_entropy(td.ones(2, 3, 4), td.zeros(2, 5, dtype=td.int64))
    with pytest.raises(IndexError):
        F.nll_loss(td.zeros(2, 3), td.tensor([0, 3]))
    with pytest.raises(IndexError):
        F.nll_loss(td.zeros(2, 3), td.tensor([0, -1]))
    with pytest.raises(ValueError, match="num_heads"):
        nn.MultiheadAttention(5, 2)
    with pytest.raises(ValueError, match="Mode fan"):
        nn.init.kaiming_uniform_(td.empty(2, 2), mode="fan")
    with pytest.raises(ValueError, match="Fan in"):
        nn.init.xavier_uniform_(td.empty(2))
    with pytest.raises(ValueError, match="not a valid value"):
        F.mse_loss(td.ones(1), td.ones(1), reduction="median")


def test_sdpa_dropout_and_causal_mask():
    td.manual_seed(1)
    q = td.tensor(floats(2, 2, 4, 8))
    v = td.ones(2, 2, 4, 8)
    y = array(F.scaled_dot_product_attention(q, q, v, dropout_p=0.5, is_causal=True))
    assert y.shape == (2, 2, 4, 8) and not np.allclose(y, 1.0)
    first = np.unique(y[:, :, 0])  # the first query sees one key: dropped or doubled
    assert set(np.round(first, 4).tolist()) <= {0.0, 2.0}
    with pytest.raises(ValueError, match="not both"):
        F.scaled_dot_product_attention(q, q, v, td.ones(4, 4), is_causal=True)


def test_clip_grad():
    p = [td.zeros(3, requires_grad=True), td.zeros(2, 2, requires_grad=True), td.zeros(1, requires_grad=True)]
    a, b = floats(3), floats(2, 2, seed=1)
    for norm_type in (2.0, 1.0, math.inf, 3):
        p[0].grad, p[1].grad = td.tensor(a), td.tensor(b)
        flat = np.abs(np.concatenate([a, b.reshape(-1)]).astype(np.float64))
        want = flat.max() if norm_type == math.inf else (flat**norm_type).sum() ** (1 / norm_type)
        norm = nn.utils.clip_grad_norm_(p, 0.5, norm_type)
        assert norm.shape == () and abs(norm.item() - want) < 1e-4 * want
        np.testing.assert_allclose(array(p[0].grad), a * (0.5 / (want + 1e-6)), rtol=1e-4)
        before = array(p[1].grad).copy()
        nn.utils.clip_grad_norm_(p, 100.0, norm_type)
        np.testing.assert_allclose(array(p[1].grad), before)
    p[0].grad = td.tensor([math.inf, 0.0, 0.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(iter(p), 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_value_(p, 0.1)
    assert abs(array(p[0].grad)).max() <= np.float32(0.1)
    assert nn.utils.clip_grad_norm_([td.zeros(1)], 1.0).item() == 0.0


def test_parameters_to_vector_and_back():
    net = nn.Linear(3, 2)
    v = nn.utils.parameters_to_vector(net.parameters())
    assert tuple(v.shape) == (8,)
    nn.utils.vector_to_parameters(td.arange(8, dtype=td.float32), net.parameters())
    assert net.bias.tolist() == [6.0, 7.0] and net.weight.requires_grad
    with pytest.raises(ValueError, match="needs a vector of 8"):
        nn.utils.vector_to_parameters(td.zeros(9), net.parameters())
