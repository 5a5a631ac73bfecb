"""A folder of images per class."""

import pytest

from models import datasets
from models.datasets.base import DataSet, LabelledImage
from models.errors import DataError
from tests.models.datasets.builders import image, text


def test_classes_are_sorted_as_plain_text(tmp_path):
    for label in ("10", "2", "b", "B"):
        image(tmp_path / label / "x.JPG", 30, 20)
    data = datasets.read(tmp_path)
    assert (data.format, data.task, data.labels) == ("folders", "classify", ("10", "2", "B", "b"))
    assert [(i.name, i.classes, i.size) for i in data.images] == [
        ("10/x.JPG", (0,), (30, 20)),
        ("2/x.JPG", (1,), (30, 20)),
        ("B/x.JPG", (2,), (30, 20)),
        ("b/x.JPG", (3,), (30, 20)),
    ]


def test_classes_are_those_of_all_splits(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "train/emu/1.png", "valid/emu/1.png"):
        image(tmp_path / name)
    image(tmp_path / "valid/dog/deep/2.png")
    val = datasets.read(tmp_path, split="val")
    assert val.labels == ("cat", "dog", "emu")
    assert [(i.name, i.classes) for i in val.images] == [
        ("valid/dog/deep/2.png", (1,)),
        ("valid/emu/1.png", (2,)),
    ]
    both = datasets.read(tmp_path)
    assert len(both.images) == 5
    assert "the splits train, valid are read together" in both.notes[0]
    with pytest.raises(DataError, match=r"no split 'test' \(found train, valid\)"):
        datasets.read(tmp_path, split="test")


def test_split_of_a_set_without_splits_is_refused(tmp_path):
    for label in "ab":
        image(tmp_path / label / "x.jpg")
    with pytest.raises(DataError, match="there are no splits"):
        datasets.read(tmp_path, split="val")


def test_files_that_are_no_images_are_counted(tmp_path):
    for label in "ab":
        image(tmp_path / label / "x.jpg")
    text(tmp_path / "a/y.jpg", "no image")
    data = datasets.read(tmp_path)
    assert len(data.images) == 2
    assert data.notes == ("1 image cannot be read, and is left out (first: a/y.jpg)",)


@pytest.mark.parametrize("classes", [(), (0, 1)])
def test_image_without_exactly_one_class_is_not_written(tmp_path, classes):
    one = LabelledImage(image(tmp_path / "x.png"), "x.png", (100, 50), (), classes)
    data = DataSet(root=tmp_path, format="", task="classify", labels=("a", "b"), images=(one,))
    with pytest.raises(DataError, match=f"has one class .found {len(classes)}"):
        datasets.write(data, tmp_path / "out", "folders")


@pytest.mark.parametrize("label", ["a/b", "..", ".", "", "/etc"])
def test_label_that_is_no_name_of_a_folder_is_not_written(tmp_path, label):
    one = LabelledImage(image(tmp_path / "x.png"), "x.png", (100, 50), (), (0,))
    data = DataSet(root=tmp_path, format="", task="classify", labels=(label,), images=(one,))
    with pytest.raises(DataError):
        datasets.write(data, tmp_path / "out", "folders")


def test_test_set_without_classes_is_no_split(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/1.png"):
        image(tmp_path / name)
    data = datasets.read(tmp_path)
    assert (data.format, data.labels, len(data.images)) == ("folders", ("a", "b"), 4)
    with pytest.raises(DataError, match=r"no split 'test' \(found train, val\)"):
        datasets.read(tmp_path, split="test")
