"""MOTChallenge sequences, and text files beside clips."""

import numpy as np
import pytest

from models import datasets
from models.datasets.base import TrueObject
from models.errors import DataError
from tests.models.datasets.builders import image, text

MOT17 = """\
1,1,10.5,20,30,40,1,1,0.9
1,2,50,20,10,10,0,8,1
1,3,50,20,10,10,0,3,1
1,4,50,20,10,10,0,1,1
3,1,12,20,30,40,1,1,0.5
"""
MOT15 = "1,1,10,20,30,40,1,-1,-1,-1\n2,1,11,20,30,40,1,2.0,8.0,0\n2,2,1,2,3,4,0,-1,-1,-1\n"
INFO = "[Sequence]\nname=S\nimDir=img1\nframeRate=25\nseqLength=3\nimWidth=100\nimHeight=50\n"


def sequence(folder, content=MOT17):
    text(folder / "gt/gt.txt", content)
    text(folder / "seqinfo.ini", INFO)
    for number in (1, 2, 3):
        image(folder / f"img1/{number:06}.jpg")


def test_sequence_is_read_as_trackeval_takes_it(tmp_path):
    sequence(tmp_path / "S")
    data = datasets.read(tmp_path / "S")
    assert (data.format, data.task, data.labels) == ("mot", "track", ("person",))
    [clip] = data.clips
    assert (clip.name, clip.frames, clip.fps) == ("S", 3, 25)
    assert clip.source == tmp_path / "S/img1"
    # Frames count from 0; boxes are not shifted; class 8 is neither right nor wrong.
    assert clip.objects == {
        0: (
            TrueObject(0, (10.5, 20, 40.5, 60), id=1),
            TrueObject(0, (50, 20, 60, 30), ignored=True, id=2),
        ),
        2: (TrueObject(0, (12, 20, 42, 60), id=1),),
    }
    assert data.notes == (
        "2 lines are not of pedestrians, or have flag 0, and are left out (first: S)",
    )


def test_columns_of_mot15_after_the_flag_are_no_class(tmp_path):
    sequence(tmp_path / "S", MOT15)
    [clip] = datasets.read(tmp_path / "S").clips
    assert {frame: [item.id for item in items] for frame, items in clip.objects.items()} == {
        0: [1],
        1: [1],
    }


@pytest.mark.parametrize("benchmark", ["MOT15", "MOT17"])
def test_counted_boxes_are_those_of_trackeval(tmp_path, benchmark, rng):
    from trackeval.datasets import MotChallenge2DBox

    rows = []
    for frame in range(1, 21):
        for id in range(1, 9):
            x, y, w, h = rng.uniform(1, 90, 4).round(2)
            flag, kind = rng.integers(0, 2), rng.integers(1, 13)
            rest = "-1,-1,-1" if benchmark == "MOT15" else f"{kind},1"
            rows.append(f"{frame},{id},{x},{y},{w},{h},{flag},{rest}")
    sequence(tmp_path / "gt" / "S", "\n".join(rows))
    text(tmp_path / "trackers/t/data/S.txt", "1,1,1,1,1,1,1,-1,-1,-1\n")
    other = MotChallenge2DBox(
        {
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "trackers"),
            "BENCHMARK": benchmark,
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": {"S": 20},
            "PRINT_CONFIG": False,
        }
    )
    raw = other.get_raw_seq_data("t", "S")
    expected = other.get_preprocessed_seq_data(raw, "pedestrian")["gt_dets"]
    [clip] = datasets.read(tmp_path / "gt").clips
    for frame in range(20):
        items = clip.objects.get(frame, ())
        own = [i.box for i in items if not i.ignored]
        theirs = np.array(expected[frame]).reshape(-1, 4)
        theirs[:, 2:] += theirs[:, :2]
        np.testing.assert_allclose(np.reshape(own, (-1, 4)), theirs)
        neutral = np.isin(raw["gt_classes"][frame], (2, 7, 8, 12))
        assert sum(item.ignored for item in items) == np.sum(neutral)


