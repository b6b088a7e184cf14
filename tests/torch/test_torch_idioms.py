"""Idioms of PyTorch programs, run in both libraries: each returns what is compared."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402

IDIOMS = {}


def idiom(f):
    IDIOMS[f.__name__] = f
    return f


def matrix(m):
    return m.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]])


@idiom
def accuracy(m):
    logits, labels = matrix(m), m.tensor([1, 0])
    predicted = logits.argmax(dim=1)
    return (predicted == labels).float().mean().item(), (predicted == labels).sum().item(), predicted.eq(labels).long()


@idiom
def max_with_indices(m):
    values, indices = matrix(m).max(1)
    best = matrix(m).max(dim=0)
    _, top = matrix(m).topk(2)
    return values, indices, best.values, best[1], top, matrix(m).max(), matrix(m).min(dim=1, keepdim=True)[0]


@idiom
def masks_and_assignment(m):
    x = matrix(m)
    x[x > 4] = 0
    x[:, 0] += 1
    x[0] *= 2
    x[-1, -1] = 9
    x[..., 1] = m.tensor([7.0, 8.0])
    x[[0, 1], [2, 0]] = -1
    return x


@idiom
def updates_under_no_grad(m):
    w = m.ones(3, requires_grad=True)
    for _ in range(3):
        loss = (w * w).sum()
        loss.backward()
        with m.no_grad():
            w -= 0.1 * w.grad
            w.grad.zero_()
    return w.detach(), w.grad, w.is_leaf, w.requires_grad


@idiom
def updates_of_data(m):
    w = m.ones(3, requires_grad=True)
    (w * 2).sum().backward()
    w.data -= 0.5 * w.grad.data
    w.grad = None
    return w.detach(), w.grad is None


@idiom
def lists_of_tensors(m):
    parts = [m.ones(2) * k for k in range(3)]
    return (
        sum(parts),
        m.stack(parts),
        m.cat(parts),
        m.stack(parts, dim=1),
        m.cat([p[None] for p in parts], dim=0),
        m.stack(parts).mean(0),
        sum([m.tensor(1.0), m.tensor(2.0)]),
    )


@idiom
def shapes(m):
    x = m.zeros(2, 3, 4)
    b, t, c = x.shape
    n, *rest = x.size()
    return (b, t, c, n, rest, x.size(0), x.size(-1), len(x), x.dim(), x.ndim, x.numel(), x.nelement(), max(x.shape),
        x.shape[-1], x.shape == (2, 3, 4), x.shape == m.Size([2, 3, 4]), x.size() == m.Size((2, 3, 4)),
            x.shape[1:] == (3, 4), x.shape.numel(), list(x.shape), x.view(-1).shape[0], x.view(2, -1).shape[1],
            x.flatten(1).shape[1], x.reshape(b * t, c).shape[0], tuple(x.stride()), x.is_contiguous())  # fmt: skip


@idiom
def queries_keys_values(m):
    x = m.arange(24.0).reshape(2, 2, 6)
    q, k, v = x.reshape(2, 2, 3, 1, 2).permute(2, 0, 3, 1, 4)
    a, b, c = x.chunk(3, dim=-1)
    d, e = x.split([2, 4], dim=2)
    f, g = x.unbind(0)
    att = (q @ k.transpose(-2, -1)) * k.size(-1) ** -0.5
    mask = m.tril(m.ones(2, 2)).view(1, 1, 2, 2)
    att = att.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
    return (att @ v).transpose(1, 2).contiguous().view(2, 2, 2), a, b, c, d, e, f, g


@idiom
def numbers(m):
    x = m.tensor([1.5, 2.5])
    total = 0.0
    for v in x:
        total += v.item()
    return (
        total,
        float(x[0]),
        int(x[1]),
        x.sum().item(),
        x.tolist(),
        [t.item() for t in x],
        f"{x.mean().item():.2f}",
        f"loss {x.sum():.3f}",
        round(x[0].item()),
        bool(x[0] > 1),
        len(x),
        3 * x,
        x / 2,
        2 - x,
        1 / x,
        x**2,
        2**x,
        -x,
        abs(-x),
        x // 1,
        x % 1,
        x @ x,
    )


@idiom
def numpy_scalars(m):
    x = m.tensor([1.0, 2.0])
    return (
        x * np.float32(2),
        np.float32(2) * x,
        x + np.float64(1),
        np.float64(1) - x,
        x / np.int64(2),
        np.int64(4) / x,
        x > np.float32(1),
        np.float64(2) ** x,
        np.asarray(x).sum(),
        np.array([1, 2]) + x.numpy(),
        x.numpy().dtype == np.float32,
    )


@idiom
def truth(m):
    x = m.tensor([0, 1])
    out = []
    if x.any():
        out.append("any")
    if not x.all():
        out.append("not all")
    if (x == x).all():
        out.append("equal")
    if m.tensor(1):
        out.append("one")
    while m.tensor(len(out)) < 5:
        out.append("more")
    return (
        out,
        1 in x,
        5 in x,
        m.equal(x, x),
        m.allclose(x.float(), x.float() + 1e-9),
        (x == 1).nonzero().tolist(),
        m.where(x > 0)[0],
        x.eq(0).any().item(),
    )


@idiom
def new_ones(m):
    x = m.zeros(2, 3, dtype=m.float64)
    return (
        x.new_zeros(4),
        x.new_ones(2, 2),
        x.new_full((2,), 3.0),
        x.new_tensor([1, 2]),
        x.new_empty(0),
        m.zeros_like(x),
        m.ones_like(x, dtype=m.int32),
        m.full_like(x, 2),
        x.clone().fill_(1),
        x.type_as(m.zeros(1)),
    )


@idiom
def backward_with_gradient(m):
    x = m.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    y.backward(gradient=m.tensor([1.0, 10.0]))
    z = (x * 3).sum()
    z.backward()
    g = m.autograd.grad((x**3).sum(), x)[0]
    return x.grad, g, y.grad_fn is not None, x.grad_fn is None


@idiom
def a_training_loop(m):
    w, b = m.zeros(2, 1, requires_grad=True), m.zeros(1, requires_grad=True)
    x = m.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, -1.0], [0.5, 0.5]])
    y = x @ m.tensor([[2.0], [-3.0]]) + 0.5
    losses = []
    for _ in range(25):
        loss = ((x @ w + b - y) ** 2).mean()
        for p in (w, b):
            p.grad = None
        loss.backward()
        with m.no_grad():
            for p in (w, b):
                p -= 0.1 * p.grad
        losses.append(loss.item())
    return np.float32(losses), w.detach(), b.detach()


@idiom
def modules_and_optimizers(m):
    lin = m.nn.Linear(2, 1)
    with m.no_grad():
        lin.weight.copy_(m.tensor([[0.5, -0.5]]))
        lin.bias.fill_(0.25)
    opt = m.optim.SGD(lin.parameters(), lr=0.1, momentum=0.9)
    x, y = m.tensor([[1.0, 2.0], [3.0, 4.0]]), m.tensor([[1.0], [0.0]])
    for _ in range(5):
        opt.zero_grad()
        loss = m.nn.functional.mse_loss(lin(x), y)
        loss.backward()
        m.nn.utils.clip_grad_norm_(lin.parameters(), 1.0)
        opt.step()
    other = copy.deepcopy(lin)
    other.load_state_dict(lin.state_dict())
    return (
        loss.detach(),
        lin.weight.detach(),
        lin.bias.detach(),
        sorted(lin.state_dict()),
        other.weight.detach(),
        sum(p.numel() for p in lin.parameters()),
    )


@idiom
def keyword_spellings(m):
    x = matrix(m)
    return (x.sum(dim=1), x.sum(1, keepdim=True), x.mean(dim=(0, 1)), x.sum(axis=0), m.sum(x, dim=0),
        m.cat((x, x), dim=1), m.softmax(x, dim=1), x.norm(dim=1), x.std(dim=0, unbiased=False), x.var(0, correction=0),
            x.squeeze(dim=0), x.unsqueeze(dim=1), x.transpose(dim0=0, dim1=1), x.flatten(start_dim=0),
            x.clamp(min=2, max=4), m.clamp(x, min=2), x.gather(dim=1, index=m.tensor([[0], [1]])),
            m.arange(start=1, end=7, step=2), m.linspace(start=0, end=1, steps=3), m.full(size=(2,), fill_value=1.5),
            x.repeat(1, 2), x.expand(2, 2, 3), x.sort(dim=1, descending=True)[0])  # fmt: skip


@idiom
def chains_in_place(m):
    x = m.zeros(3)
    y = x.add_(1).mul_(3).sub_(0.5).div_(2)
    x.clamp_(max=1.0).neg_()
    x[1:].fill_(4).sqrt_()
    return x, y is x, x.zero_().data_ptr() == y.data_ptr()


@idiom
def old_and_new_loops(m):
    x = matrix(m)
    rows = [row.sum().item() for row in x]
    pairs = [(i, v.item()) for i, v in enumerate(x[0])]
    zipped = [(a.item(), b.item()) for a, b in zip(x[0], x[1])]
    return (
        rows,
        pairs,
        zipped,
        sorted(x[0].tolist()),
        max(x[0]).item(),
        min(x.view(-1)).item(),
        list(range(m.tensor(3))),
        [10, 20, 30][m.tensor(1)],
        {k: v for k, v in zip("ab", x.tolist())},
        list(reversed(x[0].tolist())),
    )


@idiom
def one_hot_and_gather_losses(m):
    logits, target = matrix(m), m.tensor([2, 0])
    logp = m.log_softmax(logits, dim=-1)
    picked = logp[m.arange(2), target]
    return (
        -picked.mean(),
        -logp.gather(1, target.unsqueeze(1)).squeeze(1),
        m.nn.functional.cross_entropy(logits, target),
        m.nn.functional.nll_loss(logp, target),
        m.nn.functional.one_hot(target, 3),
        m.eye(3)[target],
    )


@idiom
def positional_encoding(m):
    pos, i = m.arange(4).unsqueeze(1).float(), m.arange(0, 6, 2)
    angle = pos * m.exp(i * (-np.log(10000.0) / 6))
    pe = m.zeros(4, 6)
    pe[:, 0::2] = m.sin(angle)
    pe[:, 1::2] = m.cos(angle)
    return pe, pe[None, :2], pe.unsqueeze(0).expand(2, -1, -1).sum(0)


@idiom
def statistics(m):
    x = matrix(m)
    z = (x - x.mean(0, keepdim=True)) / (x.std(0, keepdim=True) + 1e-5)
    running = m.zeros(3)
    running.mul_(0.9).add_(0.1 * x.mean(0))
    running.lerp_(x[0], 0.5)
    return (
        z,
        running,
        (x.t() @ x).diagonal().sum(),
        m.outer(x[0], x[1]),
        x.cumsum(1),
        x.prod(),
        m.logsumexp(x, 1),
        m.triu(m.ones(3, 3), 1).bool(),
    )


def flat(value):
    if isinstance(value, (tuple, list)):
        return [leaf for v in value for leaf in flat(v)]
    if isinstance(value, dict):
        return flat(list(value.items()))
    return [value]


def plain(value):
    return value.detach().numpy() if hasattr(value, "detach") else value


@pytest.mark.parametrize("name", IDIOMS)
def test_idiom(name):
    ours, theirs = flat(IDIOMS[name](td)), flat(IDIOMS[name](torch))
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if hasattr(b, "dtype") and hasattr(b, "detach"):
            assert a.dtype.name == str(b.dtype).split(".")[-1] and tuple(a.shape) == tuple(b.shape), (k, a, b)
        if isinstance(b, (str, bool)) or b is None:
            assert a == b, (k, a, b)
        elif np.asarray(plain(b)).size:
            np.testing.assert_allclose(plain(a), plain(b), rtol=2e-5, atol=1e-6, err_msg=f"item {k}")
