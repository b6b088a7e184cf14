"""Train the demonstration's network on 4,000 digits, test it on 1,000, check the saved weights."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from treadle import data, nn, optim, random, weights
from treadle._tensor import Tensor
from treadle.compiler.compiled import compile
from treadle.demo.model import make_model, predict
from treadle.demo.pictures import draw_loss, draw_mistakes
from treadle.errors import TreadleError

TRAINING, EPOCHS, BATCH, RATE, SEED = 4000, 6, 64, 2e-3, 0


class Training(NamedTuple):
    """One training: the loss and the seconds of every step, and the seconds of all together."""

    model: nn.Module
    losses: list[float]
    steps: list[float]
    seconds: float


def run(folder: str | Path = "treadle-demo", compiled: bool = False) -> float:
    """Train, write weights and pictures to folder, print what was reached; return the accuracy.

    compiled: train once more with the step compiled, and print both beside each other.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, classes = data.mnist()
    train, test = _split(images, classes)
    done = _train(*train)
    predicted = predict(done.model, test[0])
    accuracy = _accuracy(predicted, test[1])
    print(f"trained in {done.seconds:.1f} s")
    if compiled:
        again = _train(*train, wrap=compile)
        print(_table(done, again, accuracy, _accuracy(predict(again.model, test[0]), test[1])))
    paths = [folder / name for name in ("weights.safetensors", "mistakes.png", "loss.png")]
    weights.save(done.model.state_dict(), paths[0])
    _check_elsewhere(paths[0], test[0], predicted, folder)
    arrays = [t.cpu().numpy() for t in (test[0], test[1], predicted)]
    draw_mistakes(arrays[0][:, 0], arrays[1], arrays[2], paths[1])
    draw_loss(done.losses, -(-train[0].shape[0] // BATCH), paths[2])
    print(f"the weights in {paths[0]}, loaded by another process, predict the same")
    print(f"test accuracy {accuracy:.3f}")
    print(paths[1])
    print(paths[2])
    return accuracy


def _accuracy(predicted: Tensor, classes: Tensor) -> float:
    return (predicted == classes).float().mean().item()


def _table(eager: Training, compiled: Training, *accuracies: float) -> str:
    """Both trainings beside each other: beside other work on the machine the fastest tenth of steps says most."""
    rows = [("", "eager", "compiled", "compiled / eager")]
    for name, get in (
        ("fastest steps", lambda t: quantiles(t.steps, n=10)[0]),
        ("median step", lambda t: median(t.steps)),
        ("training", lambda t: t.seconds),
    ):
        a, b = get(eager), get(compiled)
        unit, factor = ("s", 1) if a >= 1 else ("ms", 1000)
        rows.append((name, f"{a * factor:.2f} {unit}", f"{b * factor:.2f} {unit}", f"{b / a:.2f}"))
    same = "the same" if eager.losses == compiled.losses else "others"
    rows.append(("last loss", f"{eager.losses[-1]:.5f}", f"{compiled.losses[-1]:.5f}", f"all losses {same}"))
    rows.append(("test accuracy", *[f"{x:.3f}" for x in accuracies], ""))
    return "\n".join(f"{a:14} {b:>10} {c:>10}  {d}".rstrip() for a, b, c, d in rows)


def _split(images: Tensor, classes: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return 4,000 digits for training and 1,000 for the test, the same ones every time."""
    order = random.randperm(images.shape[0], generator=random.Generator().manual_seed(SEED))
    return tuple((images[part], classes[part]) for part in (order[:TRAINING], order[TRAINING:]))


def _train(images: Tensor, classes: Tensor, wrap: Callable[[Any], Any] = lambda step: step) -> Training:
    """Train from the same beginning every time; wrap is applied to the function that is called for every batch."""
    random.manual_seed(SEED)
    model = make_model()
    loader = data.DataLoader(data.TensorDataset(images, classes), batch_size=BATCH, shuffle=True)
    count = EPOCHS * len(loader)
    optimizer = optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=count)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        return loss

    step, losses, times = wrap(step), [], []
    began = time.perf_counter()
    # disable=None: a bar on terminals only
    with tqdm(total=count, unit="step", file=sys.stdout, disable=None) as bar:
        for epoch in range(1, EPOCHS + 1):
            bar.set_description(f"epoch {epoch}/{EPOCHS}")
            for x, y in loader:
                start = time.perf_counter()
                losses.append(step(x, y).item())
                times.append(time.perf_counter() - start)
                schedule.step()
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update()
            mean = sum(losses[-len(loader) :]) / len(loader)
            bar.write(f"epoch {epoch}: mean training loss {mean:.3f}", file=sys.stdout)
    return Training(model, losses, times, time.perf_counter() - began)


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
