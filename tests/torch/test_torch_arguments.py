"""Arguments by PyTorch's names and in PyTorch's other forms: the same call in both libraries, and what both refuse."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def operands(t):
    """x (4, 5), y (4, 5), m (4, 4), v (5,), i (4, 2) of indices, b (4, 5) of truths, s () in float64."""
    rng = np.random.default_rng(0)
    x, y, m, v = (t.tensor(rng.standard_normal(n)) for n in ((4, 5), (4, 5), (4, 4), (5,)))
    return {
        "x": x, "y": y, "m": m, "v": v, "i": t.tensor(rng.integers(0, 5, (4, 2))), "b": x > 0, "s": t.tensor(2.5),
        "k": t.arange(20).reshape(4, 5) - 9, "n": t.tensor([2, 0, 1, 3]),
    }  # fmt: skip


# Text that is evaluated with `t` as either library and the operands above.
BY_NAME = """
t.add(input=x, other=y, alpha=2); t.sub(input=x, other=y); t.div(input=x, other=y, rounding_mode="floor")
t.floor_divide(input=x, other=y); t.remainder(input=x, other=y); t.logical_and(input=x, other=y)
t.copysign(input=x, other=y); t.isclose(input=x, other=y, rtol=1.0); t.lerp(input=x, end=y, weight=0.3)
t.addcmul(input=x, tensor1=x, tensor2=y, value=2); t.addcdiv(input=x, tensor1=x, tensor2=y); t.pow(input=x, exponent=2)
t.clamp(input=x, min=0.0); t.clamp_min(input=x, min=0); t.round(input=x, decimals=1); t.masked_fill(input=x, mask=b, value=3)
t.softmax(input=x, dim=0); t.log_softmax(x, axis=1); t.nan_to_num(input=x); t.tan(input=x); t.log2(input=x.abs())
t.sum(input=x, dim=0); t.mean(input=x, dim=1, keepdim=True); t.var(input=x, dim=0); t.max(input=x, dim=1); t.amax(x, axis=0)
t.max(input=x, other=y); x.min(other=y); t.argmax(input=x, dim=0); t.any(input=x, dim=0); t.logsumexp(input=x, dim=(0, 1))
t.logsumexp(x, axis=1, keepdims=True); t.cumsum(input=x, axis=0); t.norm(input=x.float(), p=1, dim=0, dtype=t.float64)
t.sort(input=x, axis=0); t.argsort(x, axis=0); t.topk(input=x, k=2, dim=0); t.median(input=x, dim=1)
t.matmul(input=x, other=v); t.mm(input=m, mat2=x); t.mv(input=x, vec=v); t.outer(input=v, vec2=v); t.dot(input=v, tensor=v)
t.addmm(input=x, mat1=m, mat2=x, beta=2, alpha=3); t.bmm(input=m[None], mat2=x[None])
t.reshape(input=x, shape=(5, 4)); x.reshape(shape=(2, 10)); x.view(size=(20,)); x.view(dtype=t.int64); x.expand(size=(2, 4, 5))
t.permute(input=x, dims=(1, 0)); x.permute(dims=(1, 0)); t.flip(input=x, dims=(0,)); x.flip(dims=[0, 1]); t.tile(input=x, dims=(2,))
x.tile(dims=(1, 2)); x.repeat(repeats=(2, 1)); t.swapaxes(input=x, axis0=0, axis1=1); t.transpose(input=x, dim0=0, dim1=1)
t.squeeze(x[None], axis=0); t.stack([x, y], axis=1); t.cat(tensors=[x, y], axis=1); t.stack(tensors=(x, y)); t.roll(input=x, shifts=(1, 1), dims=(0, 0))
t.broadcast_to(input=v, size=(4, 5)); t.unflatten(input=x, dim=0, sizes=(2, 2)); t.narrow(input=x, dim=1, start=t.tensor(1), length=2)
t.gather(input=x, dim=1, index=i, sparse_grad=False); t.take_along_dim(input=x, indices=i); t.take_along_dim(x, i[:1], dim=1)
t.scatter(input=x, dim=1, index=i[:1], src=y); x.scatter(1, i[:1], value=3.0); t.index_select(input=x, dim=0, index=i[0] % 4)
x.scatter(1, i, y, reduce="add"); x.scatter(dim=1, index=i, src=y, reduce="multiply"); x.clone().scatter_(1, i, 2, reduce="add")
t.nonzero(input=x, as_tuple=True); t.nonzero(b, as_tuple=False); t.nonzero(s, as_tuple=True); t.where(condition=b, input=x, other=y)
t.repeat_interleave(input=x, repeats=2, dim=1); t.repeat_interleave(x, n, dim=0); t.repeat_interleave(x, n, 0, output_size=6)
t.repeat_interleave(n); x.repeat_interleave(t.tensor([2]), 1); t.meshgrid([v, v, s.double()], indexing="ij"); t.meshgrid(v, s.double(), indexing="xy")
t.zeros(size=(2, 3)); t.ones(size=[2]); t.empty(size=(0, 2)); t.full(size=(2,), fill_value=3.0); x.new_ones(2, 3); x.new_zeros(size=(2,))
t.zeros_like(input=x); t.full_like(input=x, fill_value=2); t.arange(end=5); t.arange(start=1, end=5, step=2); t.arange(3.7, dtype=t.int64)
t.arange(3.7, dtype=t.int32); t.arange(0.5, 3.7, dtype=t.int32); t.linspace(4.3, -3, 7, dtype=t.int64); t.linspace(start=s, end=4, steps=3)
t.asarray([1, 2], dtype=t.float32); t.asarray(x, copy=True); t.asarray(x, copy=False)
x.clone().div_(y, rounding_mode="trunc"); x.clone().div_(2.0, rounding_mode="floor"); k.clone().div_(2, rounding_mode="floor")
t.softmax(s, 0); t.log_softmax(s, -1); s.median(0); s.sort(0); s.max(0); s.gather(0, t.tensor([0, 0])); v.gather(0, t.tensor(3))
s.scatter(0, t.tensor(0), s * 2); s.scatter_add(0, t.tensor(0), s); s.index_select(0, t.tensor([0])); s.unfold(0, 1, 1)
b.max(0); b.min(1, keepdim=True); b.sort(stable=True); b.prod(dtype=t.bool); t.hstack((s, s))
t.diagonal(x, 1); t.diagonal(x.t(), -1); t.diagonal(x[:, 1:4], 0); t.diagonal(m[None], 9, 1, 2); t.diag(m, -1); t.diagonal(x[:0])
t.nn.functional.pad(x, (1, 2), mode="reflect"); t.nn.functional.pad(x, (3, 0), mode="replicate"); t.nn.functional.pad(x, (4, -1), mode="circular")
t.nn.functional.hardtanh(k, -2.5, 3.5); t.nn.functional.relu6(k); t.nn.functional.cosine_similarity(x, v, dim=-1)
t.nn.functional.cosine_similarity(x[:1, :, None], x[:, :1, None], dim=0); t.nn.functional.kl_div(s, s, reduction="batchmean")
t.nn.functional.max_pool2d(x[None], 2, return_indices=True); t.nn.functional.avg_pool2d(x[None], 2, 2, 1, True, divisor_override=3)
t.nn.functional.avg_pool2d(x[None], 3, 2, 1, ceil_mode=True, divisor_override=-2)
"""
CALLS = [c.strip() for line in BY_NAME.strip().splitlines() for c in line.split("; ")]


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, (list, tuple)) else [x]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
def test_call(call):
    ours, theirs = (flat(eval(call, {"t": t} | operands(t))) for t in (td, torch))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert str(a.dtype).split(".")[-1] == str(b.dtype).split(".")[-1] and tuple(a.shape) == tuple(b.shape)
        if "empty" not in call:
            np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-6, 1e-9)


REFUSED = """
t.zeros(2, size=(2,)); t.arange(); t.cumsum(x); t.softmax(x); t.diag(s); t.hstack(()); t.meshgrid(x); t.narrow(s, 0, 0, 1)
t.narrow(x, 0, t.tensor(1.0), 1); t.roll(x, (1, 2), 0); t.roll(x, (1, 1), (0,)); x.permute(0, dims=(0, 1)); x.flip(axes=(0,))
x.scatter(1, i, y, reduce="max"); t.repeat_interleave(x, n, 1); t.repeat_interleave(x, -1); t.asarray([1], copy=False)
t.asarray(x, dtype=t.int32, copy=False); t.isclose(x, y, rtol=-1.0); t.linspace(v, v, 3); t.norm(x, "unknown")
t.nn.functional.pad(x, (5, 0), mode="reflect"); t.nn.functional.pad(x, (6, 0), mode="circular"); t.nn.functional.pad(x, (1, 1), mode="other")
t.nn.functional.hardtanh(x, 1.0, -1.0); t.nn.functional.adaptive_avg_pool2d(x[None], (-1, 0)); t.nn.functional.adaptive_avg_pool2d(x[None], ())
t.nn.functional.huber_loss(x, y, delta=0)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [c.strip() for line in REFUSED.strip().splitlines() for c in line.split("; ")])
def test_both_refuse(call):
    for t in (td, torch):
        with pytest.raises((RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)):
            eval(call, {"t": t} | operands(t))


