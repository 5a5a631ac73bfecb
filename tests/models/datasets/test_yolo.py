"""YOLO data sets with and without data.yaml."""

import pytest

from models import datasets
from models.errors import DataError
from tests.models.datasets.builders import boxes, image, text

LINE = "1 0.5 0.5 0.2 0.4\n"
BOX = (40, 15, 60, 35)
"""The box of LINE in an image of 100x50."""


def tree(root, images="images", labels="labels", name="a"):
    image(root / images / f"{name}.jpg")
    text(root / labels / f"{name}.txt", LINE)


@pytest.mark.parametrize(
    "names", ["[cat, dog]", "{0: cat, 1: dog}", "\n  0: cat\n  1: dog", "\n- cat\n- dog"]
)
@pytest.mark.parametrize("give", ["data.yaml", "."])
def test_names_are_a_list_or_a_mapping(tmp_path, names, give):
    text(tmp_path / "data.yaml", f"train: images\nval: images\nnames: {names}\n")
    tree(tmp_path)
    data = datasets.read(tmp_path / give)
    assert (data.format, data.task, data.labels) == ("yolo", "detect", ("cat", "dog"))
    assert boxes(data) == {"a.jpg": [("dog", BOX)]}
    assert data.images[0].size == (100, 50)
    assert data.notes == ()


@pytest.mark.parametrize(
    ("value", "images"),
    [
        ("images/val", "images/val"),
        ("[images/val, images/more]", "images/val"),
        ("val/images", "val/images"),
        ("../val/images", "val/images"),
        ("{root}/images/val", "images/val"),
        ("val.txt", "images/val"),
    ],
)
def test_split_is_a_folder_a_list_of_folders_or_a_list(tmp_path, value, images):
    root = tmp_path / "set"
    tree(root, images, images.replace("images", "labels"))
    tree(root, "images/train", "labels/train", "other")
    text(root / "val.txt", f"./{images}/a.jpg\n\n{root}/{images}/a.jpg\n")
    value = value.format(root=root)
    text(root / "data.yaml", f"train: images/train\nval: {value}\nnames: [cat, dog]\n")
    data = datasets.read(root, split="val")
    assert list(boxes(data).values()) == [[("dog", BOX)]]
    assert [i.path.name for i in data.images] == ["a.jpg"]


def test_path_of_data_yaml_may_lead_elsewhere(tmp_path):
    tree(tmp_path / "data", "images/val", "labels/val")
    content = "path: ../data\ntrain: images/val\nval: images/val\nnames: [cat, dog]\n"
    path = text(tmp_path / "cfg/set.yaml", content)
    assert boxes(datasets.read(path)) == {"val/a.jpg": [("dog", BOX)]}


def test_moved_data_set_is_found_beside_its_data_yaml(tmp_path):
    tree(tmp_path)
    text(tmp_path / "data.yaml", "path: /nowhere/x\ntrain: images\nnames: [cat, dog]\n")
    assert len(datasets.read(tmp_path).images) == 1


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        (".", "."),
        ("images/train", "labels/train"),
        ("train/images", "train/labels"),
        ("images/train2017", "labels/train2017"),
        ("images/images", "images/labels"),
    ],
)
def test_folders_are_read_without_data_yaml(tmp_path, images, labels):
    tree(tmp_path, images, labels)
    (tmp_path / "labels").mkdir(exist_ok=True)
    image(tmp_path / images / "empty.png")
    data = datasets.read(tmp_path, "yolo")
    assert data.labels == ("0", "1")
    assert sorted(map(len, boxes(data).values())) == [0, 1]
    if "train" in images:
        split = "train2017" if "2017" in images else "train"
        assert len(datasets.read(tmp_path, split=split).images) == 2
        with pytest.raises(DataError, match=rf"no split 'val' \(found {split}\)"):
            datasets.read(tmp_path, split="val")


@pytest.mark.parametrize("file", ["classes.txt", "obj.names"])
def test_names_come_from_a_file_without_data_yaml(tmp_path, file):
    tree(tmp_path)
    text(tmp_path / file, "cat\ndog\nbird\n")
    assert datasets.read(tmp_path).labels == ("cat", "dog", "bird")


