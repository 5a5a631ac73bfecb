"""FFmpeg's log while OpenCV reads an address, and images that change their size."""

import os
import subprocess
import sys
import time
from itertools import chain, repeat
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from pipeline.errors import SourceError
from stages.capture.ffmpeg_log import FfmpegLog, has_other_size
from stages.capture.frame_offer import DropCounter
from stages.capture.http_snapshot import open_http
from stages.capture.live_reader import LiveReader
from stages.capture.opencv_live import OpenCVVideo
from stages.capture.settings import CaptureSettings
from stages.capture.watchdog import OVERDUE_S
from tests.builders import CLIP, ROOT
from tests.http_camera import jpeg, serving
from tests.reading import DEADLINE_S

VARIABLES = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_SKIP_LOG_CALLBACK")


def test_configuring_the_ffmpeg_log_restores_the_environment():
    before = {name: os.environ.get(name) for name in VARIABLES}
    FfmpegLog().close()
    assert {name: os.environ.get(name) for name in VARIABLES} == before


@pytest.mark.parametrize("first", [CLIP, None], ids=["after a file", "at first"])
@pytest.mark.parametrize("level", ["-8", "48", None])
def test_the_kind_of_a_refusal_is_known_after_any_earlier_reading(first, level):
    code = (
        "import cv2\n"
        f"cv2.VideoCapture({str(first)!r}, cv2.CAP_FFMPEG).grab()\n"
        "from stages.capture.settings import CaptureSettings\n"
        "from stages.capture.opencv_live import OpenCVVideo\n"
        "try: OpenCVVideo(CaptureSettings(source='rtsp://u:secret@127.0.0.1:9/x'))\n"
        "except Exception as error: print(error.kind)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if level is not None:
        environment[VARIABLES[0]] = level
    done = subprocess.run(
        [sys.executable, "-c", code if first else code.replace(code.splitlines()[1], "")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout.splitlines()[-1] == "refused"
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("logged", "changed"),
    [
        ("", False),
        ("[h264 @ 0x1] Reinit context to 1920x1088, pix_fmt: yuv420p", False),
        ("[h264 @ 0x1] Reinit context to 1920x1080, pix_fmt: yuv420p", False),
        ("[h264 @ 0x1] Reinit context to 1280x720, pix_fmt: yuv420p", True),
        ("[h264 @ 0x1] Reinit context to 1920x1200, pix_fmt: yuv420p", True),
        ("[swscaler @ 0x1] Slice parameters 0, 1440 are invalid", True),
    ],
)
def test_another_size_is_recognized_in_ffmpegs_log(logged, changed):
    assert has_other_size(logged, (1080, 1920)) is changed


def motion_jpeg(*bodies):
    """An answer of JPEG after JPEG, without a container; the last one over and over."""

    def answer(handler):
        handler.give(kind="video/x-motion-jpeg", Content_Length="")
        try:
            for body in chain(bodies, repeat(bodies[-1], 10_000)):
                handler.wfile.write(body)
        except OSError:
            pass  # the reader has had enough
        handler.close_connection = True

    return answer


def test_an_address_whose_images_become_larger_ends_its_connection():
    small, large = jpeg(50, 64, 48), jpeg(50, 128, 96)
    with serving(motion_jpeg(*[small] * 30, large)) as server:
        video = open_http(CaptureSettings(source=server.url()))
        assert isinstance(video, OpenCVVideo)
        assert video.rate_known is False
        frame = SimpleNamespace(empty=lambda name, shape, kind: np.empty(shape, kind))
        kept = 0
        while video.grab():
            kept += video.retrieve(frame)
        assert kept == 30
        assert video.end_reason() == ("closed", "the size of the images has changed")
        video.close()


def test_a_host_that_has_answered_has_longer_for_its_first_image(monkeypatch):
    asked = []

    def refuse(address, backend, params):
        asked.append(dict(zip(params[::2], params[1::2], strict=True)))
        return SimpleNamespace(isOpened=lambda: False, release=lambda: None)

    with serving(motion_jpeg(jpeg())) as server:
        FfmpegLog().close()  # or it would be opened below for the first time
        monkeypatch.setattr("stages.capture.opencv_live.cv2.VideoCapture", refuse)
        for reader in (open_http, OpenCVVideo):
            with pytest.raises(SourceError):
                reader(CaptureSettings(source=server.url()))
    assert [one[cv2.CAP_PROP_OPEN_TIMEOUT_MSEC] for one in asked] == [15_000, 4_000]


def test_the_text_of_a_silence_ends_with_the_readers_hint():
    silent = SimpleNamespace(
        silence_hint="; check the lens cap", finite=False, interrupt=lambda: None
    )
    reader = LiveReader(lambda: silent, DropCounter(), lambda: None, first=silent)
    with reader._lock:
        reader._watchdog.enter(0.01)
    time.sleep(0.01 + OVERDUE_S)
    assert reader.condition.text == "opened, but no image within 0.01 s; check the lens cap"
