"""JSON exports of Label Studio."""

import json

import pytest

from models import datasets
from models.errors import DataError
from tests.models.datasets.builders import boxes, image, text


def rectangle(label="cat", x=10.0, y=20.0, width=30.0, height=40.0, rotation=0):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return {
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "value": value | {"rectanglelabels": [label]},
    }


def choice(*labels):
    return {"type": "choices", "value": {"choices": list(labels)}}


def task(*results, path="a.jpg", **keys):
    return {
        "id": 1,
        "data": {"image": path},
        "annotations": [{"result": list(results), "was_cancelled": False}],
        "predictions": [],
        **keys,
    }


def export(folder, *tasks):
    return text(folder / "export.json", json.dumps(tasks))


@pytest.mark.parametrize("give", [".", "export.json"])
def test_rectangles_are_percent_of_the_image(tmp_path, give):
    export(tmp_path, task(rectangle(), rectangle("ant")), task(path="b.jpg"))
    image(tmp_path / "a.jpg", 200, 100)
    image(tmp_path / "b.jpg", 20, 10)
    data = datasets.read(tmp_path / give)
    assert (data.format, data.task, data.labels) == ("label_studio", "detect", ("ant", "cat"))
    assert boxes(data) == {
        "a.jpg": [("cat", (20, 20, 80, 60)), ("ant", (20, 20, 80, 60))],
        "b.jpg": [],
    }
    assert [i.size for i in data.images] == [(200, 100), (20, 10)]


def test_rotated_rectangle_becomes_its_hull(tmp_path):
    export(tmp_path, task(rectangle(x=50, y=20, rotation=90)))
    image(tmp_path / "a.jpg", 200, 100)
    # 60 x 40 pixels, turned clockwise around its top left at (100, 20).
    assert boxes(datasets.read(tmp_path))["a.jpg"] == [("cat", (60, 20, 100, 80))]


def test_polygons_become_their_hull_and_other_results_are_counted(tmp_path):
    points = {"points": [[10, 10], [50, 20], [30, 80]], "polygonlabels": ["cat"]}
    brush = {"type": "brushlabels", "value": {"format": "rle", "brushlabels": ["cat"]}}
    export(tmp_path, task({"type": "polygonlabels", "value": points}, brush))
    image(tmp_path / "a.jpg", 200, 100)
    data = datasets.read(tmp_path)
    assert boxes(data)["a.jpg"] == [("cat", (20, 10, 100, 80))]
    assert data.notes[0].startswith("1 result is no rectangle")


def test_choices_are_classes_of_the_image(tmp_path):
    export(tmp_path, task(choice("b", "a")), task(choice("c"), path="b.jpg"))
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / name)
    text(tmp_path / "classes.txt", "c\nb\n")
    data = datasets.read(tmp_path)
    assert (data.task, data.labels) == ("classify", ("c", "b", "a"))
    assert [i.classes for i in data.images] == [(1, 2), (0,)]


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/data/upload/1/0a1b2c3d-my%20dog.jpg", "my dog.jpg"),
        ("/data/upload/1/0a1b2c3d-x.jpg", "images/0a1b2c3d-x.jpg"),
        ("/data/local-files/?d=sub/x%20y.jpg", "sub/x y.jpg"),
        ("/data/local-files/?d=mounted/sub/x.jpg", "images/x.jpg"),
        ("http://localhost:8080/data/local-files/?d=x.jpg", "x.jpg"),
        ("https://example.org/deep/x.jpg?token=1", "images/x.jpg"),
        ("s3://bucket/deep/x.jpg", "x.jpg"),
        ("sub/x.jpg", "images/sub/x.jpg"),
    ],
)
def test_image_is_found_by_its_path_or_name(tmp_path, path, file):
    export(tmp_path, task(rectangle(), path=path))
    expected = image(tmp_path / file)
    [found] = datasets.read(tmp_path).images
    assert found.path == expected


def test_image_may_have_another_key(tmp_path):
    export(tmp_path, task(rectangle()) | {"data": {"note": "x", "photo": "a.jpg"}})
    image(tmp_path / "a.jpg")
    assert len(datasets.read(tmp_path).images) == 1


def test_unlabelled_tasks_are_left_out_and_counted(tmp_path):
    cancelled = [{"result": [], "was_cancelled": True}]
    twice = task(rectangle(), path="b.jpg")
    twice["annotations"] *= 2
    skipped = task() | {"annotations": cancelled}
    export(tmp_path, skipped, task(path="c.jpg") | {"annotations": []}, twice)
    for name in "abc":
        image(tmp_path / f"{name}.jpg")
    data = datasets.read(tmp_path)
    assert [i.name for i in data.images] == ["b.jpg"]
    assert len(data.images[0].objects) == 1
    assert [note[:20] for note in data.notes] == ["2 tasks have no anno", "1 task has several a"]


def test_split_of_an_export_is_refused(tmp_path):
    export(tmp_path, task(rectangle()))
    with pytest.raises(DataError, match="there are no splits"):
        datasets.read(tmp_path, split="val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([task(rectangle())])[:-9], "not JSON, or only a part of it"),
        (json.dumps([task(rectangle(x="left"))]), "not a file of Label Studio"),
        (json.dumps([task() | {"data": {}}]), "names no image"),
        (json.dumps([task(rectangle(x=float("nan")))]), "not JSON"),
        ('[{"data":{"a":' + "[" * 50_000, "not JSON"),
        ("[]", "no images are listed"),
    ],
)
def test_wrong_file_is_refused_with_the_reason(tmp_path, content, message):
    image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=message):
        datasets.read(text(tmp_path / "a.json", content), "label_studio")
