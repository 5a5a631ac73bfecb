"""The annotated video: what can be read back from it, and when it is refused."""

import os
import time
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame
from stages.sinks.video import video
from stages.sinks.video.rate import fps_of
from stages.sinks.video.video import TRIAL_FRAMES, Video, VideoSettings
from stages.sinks.video.video_file import CODECS
from tests.builders import context_of

NONE = {
    "boxes": np.empty((0, 4), np.float32),
    "scores": np.empty(0, np.float32),
    "classes": np.empty(0, np.int32),
}
ONE = {
    "boxes": np.array([[20, 30, 60, 60]], np.float32),
    "scores": np.array([0.9], np.float32),
    "classes": np.array([0], np.int32),
}


def frame(seq, stream="demo", size=(72, 96), fps=10, objects=NONE):
    """A plain picture that gets brighter with `seq`."""
    image = np.full((*size, 3), 10 + 8 * seq, np.uint8)
    return Frame.of(stream, seq, seq / fps, image=image, **objects)


def opened(path, streams=("demo",), **settings):
    sink = Video(VideoSettings(path=str(path), **settings), context_of(streams=streams))
    sink.open()
    return sink


def read(path):
    """Pictures and frames per second of a video."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    pictures = []
    while (picture := capture.read())[0]:
        pictures.append(picture[1])
    return pictures, capture.get(cv2.CAP_PROP_FPS)


def brightness(pictures):
    return [round((float(picture.mean()) - 10) / 8) for picture in pictures]


@pytest.mark.parametrize("frames", [1, 2, TRIAL_FRAMES - 1, TRIAL_FRAMES, TRIAL_FRAMES + 3])
def test_every_frame_is_one_picture_in_order(tmp_path, frames):
    sink = opened(tmp_path / "out.mp4")
    for seq in range(frames):
        sink.process(frame(seq))
    sink.end("demo")
    assert brightness(read(tmp_path / "out.mp4")[0]) == list(range(frames))


@pytest.mark.parametrize(
    ("ending", "codec"),
    [(ending, codec) for ending, codecs in CODECS.items() for codec in codecs],
)
def test_each_codec_can_be_read_back(tmp_path, ending, codec):
    path = tmp_path / f"out{ending}"
    sink = opened(path, codec=codec)
    for seq in range(3):
        sink.process(frame(seq))
    sink.end("demo")
    assert brightness(read(path)[0]) == [0, 1, 2]


def test_the_rate_is_that_of_the_frames(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    for seq in range(4):
        sink.process(frame(seq, fps=12.5))
    sink.end("demo")
    assert read(tmp_path / "out.mp4")[1] == pytest.approx(12.5)


def test_the_rate_can_be_set(tmp_path):
    sink = opened(tmp_path / "out.mp4", fps=30)
    sink.process(frame(0))
    sink.process(frame(1))
    sink.end("demo")
    assert read(tmp_path / "out.mp4")[1] == pytest.approx(30)


@pytest.mark.parametrize(
    ("times_s", "fps"),
    [
        ([0, 0.1, 0.2], 10),
        ([0, 1001 / 30000], 29.97),
        ([5, 5.04, 5.08, 6.5, 6.54], 25),  # a gap does not count
        ([0, 0.001], 240),
        ([0, 3600], 1),
        ([1.0], 25),
        ([], 25),
        ([1, 1, 1], 25),
        ([2, 1], 25),
    ],
)
def test_the_rate_comes_from_the_median_distance(times_s, fps):
    assert fps_of(times_s) == pytest.approx(fps)


def test_few_large_pictures_are_kept_for_the_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_TRIAL_BYTES", 2 * 72 * 96 * 3)
    sink = opened(tmp_path / "out.mp4")
    for seq in range(2):
        sink.process(frame(seq))
    assert msgspec.json.decode(sink.state("demo")) == [1, None]
    sink.process(frame(2))
    assert msgspec.json.decode(sink.state("demo")) == [1, 10.0]
    sink.close()


@pytest.mark.parametrize(("annotate", "drawn"), [(True, True), (False, False)])
def test_boxes_are_drawn_unless_annotate_is_false(tmp_path, annotate, drawn):
    sink = opened(tmp_path / "out.mp4", annotate=annotate)
    sink.process(frame(0, objects=ONE))
    sink.end("demo")
    picture = read(tmp_path / "out.mp4")[0][0]
    assert (picture.max() > 100) == drawn


def test_each_stream_has_a_file(tmp_path):
    sink = opened(tmp_path / "out.mp4", ("a", "b"))
    for stream, seq in (("a", 0), ("b", 5), ("a", 1)):
        sink.process(frame(seq, stream))
    sink.end("a")
    sink.close()
    assert brightness(read(tmp_path / "out-a.mp4")[0]) == [0, 1]
    assert brightness(read(tmp_path / "out-b.mp4")[0]) == [5]


def test_a_new_size_of_the_picture_opens_a_new_part(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    for seq in range(4):
        sink.process(frame(seq, size=(72, 96) if seq < 2 else (48, 64)))
    sink.end("demo")
    assert brightness(read(tmp_path / "out.mp4")[0]) == [0, 1]
    pictures, _ = read(tmp_path / "out.part2.mp4")
    assert brightness(pictures) == [2, 3]
    assert pictures[0].shape == (48, 64, 3)


def test_after_a_crash_the_video_goes_on_in_a_new_part_at_its_rate(tmp_path):
    first = opened(tmp_path / "out.avi")
    for seq in range(TRIAL_FRAMES):
        first.process(frame(seq))
    saved = first.state("demo")

    second = opened(tmp_path / "out.avi")
    second.restore("demo", saved)
    second.process(frame(TRIAL_FRAMES))
    third_saved = second.state("demo")
    second.end("demo")
    pictures, fps = read(tmp_path / "out.part2.avi")
    assert brightness(pictures) == [TRIAL_FRAMES]
    assert fps == pytest.approx(10)

    third = opened(tmp_path / "out.avi")
    third.restore("demo", third_saved)
    third.process(frame(TRIAL_FRAMES + 1))
    third.end("demo")
    assert brightness(read(tmp_path / "out.part3.avi")[0]) == [TRIAL_FRAMES + 1]
    first.close()


def test_of_a_file_a_crash_loses_no_more_than_two_pictures(tmp_path):
    settings, context = (
        VideoSettings(path=str(tmp_path / "out.avi")),
        context_of(live=False, streams=("demo",)),
    )
    first = Video(settings, context)
    for seq in range(3):
        first.process(frame(seq))
    assert (tmp_path / "out.avi").exists()
    first.close()
    pictures, fps = read(tmp_path / "out.avi")
    assert brightness(pictures) == [0, 1, 2]
    assert fps == pytest.approx(10)


def test_what_was_completed_after_its_state_was_saved_is_not_written_over(tmp_path):
    (tmp_path / "out.avi").write_text("of an earlier run")
    context = context_of(streams=("demo",), started_ns=time.monotonic_ns())
    os.utime(tmp_path / "out.avi", (1, 1))
    first, second = (
        Video(VideoSettings(path=str(tmp_path / "out.avi")), context) for _ in range(2)
    )
    first.process(frame(0))
    saved = first.state("demo")
    first.close()  # asked to end, by a reload for example
    second.restore("demo", saved)
    second.process(frame(1))
    second.close()
    assert brightness(read(tmp_path / "out.avi")[0]) == [0]
    assert brightness(read(tmp_path / "out.part2.avi")[0]) == [1]


def test_a_part_without_a_picture_is_used_again(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"not empty")
    for part in (2, 3):
        (tmp_path / f"out.part{part}.mp4").touch()
    sink = opened(tmp_path / "out.mp4")
    sink.restore("demo", msgspec.json.encode((2, 10.0)))
    sink.process(frame(4))
    sink.close()
    assert brightness(read(tmp_path / "out.part2.mp4")[0]) == [4]
    assert (tmp_path / "out.part3.mp4").stat().st_size == 0
    assert (tmp_path / "out.mp4").read_bytes() == b"not empty"


def test_frames_written_immediately_are_written_again_at_their_rate(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    for seq in range(TRIAL_FRAMES - 1):
        sink.process(frame(seq))
    at_once = read(tmp_path / "out.mp4")
    assert at_once[1] == pytest.approx(25)
    assert at_once[0], "a crash in the first second would lose all"
    for seq in range(TRIAL_FRAMES - 1, 15):
        sink.process(frame(seq))
    sink.end("demo")
    pictures, fps = read(tmp_path / "out.mp4")
    assert (brightness(pictures), fps) == (list(range(15)), pytest.approx(10))
    assert sink.counters() == {"repeated": 0, "left_out": 0}


def test_the_declared_rate_of_the_source_is_used_if_its_times_confirm_it(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    for seq in range(20):
        one = frame(seq, fps=24000 / 1001)
        one.header.fps = 23.976
        sink.process(one)
    sink.end("demo")
    pictures, fps = read(tmp_path / "out.mp4")
    assert brightness(pictures) == list(range(20))
    assert fps == pytest.approx(24000 / 1001, rel=1e-9)


def test_the_frames_that_are_missing_are_repeated_pictures(tmp_path):
    sink = opened(tmp_path / "out.mp4", fps=10)
    for seq in (0, 1, 4, 5):
        sink.process(frame(seq))
    sink.end("demo")
    assert brightness(read(tmp_path / "out.mp4")[0]) == [0, 1, 1, 1, 4, 5]
    assert sink.counters() == {"repeated": 2, "left_out": 0}


def test_a_live_stream_does_not_wait_for_the_encoder(tmp_path):
    context = context_of(streams=("demo",), live=True)
    sink = Video(VideoSettings(path=str(tmp_path / "out.mp4"), fps=10), context)
    sink.process(frame(0))
    with sink._files["demo"]._open._room:  # the encoder's thread stops
        for seq in range(1, 10):
            sink.process(frame(seq))
    assert sink.counters()["left_out"] >= 5
    sink._files["demo"]._open._end_thread()
    sink._files["demo"]._open._start()
    sink.process(frame(10))
    sink.end("demo")
    shown = brightness(read(tmp_path / "out.mp4")[0])
    assert len(shown) == 11
    assert shown[-1] == 10


@pytest.mark.parametrize("codec", ["mp4v", "MJPG", "vp09"])
def test_a_codec_that_browsers_do_not_play_is_logged(tmp_path, caplog, codec):
    opened(tmp_path / "out.mov", codec=codec).close()
    said = [record.getMessage() for record in caplog.records]
    assert said == (
        []
        if codec == "vp09"
        else [
            f"stages.stage: browsers do not play {codec}; if you need that, choose codec: auto and "
            ".mp4 or .webm"
        ]
    )


@pytest.mark.parametrize(("ending", "codec"), [(e, c) for e, cs in CODECS.items() for c in cs])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 4), (17, 33)])
def test_pictures_of_a_few_pixels_or_odd_sides_are_whole(tmp_path, ending, codec, width, height):
    sink = opened(tmp_path / f"out{ending}", codec=codec, annotate=False)
    for seq in range(3):
        sink.process(frame(seq, size=(height, width)))
    sink.end("demo")
    pictures, _ = read(tmp_path / f"out{ending}")
    assert brightness(pictures) == [0, 1, 2]
    assert pictures[0].shape[0] >= height
    assert pictures[0].shape[1] >= width


def test_a_stream_without_a_frame_has_no_file(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    sink.end("demo")
    sink.close()
    assert not any(tmp_path.iterdir())


def test_close_completes_what_had_no_end(tmp_path):
    sink = opened(tmp_path / "out.mp4")
    sink.process(frame(3))
    sink.close()
    sink.close()
    assert brightness(read(tmp_path / "out.mp4")[0]) == [3]


def test_a_disk_without_room_ends_the_run_in_words_and_leaves_a_video(tmp_path, monkeypatch):
    sink = opened(tmp_path / "out.mp4", fps=10)
    for seq in range(9):
        sink.process(frame(seq))
    disk = SimpleNamespace(f_bavail=3 << 10, f_frsize=1 << 10)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    for seq in range(9, 16):
        sink.process(frame(seq))
    with pytest.raises(RunError, match=r"out\.mp4': only 3 MB are left on the disk; free some"):
        sink.process(frame(16))
    sink.close()
    assert brightness(read(tmp_path / "out.mp4")[0]) == list(range(16))


def test_a_file_that_cannot_be_made_ends_the_run_in_words(tmp_path):
    sink = opened(tmp_path / "out.mp4", fps=10)
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(
        RunError, match=r"cannot write .*out\.mp4' \(Is a directory\); choose another"
    ):
        sink.process(frame(0))
    sink.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"path": "out.mp4", "codec": "XVID"},
            r"codec: expected vp09 or mp4v for \.mp4 .found XVID",
        ),
        ({"path": "rtsp://u:secret@h/x.mp4"}, "path: expected a path of this machine, found an a"),
        (
            {"path": "out"},
            r"path: expected a name that ends in \.mp4, \.mov, \.avi, \.mkv, \.webm .found 'out'",
        ),
        ({"path": "out.jsonl"}, "expected a name that ends in"),
        ({"path": "/proc/out.mp4"}, "cannot write"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(settings, said):
    with pytest.raises(SetupError, match=said):
        Video.resolve(VideoSettings(**settings))


@pytest.mark.parametrize("settings", [{"codec": "avc1"}, {"fps": 0}, {"fps": 500}, {"path": ""}])
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"path": "out.mp4"} | settings, VideoSettings)
