"""The check of a data set lists all its faults at once, and refuses no good one."""

import cv2
import msgspec
import numpy as np
import pytest

from models import datasets
from models.datasets.base import DataSet, LabelledImage, TrueObject
from models.datasets.check import check
from models.datasets.image_file import fault_of, other_kind
from models.datasets.own_parts import own_parts
from models.datasets.parts import Parts, cut_large, groups_by_name
from models.errors import DataError
from tests.models.datasets.builders import text
from tests.models.datasets.test_duplicates import saved, scene
from tests.models.datasets.test_parts import named

BOX = (10.0, 10.0, 90.0, 90.0)


@pytest.fixture
def classes(tmp_path):
    """A folder of two classes with six images each."""
    for seed in range(12):
        saved(tmp_path / ("cat" if seed < 6 else "dog") / f"{seed}.png", scene(seed))
    return tmp_path


def checked(path, format="auto", parts=None, **more):
    return check(datasets.read(path, format, keep_faults=True), parts, **more)


def holds(lines, *parts):
    """Whether one line has all the parts."""
    return sum(all(part in line for part in parts) for line in lines) == 1


def test_good_set_has_no_fault_and_its_counts(classes):
    parts = Parts(train=("cat/0.png", "dog/6.png"), val=("cat/1.png",), test=("dog/7.png",))
    seen = []
    found = checked(classes, parts=parts, progress=seen.append)
    assert (found.faults, found.warnings, found.notes, found.duplicates) == ((), (), (), ())
    assert seen == list(range(1, 13))
    assert found.counts["all"].classes == {"cat": 6, "dog": 6}
    assert found.counts["val"].classes == {"cat": 1, "dog": 0}
    assert found.counts["train"].images == 2
    assert found.counts["all"].width_px.median == 320


