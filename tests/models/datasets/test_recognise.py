"""The format of a data set is recognised, or the message says why it is not."""

import pytest

from models import datasets
from models.datasets import FORMATS
from models.datasets.base import DataSet
from models.errors import DataError
from tests.models.datasets.builders import image, small_set, text


@pytest.mark.parametrize("format", FORMATS)
def test_written_data_set_is_recognised_as_its_format_only(tmp_path, format):
    datasets.write(small_set(tmp_path / "source", format), tmp_path / "out", format)
    assert datasets.recognise(tmp_path / "out") == format
    data = datasets.read(tmp_path / "out")
    assert isinstance(data, DataSet)
    assert (data.format, data.root) == (format, tmp_path / "out")


def test_empty_folder_fits_no_format(tmp_path):
    looked = "coco, yolo, voc, folders, semantic, mot, cvat, label_studio, pennfudan"
    with pytest.raises(DataError, match=rf"looked for {looked}; found nothing\); name one with"):
        datasets.read(tmp_path)


def test_message_lists_the_content_of_a_folder(tmp_path):
    image(tmp_path / "photos/a.jpg")
    for name in ("a.csv", "b.csv", "LICENSE"):
        text(tmp_path / name, "x")
    with pytest.raises(DataError, match=r"found photos/, 2 \.csv, 1 LICENSE"):
        datasets.read(tmp_path)


def test_two_formats_at_once_are_refused(tmp_path):
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", "0 0.5 0.5 0.1 0.1")
    text(tmp_path / "annotations.xml", "<annotations></annotations>")
    with pytest.raises(DataError, match=r"several .* fit \(found yolo, cvat\); .*`--format NAME`"):
        datasets.read(tmp_path)
    assert datasets.read(tmp_path, "yolo").format == "yolo"


def test_notes_of_label_studio_beside_labels_of_yolo_are_not_coco(tmp_path):
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", "0 0.5 0.5 0.1 0.1")
    text(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "a"}], "info": {}}')
    assert datasets.recognise(tmp_path) == "yolo"


def test_path_that_is_not_there_and_unknown_format_are_refused(tmp_path):
    with pytest.raises(DataError, match="the data set is not there"):
        datasets.read(tmp_path / "x")
    with pytest.raises(DataError, match=r"format: unknown \(found 'x'\); known formats: coco, yo"):
        datasets.read(tmp_path, "x")


@pytest.mark.parametrize("format", FORMATS)
def test_explicit_format_that_does_not_fit_is_refused(tmp_path, format):
    text(tmp_path / "a.bin", "x")
    for path in (tmp_path, tmp_path / "a.bin"):
        with pytest.raises(DataError):
            datasets.read(path, format)


@pytest.mark.parametrize("format", FORMATS)
def test_task_that_a_format_cannot_hold_is_refused(tmp_path, format):
    wrong = {"mot": "coco", "folders": "coco", "cvat": None, "label_studio": "mot"}
    other = wrong.get(format, "mot")
    if other is None:
        return
    with pytest.raises(DataError, match=rf"{format}: the format holds .* \(found "):
        datasets.write(small_set(tmp_path / "source", other), tmp_path / "out", format)


@pytest.mark.parametrize("format", FORMATS)
def test_folder_with_files_is_never_written_to(tmp_path, format):
    text(tmp_path / "out/mine.txt", "x")
    with pytest.raises(DataError, match=r"the folder holds files \(found mine.txt\)"):
        datasets.write(small_set(tmp_path / "source", format), tmp_path / "out", format)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
