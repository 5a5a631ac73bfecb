"""Reading of addresses and webcams with OpenCV, and the kinds of their problems."""

import http.server
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from pipeline.errors import SourceError
from stages.capture.ffmpeg_log import classify_error
from stages.capture.opencv_live import OpenCVVideo
from stages.capture.settings import CaptureSettings
from tests.builders import ROOT
from tests.camera import Camera
from tests.reading import DEADLINE_S, Reading
from tests.webcam import Webcam, build, compiler

pytestmark = pytest.mark.live

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
ALWAYS = "fpsprobesize;0|analyzeduration;2500000"


# --- why an address cannot be opened ---


def refusal(source, **settings):
    """Return kind and text of the error of a source."""
    with pytest.raises(SourceError) as caught, Reading(source, **settings):
        pass
    assert "secret" not in str(caught.value)
    return caught.value.kind, str(caught.value).rpartition(f"{hidden(source)}: ")[2]


def hidden(url):
    scheme, _, rest = str(url).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else url


@pytest.mark.parametrize("scheme", ["digest", "basic"])
def test_a_wrong_password_and_a_missing_one_have_different_texts(scheme):
    with Camera(user="guest", password="secret", scheme=scheme) as camera:
        wrong = camera.url(user="guest", password="no-secret")
        assert refusal(wrong) == ("unauthorized", "wrong user or password")
        none = camera.url(user="").replace(":@", "")
        kind, words = refusal(none)
        assert kind == "unauthorized"
        assert words.startswith("login required; put USER:PASSWORD@ before")
        with Reading(camera.url()) as reading:
            reading.more(1)


def test_a_path_that_is_not_there_is_reported():
    with Camera() as camera:
        kind, words = refusal(camera.url("/nix"))
    assert kind == "not_found"
    assert words.startswith("no such stream at 127.0.0.1:")
    assert words.endswith("; check the path in the address")


def test_a_camera_without_tcp_is_reported_and_works_over_udp():
    with Camera(transports="udp") as camera:
        kind, words = refusal(camera.url())
        assert kind == "unsupported"
        assert "try the other `transport`" in words
        with Reading(camera.url(), transport="udp") as reading:
            reading.more(1)


def test_a_port_where_nothing_listens_is_reported():
    with Camera(refuse=True) as camera:
        kind, words = refusal(camera.url())
        assert kind == "refused"
        assert words.startswith(f"127.0.0.1:{camera.port} refused the connection")


def test_a_host_that_cannot_be_resolved_is_reported():
    kind, words = refusal("rtsp://guest:secret@no-such-host.invalid/x")
    assert kind == "unknown_host"
    assert words.startswith("host no-such-host.invalid cannot be resolved")


def test_a_network_without_a_route_is_reported():
    assert refusal("rtsp://255.255.255.255/x")[0] == "unreachable"


def test_a_host_that_accepts_and_sends_nothing_is_closed_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        kind, words = refusal(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x")
        assert time.monotonic() - started < DEADLINE_S
    assert kind == "timeout"
    assert words.endswith(" does not answer; check that the camera is on")


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(self.path.strip("/")))
        self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.end_headers()

    def log_message(self, *args):
        pass


