"""CVAT's files of images and of tracks."""

import pytest

from models import datasets
from models.datasets.base import Clip, DataSet, TrueObject
from models.errors import DataError
from tests.models.datasets.builders import boxes, image, text

META = (
    "<meta><task><size>4</size><mode>{}</mode><labels><label><name>dog</name></label>"
    "<label><name>cat</name></label></labels><source>{}</source></task></meta>"
)
IMAGES = (
    '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
    + META.format("annotation", "")
    + '<image id="0" name="sub/a.jpg" width="100" height="50">{}</image>'
    '<image id="1" name="b.png" width="40" height="30"></image></annotations>'
)
BOX = '<box label="cat" occluded="0" xtl="10" ytl="5" xbr="30" ybr="25.5" {}/>'
POLYGON = '<polygon label="dog" points="10,5;60,20;30,45.5"/>'


def add_images(folder):
    image(folder / "sub/a.jpg")
    image(folder / "b.png", 40, 30)


@pytest.mark.parametrize("give", [".", "annotations.xml"])
@pytest.mark.parametrize("images", [".", "images"])
def test_boxes_and_polygons_of_images_are_read(tmp_path, images, give):
    text(tmp_path / "annotations.xml", IMAGES.format(BOX.format("") + POLYGON + "<points/>"))
    add_images(tmp_path / images)
    data = datasets.read(tmp_path / give)
    assert (data.format, data.task, data.labels) == ("cvat", "detect", ("dog", "cat"))
    assert boxes(data) == {
        "sub/a.jpg": [("cat", (10, 5, 30, 25.5)), ("dog", (10, 5, 60, 45.5))],
        "b.png": [],
    }
    assert data.notes[0].startswith("1 shape is no box, polygon or tag")


def test_rotated_box_becomes_its_hull(tmp_path):
    text(tmp_path / "a.xml", IMAGES.format(BOX.format('rotation="90.0"')))
    add_images(tmp_path)
    # 20 x 20.5 around (20, 15.25)
    assert boxes(datasets.read(tmp_path))["sub/a.jpg"] == [("cat", (9.75, 5.25, 30.25, 25.25))]


def test_tags_are_classes_of_the_image(tmp_path):
    text(tmp_path / "a.xml", IMAGES.format('<tag label="cat" source="manual"/><tag label="emu"/>'))
    add_images(tmp_path)
    data = datasets.read(tmp_path)
    assert (data.task, data.labels) == ("classify", ("dog", "cat", "emu"))
    assert [i.classes for i in data.images] == [(1, 2), ()]


def test_subsets_of_a_project_are_splits(tmp_path):
    content = IMAGES.format("").replace('id="0"', 'id="0" subset="Train"')
    text(tmp_path / "a.xml", content)
    image(tmp_path / "images/Train/sub/a.jpg")
    image(tmp_path / "images/b.png")
    assert [i.name for i in datasets.read(tmp_path, split="train").images] == ["sub/a.jpg"]
    assert len(datasets.read(tmp_path).images) == 2
    with pytest.raises(DataError, match=r"no split 'val' \(found Train\)"):
        datasets.read(tmp_path, split="val")


def key(frame, x, outside=0):
    return (
        f'<box frame="{frame}" xtl="{x}" ytl="0" xbr="{x + 10}" ybr="10" outside="{outside}" '
        'occluded="0" keyframe="1"/>'
    )


def video(*tracks, source="walk.mp4"):
    items = "".join(
        f'<track id="{number}" label="cat">{"".join(keys)}</track>'
        for number, keys in enumerate(tracks)
    )
    return f"<annotations>{META.format('interpolation', source)}{items}</annotations>"


def test_boxes_between_those_of_a_track_are_interpolated(tmp_path):
    content = video([key(0, 0), key(2, 20), key(5, 20, 1)], [key(1, 7)])
    text(tmp_path / "annotations.xml", content)
    text(tmp_path / "walk.mp4", "video")
    data = datasets.read(tmp_path)
    assert (data.task, data.labels) == ("track", ("dog", "cat"))
    [clip] = data.clips
    assert (clip.name, clip.source, clip.frames) == ("walk", tmp_path / "walk.mp4", 4)
    found = {frame: [(i.id, i.box[0]) for i in items] for frame, items in clip.objects.items()}
    assert found == {
        0: [(0, 0)],
        1: [(0, 10), (1, 7)],
        2: [(0, 20)],
        3: [(0, 20)],
        4: [(0, 20)],
    }


def test_frames_of_a_video_may_be_images(tmp_path):
    text(tmp_path / "annotations.xml", video([key(0, 0)]))
    image(tmp_path / "images/frame_000000.png")
    assert datasets.read(tmp_path).clips[0].source == tmp_path / "images"


def test_file_with_several_clips_is_not_written(tmp_path):
    clips = tuple(Clip(text(tmp_path / f"{n}.mp4", "v"), n, {}) for n in "ab")
    data = DataSet(root=tmp_path, format="", task="track", labels=("a",), clips=clips)
    with pytest.raises(DataError, match=r"has one clip \(found 2\)"):
        datasets.write(data, tmp_path / "out", "cvat")


def test_gap_of_a_track_stays_a_gap_when_it_is_written(tmp_path):
    item = TrueObject(0, (1, 2, 3, 4), id=5)
    source = text(tmp_path / "x.mp4", "video")
    objects = {0: (item,), 1: (item,), 4: (item,)}
    clip = Clip(source, "x", objects, 6)
    data = DataSet(root=tmp_path, format="", task="track", labels=("a",), clips=(clip,))
    datasets.write(data, tmp_path / "out", "cvat")
    assert datasets.read(tmp_path / "out").clips[0].objects == objects


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES.format(BOX.format(""))[:-30], "not XML, or only a part of it"),
        ("<!DOCTYPE a><annotations/>", "declares a document type"),
        (IMAGES.format('<box label="cat" xtl="1"/>'), "ytl: not a number"),
        (IMAGES.format('<polygon label="cat" points="1;2"/>'), "points: not x,y;x,y"),
        (IMAGES.replace('width="100"', 'width="w"'), "not a number"),
        (video([key(-1, 0)]), "a frame is out of bounds"),
        (video([key(0, 0), key(0, 5)]), "two in frame 0"),
        (video(*[[key(0, 0), key(5_000_000, 0)]] * 2), "too many boxes"),
        ("<annotation/>", "not a file of CVAT"),
        ("<annotations/>", "no images are listed"),
    ],
)
def test_wrong_file_is_refused_with_the_reason(tmp_path, content, message, monkeypatch):
    monkeypatch.setattr("models.datasets.cvat.MAX_TRACK_BOXES", 1000)
    text(tmp_path / "walk.mp4", "video")
    add_images(tmp_path)
    content = content.replace("5000000", "999")
    with pytest.raises(DataError, match=message):
        datasets.read(text(tmp_path / "annotations.xml", content), "cvat")
