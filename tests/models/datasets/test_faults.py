"""Every fault of a data set is found in one reading, whatever its format."""

import json

import pytest

from models import datasets
from models.datasets import collect
from models.errors import DataError, DataFaults
from tests.models.datasets.builders import boxes, image, text

VOC = "<annotation><filename>{}.png</filename>{}</annotation>"
OBJECT = (
    "<object>{}<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
)
NAMED = "<name>cat</name>"
PASCAL = "# Compatible with PASCAL Annotation Version 1.00\n"
LINE = 'Bounding box for object 1 "PASperson" (Xmin, Ymin) - (Xmax, Ymax) : ({}, 1) - (9, 9)\n'


def images(root, *names):
    for name in names:
        image(root / f"images/{name}.png")


def yolo(root):
    images(root, "a", "b", "c")
    text(root / "classes.txt", "cat\n")
    text(root / "labels/a.txt", "7 .5 .5 .1 .1\n0 .5 .5 .1 .1\n0 x .5 .1 .1\n")
    text(root / "labels/b.txt", "0 .5 .5\n")
    text(root / "labels/c.txt", "0 .5 .5 .1 .1\n")
    return ["a.txt: line 1: class 7", "a.txt: line 3: not a number", "b.txt: line 1: not `class"]


def voc(root):
    images(root, "a", "b", "c", "d")
    good = OBJECT.format(NAMED, 1)
    text(root / "Annotations/a.xml", VOC.format("a", OBJECT.format("", 1) + good))
    text(root / "Annotations/b.xml", VOC.format("b", OBJECT.format(NAMED, "x") + good))
    text(root / "Annotations/c.xml", "<annotation><filename>")
    text(root / "Annotations/d.xml", VOC.format("d", good))
    return ["a.xml: an object has no name", "b.xml: xmin: not a number", "c.xml: not XML"]


def coco(root):
    images(root, "a", "b", "c")
    rows = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("abc")]
    good = {"image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5]}
    wrong = [good | {"category_id": 9}, good | {"bbox": [1, 2]}, good | {"bbox": ["x", 1, 2, 3]}]
    document = {
        "images": [*rows, {"id": 9, "file_name": "../x.png"}, {"id": 8}],
        "annotations": [*wrong, good],
        "categories": [{"id": 1, "name": "cat"}],
    }
    text(root / "annotations.json", json.dumps(document))
    return [
        "images[4]: Object missing required field",
        "annotations[2]: Expected `float`",
        "image 2: an annotation has a category that is not listed (found 9)",
        "image 2: a bbox is not x, y, width, height (found 2 numbers)",
        "leaves the data set",
    ]


def cvat(root):
    images(root, "a", "b")
    good = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    first = f'<image name="a.png">{good.replace("9", "x")}<polygon label="cat" points="1"/></image>'
    others = f'<image name="../b.png"/><image name="b.png">{good}</image>'
    text(root / "annotations.xml", f"<annotations>{first}{others}</annotations>")
    return ["a.png: xbr: not a number", "a.png: points: not x,y", "leaves the data set"]


def label_studio(root):
    images(root, "a", "b")
    value = {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["cat"]}
    done = [{"result": [{"type": "rectanglelabels", "value": value}]}]
    rows = [{"image": "a.png"}, {"text": 1}, {"image": "../x.png"}]
    tasks = [{"data": row, "annotations": done} for row in rows]
    text(root / "tasks.json", json.dumps(tasks))
    return ["a task names no image", "leaves the data set"]


def pennfudan(root):
    images(root, "a", "b")
    text(root / "Annotation/a.txt", PASCAL + LINE.format("x") + LINE.format(1))
    text(root / "Annotation/b.txt", PASCAL + "Bounding box for object 1\n")
    return ["a.txt: line 2: a side of the box is not a number", "b.txt: line 2: not a box"]


def mot(root):
    image(root / "s/img1/1.png")
    text(root / "s/gt/gt.txt", "1,1,1,1,9,9\n1,1,1,1,9,9\nx,1,1,1,9,9\n2,1\n3,1,1,1,9,9\n")
    return ["an id is twice in a frame", "line 3: not a number", "line 4: not frame, id"]


KINDS = [yolo, voc, coco, cvat, label_studio, pennfudan, mot]


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_is_listed_and_the_rest_is_read(tmp_path, kind):
    expected = kind(tmp_path)
    data = datasets.read(tmp_path, keep_faults=True)
    assert len(data.faults) == len(expected), data.faults
    for part in expected:
        assert sum(part in line for line in data.faults) == 1, (part, data.faults)
    if data.images:
        assert sum(map(len, boxes(data).values())) >= 1
    else:
        assert list(data.clips[0].objects) == [0, 2]
    with pytest.raises(DataFaults) as info:
        datasets.read(tmp_path)
    assert info.value.faults == data.faults


def test_one_fault_is_the_message_itself_and_several_are_counted(tmp_path):
    images(tmp_path, "a")
    text(tmp_path / "labels/a.txt", "0 .5\n")
    with pytest.raises(DataError, match=r"line 1: not `class .* \(found 2 numbers\)\Z"):
        datasets.read(tmp_path, "yolo")
    text(tmp_path / "labels/a.txt", "0 .5\n0 .5\n")
    with pytest.raises(DataError, match=r"line 1: .* \(and 1 more fault\)\Z"):
        datasets.read(tmp_path, "yolo")


def test_list_of_faults_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "MAX_LINES", 3)
    images(tmp_path, "a")
    text(tmp_path / "labels/a.txt", "0 .5\n" * 10)
    data = datasets.read(tmp_path, "yolo", keep_faults=True)
    assert len(data.faults) == 4
    assert data.faults[-1] == "7 more like these are not listed"


