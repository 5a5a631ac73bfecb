"""A data set that is written is read again as it was."""

import string
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import datasets
from models.datasets.base import Clip, DataSet, LabelledImage, TrueObject
from tests.models.datasets.builders import image, small_set, text

SIZES = ((100, 50), (33, 77), (640, 480))
NAMES = st.text("abcXYZ019_- .", min_size=1, max_size=8).map(lambda name: f"n{name}n")
LABELS = st.lists(
    st.text(string.ascii_letters + " <&>\"'é:#{}[],%", min_size=1, max_size=9)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: text and text[0] not in "#{[" and ":" not in text),
    min_size=1,
    max_size=5,
    unique=True,
).filter(lambda labels: "background" not in labels)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Images of each size, and a clip."""
    folder = tmp_path_factory.mktemp("sources")
    paths = {size: image(folder / f"{size[0]}.png", *size) for size in SIZES}
    return {**paths, "clip": text(folder / "c.mp4", "video")}


@st.composite
def objects_in(draw, size, labels, flags, ids=None):
    width, height = size
    found = []
    for number in range(draw(st.integers(0, 4))):
        x1 = draw(st.floats(0, width - 1))
        y1 = draw(st.floats(0, height - 1))
        x2 = draw(st.floats(x1 + 0.5, width))
        y2 = draw(st.floats(y1 + 0.5, height))
        found.append(
            TrueObject(
                draw(st.integers(0, labels - 1)),
                (x1, y1, x2, y2),
                ignored=draw(st.booleans()) if flags else False,
                id=None if ids is None else ids + number,
            )
        )
    return tuple(found)


@st.composite
def detections(draw, sources, flags=False):
    labels = tuple(draw(LABELS))
    images = []
    for name in draw(st.lists(NAMES, max_size=4, min_size=1, unique_by=str.lower)):
        size = draw(st.sampled_from(SIZES))
        folder = draw(st.sampled_from(["", "sub/", "a/b c/"]))
        objects = draw(objects_in(size, len(labels), flags))
        images.append(LabelledImage(sources[size], f"{folder}{name}.png", size, objects))
    return DataSet(root=Path(), format="", task="detect", labels=labels, images=tuple(images))


@st.composite
def classifications(draw, sources):
    words = st.text("abcXYZ019_- ", min_size=1, max_size=8).map(lambda text: f"c{text}c")
    names = words.map(lambda text: " ".join(text.split()))
    labels = tuple(sorted(draw(st.lists(names, min_size=1, max_size=4, unique=True))))
    images = []
    for name in draw(st.lists(NAMES, max_size=4, min_size=1, unique_by=str.lower)):
        size = draw(st.sampled_from(SIZES))
        number = draw(st.integers(0, len(labels) - 1))
        name = f"{labels[number]}/{name}.png"
        images.append(LabelledImage(sources[size], name, size, (), (number,)))
    return DataSet(root=Path(), format="", task="classify", labels=labels, images=tuple(images))


@st.composite
def tracks(draw, sources, labels, flags, names, frames_known):
    clips = []
    for name in draw(names):
        frames = draw(st.lists(st.integers(0, 40), max_size=5, unique=True))
        objects = {n: draw(objects_in((640, 480), len(labels), flags, 0)) for n in frames}
        known = 50 if frames_known else draw(st.none() | st.integers(41, 10**6))
        fps = None if frames_known else draw(st.none() | st.sampled_from([25.0, 29.97, 7.5]))
        objects = {frame: items for frame, items in sorted(objects.items()) if items}
        clips.append(Clip(sources["clip"], name, objects, known, fps))
    clips.sort(key=lambda clip: clip.name)
    return DataSet(root=Path(), format="", task="track", labels=labels, clips=tuple(clips))


def copied(data, format):
    """The data set after it was written and read."""
    with tempfile.TemporaryDirectory() as folder:
        datasets.write(data, Path(folder) / "out", format)
        found = datasets.read(Path(folder) / "out", format)
        sources = {item.name: item.path for item in data.images}
        for item in found.images:
            assert item.path.read_bytes() == sources[item.name].read_bytes()
        return found


def simple(thing, places):
    """An object with rounded sides, and without an area that is only that of its box."""
    x1, y1, x2, y2 = thing.box
    area = thing.area_px
    if area is not None and abs(area - (x2 - x1) * (y2 - y1)) < 0.01 * max(1, area):
        area = None
    return thing.number, thing.ignored, thing.id, area, [round(side, places) for side in thing.box]


def assert_alike(found, data, tolerance=2e-3):
    """Both have the same labels and, in any order of images, the same objects."""
    assert (found.task, found.labels, found.notes) == (data.task, data.labels, ())
    ours = {item.name: item for item in data.images}
    theirs = {item.name: item for item in found.images}
    assert theirs.keys() == ours.keys()
    for name, item in ours.items():
        assert (theirs[name].size, theirs[name].classes) == (item.size, item.classes)
        assert_objects(theirs[name].objects, item.objects, tolerance)
    assert [(c.name, c.frames, c.fps) for c in found.clips] == [
        (c.name, c.frames, c.fps) for c in data.clips
    ]
    for clip, own in zip(found.clips, data.clips, strict=True):
        assert clip.objects.keys() == own.objects.keys()
        for frame, items in own.objects.items():
            by_id = sorted(clip.objects[frame], key=lambda item: item.id)
            assert_objects(by_id, items, tolerance)


def assert_objects(found, expected, tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert simple(one, 0)[:4] == simple(other, 0)[:4]
        assert one.box == pytest.approx(other.box, abs=tolerance)


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize(
    ("format", "flags"),
    [("coco", True), ("voc", True), ("yolo", False), ("cvat", False), ("pennfudan", False)],
)
@given(st.data())
def test_boxes_are_read_as_they_were_written(sources, format, flags, data):
    given_ = data.draw(detections(sources, flags))
    assert_alike(copied(given_, format), given_)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_boxes_of_label_studio_are_read_as_they_were_written(sources, data):
    given_ = data.draw(detections(sources))
    assert_alike(copied(given_, "label_studio"), given_)


@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("format", ["folders", "cvat", "label_studio"])
@given(st.data())
def test_classes_are_read_as_they_were_written(sources, format, data):
    given_ = data.draw(classifications(sources))
    assert_alike(copied(given_, format), given_)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_tracks_of_mot_are_read_as_they_were_written(sources, data):
    labels = data.draw(st.just(("person",)) | LABELS.map(tuple))
    names = st.lists(NAMES.map(str.strip), min_size=1, max_size=3, unique_by=str.lower)
    given_ = data.draw(tracks(sources, labels, True, names, False))
    assert_alike(copied(given_, "mot"), given_)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_tracks_of_cvat_are_read_as_they_were_written(sources, data):
    labels = tuple(data.draw(LABELS))[:1]
    given_ = data.draw(tracks(sources, labels, False, st.just(["walk"]), True))
    assert_alike(copied(given_, "cvat"), given_)


@pytest.mark.parametrize("format", ["yolo", "cvat", "label_studio", "pennfudan"])
def test_ignored_objects_are_left_out_where_they_cannot_be_held(tmp_path, format):
    data = small_set(tmp_path / "source", format)
    [item] = data.images
    things = (*item.objects, TrueObject(0, (1, 1, 9, 9), ignored=True))
    more = msgspec.structs.replace(item, objects=things)
    found = copied(msgspec.structs.replace(data, images=(more,)), format)
    assert_alike(found, data)


def test_images_are_linked_where_they_can_be(tmp_path):
    data = small_set(tmp_path / "source", "coco")
    datasets.write(data, tmp_path / "out", "coco")
    assert (tmp_path / "out/images/dog/a.png").samefile(data.images[0].path)


def test_two_images_whose_labels_share_a_file_are_refused(tmp_path):
    data = small_set(tmp_path / "source", "voc")
    [item] = data.images
    both = (item, msgspec.structs.replace(item, name="dog/a.jpg"))
    for format in ("voc", "yolo"):
        with pytest.raises(datasets.DataError, match="two files of the data set"):
            datasets.write(msgspec.structs.replace(data, images=both), tmp_path / format, format)