def test_every_kind_of_fault_is_listed_at_once(classes):
    good = (classes / "cat/0.png").read_bytes()
    (classes / "cat/empty.png").write_bytes(b"")
    (classes / "cat/cut.png").write_bytes(good[: len(good) // 2])
    (classes / "cat/text.jpg").write_bytes(b"<html>not found</html>")
    (classes / "cat/broken.png").write_bytes(good[:60] + bytes(200) + good[260:])
    (classes / "dog/same.png").write_bytes(good)
    (classes / "Cat").mkdir()
    saved(classes / "cat/like.png", CHANGED(scene(1)))
    parts = Parts(train=("cat/0.png", "cat/1.png"), val=("cat/like.png", "cat/0.png"))
    found = checked(classes, "folders", parts)
    assert holds(found.faults, "cat/empty.png: the image cannot be read (found an empty file)")
    assert holds(found.faults, "cat/text.jpg: the image cannot be read (found text)")
    assert holds(found.faults, "cat/cut.png: the image is cut off")
    assert holds(found.faults, "cat/broken.png: the image cannot be decoded")
    assert holds(found.faults, "dog/same.png", "the same file as cat/0.png", "found dog and cat")
    assert holds(found.faults, "two labels differ only by case", "'Cat' and 'cat'")
    assert holds(found.faults, "a class has no example", "found 'Cat', like 'cat'")
    assert holds(found.faults, "an image is in two places", "'cat/0.png' in train and val")
    assert holds(found.faults, "cat/like.png: nearly the same as cat/1.png", "val and train")
    assert len(found.faults) == 9
    assert all(line.isprintable() and "; " in line for line in found.faults)


def CHANGED(image):  # noqa: N802 - a constant change
    return cv2.convertScaleAbs(image, alpha=0.7)


def test_faults_of_files_and_of_images_are_in_one_list(tmp_path):
    for seed in range(3):
        saved(tmp_path / f"images/{seed}.png", scene(seed))
    text(tmp_path / "classes.txt", "cat\ndog\nbus\n")
    text(tmp_path / "labels/0.txt", "9 .5 .5 .1 .1\n0 .5 .5 .2 .2\n")
    text(tmp_path / "labels/1.txt", "1 nan .5 .1 .1\n1 7 7 .1 .1\n1 .5 .5 .2 .2\n")
    text(tmp_path / "labels/gone.txt", "1 .5 .5 .1 .1\n")
    data = (tmp_path / "images/2.png").read_bytes()
    (tmp_path / "images/2.png").write_bytes(data[:-100])
    found = checked(tmp_path, "yolo")
    assert len(found.faults) == 4
    assert holds(found.faults, "line 1: class 9 has no name")
    assert holds(found.faults, "1.png: a box has no area or is not of numbers")
    assert holds(found.faults, "1.png: a box is outside its image")
    assert holds(found.faults, "2.png: the image is cut off")
    assert holds(found.warnings, "labels/gone.txt: the file of labels has no image")
    assert holds(found.warnings, "a class has no example", "'bus'")
    assert "1 image without objects, used as background" in found.notes


def one(path, size, **more):
    image = LabelledImage(path, path.name, size, (TrueObject(0, BOX),))
    own = {"root": path.parent, "format": "", "task": "detect", "labels": ("a",), **more}
    return DataSet(images=(image,), **own)


def test_stated_size_that_is_not_that_of_the_image_is_a_fault(tmp_path):
    path = saved(tmp_path / "a.png", scene(0))
    assert check(one(path, (320, 240))).faults == ()
    [line] = check(one(path, (640, 480))).faults
    assert "another size" in line
    assert "found 320x240, stated 640x480" in line
    assert "turned by its EXIF" in check(one(path, (240, 320))).faults[0]


@pytest.mark.parametrize(
    ("labels", "faults"),
    [
        (("a", "A"), 0),  # letters of an alphabet
        (("traffic light", "Traffic_Light"), 1),
        (("cat", "cat"), 1),
        (("cat", "cats"), 0),
    ],
)
def test_labels_that_differ_only_by_case_are_a_fault(tmp_path, labels, faults):
    path = saved(tmp_path / "a.png", scene(0))
    assert len(check(one(path, (320, 240), labels=labels)).faults) == faults


def test_duplicates_are_a_fault_only_in_a_split_of_the_user(classes):
    saved(classes / "cat/like.png", CHANGED(scene(1)))
    parts = Parts(train=("cat/1.png", "dog/7.png"), val=("cat/like.png", "dog/8.png"))
    assert len(checked(classes, parts=parts).faults) == 1
    drawn = checked(classes, parts=parts, given=False)
    assert drawn.faults == ()
    assert holds(drawn.warnings, "cat/like.png: nearly the same as cat/1.png")
    together = Parts(train=("cat/1.png", "cat/like.png", "dog/7.png"), val=("dog/8.png",))
    assert checked(classes, parts=together).faults == ()
    assert len(drawn.duplicates) == 1


def test_class_without_example_in_train_is_a_warning(classes):
    found = checked(classes, parts=Parts(train=("cat/1.png",), val=("dog/8.png",)))
    assert found.faults == ()
    assert holds(found.warnings, "no example in train", "'dog', 6 in other parts")


@pytest.mark.parametrize(
    ("name", "count", "warned"), [("persn", 1, True), ("bus", 1, False), ("persn", 6, False)]
)
def test_small_class_called_like_a_large_one_is_a_warning(tmp_path, name, count, warned):
    path = saved(tmp_path / "a.png", scene(0))
    data = one(path, (320, 240), labels=("person", name))
    things = (*[TrueObject(0, BOX)] * 9, *[TrueObject(1, BOX)] * count)
    [item] = data.images
    data = msgspec.structs.replace(data, images=(msgspec.structs.replace(item, objects=things),))
    assert holds(check(data).warnings, f"found {count} of '{name}' and 9 of 'person'") == warned


def test_image_beside_those_of_the_set_is_a_note(tmp_path):
    path = saved(tmp_path / "a.png", scene(0))
    saved(tmp_path / "b.png", scene(1))
    [few, *_] = [note for note in check(one(path, (320, 240))).notes if "beside" in note]
    assert few == "1 image beside those of the data set without labels, not used (first: b.png)"


def jpeg(path, *, thumbnail=False):
    """A JPEG; with an embedded one in front of its pixels, as cameras save it."""
    data = cv2.imencode(".jpg", scene(0))[1].tobytes()
    if thumbnail:
        small = cv2.imencode(".jpg", scene(1, 24, 32))[1].tobytes()
        head = b"Exif\0\0" + small
        data = data[:2] + b"\xff\xe1" + (len(head) + 2).to_bytes(2, "big") + head + data[2:]
    path.write_bytes(data)
    return data


@pytest.mark.parametrize("thumbnail", [False, True])
def test_jpeg_without_its_end_is_cut_off(tmp_path, thumbnail):
    path = tmp_path / "a.jpg"
    data = jpeg(path, thumbnail=thumbnail)
    assert fault_of(path) is None
    path.write_bytes(data + b"trailing bytes of a camera")
    assert fault_of(path) is None
    for size in (len(data) - 2, len(data) * 3 // 4, 30):
        path.write_bytes(data[:size])
        assert "cut off" in fault_of(path)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_other_kinds_without_their_end_are_cut_off(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", scene(0))
    assert fault_of(path) is None
    path.write_bytes(path.read_bytes()[:-30])
    assert "cut off" in fault_of(path)


def test_suffix_of_another_kind_is_a_note(tmp_path):
    saved(tmp_path / "a.png", scene(0))
    path = (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert other_kind(path) == "PNG"
    found = check(one(path, (320, 240)))
    assert found.faults == ()
    assert "1 image with the suffix of another kind (1 .jpg in fact PNG)" in found.notes


def test_parts_of_a_set_are_those_of_its_folders(tmp_path):
    seed = 0
    for part in ("train", "valid", "test"):
        for label in ("cat", "dog"):
            seed += 1
            saved(tmp_path / part / label / "a.png", scene(seed))
    data = datasets.read(tmp_path)
    assert own_parts(data) == Parts(
        train=("train/cat/a.png", "train/dog/a.png"),
        val=("valid/cat/a.png", "valid/dog/a.png"),
        test=("test/cat/a.png", "test/dog/a.png"),
    )


def test_set_without_parts_has_none(classes):
    assert own_parts(datasets.read(classes)) is None


def test_groups_are_images_whose_names_share_a_part():
    data = named("a/f_1.png", "b/f_2.png", "a/f_3.png", "c.png")
    assert groups_by_name(data, "^(.*)/") == [(0, 2)]
    assert groups_by_name(data, r"f_") == [(0, 1, 2)]
    with pytest.raises(DataError, match="not a regular expression"):
        groups_by_name(data, "(")


def test_large_group_is_cut_into_runs_of_neighbours():
    data = named(*(f"f{at}.png" for at in range(12)))
    groups = cut_large(data, [tuple(range(11)), ()], 4)
    assert groups == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]
    assert cut_large(data, [(0, 11)], 4) == [(0, 11)]


def test_maps_of_classes_are_checked_too(tmp_path):
    saved(tmp_path / "images/a.png", scene(0))
    saved(tmp_path / "images/b.png", scene(1))
    saved(tmp_path / "masks/a.png", np.ones((240, 320), np.uint8))
    found = checked(tmp_path, "semantic")
    assert [line.partition(";")[0] for line in found.faults] == [
        "b.png: the image has no PNG of its name in masks/"
    ]
    assert msgspec.json.encode(found.counts)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.full((240, 320), 255, np.uint8), None),
        (np.full((240, 320), 2, np.uint8), "a pixel has a class that has no name (found 2 of 2"),
        (np.zeros((24, 32), np.uint8), "is of another size (found 32x24, the image is 320x240)"),
        (np.zeros((240, 320, 3), np.uint8), "not the number of a class for each pixel"),
    ],
)
def test_wrong_map_of_classes_is_a_fault(tmp_path, values, fault):
    text(tmp_path / "classes.txt", "sky\nroad\n")
    saved(tmp_path / "images/a.png", scene(0))
    saved(tmp_path / "masks/a.png", values)
    found = checked(tmp_path, "semantic").faults
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