def test_second_order_of_softmax_along_a_negative_dimension():
    """A rule that reduces along an axis must get the one that is meant."""
    for name in ("softmax", "log_softmax", "softmin"):
        seconds = []
        for t in (td, torch):
            x = operands(t)["x"].requires_grad_()
            (g,) = t.autograd.grad(getattr(t.nn.functional, name)(x, -1)[:, 1].sin().sum(), x, create_graph=True)
            seconds.append(t.autograd.grad((g * g).sum(), x)[0].numpy())
        np.testing.assert_allclose(*seconds, 1e-9, 1e-12)


def test_diagonal_is_a_view():
    for make in (lambda x: x, lambda x: x.t(), lambda x: x[1:]):
        written = []
        for t in (td, torch):
            x = operands(t)["m"]
            make(x).diagonal(1).fill_(7.0)
            written.append(x.numpy())
        np.testing.assert_array_equal(*written)


def test_gradients_through_padding_and_indices():
    for f in (
        lambda t, x: t.nn.functional.pad(x, (2, 1, 1, 3), mode="reflect"),
        lambda t, x: t.nn.functional.pad(x, (2, 1, 1, 3), mode="replicate"),
        lambda t, x: t.nn.functional.pad(x, (2, 1, 1, 3), mode="circular"),
        lambda t, x: t.nn.functional.max_pool2d(x, 2, return_indices=True)[0],
        lambda t, x: t.nn.functional.avg_pool2d(x, 2, ceil_mode=True, divisor_override=3),
        lambda t, x: x[0].diagonal(1),
        lambda t, x: x.repeat_interleave(t.tensor([2, 0, 1, 3]), 1),
    ):
        grads = []
        for t in (td, torch):
            x = operands(t)["x"][None].clone().requires_grad_()
            y = f(t, x)
            (y * y.detach().cos()).sum().backward()
            grads.append(x.grad.numpy())
        np.testing.assert_allclose(*grads, 1e-9, 1e-12)


