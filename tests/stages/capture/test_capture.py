"""Capture of files and folders, missing cameras, and damaged sources."""

import os
import queue
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import convert
from pipeline.errors import ConfigError, SourceError
from pipeline.frame import Frame, SlotFullError
from stages.capture.capture import MIN_SEEK, Capture
from stages.capture.reader import FileReader
from stages.capture.settings import CaptureSettings
from tests.builders import CLIP, context_of, header, pixels, save_image

END_S = 20
"""Longest wait for an event of a thread that must come."""


def opened(source, **more):
    made = Capture(
        CaptureSettings(source=source if isinstance(source, int) else str(source), **more),
        context_of(),
    )
    made.resolve(made.settings)
    made.open()
    return made


def read(capture, count=None):
    """Return the next frames of a lossless source, up to its end."""
    frames = []
    while count is None or len(frames) < count:
        frame = slot()
        capture.offer(frame)
        if not capture.collect():
            break
        frames.append(frame)
    return frames


def slot(size=1 << 21, **fields):
    """Return a frame to be filled, as the worker lends it."""
    return Frame(header(limit=size, **fields), "demo", memoryview(np.empty(size, np.uint8)))


def mark(frame):
    """Return a number that differs between neighbouring images of the clip."""
    return int(frame["image"].astype(np.int64).sum())


@pytest.fixture(scope="module")
def clip():
    """Return (time, mark) of every frame of the clip."""
    capture = opened(CLIP)
    assert capture.live is False
    found = [(frame.time_s, mark(frame)) for frame in read(capture)]
    assert capture.missed() == (0, 0)
    assert capture.problem() is None
    capture.close()
    return found


