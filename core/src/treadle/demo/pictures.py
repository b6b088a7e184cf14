"""The demonstration's pictures, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")


def draw_loss(losses: Sequence[float], per_epoch: int, path: Path) -> None:
    """Draw the loss of every step, and its mean over each epoch, to a PNG file."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(losses, linewidth=0.6, color="tab:blue", alpha=0.5, label="each step")
    means = [np.mean(losses[i : i + per_epoch]) for i in range(0, len(losses), per_epoch)]
    middles = [(i + 0.5) * per_epoch for i in range(len(means))]
    axes.plot(middles, means, "o-", color="tab:red", label="mean of an epoch")
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_mistakes(images: np.ndarray, expected: np.ndarray, predicted: np.ndarray, path: Path) -> None:
    """Draw up to 40 wrongly classified digits (N, 28, 28) to a PNG file."""
    wrong = np.flatnonzero(expected != predicted)[:40]
    rows = max(1, -(-len(wrong) // 8))
    figure = Figure(figsize=(8, 1.25 * rows + 0.4), layout="constrained")
    figure.suptitle(f"{int((expected != predicted).sum())} of {len(expected)} wrong: true → said")
    grid = figure.subplots(rows, 8, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, wrong, strict=False):
        axes.imshow(images[i], cmap="gray_r")
        axes.set_title(f"{expected[i]} → {predicted[i]}", fontsize=9)
    figure.savefig(path, dpi=120)
