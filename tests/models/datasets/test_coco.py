"""COCO files, alone and in the folders in which they come."""

import json

import pytest

from models import datasets
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.errors import DataError
from tests.models.datasets.builders import boxes, image, text

SMALL = {
    "info": {"description": "small"},
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
        {"id": 3, "file_name": "sub/b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 90,
            "bbox": [10, 5, 20, 30.5],
            "area": 400.25,
            "iscrowd": 0,
            "segmentation": [[10, 5, 30, 5, 30, 35]],
        },
        {
            "id": 2,
            "image_id": 7,
            "category_id": 1,
            "bbox": [0, 0, 50, 50],
            "area": 2500,
            "iscrowd": 1,
            "segmentation": {"counts": [0, 2500, 2500], "size": [50, 100]},
        },
    ],
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 1, "name": "person"},
        {"id": 13, "name": "stop sign"},
    ],
}


def changed(**keys):
    return json.dumps(SMALL | keys)


def annotated(*boxes_):
    """The text of a file with boxes on image 7."""
    items = [{"id": n, "image_id": 7, "category_id": 1, "bbox": b} for n, b in enumerate(boxes_)]
    return changed(annotations=items)


def add_images(folder):
    image(folder / "a.jpg", 100, 50)
    image(folder / "sub" / "b.png", 40, 30)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("labels.json", "."),
        ("labels.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_val2017.json", "images"),
        ("annotations/instances_val2017.json", "."),
        ("annotations/test.json", "train2017"),
        ("valid/_annotations.coco.json", "valid"),
    ],
)
@pytest.mark.parametrize("give", ["file", "folder"])
def test_file_is_read_from_every_usual_place(tmp_path, file, images, give):
    path = text(tmp_path / file, json.dumps(SMALL))
    add_images(tmp_path / images)
    data = datasets.read(path if give == "file" else tmp_path)
    assert (data.format, data.task) == ("coco", "detect")
    assert data.labels == ("person", "stop sign", "toothbrush")
    first, second = data.images
    assert (first.name, first.size, first.path) == (
        "a.jpg",
        (100, 50),
        tmp_path / images / "a.jpg",
    )
    assert first.objects == (
        TrueObject(2, (10, 5, 30, 35.5), area_px=400.25, mask=((10, 5, 30, 5, 30, 35),)),
        TrueObject(0, (0, 0, 50, 50), ignored=True, area_px=2500, mask="0T^2T^2"),
    )
    assert (second.name, second.objects) == ("sub/b.png", ())
    assert data.notes == ()


def test_other_files_of_coco_are_not_taken_for_instances(tmp_path):
    text(tmp_path / "annotations/instances_val2017.json", json.dumps(SMALL))
    text(tmp_path / "annotations/captions_val2017.json", changed(categories=[]))
    add_images(tmp_path / "val2017")
    assert len(datasets.read(tmp_path, "coco").images) == 2


def test_splits_are_chosen_or_read_together(tmp_path):
    for name in ("train", "valid"):
        text(tmp_path / name / "_annotations.coco.json", json.dumps(SMALL))
        add_images(tmp_path / name)
    assert [i.name for i in datasets.read(tmp_path, split="val").images] == ["a.jpg", "sub/b.png"]
    both = datasets.read(tmp_path)
    assert [i.name for i in both.images][::2] == ["train/a.jpg", "valid/a.jpg"]
    assert "the splits train, valid are read together" in both.notes[0]
    with pytest.raises(DataError, match=r"no split 'test' \(found train, valid\)"):
        datasets.read(tmp_path, split="test")


def test_splits_with_different_categories_are_not_mixed(tmp_path):
    text(tmp_path / "train/_annotations.coco.json", json.dumps(SMALL))
    text(
        tmp_path / "test/_annotations.coco.json",
        changed(categories=[*SMALL["categories"], {"id": 2, "name": "x"}]),
    )
    add_images(tmp_path / "train")
    with pytest.raises(DataError, match="categories differ"):
        datasets.read(tmp_path)


