"""Video files: what can be played of them at each moment, by every container and codec."""

import os
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pipeline.errors import RunError
from stages.sinks.video import avi, opencv_encoder, video_file, vpx
from stages.sinks.video.opencv_encoder import OpenCVEncoder, is_key, mpeg4_config
from stages.sinks.video.track import exact_rate
from stages.sinks.video.video_file import CODECS, VideoFile
from tests.builders import ROOT

KINDS = [(ending, codec) for ending, codecs in CODECS.items() for codec in codecs]
SIZE = 96, 64
STEP = 8


def picture(number, size=SIZE):
    """A plain picture that says its number by its brightness."""
    return np.full((size[1], size[0], 3), 10 + STEP * number, np.uint8)


def read(path):
    """The numbers of all pictures of a video, and its rate."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert capture.isOpened()
    numbers = []
    while (one := capture.read())[0]:
        numbers.append(round((float(one[1].mean()) - 10) / STEP))
    return numbers, capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)


def drained(video):
    """Wait until everything is encoded."""
    video._end_thread()
    video._start()


@pytest.mark.parametrize(("ending", "codec"), KINDS)
def test_a_file_whose_writer_was_killed_plays_up_to_its_last_picture(tmp_path, ending, codec):
    video = VideoFile(tmp_path / f"out{ending}", codec, 30000 / 1001, *SIZE)
    for number in range(30):
        video.write(picture(number))
    drained(video)
    (tmp_path / f"killed{ending}").write_bytes(video.path.read_bytes())
    video.close()
    for name in ("killed", "out"):
        numbers, fps, count = read(tmp_path / f"{name}{ending}")
        assert numbers == list(range(30)), name
        assert fps == pytest.approx(30000 / 1001)
        assert count == 30


@pytest.mark.parametrize(("ending", "codec"), KINDS)
def test_a_repeated_picture_is_shown_again_and_the_next_one_right(tmp_path, ending, codec):
    video = VideoFile(tmp_path / f"out{ending}", codec, 10, *SIZE)
    video.write(picture(3), repeats=5)  # of nothing
    video.write(picture(7), repeats=2)
    video.write(picture(5))
    video.write(picture(6), repeats=3)
    video.close()
    assert read(video.path)[0] == [3, 3, 3, 7, 5, 5, 5, 5, 6]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_a_complete_file_can_be_sought_in(tmp_path, ending):
    video = VideoFile(tmp_path / f"out{ending}", CODECS[ending][0], 5, *SIZE)
    for number in range(30):
        video.write(picture(number))
    video.close()
    capture = cv2.VideoCapture(str(video.path), cv2.CAP_FFMPEG)
    for number in (29, 2, 21):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        assert round((float(capture.read()[1].mean()) - 10) / STEP) == number


NAMES = ("12:30.mp4", "cam:1.mkv", "file:x.mp4", "50%.avi", "%03d.mp4", "a?b=c.webm", "-v.mp4")


@pytest.mark.parametrize(
    "name", [*NAMES, "münchen 街.mp4", "pipe:1.mkv", "http://a.mp4", "'\".mov"]
)
def test_a_name_is_a_name_whatever_signs_are_in_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = video_file.Path(name)
    video = VideoFile(path, video_file.codec_for(name, "auto"), 10, *SIZE)
    video.write(picture(1))
    video.close()
    assert read(tmp_path / path)[0] == [1]


def test_a_restarted_file_holds_only_what_came_after(tmp_path):
    video = VideoFile(tmp_path / "out.mp4", "vp09", 25, *SIZE)
    for number in range(20):
        video.write(picture(number))
    video.restart(5)
    for number in range(3):
        video.write(picture(number))
    assert video.written == 3
    video.close()
    assert read(video.path) == ([0, 1, 2], 5, 3)


def test_a_disk_that_is_full_behind_the_queue_is_not_lost(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    video = VideoFile(tmp_path / "out.mkv", "MJPG", 10, *SIZE)
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    video.write(picture(1))
    drained(video)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        video.write(noise)
        with pytest.raises(
            RunError, match=r"cannot write .*out\.mkv' \(File too large\); free some"
        ):
            video.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    video.close()
    assert read(video.path)[0][0] == 1


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "out.mp4")
    with pytest.raises(RunError, match="it is not a file; choose another path"):
        VideoFile(tmp_path / "out.mp4", "vp09", 10, *SIZE)


def test_an_avi_becomes_full_before_players_refuse_it(tmp_path, monkeypatch):
    monkeypatch.setattr(avi, "MAX_BYTES", 2000)
    video = VideoFile(tmp_path / "out.avi", "MJPG", 10, *SIZE)
    written = 0
    while not video.is_full and written < 100:
        video.write(picture(1))
        drained(video)
        written += 1
    video.close()
    assert 1 < written < 100
    assert read(video.path)[0] == [1] * written


def test_writing_does_not_wait_until_the_queue_is_full(tmp_path):
    video = VideoFile(tmp_path / "out.mp4", "vp09", 10, *SIZE)
    beats = []
    with video._room:  # its thread stops at the first picture
        while not video.is_busy:
            video.write(picture(1))
    video.write(picture(2), beat=lambda: beats.append(1))
    video.close()
    assert read(video.path)[0][-1] == 2


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["VP90", "VP80"])
def test_without_libvpx_opencv_encodes(tmp_path, monkeypatch, ending, codec):
    monkeypatch.setattr(vpx, "library", lambda: None)
    codec = codec if ending == ".mkv" else "vp09"
    video = VideoFile(tmp_path / f"out{ending}", codec, 10, *SIZE)
    for number in range(4):
        video.write(picture(number))
    video.close()
    assert read(video.path)[0] == [0, 1, 2, 3]


def test_a_library_with_other_structures_is_not_used(monkeypatch):
    found = vpx.library()
    assert found is not None, "OpenCV's wheel brings it along"
    assert vpx._is_known(found)
    monkeypatch.setitem(vpx._DEFAULTS, vpx._KEY_MAX, 129)
    assert not vpx._is_known(found)


def test_an_encoder_that_cannot_start_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(opencv_encoder.tempfile, "tempdir", None)
    with pytest.raises(RunError, match="could not start a zzzz video of 96x64; choose another"):
        OpenCVEncoder("zzzz", *SIZE, 10)
    assert list(tmp_path.iterdir()) == []


def test_key_frames_are_known_by_their_first_bytes():
    assert is_key("mp4v", b"\0\0\1\xb0..\0\0\1\xb6\x10")
    assert not is_key("mp4v", b"\0\0\1\xb6\x50")
    assert is_key("MJPG", b"\xff")
    assert is_key("VP80", b"\x10")
    assert not is_key("VP80", b"\x11")
    assert not is_key("VP90", b"\x86")
    assert not is_key("VP90", b"")
    assert mpeg4_config(b"head\0\0\1\xb6rest") == b"head"


@pytest.mark.parametrize(
    ("fps", "exact"), [(29.97002997, (30000, 1001)), (23.976, (24000, 1001)), (10, (10, 1))]
)
def test_a_rate_is_written_as_what_it_means(fps, exact):
    assert exact_rate(fps).as_integer_ratio() == exact


def test_a_process_that_is_killed_leaves_what_it_wrote(tmp_path):
    script = (
        "import os, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from stages.sinks.video.video_file import VideoFile\n"
        "videos = [VideoFile(Path(name), codec, 10, 96, 64) for name, codec in\n"
        "          (('a.mp4', 'vp09'), ('b.webm', 'VP90'), ('c.avi', 'mp4v'))]\n"
        "for number in range(25):\n"
        "    for video in videos:\n"
        "        video.write(np.full((64, 96, 3), 10 + 8 * number, np.uint8))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    for name in ("a.mp4", "b.webm", "c.avi"):
        numbers = read(tmp_path / name)[0]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 25 - video_file.MAX_WAITING - 1, name
