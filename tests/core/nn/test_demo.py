"""The demonstration, on made-up digits: it trains, draws, saves, and another process predicts the same."""

import numpy as np
import pytest

import treadle as td

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
from treadle.demo import training


def made_up_digits():
    """Return 192 noisy images whose class is the row that is lit."""
    rng = np.random.default_rng(0)
    classes = np.arange(192) % 10
    images = rng.random((192, 1, 28, 28), dtype=np.float32) * 0.1
    for image, k in zip(images, classes, strict=True):
        image[0, 2 * k + 3 : 2 * k + 5] = 1.0
    return td.from_numpy(images), td.from_numpy(classes)


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.data, "mnist", made_up_digits)
    monkeypatch.setattr(training, "TRAINING", 160)
    monkeypatch.setattr(training, "EPOCHS", 2)
    accuracy = training.run(tmp_path / "out")
    assert accuracy > 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == f"test accuracy {accuracy:.3f}" and lines[-2].endswith("mistakes.png")
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["loss.png", "mistakes.png", "weights.safetensors"]
    assert all((tmp_path / "out" / n).read_bytes()[:4] == b"\x89PNG" for n in names[:2])


def test_compiled_beside_eager(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training.data, "mnist", made_up_digits)
    monkeypatch.setattr(training, "TRAINING", 160)
    monkeypatch.setattr(training, "EPOCHS", 1)
    accuracy = training.run(tmp_path, compiled=True)
    lines = capsys.readouterr().out.splitlines()
    start = next(k for k, line in enumerate(lines) if "compiled / eager" in line)
    names, columns = zip(*[(line[:14].strip(), line[14:].split()) for line in lines[start : start + 6]], strict=True)
    assert names == ("", "fastest steps", "median step", "training", "last loss", "test accuracy")
    for eager, _, compiled, _, ratio in columns[1:4]:
        assert float(ratio) == pytest.approx(float(compiled) / float(eager), abs=0.02)
    assert columns[4][0] == columns[4][1] and columns[4][2:] == ["all", "losses", "the", "same"]
    assert columns[5] == [f"{accuracy:.3f}"] * 2
    trainings = [training.Training(None, [0.5, loss], [1.0, 1.0], 2.0) for loss in (0.25, 0.125)]
    assert training._table(*trainings, 1, 1).splitlines()[4].endswith("all losses others")


def test_a_prediction_that_differs_is_reported(tmp_path):
    model = training.make_model()
    td.weights.save(model.state_dict(), tmp_path / "w")
    images = made_up_digits()[0][:4]
    wrong = (training.predict(model, images) + 1) % 10
    with pytest.raises(td.errors.TreadleError, match="predict otherwise"):
        training._check_elsewhere(tmp_path / "w", images, wrong, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