@pytest.mark.parametrize("padding", [1, "same", "valid", (2, 1)])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_convolutions_pad_with_what_is_inside(padding, mode):
    theirs = torch.nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode)
    ours = td.nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode)
    ours.load_state_dict({k: td.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(1).standard_normal((2, 2, 7, 6), np.float32)
    want = theirs(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours(td.tensor(x)).detach().numpy(), want, 1e-5, 1e-5)
    assert repr(ours) == repr(theirs)


def test_an_empty_batch_leaves_running_statistics():
    ours, theirs = td.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    for t, layer in ((td, ours), (torch, theirs)):
        layer(t.zeros(0, 3, 4))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_what_from_pytorch_md_says_differs():
    assert td.tensor([300.7, -5.0, float("nan")]).to(td.uint8).tolist() == [255, 0, 0]
    assert td.sign(td.tensor(float("nan"))).isnan() and not torch.sign(torch.tensor(float("nan"))).isnan()
    assert td.arange(0, 3, -1).shape == (0,) and repr(td.ones(2, 3).shape) == "(2, 3)"
    assert td.maximum(td.tensor([-1, 2]), 0).tolist() == [0, 2] and td.logical_and(
        td.tensor([0, 2]), True
    ).tolist() == [False, True]
    assert td.tensor([0, 3], dtype=td.uint8).any().dtype is td.bool
    assert td.tensor([True, False]).clamp_min(td.tensor(True)).dtype is td.int64
    gaps = td.zeros(3, 4)[:, :3]
    gaps.diagonal().fill_(1.0)
    assert not gaps.any()
    with pytest.raises(td.TreadleError, match="not defined for int64"):
        td.nn.functional.linear(td.arange(2), td.arange(4).reshape(2, 2))


def test_inference_mode_makes_ordinary_constants():
    w = td.ones(2, requires_grad=True)
    with td.inference_mode():
        z = w * 2
    assert not z.requires_grad
    (w * z).sum().backward()
    assert w.grad.tolist() == [2.0, 2.0]
    z.add_(1).requires_grad_()
    with torch.inference_mode():
        theirs = torch.ones(2)
    for refused in (lambda: theirs.add_(1), lambda: theirs.requires_grad_()):
        with pytest.raises(RuntimeError, match="[Ii]nference tensor"):
            refused()
