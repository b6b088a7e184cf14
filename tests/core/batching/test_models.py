"""Whole models: gradients of single examples, ensembles, modules as functions; and td.func's other names."""

import numpy as np
import pytest

import treadle as td
from treadle import nn
from treadle.errors import ArgumentError

F = nn.functional


@pytest.fixture(autouse=True)
def seeded():
    td.manual_seed(0)


def same(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a.detach().numpy_copy(), b.detach().numpy_copy(), 1e-9, 1e-10)


def cnn():
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
    ]
    return nn.Sequential(*layers, nn.GELU(), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(24, 3)).double()


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Parameter(td.randn(5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
        self.out = nn.Linear(8, 3)

    def forward(self, t):
        x = self.block(self.tokens(t) + self.places)
        return self.out(x.mean(1))


MODELS = {
    "cnn": (cnn, lambda: td.randn(4, 1, 12, 12, dtype=td.float64)),
    "transformer": (lambda: Transformer().double(), lambda: td.randint(0, 11, (4, 5))),
}
every_model = pytest.mark.parametrize("name", MODELS)


def problem(name):
    build, data = MODELS[name]
    model, x, t = build(), data(), td.tensor([0, 2, 1, 1])
    parameters = {k: v.detach() for k, v in model.named_parameters()}

    def loss(p, x, t):
        return F.cross_entropy(td.func.functional_call(model, p, (x[None],)), t[None])

    return model, parameters, loss, x, t


@every_model
def test_gradients_of_single_examples(name):
    model, p, loss, x, t = problem(name)
    single = td.vmap(td.grad(loss), in_dims=(None, 0, 0))
    got = single(p, x, t)
    rows = [td.grad(loss)(p, x[k], t[k]) for k in range(4)]
    for k in p:
        same(got[k], td.stack([row[k] for row in rows]))
    compiled = td.compile(single)(p, x, t)
    for k in p:
        same(compiled[k], got[k])
    whole = td.grad(lambda p: td.vmap(loss, in_dims=(None, 0, 0))(p, x, t).mean())(p)
    F.cross_entropy(model(x), t).backward()
    for k, v in model.named_parameters():
        same(whole[k], v.grad)
        same(got[k].mean(0), v.grad)


@every_model
def test_parameters_closed_over(name):
    model, _, _, x, t = problem(name)
    td.vmap(lambda x, t: F.cross_entropy(model(x[None]), t[None]))(x, t).mean().backward()
    got = {k: v.grad for k, v in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(model(x), t).backward()
    for k, v in model.named_parameters():
        same(got[k], v.grad)


@every_model
def test_ensembles(name):
    build, data = MODELS[name]
    models, x = [build() for _ in range(3)], data()
    p, b = td.func.stack_module_state(models)
    assert all(v.requires_grad for v in p.values())
    call = lambda p, b, x: td.func.functional_call(models[0], (p, b), (x,))
    same(td.vmap(call, in_dims=(0, 0, None))(p, b, x), td.stack([m(x) for m in models]))
    each = td.vmap(call)(p, b, td.stack([x, x, x]))
    same(each, td.stack([m(x) for m in models]))
    each.square().sum().backward()
    for k, v in p.items():
        for j, m in enumerate(models):
            m.zero_grad()
            m(x).square().sum().backward()
            same(v.grad[j], m.get_parameter(k).grad)


@every_model
def test_jacobians_by_weights(name):
    model, p, _, x, _ = problem(name)
    f = lambda p: td.func.functional_call(model, p, (x[:1],))[0]
    reverse = td.func.jacrev(f)(p)
    for k, v in p.items():
        rows = td.stack([td.grad(lambda p: f(p)[j])(p)[k] for j in range(3)])
        same(reverse[k], rows)
        assert reverse[k].shape == (3, *v.shape)
    _, moved = td.jvp(f, (p,), ({k: v.cos() for k, v in p.items()},))
    same(moved, sum((reverse[k] * v.cos()).flatten(1).sum(1) for k, v in p.items()))


def test_batch_norm_with_statistics_of_its_own():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    p = {k: v.detach() for k, v in model.named_parameters()}
    b = {k: td.stack([v, v]) for k, v in model.named_buffers()}
    x = td.randn(2, 5, 3, dtype=td.float64)
    got = td.vmap(lambda p, b, x: td.func.functional_call(model, (p, b), (x,)), in_dims=(None, 0, 0))(p, b, x)
    for k in range(2):
        fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
        fresh.load_state_dict({**model.state_dict(), **p})
        same(got[k], fresh(x[k]))
        same(b["1.running_mean"][k], fresh[1].running_mean)
        same(b["1.running_var"][k], fresh[1].running_var)
    assert b["1.num_batches_tracked"].tolist() == [1, 1] and model[1].num_batches_tracked.item() == 0


def test_functional_call():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    before = dict(model.named_parameters())
    double = {k: v.detach() * 2 for k, v in before.items()}
    x = td.randn(3, 2, dtype=td.float64)
    want = (x @ double["0.weight"].t() + double["0.bias"]).tanh() @ double["2.weight"].t() + double["2.bias"]
    same(td.func.functional_call(model, double, x), want)
    assert all(v is before[k] for k, v in model.named_parameters())
    same(td.func.functional_call(model, {}, (x,)), model(x))
    same(td.func.functional_call(model, [{"0.bias": double["0.bias"]}, {"2.bias": double["2.bias"]}], kwargs={"input": x}),
         td.func.functional_call(model, {k: v for k, v in double.items() if "bias" in k}, x))  # fmt: skip
    with pytest.raises(KeyError, match="no parameter or buffer 1.weight"):
        td.func.functional_call(model, {"1.weight": x}, x)
    with pytest.raises(KeyError, match="missing with strict=True: 0.bias"):
        td.func.functional_call(model, {"0.weight": x}, x, strict=True)
    with pytest.raises(ArgumentError, match="given twice"):
        td.func.functional_call(model, ({"0.bias": x}, {"0.bias": x}), x)
    with pytest.raises(Exception, match="shape|size|in_features"):
        td.func.functional_call(model, {"0.weight": td.ones(5, 5)}, x)
    assert all(v is before[k] for k, v in model.named_parameters())


def test_tied_parameters():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    model[1].weight = model[0].weight
    x, w = td.randn(3, 2, dtype=td.float64), td.randn(2, 2, dtype=td.float64)
    same(td.func.functional_call(model, {"0.weight": w}, x), x @ w.t() @ w.t())
    same(td.func.functional_call(model, {"0.weight": w}, x, tie_weights=False), x @ w.t() @ model[0].weight.t())
    with pytest.raises(ArgumentError, match="tied"):
        td.func.functional_call(model, {"0.weight": w, "1.weight": w * 2}, x)


def test_names_of_func():
    g, value = td.func.grad_and_value(lambda x: ((x * x).sum(), "aux"), has_aux=True)(td.tensor([3.0]))
    assert g.tolist() == [6] and value[0].item() == 9 and value[1] == "aux"
    for name in td.func.__all__:
        assert getattr(td.func, name).__doc__
    with pytest.raises(ArgumentError, match="one class"):
        td.func.stack_module_state([nn.Linear(1, 1), nn.ReLU()])