@pytest.mark.parametrize(
    ("line", "loss"),
    [
        ("0 .5 .5 0 .1", "a box has no area or is not of numbers (found 50, 22.5, 50, 27.5)"),
        ("0 .5 .5 -.1 .1", "a box has no area"),
        ("0 nan .5 .1 .1", "a box has no area or is not of numbers (found nan, 22.5, nan, 27.5)"),
        ("0 3 .5 .1 .1", "a box is outside its image (found 295, 22.5, 305, 27.5 in 100x50)"),
        ("0 .95 .5 .3 .1", "a box reaches far out of its image (found 80, 22.5, 110, 27.5"),
        ("0 .7 .5 .61 .1", None),  # half a pixel
        ("0 .5 .5 1.03 .9", None),  # less than a twentieth of it
        ("0 .5 .5 .1 .1", None),
    ],
)
def test_wrong_box_is_a_loss_with_its_numbers(tmp_path, line, loss):
    images(tmp_path, "a")
    text(tmp_path / "labels/a.txt", line)
    data = datasets.read(tmp_path, "yolo")
    assert len(data.losses) == (loss is not None)
    if loss is not None:
        assert data.losses[0].startswith(f"a.png: {loss}")


def test_labels_without_their_image_are_a_loss(tmp_path):
    images(tmp_path, "a", "b")
    for name in ("a", "gone", "classes"):
        text(tmp_path / f"labels/{name}.txt", "0 .5 .5 .1 .1")
    data = datasets.read(tmp_path, "yolo")
    assert data.losses == (
        "labels/gone.txt: the file of labels has no image; add an image of its name, or remove it",
    )
    assert data.notes == (
        "1 file of labels has no image, and is left out (first: labels/gone.txt)",
    )


def test_category_id_with_two_names_is_a_loss(tmp_path):
    images(tmp_path, "a")
    document = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    text(tmp_path / "annotations.json", json.dumps(document))
    assert [line.partition(" (")[0] for line in datasets.read(tmp_path).losses] == [
        "annotations.json: a category id has two names",
        "5: an annotation is of an image that is not listed",
    ]
