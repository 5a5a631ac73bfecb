"""Clips: what is in the video, the picture and the report of an event, and what else may happen."""

import functools
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.errors import EndRun, SetupError
from pipeline.frame import Frame
from stages.sinks.clips import clips
from stages.sinks.clips.clip import stamp
from stages.sinks.clips.clips import Clips
from stages.sinks.clips.folder import LOCK, root_of
from stages.sinks.clips.settings import ClipsSettings
from stages.sinks.video.video_file import CODECS
from tests.builders import context_of
from tests.processes.runs import CLIP, ROOT, Run, wait_until

pytestmark = pytest.mark.live

FPS = 10
NOW_NS = time.time_ns() // 10**9 * 10**9
"""A whole second, at which every stream begins."""
PERSON, CAR = 0, 1
BOX = (300, 200, 360, 320)
DAY_NS = 86_400 * 10**9


@functools.cache
def demo():
    """The pictures of the demonstration clip."""
    capture = cv2.VideoCapture(str(CLIP))
    pictures = []
    while (picture := capture.read())[0]:
        picture[1].flags.writeable = False
        pictures.append(picture[1])
    assert len(pictures) == 300
    return pictures


def frame(seq, *objects, stream="demo", fps=FPS, image=None, time_s=None):
    """The picture of the demonstration clip of this number; objects are (id, class, score)."""
    time_s = seq / fps if time_s is None else time_s
    made = Frame.of(
        stream,
        seq,
        time_s,
        image=demo()[seq % 300] if image is None else image,
        boxes=np.array([BOX] * len(objects), np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score in objects], np.float32),
        classes=np.array([number for _, number, _ in objects], np.int32),
        ids=np.array([-1 if id is None else id for id, _, _ in objects], np.int64),
    )
    made.header.wall_ns = NOW_NS + round(time_s * 1e9)
    return made


def person(id=1, score=0.9):
    return id, PERSON, score


@pytest.fixture
def opened(tmp_path):
    """Opens sinks, and closes them after the test. They write into `tmp_path`."""
    sinks = []

    def make(folder=tmp_path / "clips", live=False, streams=("demo",), **settings):
        # Not a whole number of frames, as then it would be for rounding to decide.
        given = {"before_s": 2, "after_s": 0.95, "annotate": False, "width": 384} | settings
        context = context_of(streams=streams, labels=("person", "car"), live=live)
        sink = Clips(ClipsSettings(folder=str(folder), **given), context)
        sink.resolve(sink.settings)
        sinks.append(sink)
        sink.open()
        return sink

    yield make
    for sink in sinks:
        sink.close()


def event(sink, frames, present, **options):
    """Process frames, with a person in some of them."""
    for seq in frames:
        sink.process(frame(seq, *([person()] if seq in present else []), **options))


def reports(folder):
    """What the reports say, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("[!.]*.json"))]


def read(path):
    """Pictures and frames per second of a video."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), path
    pictures = []
    while (picture := capture.read())[0]:
        pictures.append(picture[1])
    return pictures, capture.get(cv2.CAP_PROP_FPS)


def number_of(picture):
    """Which of the pictures of the demonstration clip it is most like."""
    return int(np.argmin(np.abs(_all_small() - _small(picture)).mean((1, 2))))


def _small(picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, (96, 72), interpolation=cv2.INTER_AREA).astype(np.int16)


@functools.cache
def _all_small():
    return np.stack([_small(picture) for picture in demo()])


def files(folder):
    """All there is, but for what keeps others out."""
    return sorted(p.name for p in Path(folder).rglob("*") if p.is_file() and p.name != LOCK)


# --- what is in a clip ---


def test_an_event_is_recorded_with_the_seconds_before_and_after_it(opened, tmp_path):
    sink = opened()
    event(sink, range(150), range(80, 110))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, fps = read(tmp_path / "clips" / report["video"])
    assert fps == pytest.approx(10)
    # Two seconds before frame 80, and until no one had been seen for 0.95 s after 109.
    first, last = 60, 119
    assert len(pictures) == last - first + 1
    numbers = [number_of(picture) for picture in pictures]
    assert numbers == list(range(first, last + 1))


