"""Mid-level transfer finds coloured squares by the scores of patches."""

import msgspec
import numpy as np
import pytest

from models import card as cards
from models import runtime
from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.inspect import inspect
from models.training import trainer
from models.training.data import Prepared
from models.training.features import read_input
from models.training.record import Record
from tests.models.training.tiny import LABELS, SIDE, job, shapes

torch = pytest.importorskip("torch")

from models.training.methods.adapt import Adapt, Settings  # noqa: E402
from models.training.tasks.score_maps import (  # noqa: E402
    Located,
    average_precision,
    choose_level,
    inside_of,
)

SETTINGS = Settings(
    size=96, patch_px=32, ratios=(1.0, 1.5, 2.0, 3.0), patches=120, test_patches=60, views=2,
    hidden=32, cells=12, epochs=12, batch=64, rate=3e-3, dropout=0.1, background=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("images"), 33)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    method = Adapt(job(folder, SETTINGS, images[:18], images[18:24]))
    record = Record(
        name="squares", method="adapt", command="", versions={}, backbone={}, settings={}, seed=0,
        threads=1, device="cpu", labels=LABELS, counts={}, notes=[],
    )  # fmt: skip
    prepared = Prepared(LABELS, None, images[:18], images[18:24], images[24:], (), {})
    return trainer.run(method, prepared, record, {})


def test_peaks_are_in_the_squares_and_classes_are_named(finished):
    test = finished.record.test
    assert test["peak in object"] > 0.7 > test["centre in object"]
    assert test["top-1"] > 0.7
    assert test["class AP"] > 0.7
    assert next(iter(test)) == "peak in object"


def test_the_exported_model_gives_the_results_of_the_method(finished, images):
    own = finished.method.predict(images[24:])
    run = runtime.open_graph(finished.model.read_bytes())
    pixels = np.stack([read_input(image, 96) for image in images[24:]])
    scores, maps = run({"images": pixels})
    assert maps.shape == (9, 1 + len(LABELS), 12, 12)
    assert np.allclose(maps[:, 0], maps[0, 0, 0, 0])
    for row, result in enumerate(own):
        assert np.allclose(scores[row], result.scores, atol=0.02)
        assert np.allclose(maps[row, 1:], result.maps, atol=0.02)
    assert finished.record.difference < 1e-4


def test_one_file_runs_by_a_card_for_the_map_and_one_for_labels(finished):
    for name, task, labels in (
        ("squares.yaml", "semantic", ("background", *LABELS)),
        ("squares-labels.yaml", "classify", LABELS),
    ):
        contract = inspect(finished.model, cards.load(finished.model.with_name(name)))
        assert (contract.task, contract.labels) == (task, labels)
        assert contract.input.size == (96, 96)


def test_a_training_says_which_sums_it_chose_and_how_many_patches(finished):
    notes = " ".join(finished.record.notes)
    assert "chosen on the validation images" in notes
    assert "test_patches" in notes
    (title,) = finished.record.charts
    assert "Peak in object" in title


def test_layers_that_the_backbone_lacks_are_refused(images, tmp_path):
    settings = msgspec.structs.replace(SETTINGS, layers=99)
    with pytest.raises(TrainingError, match="layers: the backbone tiny has"):
        Adapt(job(tmp_path, settings, images[:3], images[3:5]))


def test_objects_that_no_patch_holds_are_refused(images, tmp_path):
    settings = msgspec.structs.replace(SETTINGS, filled=1.0)
    with pytest.raises(TrainingError, match="patches: none holds most of an object"):
        Adapt(job(tmp_path, settings, images[:3], images[3:5]))


def image_with(folder, *boxes):
    image = shapes(folder, 1)[0]
    (first,) = image.objects
    objects = tuple(msgspec.structs.replace(first, box=box) for box in boxes)
    return LabelledImage(image.path, image.name, (SIDE, SIDE), objects)


def test_the_level_of_the_background_paints_the_boxes(tmp_path):
    image = image_with(tmp_path, (0, 0, SIDE / 2, SIDE / 2))
    inside = inside_of(image, 0, (8, 8))
    assert inside.sum() == 16
    maps = np.stack([np.where(inside, 0.6, 0.3), np.zeros((8, 8))]).astype(np.float32)
    level = choose_level([image], [Located(np.array([0.6, 0.0], np.float32), maps)])
    assert 0.3 <= level < 0.6


@pytest.mark.parametrize(
    ("order", "expected"), [([1, 1, 0, 0], 1.0), ([0, 0, 1, 1], (1 / 3 + 1 / 2) / 2)]
)
def test_average_precision_is_that_of_the_ranks(order, expected):
    present = np.array(order, np.bool_)
    assert average_precision(present, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx(expected)
