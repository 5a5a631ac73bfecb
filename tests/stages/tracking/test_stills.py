"""Which pictures are stills, and under which name each travels."""

import os
import threading

import cv2
import numpy as np
import pytest

from pipeline.frame import Frame
from pipeline.stage import Context
from stages.capture.capture import Capture
from stages.capture.settings import CaptureSettings
from tests.builders import CLIP, header, save_image


@pytest.fixture
def photos(tmp_path):
    """Four files, of which one is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a 1.jpg", "größe.png"):
        save_image(folder / name)
    (folder / "b.png").write_bytes(b"no picture")
    # OpenCV takes no name that is not UTF-8.
    done, data = cv2.imencode(".bmp", np.zeros((4, 6, 3), np.uint8))
    assert done
    (folder / "c.bmp").write_bytes(data.tobytes())
    return folder


def opened(source, **settings):
    context = Context(stream="demo")
    made = Capture(CaptureSettings(source=str(source), **settings), context)
    made.open()
    return made


def slot(size=1 << 21):
    return Frame(header(limit=size), "demo", memoryview(np.empty(size, np.uint8)))


def read(capture, count=10):
    frames = []
    while len(frames) < count:
        frame = slot()
        capture.offer(frame)
        if not capture.collect():
            break
        frames.append(frame)
    return frames


NAMES = ["a 1.jpg", "c.bmp", "größe.png"]


def test_pictures_of_a_folder_are_stills_with_their_names(photos):
    frames = read(opened(photos))
    assert [frame.file for frame in frames] == NAMES
    assert all(frame.still for frame in frames)


def test_pictures_of_a_sequence_are_no_stills_and_have_their_names(photos):
    frames = read(opened(photos, sequence=True))
    assert [frame.file for frame in frames] == NAMES
    assert not any(frame.still for frame in frames)


def test_one_picture_is_a_still(photos):
    (frame,) = read(opened(photos / "a 1.jpg"))
    assert (frame.file, frame.still) == ("a 1.jpg", True)


def test_after_a_crash_names_go_on_with_the_next_picture(photos):
    capture = opened(photos)
    capture.skip(2, 0)
    assert [frame.file for frame in read(capture)] == NAMES[1:]


def test_in_a_loop_names_begin_again(photos):
    frames = read(opened(photos, loop=True, frames=8))
    assert [frame.file for frame in frames] == NAMES * 2


def test_played_live_pictures_have_their_names_too(photos):
    capture = opened(photos, mode="live", fps=1000, loop=True)
    filled = threading.Event()
    capture.start(filled.set)
    frame = slot()
    capture.offer(frame)
    assert filled.wait(20)
    assert capture.collect()
    capture.close()
    assert frame.still
    assert frame.file in NAMES


def test_frames_of_a_video_are_no_stills_and_have_no_file():
    for frame in read(opened(CLIP), 2):
        assert (frame.file, frame.still) == ("", False)
        assert list(frame) == ["image"]


@pytest.mark.parametrize(
    ("settings", "given", "lines"),
    [({}, {}, 1), ({"sequence": True}, {}, 0), ({}, {"restarted": True}, 0)],
)
def test_that_pictures_are_not_tracked_is_said_once(settings, given, lines, photos, caplog):
    caplog.set_level("INFO")
    stage = Capture(
        CaptureSettings(source=str(photos), **settings), Context(stream="demo", **given)
    )
    stage.open()
    said = [text for text in caplog.messages if "sequence: true" in text]
    assert len(said) == lines
    assert not said or said[0].startswith("streams.demo: ")


def test_a_name_of_any_bytes_is_a_name():
    frame = slot()
    frame.put("image", np.zeros((4, 6, 3), np.uint8))
    name = os.fsdecode(b"\xff\xfe .png")
    frame.put_file(name)
    assert frame.file == name
    assert frame["file"].dtype == np.uint8
