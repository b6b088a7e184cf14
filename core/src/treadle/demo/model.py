"""The demonstration's model: a small convolutional network for 28 × 28 digits."""

from treadle import nn
from treadle._tensor import Tensor
from treadle.api.shape import cat
from treadle.autograd.grad_mode import no_grad


def make_model() -> nn.Module:
    """Return a network of two convolutions and two linear layers: (N, 1, 28, 28) to (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the most likely class of each image, (N,) int64."""
    model.eval()
    with no_grad():
        batches = [model(images[i : i + 250]).argmax(1) for i in range(0, images.shape[0], 250)]
    return cat(batches)
