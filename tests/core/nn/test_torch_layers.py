"""Layers against PyTorch: same weights, same input, same output and gradients, same state_dict and repr."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def to_td(t):
    return td.from_numpy(t.detach().numpy().copy())


def array(x):
    return x.detach().numpy()


def close(ours, theirs, tol=2e-5):
    np.testing.assert_allclose(array(ours), array(theirs), rtol=tol, atol=tol)


def copy_weights(ours, theirs):
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})


def floats(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g)


IMAGE = floats(2, 4, 7, 6)
CASES = [
    ("Linear", (4, 3), {}, floats(5, 4)),
    ("Linear", (4, 3), {"bias": False}, floats(2, 5, 4)),
    ("Linear", (4, 3), {}, floats(4)),
    ("Conv2d", (4, 6, 3), {"padding": 1}, IMAGE),
    ("Conv2d", (4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "groups": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {"dilation": 2, "bias": False}, IMAGE),
    ("Conv2d", (4, 4, 2), {"padding": "same"}, IMAGE),
    ("Conv2d", (4, 4, 3), {"padding": "same", "dilation": 2}, IMAGE),
    ("Conv2d", (4, 4, 3), {"padding": "valid"}, IMAGE[0]),
    ("Conv1d", (4, 6, 3), {"padding": 1, "stride": 2}, floats(2, 4, 9)),
    ("Conv1d", (4, 6, 2), {"padding": "same"}, floats(4, 9)),
    ("BatchNorm1d", (4,), {}, floats(5, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, floats(5, 4, 3)),
    ("BatchNorm1d", (4,), {"affine": False}, floats(5, 4)),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, IMAGE),
    ("BatchNorm2d", (4,), {"bias": False, "eps": 1e-3}, IMAGE),
    ("LayerNorm", (6,), {}, IMAGE),
    ("LayerNorm", ((7, 6),), {"bias": False}, IMAGE),
    ("LayerNorm", ((7, 6),), {"elementwise_affine": False}, IMAGE),
    ("RMSNorm", (6,), {}, IMAGE),
    ("RMSNorm", ((7, 6),), {"eps": 1e-3, "elementwise_affine": False}, IMAGE),
    ("GroupNorm", (2, 4), {}, IMAGE),
    ("GroupNorm", (4, 4), {"affine": False}, floats(2, 4)),
    ("ReLU", (), {}, IMAGE),
    ("ReLU6", (), {}, IMAGE * 5),
    ("LeakyReLU", (0.2,), {}, IMAGE),
    ("GELU", (), {}, IMAGE),
    ("GELU", ("tanh",), {}, IMAGE),
    ("SiLU", (), {}, IMAGE),
    ("Mish", (), {}, IMAGE),
    ("SELU", (), {}, IMAGE),
    ("Hardswish", (), {}, IMAGE * 3),
    ("Hardsigmoid", (), {}, IMAGE * 3),
    ("ELU", (0.7,), {}, IMAGE * 30),
    ("Hardtanh", (-0.5, 0.8), {}, IMAGE),
    ("Sigmoid", (), {}, IMAGE),
    ("Tanh", (), {}, IMAGE),
    ("LogSigmoid", (), {}, IMAGE * 20),
    ("Softsign", (), {}, IMAGE),
    ("Softplus", (), {}, IMAGE * 20),
    ("Softplus", (2.0, 5.0), {}, IMAGE * 20),
    ("Softmax", (1,), {}, IMAGE),
    ("LogSoftmax", (-1,), {}, IMAGE),
    ("Softmin", (2,), {}, IMAGE),
    ("GLU", (1,), {}, IMAGE),
    ("MaxPool2d", (2,), {}, IMAGE),
    ("MaxPool2d", (3, 2, 1), {}, IMAGE),
    ("MaxPool2d", (2,), {"ceil_mode": True, "dilation": 2}, IMAGE[0]),
    ("AvgPool2d", (2,), {}, IMAGE),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False, "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {"divisor_override": 3}, IMAGE[0]),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((7, 3),), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveAvgPool2d", (4,), {}, IMAGE[0]),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (0, 2), {}, IMAGE),
    ("Unflatten", (1, (2, 2)), {}, IMAGE),
    ("Identity", (), {}, IMAGE),
    ("Dropout", (0.0,), {}, IMAGE),
]


def case_id(case):
    name, args, kwargs, x = case
    return f"{name}{args}{kwargs}{tuple(x.shape)}".replace(" ", "")


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_layer(case, training):
    name, args, kwargs, x = case
    theirs = getattr(torch.nn, name)(*args, **kwargs).train(training)
    ours = getattr(td.nn, name)(*args, **kwargs).train(training)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        for i, p in enumerate(theirs.parameters()):
            p.copy_(floats(*p.shape, seed=i + 1))
    copy_weights(ours, theirs)
    a, b = to_td(x).requires_grad_(), x.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")  # PyTorch's own advice
        for _ in range(2):  # twice: running statistics
            p, q = ours(a), theirs(b)
    close(p, q)
    w = floats(*q.shape, seed=9)
    (p * to_td(w)).sum().backward()
    (q * w).sum().backward()
    close(a.grad, b.grad)
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert tuple(p.grad.shape) == tuple(q.grad.shape), n
        close(p.grad, q.grad, 1e-4)
    for p, q in zip(ours.buffers(), theirs.buffers(), strict=True):
        close(p, q)


def test_embedding():
    theirs = torch.nn.Embedding(6, 3, padding_idx=-2)
    ours = td.nn.Embedding(6, 3, padding_idx=-2)
    assert repr(ours) == repr(theirs)
    close(ours.weight[4], torch.zeros(3))
    copy_weights(ours, theirs)
    i = torch.tensor([[0, 4, 1], [5, 1, 1]])
    y, z = ours(to_td(i)), theirs(i)
    close(y, z)
    (y * y).sum().backward()
    (z * z).sum().backward()
    close(ours.weight.grad, theirs.weight.grad)
    with pytest.raises(IndexError):
        ours(td.tensor([6]))


LOSSES = [
    ("MSELoss", {}), ("L1Loss", {}), ("SmoothL1Loss", {"beta": 0.5}), ("SmoothL1Loss", {"beta": 0.0}),
    ("HuberLoss", {"delta": 0.7}), ("BCEWithLogitsLoss", {}), ("BCELoss", {}), ("KLDivLoss", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs"), LOSSES, ids=[f"{n}{k}" for n, k in LOSSES])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_elementwise_loss(name, kwargs, reduction):
    x, t = floats(4, 5), torch.sigmoid(floats(4, 5, seed=1))
    if name == "BCELoss":
        x = torch.sigmoid(x)
        x[0, 0], x[0, 1], t[0, 1], t[0, 2] = 0.0, 1.0, 1.0, 0.0
    theirs = getattr(torch.nn, name)(reduction=reduction, **kwargs)
    ours = getattr(td.nn, name)(reduction=reduction, **kwargs)
    a, b = to_td(x).requires_grad_(), x.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KLDivLoss advises batchmean
        p, q = ours(a, to_td(t)), theirs(b, t)
    close(p, q)
    (p * p).sum().backward()
    (q * q).sum().backward()
    if name != "BCELoss":  # at exactly 0 and 1 the cut logarithm has no derivative
        close(a.grad, b.grad)
    else:
        close(a.grad[1:], b.grad[1:])
        assert np.isfinite(array(a.grad)).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 5, 3), (2, 5, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", ["index", "ignore", "soft"])
def test_cross_entropy(reduction, smoothing, weighted, shape, kind):
    x = floats(*shape)
    axis = 0 if len(shape) == 1 else 1
    rest = shape[:axis] + shape[axis + 1 :]
    if kind == "soft":
        t = torch.softmax(floats(*shape, seed=2), axis)
    else:
        t = torch.randint(0, 5, rest, generator=torch.Generator().manual_seed(3))
        if kind == "ignore" and t.ndim:
            t.view(-1)[::3] = 2
    w = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0]) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    if kind == "ignore":
        options["ignore_index"] = 2
    theirs = torch.nn.CrossEntropyLoss(w, **options)
    ours = td.nn.CrossEntropyLoss(None if w is None else to_td(w), **options)
    a, b = to_td(x).requires_grad_(), x.clone().requires_grad_()
    p, q = ours(a, to_td(t)), theirs(b, t)
    assert tuple(p.shape) == tuple(q.shape)
    close(p, q)
    (p * p).sum().backward()
    (q * q).sum().backward()
    close(a.grad, b.grad)
    if kind != "soft" and smoothing == 0.0:
        nll = td.nn.NLLLoss(None if w is None else to_td(w), reduction=reduction,
                            ignore_index=options.get("ignore_index", -100))  # fmt: skip
        close(nll(td.nn.functional.log_softmax(to_td(x), axis), to_td(t)), q)


def test_bce_with_logits_weights():
    x, t, w, pos = floats(4, 3) * 30, torch.rand(4, 3), torch.rand(4, 3), torch.rand(3) * 2
    theirs = torch.nn.BCEWithLogitsLoss(w, pos_weight=pos)(x, t)
    ours = td.nn.BCEWithLogitsLoss(to_td(w), pos_weight=to_td(pos))(to_td(x), to_td(t))
    close(ours, theirs)


def test_pad_and_normalize():
    x = floats(2, 3, 4)
    for pads in [(1, 2), (0, 1, 2, 0), (-1, 1), (1, -2, 0, -1), (0, 0, 0, 0, 1, 1)]:
        close(td.nn.functional.pad(to_td(x), pads, value=0.5), torch.nn.functional.pad(x, pads, value=0.5))
    close(td.nn.functional.normalize(to_td(x), dim=2), torch.nn.functional.normalize(x, dim=2))
    i = torch.tensor([[0, 2], [1, 1]])
    assert (array(td.nn.functional.one_hot(to_td(i), 4)) == array(torch.nn.functional.one_hot(i, 4))).all()


def test_first_weights_are_drawn_as_pytorchs():
    """Weights come from PyTorch's distributions."""
    td.manual_seed(0)
    torch.manual_seed(0)
    for name, args in [("Linear", (64, 256)), ("Conv2d", (8, 256, 3)), ("Embedding", (50, 20))]:
        ours, theirs = getattr(td.nn, name)(*args), getattr(torch.nn, name)(*args)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert tuple(p.shape) == tuple(q.shape)
            a, b = array(p), array(q)
            assert abs(a.std() - b.std()) < 0.1 * b.std()
            assert abs(a.mean()) < 0.2 * b.std()
            assert abs(abs(a).max() - abs(b).max()) < 0.3 * abs(b).max()


INIT = [
    ("xavier_uniform_", {"gain": 2.0}), ("xavier_normal_", {}), ("kaiming_uniform_", {"a": 1.0}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("trunc_normal_", {"std": 0.5, "a": -0.4, "b": 0.9}),
    ("trunc_normal_", {"mean": 0.0, "std": 1.0, "a": 2.5, "b": 3.0}), ("uniform_", {"a": -2.0, "b": 3.0}),
    ("normal_", {"mean": 1.0, "std": 3.0}), ("constant_", {"val": 3.0}), ("ones_", {}), ("zeros_", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs"), INIT, ids=[f"{n}{k}" for n, k in INIT])
def test_init(name, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = array(getattr(td.nn.init, name)(td.empty(100, 80), **kwargs))
        b = array(getattr(torch.nn.init, name)(torch.empty(100, 80), **kwargs))
    assert abs(a.mean() - b.mean()) < 0.05 * (b.std() + 0.1)
    assert abs(a.std() - b.std()) < 0.05 * b.std() + 1e-6
    if name.startswith("trunc"):
        assert kwargs["a"] <= a.min() and a.max() <= kwargs["b"]
