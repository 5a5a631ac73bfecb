"""A training that is killed goes on where it was, and ends with the same bytes."""

import itertools

import numpy as np
import pytest

from tests.models.training.tiny import job, shapes

torch = pytest.importorskip("torch")

from models.training.loop import read_checkpoint  # noqa: E402
from models.training.methods.finetune import Finetune, Settings  # noqa: E402

SETTINGS = Settings(epochs=4, batch=4, views=3, open=0.4, rate=3e-3)


class Killed(BaseException):
    """Ends a training in the place where it is raised, as a signal would."""


def train(folder, images, kill_at=None):
    """The bytes of the model, and whether it was killed before."""
    steps = itertools.count()

    def report(progress):
        if kill_at is not None and progress.phase == kill_at[0] and next(steps) == kill_at[1]:
            raise Killed

    method = Finetune(job(folder, SETTINGS, images[:10], images[10:], report=report))
    method.fit()
    path = folder / "model.onnx"
    method.export(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("images"), 14)


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed"), images)


@pytest.mark.parametrize(
    "kill_at", [("features", 0), ("features", 3), ("training", 0), ("training", 5), ("training", 8)]
)
def test_a_killed_training_goes_on_to_the_same_bytes(kill_at, images, undisturbed, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, images, kill_at)
    assert train(tmp_path, images) == undisturbed


def test_a_checkpoint_amid_an_epoch_is_continued(images, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("models.training.loop.CHECKPOINT_S", 0.0)
    with pytest.raises(Killed):
        train(tmp_path, images, ("training", 7))
    about = json_of(tmp_path)
    assert about["step"] == 7
    assert about["sums"], "the losses of the epoch under way are kept too"
    assert train(tmp_path, images) == undisturbed


def json_of(folder):
    import json

    with np.load(folder / "run" / "checkpoint.npz", allow_pickle=False) as file:
        return json.loads(file["about"].tobytes())


def test_a_checkpoint_of_other_settings_is_not_continued(images, tmp_path):
    train(tmp_path, images)
    key = json_of(tmp_path)["key"]
    path = tmp_path / "run" / "checkpoint.npz"
    assert read_checkpoint(path, key) is not None
    assert read_checkpoint(path, "other") is None


def test_a_damaged_checkpoint_is_not_continued(images, undisturbed, tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, images, ("training", 8))
    path = tmp_path / "run" / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert train(tmp_path, images) == undisturbed


def test_another_seed_gives_another_model(images, undisturbed, tmp_path):
    method = Finetune(job(tmp_path, SETTINGS, images[:10], images[10:], seed=1))
    method.fit()
    method.export(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() != undisturbed