def test_folder_of_sequences_may_have_splits(tmp_path):
    sequence(tmp_path / "train/B")
    sequence(tmp_path / "train/A")
    assert [clip.name for clip in datasets.read(tmp_path / "train").clips] == ["A", "B"]
    assert [clip.name for clip in datasets.read(tmp_path, split="train").clips] == ["A", "B"]
    with pytest.raises(DataError, match=r"no split 'test' \(found train\)"):
        datasets.read(tmp_path, split="test")


@pytest.mark.parametrize("end", [".txt", "-gt.txt"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_text_beside_a_clip_is_read(tmp_path, end, suffix):
    clip = text(tmp_path / f"walk{suffix}", "video")
    text(tmp_path / f"walk{end}", MOT15)
    text(tmp_path / "README.txt", "no objects")
    for path in (tmp_path, clip, tmp_path / f"walk{end}"):
        [found] = datasets.read(path).clips
        assert (found.name, found.source, len(found.objects)) == ("walk", clip, 2)


def test_clip_without_objects_is_read_with_the_others(tmp_path):
    for name, content in (("a", MOT15), ("b", "")):
        text(tmp_path / f"{name}.mp4", "video")
        text(tmp_path / f"{name}.txt", content)
    assert [len(clip.objects) for clip in datasets.read(tmp_path).clips] == [2, 0]


def test_missing_clips_are_counted_and_all_missing_refused(tmp_path):
    text(tmp_path / "a.txt", MOT15)
    text(tmp_path / "b.txt", MOT15)
    with pytest.raises(DataError, match=r"found none of 2, first a, in img1/"):
        datasets.read(tmp_path)
    text(tmp_path / "b.mp4", "video")
    data = datasets.read(tmp_path)
    assert [clip.name for clip in data.clips] == ["b"]
    assert data.notes[0].startswith("1 clip has no video or images")


def test_labels_of_cvat_name_the_classes(tmp_path):
    sequence(tmp_path / "S", "1,1,1,2,3,4,1,2,1\n1,2,1,2,3,4,0,1,1\n")
    text(tmp_path / "S/gt/labels.txt", "car\nbus\n")
    data = datasets.read(tmp_path / "S")
    assert data.labels == ("car", "bus")
    assert [(i.number, i.ignored) for i in data.clips[0].objects[0]] == [(1, False), (0, True)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,1,1,2,3,4,1,1,1", r"line 1: frames count from 1 \(found 0\)"),
        ("99999999999,1,1,2,3,4,1,1,1", "frames count from 1"),
        ("1,1,1,2,3", "line 1: not frame, id, x, y, w, h"),
        ("1,1,x,2,3,4,1,1,1", "line 1: not a number"),
        ("1.5,1,1,2,3,4,1,1,1", "line 1: not an integer"),
        ("1,1,1,2,3,4,1,1,1\n1,1,5,6,7,8,1,1,1", r"line 2: an id is twice in a frame \(found 1\)"),
    ],
)
def test_wrong_line_is_refused_with_its_place(tmp_path, content, message):
    sequence(tmp_path / "S", content)
    with pytest.raises(DataError, match=message):
        datasets.read(tmp_path / "S", "mot")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("seqLength=3", "not a file of settings"),
        ("[Sequence]\nseqLength=many", "seqLength: not a number"),
        ("[Sequence]\nseqLength=-1", "out of bounds"),
        ("[Sequence]\nframeRate=nan", "out of bounds"),
        ("[Sequence]\nimDir=../../etc", "leaves the data set"),
    ],
)
def test_wrong_seqinfo_is_refused(tmp_path, info, message):
    sequence(tmp_path / "S")
    text(tmp_path / "S/seqinfo.ini", info)
    with pytest.raises(DataError, match=message):
        datasets.read(tmp_path / "S")


def test_boxes_without_area_are_left_out_and_others_not_clipped(tmp_path):
    content = "1,1,1,2,0,4,1,1,1\n1,2,nan,2,3,4,1,1,1\n1,3,-10,-20,500,400,1,1,1\n"
    sequence(tmp_path / "S", content)
    data = datasets.read(tmp_path / "S")
    assert [i.box for i in data.clips[0].objects[0]] == [(-10, -20, 490, 380)]
    assert data.notes[0].startswith("2 boxes have no area")
