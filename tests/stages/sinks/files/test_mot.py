"""MOTChallenge text: the format, one file per stream, and going on after a crash."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.graph.resources import stream_path
from stages.sinks.files.mot import Mot, MotSettings
from tests.builders import context_of


def frame(seq=0, stream="demo", boxes=((10, 20, 40.5, 80.25),), ids=(3,)):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    arrays = {
        "boxes": boxes,
        "scores": np.full(len(boxes), 0.91, np.float32),
        "classes": np.zeros(len(boxes), np.int32),
    }
    if ids is not None:
        arrays["ids"] = np.asarray(ids, np.int64)
    return Frame.of(stream, seq, **arrays)


def opened(path, streams=("demo",)):
    mot = Mot(MotSettings(path=str(path)), context_of(streams=streams))
    mot.open()
    return mot


def test_a_line_is_frame_from_1_id_corner_size_score_class(tmp_path):
    opened(tmp_path / "out.txt").process(frame(16))
    assert (tmp_path / "out.txt").read_text() == "17,3,10.00,20.00,30.50,60.25,0.9100,0,-1,-1\n"


@pytest.mark.parametrize("ids", [None, (-1,)])
def test_an_object_without_a_track_has_the_id_minus_1(tmp_path, ids):
    opened(tmp_path / "out.txt").process(frame(ids=ids))
    assert (tmp_path / "out.txt").read_text().startswith("1,-1,10.00,")


def test_a_frame_without_objects_has_no_line_and_empties_an_old_file(tmp_path):
    (tmp_path / "out.txt").write_text("before\n")
    opened(tmp_path / "out.txt").process(frame(boxes=(), ids=()))
    assert (tmp_path / "out.txt").read_text() == ""


@pytest.mark.parametrize(
    ("path", "streams", "file"),
    [
        ("out.txt", ["yard"], "out.txt"),
        ("out.txt", ["yard", "door"], "out-yard.txt"),
        ("out.txt", ["door"], "out-yard.txt"),
        ("a.b/out", ["yard", "door"], "a.b/out-yard"),
        ("{stream}.txt", ["yard"], "yard.txt"),
        ("{stream}/{stream}.txt", ["yard", "door"], "yard/yard.txt"),
    ],
)
def test_each_stream_has_a_file(path, streams, file):
    assert stream_path(Path(path), "yard", streams) == Path(file)


def test_streams_do_not_mix(tmp_path):
    mot = opened(tmp_path / "{stream}" / "out.txt", ("a", "b"))
    mot.process(frame(0, "a", ids=(1,)))
    mot.process(frame(0, "b", ids=(2,)))
    mot.process(frame(1, "a", ids=(1,)))
    assert [len((tmp_path / s / "out.txt").read_text().splitlines()) for s in "ab"] == [2, 1]


@pytest.mark.parametrize("died_after", range(4))
def test_after_a_crash_the_files_are_as_without_it(tmp_path, died_after):
    frames = [frame(seq // 2, "ab"[seq % 2], ids=(seq,)) for seq in range(4)]
    whole = opened(tmp_path / "whole.txt", ("a", "b"))
    for given in frames:
        whole.process(given)

    saved = {}
    first = opened(tmp_path / "out.txt", ("a", "b"))
    for index, given in enumerate(frames[: died_after + 1]):
        first.process(given)
        if index < died_after:
            saved[given.stream] = first.state(given.stream)
    first.close()  # as the system does with the files of a dead process
    second = opened(tmp_path / "out.txt", ("a", "b"))
    for stream, state in saved.items():
        second.restore(stream, state)
    for given in frames[died_after:]:
        second.process(given)
    for stream in "ab":
        second.end(stream)
        expected = (tmp_path / f"whole-{stream}.txt").read_bytes()
        assert (tmp_path / f"out-{stream}.txt").read_bytes() == expected


def test_a_stream_without_frames_leaves_an_empty_file(tmp_path):
    (tmp_path / "out.txt").write_text("before\n")
    opened(tmp_path / "out.txt").end("demo")
    assert (tmp_path / "out.txt").read_text() == ""


def test_standard_output_is_refused():
    with pytest.raises(SetupError, match="a file per stream"):
        Mot.resolve(MotSettings(path="-"))


def test_the_folders_of_streams_are_made_on_opening_and_not_by_a_check(tmp_path):
    settings = MotSettings(path=str(tmp_path / "runs" / "{stream}" / "out.txt"))
    Mot.resolve(settings)
    assert list(tmp_path.iterdir()) == []
    mot = Mot(settings, context_of(streams=("a", "b")))
    mot.open()
    mot.close()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "b"]
