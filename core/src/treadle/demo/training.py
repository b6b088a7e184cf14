"""Train the demonstration's network on 4,000 digits, test it on 1,000, check the saved weights."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from treadle import data, nn, optim, random, weights
from treadle._tensor import Tensor
from treadle.demo.model import make_model, predict
from treadle.demo.pictures import draw_loss, draw_mistakes
from treadle.errors import TreadleError

TRAINING, EPOCHS, BATCH, RATE, SEED = 4000, 6, 64, 2e-3, 0


def run(folder: str | Path = "treadle-demo") -> float:
    """Train, write weights and pictures to folder, print what was reached; return the accuracy."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, classes = data.mnist()
    train, test = _split(images, classes)
    start = time.perf_counter()
    model, losses = _train(*train)
    predicted = predict(model, test[0])
    accuracy = (predicted == test[1]).float().mean().item()
    print(f"trained in {time.perf_counter() - start:.1f} s")
    paths = [folder / name for name in ("weights.safetensors", "mistakes.png", "loss.png")]
    weights.save(model.state_dict(), paths[0])
    _check_elsewhere(paths[0], test[0], predicted, folder)
    arrays = [t.cpu().numpy() for t in (test[0], test[1], predicted)]
    draw_mistakes(arrays[0][:, 0], arrays[1], arrays[2], paths[1])
    draw_loss(losses, -(-train[0].shape[0] // BATCH), paths[2])
    print(f"the weights in {paths[0]}, loaded by another process, predict the same")
    print(f"test accuracy {accuracy:.3f}")
    print(paths[1])
    print(paths[2])
    return accuracy


def _split(images: Tensor, classes: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return 4,000 digits for training and 1,000 for the test, the same ones every time."""
    order = random.randperm(images.shape[0], generator=random.Generator().manual_seed(SEED))
    return tuple((images[part], classes[part]) for part in (order[:TRAINING], order[TRAINING:]))


def _train(images: Tensor, classes: Tensor) -> tuple[nn.Module, list[float]]:
    """Return the trained network and the loss of every step."""
    random.manual_seed(SEED)
    model = make_model()
    loader = data.DataLoader(data.TensorDataset(images, classes), batch_size=BATCH, shuffle=True)
    steps = EPOCHS * len(loader)
    optimizer = optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    losses = []
    # disable=None: a bar on terminals only
    with tqdm(total=steps, unit="step", file=sys.stdout, disable=None) as bar:
        for epoch in range(1, EPOCHS + 1):
            bar.set_description(f"epoch {epoch}/{EPOCHS}")
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update()
            mean = sum(losses[-len(loader) :]) / len(loader)
            bar.write(f"epoch {epoch}: mean training loss {mean:.3f}", file=sys.stdout)
    return model, losses


def _check_elsewhere(path: Path, images: Tensor, predicted: Tensor, folder: Path) -> None:
    """Let a new process load the weights and predict; TreadleError if it differs."""
    asked, answered = folder / ".images.npy", folder / ".predicted.npy"
    np.save(asked, images.cpu().numpy())
    try:
        command = [sys.executable, "-m", "treadle.demo.predict", path, asked, answered]
        subprocess.run([str(part) for part in command], check=True)
        same = np.array_equal(np.load(answered), predicted.cpu().numpy())
    finally:
        asked.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)
    if not same:
        raise TreadleError(f"demo: the weights in {path} predict otherwise after loading")
