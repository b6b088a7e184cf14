"""Whole models against PyTorch: the programs of others with only the import changed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import treadle as td  # noqa: E402


def to_td(t):
    return td.from_numpy(t.detach().numpy().copy())


def seed_model(t, input_dim, hidden_dim, num_classes, dropout_rate):
    """Build the same model text with `t` as torch."""
    nn, F = t.nn, t.nn.functional

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(input_dim, hidden_dim)
            self.bn1 = nn.BatchNorm1d(hidden_dim)
            self.fc2 = nn.Linear(hidden_dim, hidden_dim // 2)
            self.bn2 = nn.BatchNorm1d(hidden_dim // 2)
            self.fc3 = nn.Linear(hidden_dim // 2, num_classes)
            self.dropout = nn.Dropout(dropout_rate)

        def forward(self, x):
            x = self.dropout(F.gelu(self.bn1(self.fc1(x))))
            x = self.dropout(F.gelu(self.bn2(self.fc2(x))))
            return self.fc3(x)

    return Model()


def train(t, model, loader, epochs):
    """The training text of the seed program; returns the losses and the number right."""
    optimizer = t.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    scheduler = t.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    criterion = t.nn.CrossEntropyLoss(label_smoothing=0.1)
    losses = []
    for _ in range(epochs):
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            t.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    model.eval()
    correct = 0
    with t.no_grad():
        for inputs, targets in loader:
            _, predicted = model(inputs).max(1)
            correct += predicted.eq(targets).sum().item()
    return losses, correct


def test_seed_model_fifty_steps():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 20)).astype(np.float32)
    y = (x[:, :5].argmax(1)).astype(np.int64)
    torch.manual_seed(0)
    theirs = seed_model(torch, 20, 32, 5, 0.0)
    ours = seed_model(td, 20, 32, 5, 0.0)
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})
    losses = {}
    for t, model in ((td, ours), (torch, theirs)):
        tensors = [t.from_numpy(x.copy()), t.from_numpy(y.copy())]
        data = t.utils.data if t is torch else t.data
        loader = data.DataLoader(data.TensorDataset(*tensors), batch_size=32)
        losses[t] = train(t, model, loader, 10)
    (a, correct_a), (b, correct_b) = losses[td], losses[torch]
    assert len(a) == 50 and a[-1] < a[0]
    np.testing.assert_allclose(a, b, rtol=1e-4)
    assert correct_a == correct_b
    for (n, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        if n not in ("fc1.bias", "fc2.bias", "bn1.running_mean", "bn2.running_mean"):
            # a bias before batch norm has no gradient but rounding noise, which Adam blows up
            np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=2e-3, atol=2e-4, err_msg=n)


def resnet(t, blocks):
    nn, F = t.nn, t.nn.functional

    def conv(i, o, k, s):
        return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))

    class Block(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.a, self.b = conv(i, o, 3, s), conv(o, o, 3, 1)
            self.skip = conv(i, o, 1, s) if i != o else nn.Identity()

        def forward(self, x):
            return F.relu(self.b(F.relu(self.a(x))) + self.skip(x))

    stem = [conv(3, 8, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *[Block(*b) for b in blocks], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def gpt(t, d=16, heads=4, layers=2, seq=8, vocab=11):
    nn, F = t.nn, t.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.qkv, self.proj = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.ln2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x):
            b, n, size = x.shape
            q, k, v = self.qkv(self.ln1(x)).view(b, n, 3, heads, size // heads).permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(a.transpose(1, 2).reshape(b, n, size))
            return x + self.down(F.gelu(self.up(self.ln2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok, self.pos = nn.Embedding(vocab, d), nn.Parameter(0.02 * t.randn(seq, d))
            self.blocks, self.ln = nn.Sequential(*[Block() for _ in range(layers)]), nn.LayerNorm(d)
            self.head = nn.Linear(d, vocab, bias=False)

        def forward(self, ids):
            return self.head(self.ln(self.blocks(self.tok(ids) + self.pos))).flatten(0, 1)

    return GPT()


def cnn(t):
    nn = t.nn
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10),
    )  # fmt: skip


MODELS = {
    "resnet": (lambda t: resnet(t, [(8, 8, 1), (8, 16, 2)]), (2, 3, 32, 32), "SGD", {"lr": 0.01, "momentum": 0.9}),
    "gpt": (gpt, (3, 8), "AdamW", {}),
    "cnn": (cnn, (4, 1, 28, 28), "Adam", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_trains_as_pytorchs(name):
    make, shape, optimizer, options = MODELS[name]
    rng = np.random.default_rng(1)
    if name == "gpt":
        x, y = rng.integers(0, 11, shape), rng.integers(0, 11, shape[0] * shape[1])
    else:
        x, y = rng.standard_normal(shape).astype(np.float32), rng.integers(0, 10, shape[0])
    torch.manual_seed(0)
    theirs, ours = make(torch), make(td)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: to_td(v) for k, v in theirs.state_dict().items()})
    losses = {td: [], torch: []}
    for t, model in ((td, ours), (torch, theirs)):
        opt = getattr(t.optim, optimizer)(model.parameters(), **options)
        a, b = t.from_numpy(x.copy()), t.from_numpy(y.copy())
        for _ in range(4):
            opt.zero_grad()
            loss = t.nn.functional.cross_entropy(model(a), b)
            loss.backward()
            opt.step()
            losses[t].append(loss.item())
    np.testing.assert_allclose(losses[td], losses[torch], rtol=2e-4)
    assert losses[td][-1] < losses[td][0]