class Rtsp(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            if line.startswith(b"DESCRIBE"):
                code = line.split(b"/")[3].split(b" ")[0]
            elif line.startswith(b"OPTIONS"):
                code = b"200"
            elif line.lower().startswith(b"cseq"):
                self.wfile.write(b"RTSP/1.0 %s Because\r\n%s\r\n" % (code, line))


@pytest.fixture(params=[Answer, Rtsp], ids=["http", "rtsp"])
def answering(request):
    """A server that answers with a given status."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), request.param)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    scheme = "http" if request.param is Answer else "rtsp"
    yield f"{scheme}://guest:secret@127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(cv2.__version__ < "4.13", reason="OpenCV before 4.13 hides HTTP's errors")
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, "unauthorized", "wrong user or password"),
        (403, "unauthorized", "the user has no right to this stream"),
        (404, "not_found", "has no such stream"),
        (503, "failed", "answers with error 503"),
    ],
)
def test_the_error_status_of_a_server_is_recognized(answering, status, kind, words):
    found = refusal(f"{answering}/{status}")
    assert found[0] == kind
    assert words in found[1]


@pytest.mark.parametrize(
    ("logged", "kind"),
    [
        ("Failed to resolve hostname cam.local: Name or service not known", "unknown_host"),
        ("Connection to tcp://c?timeout=0 failed: No route to host", "unreachable"),
        ("Connection to tcp://c failed: Network is unreachable", "unreachable"),
        ("Connection to tcp://c failed: Connection timed out", "timeout"),
        ("Error reading HTTP response: Immediate exit requested", "timeout"),
        ("Could not find codec parameters for stream 0", "unsupported"),
        ("Failed reading RTSP data: Connection reset by peer", "closed"),
        # localhost has two addresses; one has answered
        ("[::1] failed: Connection refused\nmethod DESCRIBE failed: 401 (x)", "unauthorized"),
        ("", "failed"),
        ("something new", "failed"),
    ],
)
def test_ffmpegs_log_is_classified_and_never_shown(logged, kind):
    url = "rtsp://guest:secret@cam.local:554/x"
    found, words = classify_error(f"[tcp @ 0x1] {logged} {url}", url, "failed")
    assert found == kind
    assert words
    assert "secret" not in words
    assert "0x1" not in words


@pytest.mark.parametrize("user", ["u:se/cret", "u:12/secret", "secret:554/secret", "u:se@cret"])
def test_no_part_of_any_password_is_shown(user):
    url = f"rtsp://{user}@127.0.0.1:9/x"
    _, words = classify_error("Connection refused", url, "failed")
    is_clear = "/" not in user
    start = (
        "127.0.0.1:9 refused the connection;"
        if is_clear
        else "the host in the address is ambiguous"
    )
    assert words.startswith(start)
    for text in (words, refusal(url)[1]):
        assert "write # as %23" in text
        assert not re.search(r"secret|cret|u:|\b12\b", text)


@pytest.mark.parametrize("url", ["rtsp://", "rtsp://host:99999/x", "rtsp://[bad/x", "foo://x"])
def test_an_invalid_address_is_refused(url):
    assert refusal(url)[1]


def test_ffmpegs_log_stays_off_the_terminal_and_stderr_is_restored(capfd):
    url = "rtsp://guest:secret@127.0.0.1:9/x"
    with Reading(url, wait=True) as reading:
        reading.until_state("waiting", "refused")
    refusal(url)
    os.write(2, b"still here\n")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == "still here\n"


def test_a_run_reports_in_one_line_why_its_camera_cannot_be_opened():
    with Camera(user="guest", password="secret") as camera:
        url = camera.url(user="guest", password="no-secret")
        command = [sys.executable, str(ROOT / "run.py"), "--source", url, "--sink", "events=-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "secret" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("run.py: ")]
    assert len(lines) == 1
    assert lines[0].endswith(f"{hidden(url)}: wrong user or password")


# --- how an address is opened ---


def test_each_address_is_opened_with_its_own_options_and_the_users(monkeypatch):
    seen = []
    monkeypatch.setenv(OPTIONS, "buffer_size;65536")
    monkeypatch.setattr(
        "stages.capture.opencv_live.cv2.VideoCapture",
        lambda *args: seen.append((args, os.environ[OPTIONS])) or Scripted([]),
    )
    for transport in ("tcp", "udp"):
        settings = CaptureSettings(source="rtsp://cam/x", transport=transport, stall_timeout_s=40)
        OpenCVVideo(settings).close()
    assert os.environ[OPTIONS] == "buffer_size;65536"
    for (args, options), transport in zip(seen, ("tcp", "udp"), strict=True):
        assert options == f"rtsp_transport;{transport}|{ALWAYS}|buffer_size;65536"
        source, backend, params = args
        assert (source, backend) == ("rtsp://cam/x", cv2.CAP_FFMPEG)
        asked = dict(zip(params[::2], params[1::2], strict=True))
        assert asked == {
            cv2.CAP_PROP_N_THREADS: 1,
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 4000,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: 40_000,
        }


def test_a_waiting_grab_is_interrupted_at_once():
    with Camera(fps=25) as camera:
        video = OpenCVVideo(CaptureSettings(source=camera.url("/jpeg"), stall_timeout_s=600))
        try:
            assert video.grab()
            camera.freeze()
            results = []
            reader = threading.Thread(target=lambda: results.extend(iter(video.grab, False)))
            reader.start()
            video.interrupt()
            reader.join(DEADLINE_S)  # and not ten minutes
            assert not reader.is_alive()
            assert video.grab() is False
        finally:
            video.close()
            video.close()
            video.interrupt()


# --- a scripted cv2.VideoCapture ---


class Scripted:
    """A cv2.VideoCapture whose images have the sizes (height, width) of a list."""

    def __init__(self, shapes, stamps_ms=()):
        self.shapes, self.stamps_ms, self.at = list(shapes), stamps_ms, -1
        self.asked, self.set_to = [], {}

    def __call__(self, *args):
        self.asked.append(args)
        return self

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return True

    def getBackendName(self):  # noqa: N802
        return "SCRIPT"

    def set(self, prop, value):
        self.set_to[prop] = value

    def get(self, prop):
        if prop == cv2.CAP_PROP_POS_MSEC:
            return self.stamps_ms[self.at] if self.stamps_ms else 0.0
        height, width = self.shapes[max(self.at, 0)] if self.shapes else (4, 6)
        sizes = {cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FRAME_WIDTH: width}
        return float(sizes.get(prop, 30.0))

    def grab(self):
        self.at += 1
        return self.at < len(self.shapes)

    def retrieve(self, target):
        image = np.full((*self.shapes[self.at], 3), self.at, np.uint8)
        if target.shape != image.shape:
            return True, image  # as OpenCV does: an array of its own, without an error
        target[...] = image
        return True, target

    def release(self):
        pass


def scripted(monkeypatch, shapes, stamps_ms=(), context=None, last_ns=None, **more):
    """Read a scripted camera losslessly to its end."""
    made = Scripted(shapes, stamps_ms)
    monkeypatch.setattr("stages.capture.opencv_live.cv2.VideoCapture", made)
    settings = {"mode": "lossless", "reconnect": False, **more}
    reading = Reading(0, context=context, **settings)
    if last_ns is not None:
        opened = reading.capture.open
        reading.capture.open = lambda: (opened(), reading.capture.skip(3, last_ns))
    with reading:
        reading.to_the_end()
    return reading, made


def test_a_webcam_gets_the_size_and_rate_of_the_settings(monkeypatch):
    _, made = scripted(monkeypatch, [(4, 6)], width=640, height=480, fps=15)
    assert made.set_to == {
        cv2.CAP_PROP_FRAME_WIDTH: 640,
        cv2.CAP_PROP_FRAME_HEIGHT: 480,
        cv2.CAP_PROP_FPS: 15,
    }


def test_a_camera_that_changes_its_size_is_followed(monkeypatch):
    sizes = [(4, 6), (4, 6), (8, 12), (8, 12), (2, 3)]
    reading, _ = scripted(monkeypatch, sizes)
    assert [p.image.shape for p in reading.frames] == [(*size, 3) for size in sizes]
    assert [int(p.image[0, 0, 0]) for p in reading.frames] == list(range(5))
    for frame in reading.frames:
        offset, _, shape = frame.arrays["image"]
        assert (offset, frame.used) == (0, np.prod(shape))


def test_a_camera_that_stops_is_a_problem(monkeypatch):
    reading, _ = scripted(monkeypatch, [(4, 6)] * 3)
    assert len(reading.frames) == 3
    assert (
        reading.capture.problem()
        == "camera 0: no camera at /dev/video0; check that it is plugged in"
    )


def test_a_camera_that_reached_its_limit_is_no_problem(monkeypatch):
    reading, _ = scripted(monkeypatch, [(4, 6)] * 3, frames=3)
    assert len(reading.frames) == 3
    assert reading.capture.problem() is None


def test_a_camera_that_gives_nothing_is_refused(monkeypatch):
    with pytest.raises(SourceError, match="camera 0: no camera at /dev/video0") as caught:
        scripted(monkeypatch, [])
    assert caught.value.kind == "no_device"


def test_a_camera_without_timestamps_is_timed_by_arrival(monkeypatch):
    started_ns = time.monotonic_ns()
    reading, _ = scripted(monkeypatch, [(4, 6)] * 3, context={"started_ns": started_ns})
    times = [0]
    for frame in reading.frames:
        times += [frame.source_ns, frame.captured_ns - started_ns]
    assert times == sorted(times)


def test_a_cameras_clock_counts_from_the_start_of_the_run(monkeypatch):
    stamps_ms = [5000.0, 5040.0, 5080.0]
    context = {"started_ns": 1}
    before, _ = scripted(monkeypatch, [(4, 6)] * 3, stamps_ms, context)
    times = [frame.source_ns for frame in before.frames]
    after, _ = scripted(monkeypatch, [(4, 6)] * 3, stamps_ms, context, last_ns=times[-1])
    assert after.frames[0].source_ns > times[-1] > times[0] > 0
    assert times[1] - times[0] == 40_000_000
    assert len(after.frames) == 3  # no image of a camera is skipped


# --- a webcam ---


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if compiler() is None:
        pytest.skip("there is no C compiler to build the webcam with: install gcc")
    return build(tmp_path_factory.mktemp("webcam"))


@pytest.fixture
def webcam(library, tmp_path):
    made = Webcam(library, tmp_path)
    made.be("on")
    yield made
    made.end()


QUICK = {"INITIAL_DELAY_S": 0.05, "MAX_DELAY_S": 0.2}


def in_order(said):
    """Check that each image came once, and that the clock went on over all connections."""
    images = [one for one in said if "number" in one]
    assert all(a["number"] < b["number"] and a["ns"] < b["ns"] for a, b in pairwise(images))


def test_a_webcam_is_read_in_the_size_it_has(webcam):
    webcam.read(QUICK)
    assert {tuple(one["shape"]) for one in webcam.images(10)} == {(240, 320, 3)}
    assert webcam.close() == 0
    assert webcam.said[-2]["threads"] == ["MainThread"]
    in_order(webcam.said)


def test_a_webcam_that_is_unplugged_is_waited_for(webcam):
    webcam.read(QUICK)
    webcam.images(5)
    webcam.be("off")
    said = webcam.until(state="waiting", kind="no_device")[-1]
    assert said["text"] == "no camera at /dev/video7; check that it is plugged in"
    webcam.be("on", "640x480")
    webcam.until(state="live")
    assert {tuple(one["shape"]) for one in webcam.images(5)} == {(480, 640, 3)}
    assert webcam.close() == 0
    in_order(webcam.said)


def test_a_webcam_that_goes_silent_is_frozen(webcam):
    webcam.read(QUICK, stall_timeout_s=0.5)
    webcam.images(5)
    webcam.be("silent")
    webcam.until(state="waiting", kind="frozen")
    webcam.be("on")
    webcam.images(5)
    assert webcam.close() == 0
    in_order(webcam.said)


def test_a_webcam_whose_driver_hangs_ends_its_process(webcam):
    webcam.read(QUICK | {"STUCK_S": 0.5}, stall_timeout_s=0.5)
    webcam.images(5)
    webcam.be("stuck")
    webcam.until(state="waiting", kind="frozen")
    webcam.until(error="StuckSource")
    assert webcam.close() == 1


def test_a_webcam_that_another_program_uses_is_refused(webcam):
    webcam.be("busy")
    webcam.read(QUICK)
    said = webcam.until(error="SourceError")[-1]
    assert said["kind"] == "failed"
    assert "another program uses it" in said["text"]
    assert webcam.close() == 1


def test_with_wait_a_webcam_may_be_plugged_in_later(webcam):
    webcam.be("off")
    webcam.read(QUICK, wait=True)
    webcam.until(state="waiting", kind="no_device")
    webcam.be("on")
    webcam.images(3)
    assert webcam.close() == 0


def test_a_webcam_is_read_by_the_name_of_its_device(webcam):
    webcam.read(QUICK, source="/dev/video7", wait=True)
    webcam.images(3)
    assert webcam.close() == 0


def test_a_webcam_that_is_silent_from_the_start_is_refused_in_time(webcam):
    webcam.be("silent")
    webcam.read(QUICK)
    assert webcam.until(error="SourceError")[-1]["kind"] == "frozen"
    assert webcam.close() == 1
