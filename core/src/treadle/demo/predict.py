"""Load weights in a process of its own and write what they predict: weights, images, result."""

import sys

import numpy as np

from treadle import creation, weights
from treadle.demo.model import make_model, predict


def main(weights_path: str, images_path: str, result_path: str) -> None:
    """Classify the images of a .npy file (N, 1, 28, 28) and write the classes to another."""
    model = make_model()
    model.load_state_dict(weights.load(weights_path))
    classes = predict(model, creation.from_numpy(np.load(images_path)))
    np.save(result_path, classes.cpu().numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