def test_the_report_says_who_was_there_and_when(opened, tmp_path):
    sink = opened()
    for seq in range(60):
        seen = [person(1, 0.5 + seq / 100)] if 20 <= seq < 40 else []
        seen += [person(7, 0.8)] if 25 <= seq < 27 else []  # too short to have been there
        seen += [(None, CAR, 0.7)] if 30 <= seq < 35 else []
        sink.process(frame(seq, *seen))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    stem = f"{stamp(NOW_NS)}_demo"
    assert report == {
        "stream": "demo",
        "video": f"{stem}.mp4",
        "snapshot": f"{stem}.jpg",
        "started_at": report["started_at"],
        "ended_at": report["ended_at"],
        "start_s": 0.0,
        "end_s": 4.9,
        "first_frame": 0,
        "last_frame": 49,
        "snapshot_frame": 39,
        "pictures": 50,
        "fps": 10.0,
        "lost": 0,
        "cut": False,
        "width": 768,
        "height": 576,
        "objects": [
            {
                "id": 1,
                "label": "person",
                "class": 0,
                "score": 0.89,
                "box": list(BOX),
                "from_s": 2.0,
                "to_s": 3.9,
            },
            {
                "id": None,
                "label": "car",
                "class": 1,
                "score": 0.7,
                "box": list(BOX),
                "from_s": 3.0,
                "to_s": 3.4,
            },
        ],
    }
    assert report["started_at"].endswith(":00.000Z") == (NOW_NS // 10**9 % 60 == 0)
    assert report["started_at"][:4] == stem[:4]
    assert report["ended_at"] > report["started_at"]
    assert files(tmp_path / "clips") == [f"{stem}{ending}" for ending in (".jpg", ".json", ".mp4")]


def test_boxes_are_drawn_into_video_and_snapshot_when_asked_for(opened, tmp_path):
    sink = opened(annotate=True, width=768)
    event(sink, range(40), range(20, 30))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, _ = read(tmp_path / "clips" / report["video"])
    snapshot = cv2.imread(str(tmp_path / "clips" / report["snapshot"]))
    x1, y1, _, y2 = BOX

    def drawn(picture, seq):
        """How far the line of the box is from the picture that was captured."""
        difference = cv2.absdiff(picture, demo()[seq]).astype(int)
        return difference[y1 + 5 : y2 - 5, x1].sum(1).mean()

    assert drawn(pictures[20], 20) > 100
    assert drawn(snapshot, report["snapshot_frame"]) > 100
    assert drawn(pictures[19], 19) < 60
    assert number_of(snapshot) == report["snapshot_frame"]


def test_the_snapshot_shows_the_surest_sight_of_who_appeared(opened, tmp_path):
    sink = opened(longest_s=3)
    for seq in range(60):
        # The car was there before, and has been recorded; it is of no interest any more.
        sink.process(frame(seq, (5, CAR, 0.99)))
    for seq in range(60, 120):
        seen = [person(1, 0.9 if seq == 85 else 0.6)] if 80 <= seq < 90 else []
        sink.process(frame(seq, (5, CAR, 0.99), *seen))
    sink.end("demo")
    sink.close()
    assert [report["snapshot_frame"] for report in reports(tmp_path / "clips")][-1] == 85


def test_without_a_snapshot_there_is_none(opened, tmp_path):
    sink = opened(snapshot=False)
    event(sink, range(40), range(20, 30))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    assert (report["snapshot"], report["snapshot_frame"]) == (None, None)
    assert [Path(name).suffix for name in files(tmp_path / "clips")] == [".json", ".mp4"]


@pytest.mark.parametrize("container", [ending.removeprefix(".") for ending in CODECS])
def test_every_container_can_be_read_back(opened, tmp_path, container):
    sink = opened(container=container)
    event(sink, range(30), range(10, 15))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, fps = read(tmp_path / "clips" / report["video"])
    assert report["video"].endswith(container)
    assert fps == pytest.approx(10)
    assert [number_of(picture) for picture in pictures] == list(range(25))


def test_a_video_of_few_pictures_a_second_lasts_as_long(opened, tmp_path):
    sink = opened(fps=5)
    event(sink, range(200), range(100, 150), fps=25)
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, fps = read(tmp_path / "clips" / report["video"])
    assert fps == pytest.approx(5)
    # From 2 s to 6.9 s, as far as a picture of each 0.2 s can tell.
    assert report["end_s"] - report["start_s"] == pytest.approx(4.9, abs=0.4)
    assert len(pictures) / fps == pytest.approx(4.9, abs=0.2)
    assert report["pictures"] == len(pictures)


def test_a_gap_in_the_stream_is_a_gap_in_the_video(opened, tmp_path):
    sink = opened()
    event(sink, [*range(20), *range(28, 50)], range(15, 40))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, _ = read(tmp_path / "clips" / report["video"])
    assert [number_of(picture) for picture in pictures] == [*range(20), *[19] * 8, *range(28, 50)][
        : len(pictures)
    ]
    assert len(pictures) == 50


def test_wide_pictures_are_halved_and_boxes_with_them(opened, tmp_path):
    sink = opened(width=500, annotate=True)
    event(sink, range(40), range(20, 30))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, _ = read(tmp_path / "clips" / report["video"])
    assert pictures[0].shape == (288, 384, 3)
    assert (report["width"], report["height"]) == (768, 576)
    assert report["objects"][0]["box"] == list(BOX)
    plain = cv2.resize(demo()[25], (384, 288), interpolation=cv2.INTER_AREA)
    x1, y1, _, y2 = (side // 2 for side in BOX)
    line = cv2.absdiff(pictures[25], plain).astype(int)[y1 + 5 : y2 - 5, x1]
    assert line.sum(1).mean() > 100


@pytest.mark.parametrize("size", [(575, 767), (101, 33), (2160, 3840)])
def test_pictures_of_any_size_make_a_clip(opened, tmp_path, size):
    sink = opened(before_s=0, width=1920)
    image = cv2.resize(demo()[0], size[::-1])
    for seq in range(4):
        sink.process(frame(seq, person(), image=image))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    assert len(read(tmp_path / "clips" / report["video"])[0]) == 4


def test_a_picture_that_changes_its_size_is_fitted_in(opened, tmp_path):
    sink = opened()
    for seq in range(20):
        image = demo()[seq] if seq < 10 else cv2.resize(demo()[seq], (384, 288))
        sink.process(frame(seq, person(), image=image))
    sink.close()
    (report,) = reports(tmp_path / "clips")
    pictures, _ = read(tmp_path / "clips" / report["video"])
    assert [number_of(picture) for picture in pictures] == list(range(20))


# --- when a clip begins and ends ---


@pytest.mark.parametrize(("again", "count"), [(35, 1), (45, 2)])
def test_who_comes_back_soon_is_in_the_same_clip(opened, tmp_path, again, count):
    sink = opened()
    event(sink, range(80), {*range(20, 30), *range(again, again + 10)})
    sink.close()
    assert len(reports(tmp_path / "clips")) == count


def test_nothing_is_recorded_of_what_is_of_no_interest(opened, tmp_path):
    sink = opened(labels=("person",))
    for seq in range(30):
        sink.process(frame(seq, (1, CAR, 0.9), *([person(2)] if 10 <= seq < 12 else [])))
    sink.end("demo")
    sink.close()
    assert files(tmp_path / "clips") == []


def test_the_end_of_a_stream_ends_its_clip_at_once(opened, tmp_path):
    sink = opened()
    event(sink, range(20), range(10, 20))
    sink.end("demo")
    (report,) = reports(tmp_path / "clips")  # written, as a file's stream waits for it
    assert report["last_frame"] == 19


def test_a_clip_that_is_too_long_is_cut_and_the_next_has_another_object(opened, tmp_path):
    sink = opened(longest_s=3)
    for seq in range(150):
        seen = [person(1)] if seq >= 30 else []
        sink.process(frame(seq, *seen, *([person(2)] if seq >= 100 else [])))
    sink.end("demo")
    first, second = reports(tmp_path / "clips")
    assert (first["first_frame"], first["last_frame"], first["cut"]) == (10, 39, True)
    assert (second["first_frame"], second["last_frame"], second["cut"]) == (80, 109, True)
    assert [seen["id"] for seen in first["objects"]] == [1]
    assert [seen["id"] for seen in second["objects"]] == [2]


def test_two_clips_in_a_row_share_no_picture(opened, tmp_path):
    sink = opened(longest_s=3, before_s=5)
    for seq in range(60):
        seen = [person(1)] if seq >= 10 else []
        sink.process(frame(seq, *seen, *([person(2)] if seq >= 35 else [])))
    sink.end("demo")
    first, second = reports(tmp_path / "clips")
    assert (first["first_frame"], first["last_frame"]) == (0, 29)
    assert (second["first_frame"], second["last_frame"]) == (30, 59)


def test_streams_have_clips_of_their_own(opened, tmp_path):
    sink = opened(folder=tmp_path / "clips" / "{stream}", streams=("yard", "street"))
    for seq in range(40):
        sink.process(frame(seq, *([person()] if seq >= 20 else []), stream="yard"))
        sink.process(frame(seq + 100, *([person()] if seq >= 30 else []), stream="street"))
    sink.end("street")
    sink.end("yard")
    (yard,) = reports(tmp_path / "clips" / "yard")
    (street,) = reports(tmp_path / "clips" / "street")
    assert (yard["stream"], yard["first_frame"]) == ("yard", 0)
    assert (street["stream"], street["first_frame"]) == ("street", 110)
    pictures, _ = read(tmp_path / "clips" / "street" / street["video"])
    assert number_of(pictures[0]) == 110


def test_a_stream_whose_time_jumps_back_goes_on_in_a_new_clip(opened, tmp_path):
    sink = opened()
    for seq in range(30):
        sink.process(frame(seq, person(), time_s=100 + seq / 10))
    for seq in range(30, 40):
        made = frame(seq, person(), time_s=(seq - 30) / 10)
        made.header.wall_ns = NOW_NS + 103 * 10**9 + seq
        sink.process(made)
    sink.end("demo")
    first, second = reports(tmp_path / "clips")
    assert (first["first_frame"], first["last_frame"]) == (0, 29)
    assert (second["first_frame"], second["last_frame"]) == (30, 39)
    assert second["objects"][0]["id"] == 1


def test_a_stream_that_falls_silent_leaves_no_clip_open(opened, tmp_path, monkeypatch):
    sink = opened()
    event(sink, range(20), range(10, 20))
    sink.idle()
    assert reports(tmp_path / "clips") == []
    monkeypatch.setattr(clips, "GAP_S", 0.0)
    sink.idle()
    wait_until(lambda: reports(tmp_path / "clips"))
    monkeypatch.setattr(clips, "GAP_S", 30.0)
    event(sink, range(20, 30), range(20, 30))
    sink.end("demo")
    _, second = reports(tmp_path / "clips")
    assert (second["first_frame"], second["last_frame"]) == (20, 29)


# --- bounds ---


def test_what_waits_in_memory_is_bounded_and_too_little_is_said(opened, caplog):
    sink = opened(memory_bytes=2_000_000, before_s=10, streams=("a", "b"))
    with caplog.at_level(logging.WARNING):
        for seq in range(60):
            for stream in ("a", "b"):
                sink.process(frame(seq, stream=stream))
                kept = [s.kept for s in sink._streams.values()]
                size = sum(len(picture.jpeg) for pictures in kept for picture in pictures)
                assert size <= 2_000_000
                assert size == sum(s.kept_bytes for s in sink._streams.values())
    assert all(len(pictures) > 3 for pictures in kept)
    assert len(caplog.messages) == 1
    words = r"stages\.stage: memory_bytes is too small for 10 s before an event \(found room for"
    assert re.match(words, caplog.messages[0])


def test_no_more_is_kept_than_an_event_needs(opened):
    sink = opened(before_s=2)
    event(sink, range(100), ())
    (stream,) = sink._streams.values()
    assert len(stream.kept) == pytest.approx((2 + clips.MAX_APPEARANCE_S) * FPS, abs=1)


def test_a_live_stream_that_is_too_fast_loses_images_which_are_counted(opened, tmp_path):
    sink = opened(live=True, memory_bytes=1_000_000, before_s=0, width=768)
    taken = 100
    most = 0
    for seq in range(taken):
        sink.process(frame(seq, person()))
        most = max(most, sink._recorder.waiting_bytes)
    sink.end("demo")
    sink.close()
    (report,) = reports(tmp_path / "clips")
    assert most <= 1_000_000 + 100_000 * 3  # the first pictures are handed over at once
    assert report["lost"] > 0
    pictures, _ = read(tmp_path / "clips" / report["video"])
    # Each picture that was not lost is there, the others are stood in for.
    assert len(pictures) == report["last_frame"] - report["first_frame"] + 1
    assert len({number_of(picture) for picture in pictures}) + report["lost"] == taken


def test_a_recorded_stream_waits_and_loses_nothing(opened, tmp_path):
    sink = opened(live=False, memory_bytes=1_000_000, before_s=0, width=768)
    event(sink, range(60), range(60))
    sink.end("demo")
    (report,) = reports(tmp_path / "clips")
    assert report["lost"] == 0
    pictures, _ = read(tmp_path / "clips" / report["video"])
    assert [number_of(picture) for picture in pictures] == list(range(60))


def test_a_run_that_is_to_end_waits_no_longer_than_it_may(opened, tmp_path, monkeypatch):
    def stop():
        raise EndRun

    monkeypatch.setattr(clips, "CLOSE_S", 0.0)
    sink = opened(live=False, before_s=0, width=768)
    event(sink, range(60), range(60))
    sink.beat = stop
    sink.end("demo")
    sink.close()
    (report,) = reports(tmp_path / "clips")
    assert report["lost"] > 0
    assert len(read(tmp_path / "clips" / report["video"])[0]) == report["pictures"] > 0


# --- disk ---


@contextmanager
def largest_file(size):
    """No file of this process may become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; False if this user may not make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    made = os.getuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", [0, 5_000, 20_000])
def test_a_clip_that_cannot_be_written_is_dropped_and_the_next_attempted(
    opened, tmp_path, caplog, size
):
    sink = opened()
    with caplog.at_level(logging.WARNING):
        with largest_file(size):
            for start in (0, 40, 80):
                event(sink, range(start, start + 40), range(start + 20, start + 25))
                wait_until(lambda: sink._recorder.is_idle)
        assert files(tmp_path / "clips") == []
        lost = [message for message in caplog.messages if "is lost" in message]
        assert len(lost) == 1, "said once, and not for each clip"
        assert lost[0].startswith("stages.stage: a clip of demo is lost: ")
        event(sink, range(120, 160), range(140, 145))
        wait_until(lambda: sink._recorder.is_idle)
    assert caplog.messages[-1] == "stages.stage: clips are written again; 3 were lost"
    (report,) = reports(tmp_path / "clips")
    assert number_of(read(tmp_path / "clips" / report["video"])[0][0]) == 120


def test_a_full_disk_costs_clips_and_nothing_else(opened, tmp_path, caplog):
    with small_disk(tmp_path / "disk", 40 << 20) as made:
        # Where no disk can be made, a limit has to do.
        filler = tmp_path / "disk" / "filler"
        sink = opened(folder=tmp_path / "disk" / "clips")
        event(sink, range(50), range(20, 30))
        wait_until(lambda: sink._recorder.is_idle)
        with largest_file(resource.RLIM_INFINITY if made else 0), caplog.at_level(logging.WARNING):
            if made:
                filler.write_bytes(bytes(30 << 20))
            event(sink, range(60, 110), range(80, 90))
            wait_until(lambda: sink._recorder.is_idle)
        assert "is lost: " in caplog.messages[0]
        assert ("are left on the disk" in caplog.messages[0]) == made
        filler.unlink(missing_ok=True)
        event(sink, range(120, 170), range(140, 150))
        sink.close()
        found = reports(tmp_path / "disk" / "clips")
        assert [report["first_frame"] for report in found] == [0, 120]
        names = [report[kind] for report in found for kind in ("snapshot", "video")]
        names += [f"{Path(report['video']).stem}.json" for report in found]
        assert files(tmp_path / "disk" / "clips") == sorted(names)


def old_clip(folder, age_days, stream="demo", size=1000):
    """Files of a clip of that age; its stem."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{stamp(time.time_ns() - round(age_days * DAY_NS))}_{stream}"
    for ending in (".mp4", ".jpg", ".json"):
        (folder / (stem + ending)).write_bytes(bytes(size))
    return stem


def stems(folder):
    return sorted({Path(name).stem for name in files(folder) if name.endswith(".mp4")})


def test_clips_that_are_too_old_are_deleted(opened, tmp_path):
    folder = tmp_path / "clips"
    ages = {age: old_clip(folder, age) for age in (40, 31, 29, 1)}
    opened(folder=folder)
    wait_until(lambda: len(stems(folder)) == 2)
    assert stems(folder) == sorted((ages[29], ages[1]))
    assert len(files(folder)) == 6


def test_the_oldest_clips_are_deleted_when_there_are_too_many(opened, tmp_path):
    folder = tmp_path / "clips"
    kept = [old_clip(folder, age, size=1_100_000) for age in (5, 4, 3, 2)]
    sink = opened(folder=folder, keep_bytes=10_000_000)
    wait_until(lambda: len(stems(folder)) == 3)
    assert stems(folder) == sorted(kept[1:])
    event(sink, range(50), range(20, 45))
    sink.end("demo")
    sink.close()
    total = sum((folder / name).stat().st_size for name in files(folder))
    assert total <= 10_000_000
    (report,) = (r for r in map(_parsed, folder.glob("*.json")) if r)
    assert stems(folder) == sorted([*kept[2:], Path(report["video"]).stem])


def _parsed(path):
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def test_a_bound_is_for_all_streams_together(opened, tmp_path):
    folder = tmp_path / "clips"
    old_clip(folder / "gone", 5, "gone", size=2_000_000)
    newer = old_clip(folder / "yard", 4, "yard", size=2_000_000)
    opened(folder=folder / "{stream}", keep_bytes=10_000_000)
    wait_until(lambda: stems(folder) == [newer])


def test_nothing_but_clips_is_deleted(opened, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    others = ["notes.txt", "holiday.mp4", "20200101_demo.mp4", ".20200101_demo.mp4", "a.json"]
    others += [".hidden.json", "20200101T000000.000Z_demo.txt"]
    for name in others:
        (folder / name).write_bytes(b"precious")
    gone = old_clip(folder, 400)
    opened(folder=folder)
    wait_until(lambda: not any(name.startswith(gone) for name in files(folder)))
    assert files(folder) == sorted(others)


def test_a_folder_has_one_who_writes(opened, tmp_path):
    first = opened()
    with pytest.raises(SetupError, match=r"another run writes its clips into '.*clips'"):
        opened()
    first.close()
    opened()


# --- crashes ---

KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.builders import context_of
from tests.stages.sinks.clips.test_clips import Clips, ClipsSettings, event, person, frame
context = context_of(streams=("demo",), labels=("person", "car"), live=True)
sink = Clips(ClipsSettings(folder={folder!r}, before_s=2, after_s=0.95), context)
sink.open()
event(sink, range(50), range(20, 30))
for seq in range(60, 300):
    sink.process(frame(seq, person(2)))
    if seq == 100:
        sys.stdout.buffer.write(sink.state("demo"))
        sys.stdout.flush()
        sys.stdin.readline()
"""


def killed(folder):
    """The state of a sink that was killed while it wrote its second clip."""
    script = KILLED.format(root=str(ROOT), folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        state = os.read(process.stdout.fileno(), 1 << 16)
        wait_until(lambda: len(reports(folder)) == 1)
        wait_until(lambda: any(path.stat().st_size for path in folder.glob(".*.mp4")))
        process.send_signal(signal.SIGKILL)
    return state


def test_after_a_crash_no_half_clip_is_left_and_the_event_goes_on(opened, tmp_path):
    folder = tmp_path / "clips"
    state = killed(folder)
    assert list(folder.glob(".*.mp4"))
    assert len(stems(folder)) == 1 + len(list(folder.glob(".*.mp4")))

    sink = opened(folder=folder)
    assert not list(folder.glob(".*.mp4"))
    sink.restore("demo", state)
    for seq in range(101, 120):
        sink.process(frame(seq, person(2)))
    sink.end("demo")
    sink.close()
    # The two processes have begun at times of their own.
    found = sorted(reports(folder), key=lambda report: report["first_frame"])
    assert [(report["first_frame"], report["last_frame"]) for report in found] == [
        (0, 39),
        (101, 119),
    ]
    assert found[1]["objects"][0]["id"] == 2
    for report in found:
        assert len(read(folder / report["video"])[0]) == report["pictures"]


def test_after_a_crash_who_was_recorded_is_not_recorded_again(opened, tmp_path):
    sink = opened(longest_s=2)
    event(sink, range(50), range(50))
    state = sink.state("demo")
    sink.close()
    assert len(reports(tmp_path / "clips")) == 1
    again = opened(longest_s=2)
    again.restore("demo", state)
    event(again, range(50, 80), range(50, 80))
    again.end("demo")
    again.close()
    assert len(reports(tmp_path / "clips")) == 1


@pytest.mark.parametrize("renamed", [(), (".mp4",), (".mp4", ".jpg")])
def test_a_clip_that_was_whole_when_the_crash_came_is_kept(opened, tmp_path, renamed):
    sink = opened()
    event(sink, range(50), range(20, 30))
    sink.close()
    folder = tmp_path / "clips"
    before = files(folder)
    for name in before:
        if Path(name).suffix not in renamed:
            (folder / name).rename(folder / f".{name}")
    opened()
    assert files(folder) == before


def test_a_report_that_is_half_does_not_count(opened, tmp_path):
    sink = opened()
    event(sink, range(50), range(20, 30))
    sink.close()
    folder = tmp_path / "clips"
    for name in files(folder):
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f".{name}").write_bytes(data[: len(data) // 2] if "json" in name else data)
    opened()
    assert files(folder) == []


GRAPH = """\
streams:
  demo: {{source: {source}, mode: live}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  ids:     {{use: "tests.processes.stages:Ids"}}
  events:  {{use: events, after: ids, path: {out}/events.jsonl}}
  clips:   {{use: clips, after: ids, folder: {out}/clips, min_frames: 1, longest_s: 600}}
supervisor: {{restarts: 1000}}
"""


def test_a_run_goes_on_through_a_crash_of_the_sink(tmp_path):
    folder = tmp_path / "clips"
    with Run(tmp_path, graph=GRAPH) as run:
        run.wait_until(lambda: any(p.stat().st_size for p in folder.glob(".*.mp4")))
        run.strike("clips", signal.SIGKILL)
        run.wait_until(lambda: "; restarting" in run.stderr)
        count = len(run.lines)
        run.wait_for_events(count + 15)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        ledger, frames = run.ledger, run.lines
        assert run.summary["stages"]["clips"]["restarts"] == 1
    assert ledger["captured"] == ledger["delivered"] + sum(ledger["dropped"].values())
    assert not list(folder.glob(".*.mp4"))
    found = reports(folder)
    assert found[-1]["last_frame"] == pytest.approx(frames[-1]["frame"], abs=1)
    assert found[-1]["first_frame"] > 0
    for report in found:
        assert len(read(folder / report["video"])[0]) == report["pictures"]


def test_a_file_run_has_all_its_clips_at_its_end(tmp_path):
    graph = GRAPH.replace(", mode: live", "")
    with Run(tmp_path, graph=graph) as run:
        assert run.wait() == 0
        assert run.ledger["delivered"] == 300
    (report,) = reports(tmp_path / "clips")
    assert (report["first_frame"], report["last_frame"], report["lost"]) == (0, 299, 0)
    assert len(read(tmp_path / "clips" / report["video"])[0]) == 300


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"codec": "XVID"}, r"codec: expected vp09 or mp4v for \.mp4 .found XVID"),
        ({"folder": "/proc/clips"}, "folder: cannot write in '/proc/clips'"),
        ({"folder": "/proc/{stream}"}, "folder: cannot write in '/proc'"),
        ({"folder": "a\0b"}, "folder: cannot write in"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(settings, said):
    with pytest.raises(SetupError, match=said):
        Clips.resolve(ClipsSettings(**settings))


def test_a_label_that_the_model_does_not_know_is_refused():
    with pytest.raises(SetupError, match="the model has no label 'persn'; did you mean 'person'"):
        Clips(ClipsSettings(labels=("persn",)), context_of(labels=("person", "car")))
    with pytest.raises(
        SetupError, match=r"the model has no labels .found 'person'.; use class numbers"
    ):
        Clips(ClipsSettings(labels=("person",)), context_of())
    Clips(ClipsSettings(labels=("3",)), context_of())


@pytest.mark.parametrize(
    "settings",
    [{"fps": 0}, {"container": "gif"}, {"keep_bytes": 5}, {"after_s": 0}, {"folder": ""}],
)
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, ClipsSettings)


def test_the_root_of_a_folder_is_the_part_before_the_stream():
    assert root_of("runs/{stream}/clips") == Path("runs")
    assert root_of("runs/clips") == Path("runs/clips")
    assert root_of("{stream}") == Path()
