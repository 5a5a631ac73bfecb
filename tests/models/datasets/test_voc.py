"""PASCAL VOC in the folders in which it comes."""

import pytest

from models import datasets
from models.errors import DataError
from tests.models.datasets.builders import boxes, image, text

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def xml(*objects, name="a.jpg", width=100, height=50):
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>"
        + "".join(OBJECT.format(*item) for item in objects)
        + "</annotation>"
    )


SMALL = xml(("dog", 0, 11, 6, 30, 35), ("cat", 1, 1, 1, 100, 50))


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("Annotations", "JPEGImages"),
        ("annotations", "images"),
        ("labels", "images"),
        ("gts/voc", "images"),
        (".", "."),
        ("train", "train"),
        ("VOC2007/Annotations", "VOC2007/JPEGImages"),
    ],
)
def test_files_are_read_from_every_usual_place(tmp_path, annotations, images):
    text(tmp_path / annotations / "a.xml", SMALL)
    path = image(tmp_path / images / "a.jpg")
    data = datasets.read(tmp_path)
    assert (data.format, data.task, data.labels) == ("voc", "detect", ("cat", "dog"))
    [found] = data.images
    assert (found.path, found.size) == (path, (100, 50))
    assert found.name in ("a.jpg", "train/a.jpg")
    # Boxes count from 1 and include the last pixel.
    assert [(item.number, item.box, item.ignored) for item in found.objects] == [
        (1, (10, 5, 30, 35), False),
        (0, (0, 0, 100, 50), True),
    ]
    assert data.notes == ()


@pytest.fixture
def voc(tmp_path):
    for name in "abc":
        text(tmp_path / f"Annotations/{name}.xml", xml(("cat", 0, 1, 1, 9, 9), name=f"{name}.png"))
        image(tmp_path / f"JPEGImages/{name}.png")
    text(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    text(tmp_path / "ImageSets/Main/val.txt", "c\nmissing\n")
    text(tmp_path / "ImageSets/Main/cat_val.txt", "a -1\nc  1\n")
    return tmp_path


def test_splits_are_lists_of_names(voc):
    assert list(boxes(datasets.read(voc, split="train"))) == ["a.png", "b.png"]
    val = datasets.read(voc, split="val")
    assert list(boxes(val)) == ["c.png"]
    assert val.notes == ("1 image of the split has no XML file, and is left out (first: missing)",)
    assert len(datasets.read(voc).images) == 3
    with pytest.raises(DataError, match=r"no split 'test' \(found train, val\)"):
        datasets.read(voc, split="test")


def test_splits_are_folders_too(tmp_path):
    for split in ("train", "valid"):
        text(tmp_path / split / "a.xml", SMALL)
        image(tmp_path / split / "a.jpg")
    assert list(boxes(datasets.read(tmp_path, split="val"))) == ["valid/a.jpg"]
    assert "read together" in datasets.read(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.txt", "x\ndog\ncat\n"),
        ("labelmap.txt", "# l\nbackground:::\nx:1::\ndog:::\ncat:::"),
    ],
)
def test_labels_have_the_order_of_their_file(voc, file, content):
    text(voc / file, content)
    data = datasets.read(voc)
    assert data.labels == ("x", "dog", "cat")
    assert data.images[0].objects[0].number == 2


def test_image_is_found_by_its_filename_and_its_size_by_its_head(tmp_path):
    text(tmp_path / "Annotations/1.xml", xml(name="photo.png", width=0, height=0))
    image(tmp_path / "JPEGImages/photo.png", 33, 44)
    [found] = datasets.read(tmp_path).images
    assert (found.name, found.size) == ("photo.png", (33, 44))


def test_bad_boxes_are_left_out_and_long_ones_clipped(tmp_path):
    items = [("cat", 0, *sides) for sides in ((0, 1, 9, 9), (9, 9, 5, 12), ("nan", 1, 5, 5))]
    text(tmp_path / "a.xml", xml(*items))
    image(tmp_path / "a.jpg")
    data = datasets.read(tmp_path)
    assert boxes(data)["a.jpg"] == [("cat", (0, 0, 9, 9))]
    assert [note[:11] for note in data.notes] == ["1 box reach", "2 boxes hav"]


BOMB = '<!DOCTYPE a [<!ENTITY b "{}">]>'.format("x" * 100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SMALL[:-20], "not XML, or only a part of it"),
        (BOMB + SMALL.replace("dog", "&b;"), "declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + SMALL, "declares a document type"),
        (SMALL.replace("dog", "&undefined;"), "not XML"),
        (SMALL.replace("<xmin>11", "<xmin>eleven"), "xmin: not a number"),
        (SMALL.replace("<name>dog</name>", ""), "an object has no name"),
        (SMALL.replace("bndbox", "polygon"), r"an object has no bndbox \(found dog\)"),
        ("<annotation>" + "<a>" * 100_000, "nested too deep"),
        ('<?xml version="1.0" encoding="none"?>' + SMALL, "not XML"),
    ],
)
def test_wrong_file_is_refused_with_the_reason(tmp_path, content, message):
    text(tmp_path / "a.xml", content)
    image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=message):
        datasets.read(tmp_path)


def test_large_file_is_refused_before_it_is_read(tmp_path):
    path = text(tmp_path / "a.xml", SMALL)
    with path.open("r+b") as file:
        file.truncate(2**27)
    with pytest.raises(DataError, match="too large"):
        datasets.read(tmp_path)
