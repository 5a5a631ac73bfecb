"""R-CNN learns coloured squares without PyTorch, and its graph gives what it found."""

import msgspec
import numpy as np
import pytest

from models.families.rcnn import PROPOSALS
from models.proposals.grouping import Similarity
from models.proposals.selective_search import SearchSettings
from models.training.export import verify
from models.training.features import read_input
from models.training.methods.rcnn import Rcnn, Settings
from tests.models.training.tiny import LABELS, SIDE, job, shapes

pytest.importorskip("onnx")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
SEARCH = SearchSettings(
    colours=("lab",), scales=(50.0, 200.0), similarities=(Similarity(),), max_proposals=80
)
SETTINGS = Settings(size=SIDE, crop=32, search=SEARCH, pool=1, regions=60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rcnn")
    images = shapes(folder / "images", 15, objects=1)
    method = Rcnn(job(folder, SETTINGS, images[:9], images[9:]))
    method.fit()
    return method


def test_squares_are_found_by_their_colours(trained):
    images = trained.job.val
    figures = trained.measure(images, trained.predict(images))
    assert figures["AP50"] > 0.6
    assert list(figures) == ["AP50", "AP75", "AP", "AP50 without regression"]


def test_results_do_not_depend_on_what_validation_has_computed(trained):
    [image] = trained.job.val[:1]
    [first] = trained.predict([image])
    trained._known.clear()
    [again] = trained.predict([image])
    np.testing.assert_allclose(first.boxes, again.boxes, atol=1e-2)
    np.testing.assert_allclose(first.scores, again.scores, atol=1e-4)


def test_the_report_has_recall_and_what_was_chosen(trained):
    notes = " ".join(trained.notes)
    assert "recall of proposals" in notes
    assert "C of the classifiers is" in notes
    assert "lambda of the box regressors is" in notes
    [(across, lines)] = trained.charts.values()
    assert len(across) == len(lines["IoU 0.5"])
    assert lines["IoU 0.5"][-1] >= lines["IoU 0.7"][-1] > 0


def test_the_exported_graph_equals_numpy(trained, tmp_path):
    card = trained.export(tmp_path / "model.onnx")
    pixels = [read_input(image, SIDE)[None] for image in trained.job.val[:2]]
    inputs = [trained.inputs(own) for own in pixels]
    assert verify(tmp_path / "model.onnx", trained.outputs, inputs, trained.difference) < 1e-4
    assert card.family == "rcnn"
    assert msgspec.convert(card.output["proposals"], SearchSettings) == SEARCH
    assert len(trained.inputs(pixels[0])[PROPOSALS]) <= 80


def test_stored_codes_give_the_same_model(trained, tmp_path):
    again = Rcnn(trained.job)
    again._codes = None  # all codes are read
    again.fit()
    np.testing.assert_array_equal(again._linear.weight, trained._linear.weight)


def test_a_class_without_an_example_is_never_found(tmp_path):
    images = shapes(tmp_path / "images", 8)
    own = job(tmp_path, SETTINGS, images[:5], images[5:], labels=(*LABELS, "purple"))
    method = Rcnn(own)
    method.fit()
    assert any("purple" in note for note in method.notes)
    assert not any(3 in found.classes for found in method.predict(own.val))
