"""The data set of an evaluation is made to fit its model, and main objects have own figures."""

import argparse

import cv2
import numpy as np
import pytest

from models import datasets, zoo
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.evaluation.localization import LocalizationFigures
from pipeline.commands import evaluate_data
from pipeline.commands.evaluate_boxes import match_classes
from pipeline.commands.evaluate_main import with_main_objects
from pipeline.commands.evaluation import DataFacts, Evaluation, Measured
from pipeline.commands.label_maps import read_maps
from pipeline.errors import ConfigError, SetupError
from stages.capture.dataset import DatasetSettings
from stages.sinks.score import Scored

MASK = ((10.0, 10.0, 60.0, 10.0, 60.0, 40.0, 10.0, 40.0),)
LARGE = (10.0, 10.0, 60.0, 40.0)
SMALL = (70.0, 5.0, 80.0, 15.0)


@pytest.fixture
def coco(tmp_path):
    """A cow before a hen, and a hen beside an unnamed cart that is larger."""
    images = []
    for number, objects in enumerate(
        (
            (TrueObject(0, LARGE, mask=MASK), TrueObject(1, SMALL, mask=MASK)),
            (TrueObject(1, (0.0, 0.0, 40.0, 20.0), mask=MASK), TrueObject(2, LARGE, mask=MASK)),
        )
    ):
        path = tmp_path / f"{number}.png"
        assert cv2.imwrite(str(path), np.full((50, 100, 3), 90, np.uint8))
        images.append(LabelledImage(path, path.name, (100, 50), objects))
    labels = ("cow", "hen", "cart")
    data = DataSet(root=tmp_path, format="coco", task="detect", labels=labels, images=tuple(images))
    datasets.write(data, tmp_path / "coco", "coco")
    return tmp_path / "coco"


@pytest.fixture
def prepared(coco, tmp_path, monkeypatch):
    """Prepare the data for a model of a task, with the lines of a map."""

    def prepare(task, *lines):
        monkeypatch.setattr(zoo, "resolve", lambda model: argparse.Namespace(task=task))
        maps = [tmp_path / "map.yaml"] if lines else []
        for path in maps:
            path.write_text("".join(f"{line}\n" for line in lines))
        args = argparse.Namespace(map=maps, config=None, model=["model.yaml"])
        settings = DatasetSettings(data=str(coco))
        return evaluate_data.prepare(args, settings, tmp_path / "maps")

    return prepare


@pytest.mark.parametrize("task", ["detect", "localize", "semantic"])
def test_masks_become_maps_for_a_model_of_pixels_alone(prepared, task):
    found = prepared(task)
    assert found.data.task == ("semantic" if task == "semantic" else "detect")
    assert (found.main is not None) == (task == "localize")
    assert ("background" in found.data.labels) == (task == "semantic")


def test_labels_that_the_map_leaves_out_hide_smaller_objects(prepared):
    found = prepared("localize", "cow: animal", "hen: animal")
    assert found.data.labels == ("animal",)
    assert [len(image.objects) for image in found.data.images] == [2, 1]
    # The hen would be the main object if the cart were not there.
    assert [image.classes for image in found.main.images] == [(0,), ()]


def test_a_label_that_the_data_lack_is_refused(prepared):
    with pytest.raises(SetupError, match=r"did you mean 'cow'\?"):
        prepared("detect", "cwo: animal")


@pytest.mark.parametrize(
    ("text", "words"),
    [("[a, b]", "Expected `object`"), ("cow: [1]", "cow"), ("cow: 3", "cow"), ("{", "map.yaml")],
)
def test_a_file_that_is_no_map_is_refused(tmp_path, text, words):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_maps([tmp_path / "map.yaml"])
    assert words in str(error.value)
    assert "write a line for each label" in str(error.value)


def test_a_map_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no map of labels \(No such file"):
        read_maps([tmp_path / "map.yaml"])


def test_several_maps_are_one(tmp_path):
    for name, text in (("a", "cow: animal\ncar: null\n"), ("b", "bus: vehicle\n")):
        (tmp_path / name).write_text(text)
    found = read_maps([tmp_path / "a", tmp_path / "b"])
    assert found == {"cow": "animal", "car": None, "bus": "vehicle"}


def result(number, box=None, label=0, score=0.9):
    boxes = [] if box is None else [list(box)]
    return Scored(
        "data", number, boxes, [score] * len(boxes), [label] * len(boxes), file=f"{number}.png"
    )


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([result(0, LARGE), result(1, LARGE, 2)], (1, 1, 1, 1, 1, 2)),
        ([result(0, LARGE, 1), result(1, SMALL, 2)], (0.5, 0.5, 0.5, 0, 0, 2)),
        ([result(0, LARGE, 1), result(1)], (0, 0.5, 0.5, 0, 0, 2)),
        ([result(0, LARGE)], (1, 1, 1, 1, 1, 1)),
    ],
)
def test_main_objects_have_figures_of_class_and_box(prepared, frames, expected):
    found = prepared("localize")
    labels = ("cow", "hen", "cart")
    facts = DataFacts("", "", 2, 0, "")
    measured = Measured(Evaluation(task="detect", data=facts, model=None, labels=labels))
    classes = match_classes(labels, found.data.labels, {})
    made = with_main_objects(measured, found.main, frames, classes).evaluation
    assert made.localization == LocalizationFigures(*expected)


def test_labels_in_files_that_ship_are_those_of_voc_and_coco():
    from tests.builders import ROOT

    coco = (ROOT / "models" / "labels" / "coco80.txt").read_text().split("\n")
    groups = {"person", "animal", "vehicle", "indoor"}
    for name, count in (("voc", 20), ("coco", 43)):
        found = read_maps([ROOT / "configs" / "labels" / f"{name}_groups.yaml"])
        assert len(found) == count
        assert set(found.values()) == groups
        assert name == "voc" or set(found) <= set(coco)
