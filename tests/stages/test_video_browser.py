"""The videos that are written by default, in a real browser."""

import http.server
import threading
from functools import partial

import cv2
import pytest

from stages.sinks.video.video_file import CODECS, VideoFile
from tests.browser import CHROMIUM, Browser
from tests.processes.runs import CLIP

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)"),
]
FRAMES = 24


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that logs nothing."""

    def log_message(self, format, *args):
        pass


@pytest.fixture
def address(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("ending", [ending for ending in CODECS if ending != ".avi"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_browser_plays_the_default_to_its_end(tmp_path, address, ending, killed):
    capture = cv2.VideoCapture(str(CLIP))
    video = VideoFile(tmp_path / f"out{ending}", CODECS[ending][0], 10, 768, 576)
    for _ in range(FRAMES):
        video.write(capture.read()[1])
    video._end_thread()
    if killed:
        (tmp_path / f"killed{ending}").write_bytes(video.path.read_bytes())
    video._start()
    video.close()
    with Browser() as browser:
        browser.open(address)
        name = "killed" if killed else "out"
        browser.evaluate(
            "document.body.innerHTML = '<video muted autoplay></video>';"
            f"document.querySelector('video').src = '{name}{ending}'"
        )
        browser.wait_for("(v => v.ended || v.error !== null)(document.querySelector('video'))")
        error, width, height, end = browser.evaluate(
            "(v => [v.error, v.videoWidth, v.videoHeight, Math.round(v.currentTime * 10)])"
            "(document.querySelector('video'))"
        )
        assert (error, width, height) == (None, 768, 576)
        assert end in (FRAMES - 1, FRAMES)  # it does not always count how long the last one lasts