def test_bad_boxes_are_left_out_and_long_ones_clipped(tmp_path):
    content = annotated(
        [10, 10, 0, 5],
        [10, 10, -5, 5],
        [200, 10, 5, 5],
        [90, 40, 20, 5],
        [-3, 0, 13, 50],
        [0, 0, 100.001, 50],
        [],
    )
    path = text(tmp_path / "a.json", content)
    add_images(tmp_path)
    data = datasets.read(path)
    assert boxes(data)["a.jpg"] == [
        ("person", (90, 40, 100, 45)),
        ("person", (0, 0, 10, 50)),
        ("person", (0, 0, 100, 50)),
    ]
    assert data.notes == (
        "1 annotation has no box, and is left out (first: of image 7)",
        "2 boxes have no area or are not numbers, and are left out (first: a.jpg)",
        "1 box is outside its image, and is left out (first: a.jpg)",
        "2 boxes reach out of their image, and are clipped (first: a.jpg)",
    )


def test_missing_images_are_counted_and_all_missing_refused(tmp_path):
    path = text(tmp_path / "a.json", json.dumps(SMALL))
    with pytest.raises(DataError, match=r"found none of 2, first a.jpg, in the folder of the JSON"):
        datasets.read(path)
    image(tmp_path / "a.jpg")
    data = datasets.read(path)
    assert len(data.images) == 1
    assert data.notes == ("1 image is listed but not there, and is left out (first: sub/b.png)",)


def test_size_that_is_not_stated_is_read_from_the_image(tmp_path):
    path = text(tmp_path / "a.json", changed(images=[{"id": 7, "file_name": "a.jpg"}]))
    image(tmp_path / "a.jpg", 123, 45)
    assert datasets.read(path).images[0].size == (123, 45)


def test_image_listed_twice_is_read_once(tmp_path):
    rows = [{"id": n, "file_name": name} for n, name in ((7, "a.jpg"), (8, "./a.jpg"))]
    path = text(tmp_path / "a.json", changed(images=rows))
    image(tmp_path / "a.jpg")
    data = datasets.read(path)
    assert [len(i.objects) for i in data.images] == [2]
    assert "1 image is listed twice" in data.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(SMALL)[:-30], "not JSON, or only a part of it"),
        (changed(images=3), "Expected `array`, got `int`"),
        (changed(images=[{"id": 1}]), "missing required field `file_name`"),
        (annotated([1, 2, 3]), r"a bbox is not x, y, width, height \(found 3 numbers\)"),
        (annotated([1, 2, 3, float("nan")]), "not JSON"),
        (changed(categories=[]), r"category that is not listed \(found 90\)"),
        (changed(images=[]), "no images are listed"),
        ('{"info":' * 100_000, "not JSON"),
    ],
)
def test_wrong_file_is_refused_with_the_reason(tmp_path, content, message):
    add_images(tmp_path)
    with pytest.raises(DataError, match=message):
        datasets.read(text(tmp_path / "a.json", content), "coco")


def test_written_file_is_read_alike_by_pycocotools(tmp_path, capsys):
    from pycocotools.coco import COCO

    things = (
        TrueObject(0, (1.5, 2, 31.25, 42), area_px=99.5, id=4),
        TrueObject(1, (0, 0, 10, 10), ignored=True),
    )
    source = image(tmp_path / "source.png")
    one = LabelledImage(source, "sub/x.png", (100, 50), things)
    data = DataSet(root=tmp_path, format="", task="detect", labels=("a", "b"), images=(one,))
    datasets.write(data, tmp_path / "out", "coco")
    other = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [c["name"] for c in other.loadCats(sorted(other.getCatIds()))] == ["a", "b"]
    assert [i["file_name"] for i in other.loadImgs(other.getImgIds())] == ["sub/x.png"]
    found = other.loadAnns(other.getAnnIds())
    assert [(a["bbox"], a["area"], a["iscrowd"]) for a in found] == [
        ([1.5, 2, 29.75, 40], 99.5, 0),
        ([0, 0, 10, 10], 100, 1),
    ]
    assert [a.get("track_id") for a in found] == [4, None]