def test_names_are_taken_from_data_yaml_without_its_splits(tmp_path):
    tree(tmp_path)
    text(tmp_path / "config.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    data = datasets.read(tmp_path)
    assert data.labels == ("cat", "dog")
    assert "splits that are not there, so all images are read" in data.notes[0]
    with pytest.raises(DataError, match=r"none of its splits is there \(found train: images/tr"):
        datasets.read(tmp_path / "config.yaml")


def test_lines_are_boxes_with_scores_or_polygons(tmp_path):
    tree(tmp_path)
    lines = "0 0.5 0.5 0.2 0.4 0.9\n1 .1 .2 .5 .2 .3 .8\n0 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8\n"
    text(tmp_path / "labels/a.txt", lines)
    assert boxes(datasets.read(tmp_path))["a.jpg"] == [
        ("0", BOX),
        ("1", (10, 10, 50, 40)),
        ("0", (10, 10, 50, 40)),
    ]


def test_lines_of_poses_are_boxes_with_points(tmp_path):
    tree(tmp_path)
    text(tmp_path / "labels/a.txt", f"{LINE.strip()} 0 0 1 1 1 1\n")
    content = "train: images\nkpt_shape: [2, 3]\nnames: [a, b]\n"
    text(tmp_path / "data.yaml", content)
    assert boxes(datasets.read(tmp_path)) == {"a.jpg": [("b", BOX)]}


def test_values_outside_the_image_are_clipped_and_counted(tmp_path):
    tree(tmp_path)
    lines = "0 0.95 0.5 0.2 0.4\n0 nan 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n0 0.5 0.5 1.000001 1\n"
    text(tmp_path / "labels/a.txt", lines)
    data = datasets.read(tmp_path)
    assert boxes(data)["a.jpg"] == [("0", (85, 15, 100, 35)), ("0", (0, 0, 100, 50))]
    assert [note[:7] for note in data.notes] == ["1 box r", "2 boxes"]


def test_names_stay_unique_when_splits_hold_the_same(tmp_path):
    for split in ("train", "valid"):
        tree(tmp_path, f"{split}/images", f"{split}/labels")
    data = datasets.read(tmp_path)
    assert [i.name for i in data.images] == ["train/images/a.jpg", "valid/images/a.jpg"]
    assert "read together" in data.notes[0]
    assert [i.name for i in datasets.read(tmp_path, split="val").images] == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a.txt: line 1: class 2 has no name \(found 2 names\)"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 has no name"),
        ("0 0.5 0.5 0.1", r"line 1: not `class cx cy width height`.*found 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.1 0.1 0.1", "found 8 numbers"),
        ("0 0.5 x 0.1 0.1", "line 1: not a number"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: not an integer"),
        ("inf 0.5 0.5 0.1 0.1", "line 1: not an integer"),
    ],
)
def test_wrong_line_is_refused_with_its_place(tmp_path, line, message):
    tree(tmp_path)
    text(tmp_path / "classes.txt", "cat\ndog\n")
    text(tmp_path / "labels/a.txt", line)
    with pytest.raises(DataError, match=message):
        datasets.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: 3\ntrain: images\n", "names: not a list or mapping"),
        ("names: {a: b}\n", "names: a key is not a number"),
        ("names: {999999999: b}\n", "out of bounds"),
        ("names: [a\n", "not YAML"),
        ("- names: 1\n", "not a mapping"),
        ("names: [a]\ntrain: ../../etc\n", "a split leaves the data set"),
        ("names: &x [a]\ntrain: *x\n", "not YAML: aliases"),
    ],
)
def test_wrong_data_yaml_is_refused(tmp_path, content, message):
    tree(tmp_path)
    path = text(tmp_path / "data.yaml", content)
    with pytest.raises(DataError, match=message):
        datasets.read(path, "yolo")


@pytest.mark.parametrize("line", ["../../etc/passwd.jpg", "/etc/passwd.jpg", "./../x.jpg"])
def test_list_that_leaves_the_data_set_is_refused(tmp_path, line):
    text(tmp_path / "val.txt", f"{line}\n")
    text(tmp_path / "data.yaml", "val: val.txt\nnames: [a]\n")
    with pytest.raises(DataError, match=r"val.txt: line 1: an image outside the data set"):
        datasets.read(tmp_path)


def test_several_yaml_files_without_a_usual_name_are_refused(tmp_path):
    tree(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        text(tmp_path / name, "names: [a, b]\n")
    with pytest.raises(DataError, match=r"several YAML files of YOLO \(found a.yaml, b.yaml\)"):
        datasets.read(tmp_path)