def write_video(path, count, width=16, height=12, fps=25.0):
    """Write a lossless video, whose image `i` is one grey of the value `i % 200`."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), fps, (width, height))
    assert writer.isOpened()
    for i in range(count):
        writer.write(np.full((height, width, 3), i % 200, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "grey.avi", 20)


@pytest.fixture
def folder(tmp_path):
    """Five images, the third of which is damaged; their natural order is not that of the text."""
    path = tmp_path / "images"
    path.mkdir()
    save_image(path / "shot2.png", 6, 4, 20)
    save_image(path / "shot10.PNG", 8, 6, 100)
    (path / "shot3.png").write_bytes(b"no image")
    save_image(path / "Shot1.bmp", 4, 4, 10)
    save_image(path / "shot007.png", 5, 7, 70)
    (path / "notes.txt").write_text("not an image")
    return path


# --- files ---


def test_the_clip_has_300_frames_at_a_tenth_of_a_second(clip):
    assert len(clip) == 300
    assert [time_s for time_s, _ in clip] == [i / 10 for i in range(300)]
    assert len({mark for _, mark in clip}) == 300


def test_a_frame_of_the_clip_knows_when_it_was_captured():
    capture = opened(CLIP)
    first, second = read(capture, 2)
    assert 0 < first.captured_ns < second.captured_ns
    assert first.wall_ns < second.wall_ns
    assert first["image"].shape == (576, 768, 3)
    assert first["image"].dtype == np.uint8
    assert capture.info()["decoder"]
    capture.close()


def test_a_video_is_decoded_straight_into_the_slot(monkeypatch, video):
    monkeypatch.setattr(Frame, "put", None)  # would copy
    for source in (CLIP, video):
        capture = opened(source)
        for _ in range(3):
            memory = np.zeros(1 << 21, np.uint8)
            frame = Frame(header(limit=1 << 21), "demo", memoryview(memory))
            capture.offer(frame)
            assert capture.collect()
            assert frame["image"].ctypes.data == memory.ctypes.data
            assert frame.header.used == frame["image"].nbytes
        capture.close()


def test_the_stream_ends_after_so_many_frames(video):
    assert len(read(opened(video, frames=7))) == 7
    assert len(read(opened(video, frames=20))) == 20
    assert len(read(opened(video, frames=99))) == 20


def test_an_ended_source_stays_ended(video):
    capture = opened(video)
    read(capture)
    assert read(capture) == []
    assert capture.missed() == (0, 0)


def test_a_loop_begins_again_and_its_clock_goes_on(video):
    frames = read(opened(video, loop=True, frames=50))
    assert [pixels(frame) for frame in frames] == [i % 20 for i in range(50)]
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(50)])


def test_a_portrait_video_is_not_turned(tmp_path):
    [frame, *_] = read(opened(write_video(tmp_path / "tall.avi", 2, 24, 64)))
    assert frame["image"].shape == (64, 24, 3)


@pytest.mark.parametrize("name", ["a b.avi", "ü%03d#?.avi", "-q.avi"])
def test_a_file_may_have_any_name(name, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(video.read_bytes())
    assert len(read(opened(name, frames=2))) == 2


def test_a_name_with_a_colon_is_a_file(video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("12:30.avi").write_bytes(video.read_bytes())
    assert len(read(opened("12:30.avi", frames=2))) == 2


# --- going on after a crash ---


def after_skip(source, count, settings, source_ns=-1):
    capture = opened(source, **settings)
    capture.skip(count, source_ns)
    frames = [(frame.time_s, pixels(frame)) for frame in read(capture, 8)]
    capture.close()
    return frames


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 95), more=st.sampled_from([{}, {"loop": True, "frames": 90}]))
def test_skipping_n_images_is_the_same_as_reading_them(video, count, more):
    capture = opened(video, **more)
    read(capture, count)
    expected = [(frame.time_s, pixels(frame)) for frame in read(capture, 8)]
    capture.close()
    found = after_skip(video, count, more)
    assert [pixel for _, pixel in found] == [pixel for _, pixel in expected]
    assert [time_s for time_s, _ in found] == pytest.approx([time_s for time_s, _ in expected])


@pytest.mark.parametrize("more", [{}, {"loop": True, "frames": 23}])
@pytest.mark.parametrize("count", [*range(1, 12), 15, 21, 22, 23])
def test_skipping_in_a_folder_counts_damaged_images(count, more, folder):
    """One of five images is damaged; `count` is the number of images taken, decoded or not."""
    whole = opened(folder, **more)
    expected, taken = [], 0
    for frame in iter(lambda: read(whole, 1), []):
        taken += 1 + whole.missed()[1]
        if taken > count:
            expected.append((frame[0].time_s, pixels(frame[0])))
    assert after_skip(folder, count, more) == expected[:8]


def test_an_image_that_claims_too_many_pixels_is_damaged(tmp_path):
    size = struct.pack(">II5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    (tmp_path / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    assert refusal(tmp_path / "1.png") == "1.png: is not an image"
    for name in ("0.png", "2.png"):
        save_image(tmp_path / name, value=7)
    capture = opened(tmp_path)
    assert [pixels(frame) for frame in read(capture)] == [7, 7]
    assert capture.missed() == (0, 1)


def test_a_damaged_image_that_was_counted_is_not_counted_again(folder):
    capture = opened(folder)
    capture.skip(3, -1)  # killed after counting the damaged one, before lending the next
    assert [pixels(frame) for frame in read(capture)] == [70, 100]
    assert capture.missed() == (0, 0)


def test_skipping_far_into_the_clip_goes_on_with_the_next_image(clip, monkeypatch):
    monkeypatch.setattr("stages.capture.capture.MIN_SEEK", 250)
    for count in (251, 271, 299):
        capture = opened(CLIP)
        capture.skip(count, round(clip[count - 1][0] * 1e9))
        [frame] = read(capture, 1)
        assert (frame.time_s, mark(frame)) == clip[count]
        assert len(read(capture)) == 299 - count
        capture.close()


def test_skipping_all_images_ends_the_stream(monkeypatch):
    monkeypatch.setattr("stages.capture.capture.MIN_SEEK", 250)
    capture = opened(CLIP)
    capture.skip(300, round(29.9e9))
    assert read(capture) == []
    capture.close()


def test_a_timestamp_that_is_not_in_the_file_is_not_trusted(clip, monkeypatch):
    monkeypatch.setattr("stages.capture.capture.MIN_SEEK", 250)
    capture = opened(CLIP)
    capture.skip(260, 123)
    assert mark(read(capture, 1)[0]) == clip[260][1]
    capture.close()


def test_the_limit_counts_images_from_before_the_crash(video):
    capture = opened(video, frames=10)
    capture.skip(7, -1)
    assert len(read(capture)) == 3


class Script(FileReader):
    """Images from a list: a number is an image, "damaged" one that cannot be decoded, and "lost"
    one that grab itself skips. If `gated`, one comes with each call of `step`."""

    decoder = "script"
    finite = True
    source_ns = -1
    lost = 0

    def __init__(self, images, gated=False):
        self.images = list(images)
        self.at = -1
        self.primed = False
        self.gate = threading.Semaphore(0) if gated else None
        self.asked = queue.SimpleQueue()

    def grab(self):
        self.lost = 0
        if self.gate is not None:
            self.asked.put(True)
            assert self.gate.acquire(timeout=END_S)
        if self.primed:
            self.primed = False
            return True
        at = self.at + 1
        while at < len(self.images) and self.images[at] == "lost":
            at += 1
        if at >= len(self.images):
            return False
        self.lost, self.at = at - self.at - 1, at
        return True

    def step(self):
        """Let the next image come, and wait until it is handled."""
        self.gate.release()
        assert self.asked.get(timeout=END_S)

    def retrieve(self, frame):
        if self.images[self.at] == "damaged":
            frame.empty("image", (3, 3, 3), np.uint8)  # partly filled
            return False
        if self.images[self.at] == "broken":
            raise OSError("the camera broke")
        frame.put("image", np.full((2, 2, 3), self.images[self.at], np.uint8))
        return True

    def reread_last(self):
        self.primed = True

    def rewind(self, rounds=1):
        self.at = -1

    def seek(self, count, source_ns):
        self.at = count - 1
        return True

    def end_reason(self):
        return "", ""

    def interrupt(self):
        pass

    def close(self):
        pass


def scripted(video, images, gated=False, **more):
    capture = opened(video, **more)
    capture._reader.close()
    capture._reader = Script(images, gated)
    return capture


def test_damaged_images_are_counted_and_skipped(video):
    capture = scripted(video, [0, "damaged", 2, "lost", "lost", 5, "damaged"])
    frames = read(capture)
    assert [pixels(frame) for frame in frames] == [0, 2, 5]
    for frame in frames:  # a partly filled array takes no room
        assert frame.header.arrays == {"image": (0, "|u1", (2, 2, 3))}
        assert frame.header.used == 12
    assert capture.missed() == (0, 4)
    assert capture.missed() == (0, 0)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 6, 7, 8])
def test_after_a_kill_anywhere_no_good_image_is_skipped(count, video):
    """Lost images in a row are counted at once, before the good one behind them is lent."""
    images = [0, "lost", "lost", 3, 4, "lost", 6, 7]
    capture = scripted(video, images)
    capture.skip(count, -1)
    found = [pixels(frame) for frame in read(capture)]
    assert found == [image for image in images[count:] if image != "lost"]


# --- folders and images ---


def test_a_folder_is_read_in_natural_order(folder):
    capture = opened(folder)
    frames = read(capture)
    assert [pixels(frame) for frame in frames] == [10, 20, 70, 100]
    assert capture.missed() == (0, 1)
    assert capture.problem() is None


def test_images_of_different_sizes_are_frames_of_different_sizes(folder):
    shapes = [frame["image"].shape for frame in read(opened(folder))]
    assert shapes == [(4, 4, 3), (4, 6, 3), (7, 5, 3), (6, 8, 3)]


@pytest.mark.parametrize(("fps", "step_s"), [(None, 0.1), (4, 0.25)])
def test_images_come_at_an_even_pace_damaged_ones_too(fps, step_s, folder):
    times = [frame.time_s for frame in read(opened(folder, fps=fps))]
    assert times == pytest.approx([i * step_s for i in (0, 1, 3, 4)])


def test_a_folder_in_a_loop_goes_on_counting_time(folder):
    capture = opened(folder, loop=True, frames=12)
    times = [frame.time_s for frame in read(capture)]
    assert times == pytest.approx([i / 10 for i in range(12) if i % 5 != 2])
    assert capture.missed() == (0, 2)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (4097, 3), (3, 4097), (1080, 1920), (641, 479), (7, 5)],
)
def test_one_image_of_any_size_is_a_stream_of_one_frame(width, height, tmp_path):
    path = save_image(tmp_path / "one.png", width, height, 9)
    frame = slot(1 << 23)
    capture = opened(path)
    capture.offer(frame)
    assert capture.collect() is True
    assert frame["image"].shape == (height, width, 3)
    assert (frame["image"] == 9).all()
    capture.offer(frame)
    assert capture.collect() is False


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (np.full((4, 6), 9, np.uint8), 9),
        (np.full((4, 6, 4), 9, np.uint8), 9),
        (np.full((4, 6, 3), 9 << 8, np.uint16), 9),
    ],
    ids=["grey", "with transparency", "16 bit"],
)
def test_an_image_of_another_kind_becomes_bgr_bytes(image, value, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), image)
    [frame] = read(opened(tmp_path / "one.png"))
    assert frame["image"].shape == (4, 6, 3)
    assert frame["image"].dtype == np.uint8
    assert (frame["image"] == value).all()


def test_colours_are_blue_green_red(tmp_path):
    (tmp_path / "blue.ppm").write_bytes(b"P6 1 1 255\n\x01\x02\xfa")  # red, green, blue
    [frame] = read(opened(tmp_path / "blue.ppm"))
    assert frame["image"].tolist() == [[[0xFA, 2, 1]]]


def test_an_image_too_large_for_the_slot_is_an_error(tmp_path):
    capture = opened(save_image(tmp_path / "one.png", 100, 100))
    with pytest.raises(SlotFullError):
        capture.offer(slot(size=1000))
    assert capture.missed() == (0, 0)


# --- sources that cannot work ---


def refusal(source, **more):
    with pytest.raises(SourceError) as caught:
        opened(source, **more)
    return str(caught.value).replace(f"{Path(str(source)).parent}/", "")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.mp4", b"these are words, not images\n" * 50, "cannot be read as a video"),
        ("short.mp4", b"hi", "cannot be read as a video"),
        ("empty.mp4", b"", "cannot be read as a video"),
        ("noise.avi", bytes(range(256)) * 40, "cannot be read as a video"),
        ("text.png", b"these are words", "is not an image"),
        ("empty.jpg", b"", "is not an image"),
    ],
)
def test_a_file_that_is_not_a_video_or_image_is_refused(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name) == f"{name}: {words}"


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "no.mp4") == "no.mp4: no such file, folder or device"
    assert refusal("/dev/video4000") == "video4000: no such file, folder or device"
    assert refusal(tmp_path / "no" / "such") == "such: no such file, folder or device"


def test_a_folder_without_an_image_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("")
    assert refusal(tmp_path / "x").startswith("x: the folder holds no image (.apng, .avif, .bmp")
    (tmp_path / "x" / "a.png").write_text("no image")
    assert refusal(tmp_path / "x") == "x: holds no image that can be read"


def test_a_file_without_read_permission_is_refused(tmp_path, monkeypatch):
    path = save_image(tmp_path / "one.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refusal(path) == "one.png: no permission to read"


def test_a_missing_camera_is_refused():
    assert refusal(97) == "camera 97: no camera at /dev/video97; check that it is plugged in"


def test_a_refused_connection_is_reported_without_the_password():
    words = refusal("rtsp://user:secret@127.0.0.1:9/stream")
    assert "secret" not in words
    assert words.endswith(
        "127.0.0.1:9 refused the connection; check the port, and that the camera is on"
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "source: missing"),
        ({"source": -1}, "source: expected `int` >= 0"),
        ({"source": None}, "source: expected `int | str`, got `null`"),
        ({"source": "x", "frames": 0}, "frames: expected `int` >= 1"),
        ({"source": "x", "fps": 0}, "fps: expected `float` > 0"),
        ({"source": "x", "fps": 1001}, "fps: expected `float` <= 1000"),
        ({"source": "x", "mode": "fast"}, "mode: expected one of auto, live, lossless"),
        ({"source": "x", "lop": True}, "lop: unknown key; did you mean 'loop'?"),
    ],
)
def test_settings_out_of_bounds_are_refused(table, words):
    with pytest.raises(ConfigError) as caught:
        convert(table, CaptureSettings, "my.yaml: streams.a")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "mode", "live"),
    [
        (str(CLIP), "auto", False),
        (str(CLIP), "live", True),
        (0, "auto", True),
        ("0", "auto", True),
        ("rtsp://cam/x", "auto", True),
        ("rtsp://cam/x", "lossless", False),
    ],
)
def test_cameras_and_addresses_are_live_and_files_are_not(source, mode, live):
    [info] = Capture.resolve(CaptureSettings(source=source, mode=mode)).offers
    assert info.live is live


def test_closing_a_source_that_was_never_opened_is_no_error():
    Capture(CaptureSettings(source=str(CLIP)), context_of()).close()


# --- truncated and damaged files ---


def test_a_truncated_clip_is_read_to_its_end_and_reported(tmp_path, clip):
    whole = CLIP.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 10])
    capture = opened(path)
    found = [(frame.time_s, mark(frame)) for frame in read(capture)]
    assert 2 < len(found) < 100
    assert found == clip[: len(found)]
    assert capture.problem() == (
        f"{path}: the file is truncated ({len(whole) // 10} of {len(whole)} bytes); read to its end"
    )
    capture.close()


def test_a_truncated_clip_is_no_problem_if_the_limit_is_reached(tmp_path):
    whole = CLIP.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 10])
    capture = opened(tmp_path / "cut.mp4", frames=3)
    assert len(read(capture)) == 3
    assert capture.problem() is None
    capture.close()


def test_one_byte_less_is_truncated_too(tmp_path, video):
    for source in (CLIP, video):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes()[:-1])
        capture = opened(path)
        assert "truncated" in capture.problem()
        capture.close()


def test_a_clip_cut_before_its_first_image_is_refused(tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(CLIP.read_bytes()[:1000])
    assert refusal(path) in (
        "cut.mp4: cannot be read as a video",
        "cut.mp4: opened, but gives no image",
    )


def test_a_damaged_stretch_costs_its_own_images_only(tmp_path, clip):
    damaged = bytearray(CLIP.read_bytes())
    at = len(damaged) // 10
    damaged[at : at + 3000] = b"\xff" * 3000
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    capture = opened(tmp_path / "damaged.mp4", frames=60)
    found = [(frame.time_s, mark(frame)) for frame in read(capture)]
    _, decode = capture.missed()
    assert 1 <= decode < 10
    assert len(found) + decode == 60
    assert found[:5] == clip[:5]
    assert found[-5:] == clip[55:60]
    capture.close()


# --- live ---


def live(video, images, **more):
    """A live source of which the test lets one image come at a time."""
    capture = scripted(video, images, gated=True, mode="live", **more)
    notified = queue.SimpleQueue()
    capture.start(lambda: notified.put(True))
    script = capture._reader
    assert script.asked.get(timeout=END_S)
    return capture, script, notified


def finish(capture):
    """Close it after its reading thread has ended."""
    capture._reader.gate.release(100)
    capture.close()


def test_live_the_next_image_fills_the_frame_and_others_are_counted(video):
    capture, script, notified = live(video, range(7))
    script.step()  # 0
    script.step()  # 1
    assert capture.collect() is None
    assert capture.missed() == (2, 0)
    frame = slot()
    capture.offer(frame)
    assert capture.collect() is None
    script.step()  # 2
    assert notified.get(timeout=END_S)
    assert capture.collect() is True
    assert pixels(frame) == 2
    script.step()  # 3: the frame is filled
    script.step()  # 4
    assert pixels(frame) == 2
    other = slot()
    capture.offer(other)
    assert capture.missed() == (2, 0)
    script.step()  # 5
    assert capture.collect() is True
    assert pixels(other) == 5
    assert capture.missed() == (0, 0)
    finish(capture)


def test_live_an_image_that_is_damaged_leaves_the_frame_to_the_next(video):
    capture, script, _ = live(video, ["damaged", "damaged", 2])
    frame = slot()
    capture.offer(frame)
    script.step()
    script.step()
    assert capture.collect() is None
    assert capture.missed() == (0, 2)
    script.step()
    assert capture.collect() is True
    assert pixels(frame) == 2
    finish(capture)


def test_live_after_a_crash_a_file_goes_on_behind_all_taken_images(video):
    capture = scripted(video, [i % 200 for i in range(MIN_SEEK + 50)], mode="live")
    capture.skip(MIN_SEEK + 20, 5)
    script = capture._reader
    assert script.at == MIN_SEEK + 19
    capture.close()


def test_live_the_end_is_notified_and_comes_after_the_last_image(video):
    capture, script, notified = live(video, [0])
    frame = slot()
    capture.offer(frame)
    script.step()
    assert notified.get(timeout=END_S)
    script.gate.release()
    assert notified.get(timeout=END_S)
    assert capture.collect() is True
    capture.offer(slot())
    assert capture.collect() is False
    assert capture.missed() == (0, 0)
    finish(capture)


def test_live_an_error_of_the_reading_thread_is_raised_by_collect(video):
    capture, script, notified = live(video, ["broken"])
    capture.offer(slot())
    script.gate.release()
    assert notified.get(timeout=END_S)
    with pytest.raises(OSError, match="the camera broke"):
        capture.collect()
    finish(capture)


def test_live_an_image_too_large_for_the_slot_is_raised_by_collect(video):
    capture, script, notified = live(video, [0])
    capture.offer(slot(size=5))
    script.gate.release()
    assert notified.get(timeout=END_S)
    with pytest.raises(SlotFullError):
        capture.collect()
    finish(capture)


def many(tmp_path, count=30):
    for i in range(count):
        save_image(tmp_path / f"{i}.png", value=i)
    return tmp_path


def test_a_file_played_live_loses_nothing_uncounted(tmp_path):
    capture = opened(many(tmp_path), mode="live", fps=1000)
    assert capture.live
    notified = queue.SimpleQueue()
    capture.start(lambda: notified.put(True))
    taken, busy = [], 0
    while True:
        frame = slot()
        capture.offer(frame)
        while (filled := capture.collect()) is None:
            assert notified.get(timeout=END_S)
        busy += capture.missed()[0]
        if not filled:
            break
        taken.append(pixels(frame))
    assert taken == sorted(set(taken))
    assert len(taken) + busy == 30
    capture.close()


def test_a_file_played_live_without_offered_frames_is_all_missed(tmp_path):
    capture = opened(many(tmp_path), mode="live", fps=1000)
    notified = queue.SimpleQueue()
    capture.start(lambda: notified.put(True))
    assert notified.get(timeout=END_S)
    assert capture.collect() is False
    assert capture.missed() == (30, 0)
    capture.close()


def test_a_file_played_live_keeps_its_own_pace(tmp_path):
    capture = opened(many(tmp_path, 2), mode="live", fps=0.0001)
    notified = queue.SimpleQueue()
    frame = slot()
    capture.start(lambda: notified.put(True))
    capture.offer(frame)
    came = 0
    while not came:  # the first image comes at once, offered or not
        came = int(capture.collect() is True) + capture.missed()[0]
    capture.offer(slot())
    assert capture.collect() is None  # the second comes in three hours
    capture.close()
    assert not capture.collect()
    assert capture.missed() == (0, 0)
    assert "pump" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_after_a_crash_a_file_played_live_goes_on_at_once_and_at_its_pace(
    skipped, tmp_path, monkeypatch
):
    waits_s = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            if timeout is None:  # the event of the thread's start
                return super().wait()
            waits_s.append(timeout)
            return False

    capture = opened(many(tmp_path, 5), mode="live", fps=0.001)
    capture.skip(skipped, -1)
    notified = queue.SimpleQueue()
    with monkeypatch.context() as patched:
        patched.setattr("stages.capture.live_reader.threading.Event", Event)
        capture.start(lambda: notified.put(True))
    assert notified.get(timeout=END_S)
    while capture.collect() is None:  # offered nothing: this is the end
        assert notified.get(timeout=END_S)
    assert capture.missed() == (5 - skipped, 0)
    capture.close()
    assert waits_s == pytest.approx([1000 * i for i in range(5 - skipped)], abs=END_S)


def test_closing_ends_the_reading_thread_while_images_still_come(tmp_path):
    capture = opened(many(tmp_path, 3), mode="live", fps=1000, loop=True)
    capture.start(lambda: None)
    capture.close()
    assert "pump" not in [thread.name for thread in threading.enumerate()]


def test_live_after_a_crash_missed_images_are_not_counted_twice(tmp_path):
    capture = opened(many(tmp_path, 10), mode="live", fps=1000)
    capture.skip(7, 0)  # the newest that became a frame is the first
    notified = queue.SimpleQueue()
    capture.start(lambda: notified.put(True))
    assert notified.get(timeout=END_S)
    assert capture.missed() == (3, 0)
    capture.close()
