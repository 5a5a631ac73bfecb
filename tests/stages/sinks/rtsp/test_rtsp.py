"""The RTSP sink: images of a viewer, and the cost without one."""

import errno
import itertools
import logging
import os
import signal
import socket
import threading
import time

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from stages.sinks.rtsp import rtsp
from stages.sinks.rtsp import server as rtsp_server
from stages.sinks.rtsp.rtsp import Rtsp, RtspSettings, encode
from tests.builders import context_of
from tests.processes.runs import CLIP, Run

pytestmark = pytest.mark.live

DEADLINE_S = 30.0
BOX = (32, 40, 160, 120)
OBJECTS = {
    "boxes": np.array([BOX], np.float32),
    "scores": np.array([0.9], np.float32),
    "classes": np.array([0], np.int32),
    "ids": np.array([3], np.int64),
}


def frame(seq, stream="demo", size=(144, 192), fps=25, objects=OBJECTS, level=None):
    """A picture of one grey, which tells its number, with one object."""
    image = np.full((*size, 3), 20 + 10 * (seq % 20) if level is None else level, np.uint8)
    return Frame.of(stream, seq, seq / fps, image=image, **objects)


@pytest.fixture
def opened():
    """Opens sinks, and closes them after the test."""
    sinks = []

    def make(streams=("demo",), **settings):
        sink = Rtsp(
            RtspSettings(port=0, **settings), context_of(streams=streams, labels=("person",))
        )
        sinks.append(sink)
        sink.resolve(sink.settings)
        sink.open()
        return sink

    yield make
    for sink in sinks:
        sink.close()


def url(sink, stream="demo", login=""):
    return sink.info()["address"].replace("{stream}", stream).replace("//", f"//{login}")


def wait_until(condition, why="nothing came of it"):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, why
        time.sleep(0.002)


class Viewer:
    """Any player: FFmpeg behind OpenCV, fed while it opens."""

    def __init__(self, address, transport="tcp"):
        # OpenCV reads its options from the environment alone.
        key = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
        before = os.environ.get(key)
        os.environ[key] = f"rtsp_transport;{transport}|analyzeduration;0|probesize;32"
        try:
            params = [
                cv2.CAP_PROP_N_THREADS,
                1,
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                int(DEADLINE_S * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                int(DEADLINE_S * 1000),
            ]
            self.capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, params)
        finally:
            if before is None:
                del os.environ[key]
            else:
                os.environ[key] = before

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.capture.release()

    @property
    def is_open(self):
        return self.capture.isOpened()

    def read(self):
        done, picture = self.capture.read()
        assert done, "no picture comes any more"
        return picture

    def is_over(self):
        return not self.capture.read()[0]


class Player:
    """Processes frames for as long as it is entered, in a thread, as a worker would."""

    def __init__(self, sink, frames):
        self.sink, self.frames = sink, frames

    def __enter__(self):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()

    def _run(self):
        for each in self.frames:
            if self.over.wait(0.01):
                return
            self.sink.process(each)


def playing(sink, **options):
    return Player(sink, (frame(seq, **options) for seq in itertools.count()))


def watch(sink, stream="demo"):
    """A viewer that has asked for pictures, by hand; they come to its socket."""
    viewer = socket.create_connection(("127.0.0.1", sink._server.port))
    viewer.settimeout(DEADLINE_S)
    transport = b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
    path = f"rtsp://x/{stream}".encode()
    viewer.sendall(b"SETUP %s RTSP/1.0\r\nCSeq: 1\r\n%s\r\n" % (path, transport))
    answer = viewer.recv(4096)
    session = answer.partition(b"Session: ")[2].partition(b";")[0]
    viewer.sendall(b"PLAY %s RTSP/1.0\r\nCSeq: 2\r\nSession: %s\r\n\r\n" % (path, session))
    assert b"200 OK" in viewer.recv(4096)
    return viewer


def count_pictures(viewer, sink):
    """How many pictures have come, of those that were drawn before."""

    def all_sent():
        return not any(
            stream.busy
            or stream.mount.pending
            or any(v.sender.waiting for v in stream.mount.viewers)
            for stream in sink._streams.values()
        )

    wait_until(all_sent)
    viewer.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n")  # its answer comes behind them
    pictures, data = 0, b""
    while not data.startswith(b"RTSP/1.0 200 OK"):
        size = 4 + int.from_bytes(data[2:4], "big")
        if len(data) < max(size, 15):
            data += viewer.recv(1 << 20)
            continue
        pictures += data[1] == 0 and data[5] >> 7
        data = data[size:]
    return pictures


# --- what a viewer sees ---


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_viewer_sees_the_stream_with_its_boxes(opened, transport):
    sink = opened()
    with playing(sink, level=100), Viewer(url(sink), transport) as viewer:
        picture = viewer.read()
        assert picture.shape == (144, 192, 3)
        x1, y1, x2, y2 = BOX
        inside = picture[y1 + 20 : y2 - 20, x1 + 20 : x2 - 20].astype(int)
        assert abs(inside.mean() - 100) < 6
        edge = picture[y2 - 1, x1 + 20 : x2 - 20].astype(int)
        assert np.ptp(edge.mean(axis=0)) > 40, "the line of a box has a colour"


def test_pictures_are_bare_where_that_is_asked(opened):
    sink = opened(annotate=False)
    with playing(sink, level=100), Viewer(url(sink)) as viewer:
        assert abs(viewer.read().astype(int) - 100).max() < 6


def test_each_stream_has_a_path_of_its_own(opened):
    sink = opened(("yard", "door"), mount="/live/{stream}.mjpg")
    frames = (
        frame(seq, stream, level=level)
        for seq in itertools.count()
        for stream, level in (("yard", 60), ("door", 180))
    )
    assert sink.info()["address"].endswith("/live/{stream}.mjpg")
    with Player(sink, frames), Viewer(url(sink, "yard")) as yard, Viewer(url(sink, "door")) as door:
        for _ in range(3):
            assert yard.read()[-8:].mean() == pytest.approx(60, abs=6)
            assert door.read()[-8:].mean() == pytest.approx(180, abs=6)


def test_a_stream_that_comes_later_is_served(opened):
    sink = opened()
    with Viewer(url(sink, "late")) as viewer:
        assert not viewer.is_open
    sink.process(frame(0, "late"))
    with playing(sink, stream="late"), Viewer(url(sink, "late")) as viewer:
        assert viewer.read().shape == (144, 192, 3)


def test_a_stream_that_ends_is_over_for_its_viewers(opened):
    sink = opened()
    with playing(sink):
        viewer = Viewer(url(sink))
        viewer.read()
    with viewer:
        sink.end("demo")
        until = time.monotonic() + DEADLINE_S
        while not viewer.is_over():  # what had been sent before is seen first
            assert time.monotonic() < until
    with Viewer(url(sink)) as viewer:
        assert not viewer.is_open
    sink.process(frame(0))  # added again: numbered from 0 again
    with playing(sink), Viewer(url(sink)) as viewer:
        assert viewer.read().shape == (144, 192, 3)


def test_pictures_that_are_too_large_are_made_smaller(opened):
    sink = opened(width=640)
    with playing(sink, size=(2160, 3840)), Viewer(url(sink)) as viewer:
        assert viewer.read().shape == (360, 640, 3)


@pytest.mark.parametrize(
    ("size", "width", "want"),
    [
        ((1080, 1920), 1280, (720, 1280)),
        ((480, 640), 1280, (480, 640)),
        ((575, 766), 1280, (575, 766)),
        ((3000, 1000), 1280, (2040, 680)),
        ((2160, 3840), 2040, (1144, 2040)),
        ((10, 4000), 64, (8, 64)),
        ((2500, 8), 64, (2040, 8)),
    ],
)
def test_the_shape_is_kept_as_far_as_blocks_of_eight_allow(size, width, want):
    file = encode(np.zeros((*size, 3), np.uint8), width, 80)
    assert cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).shape[:2] == want


def test_a_change_of_size_goes_on(opened):
    sink = opened()
    sizes = itertools.chain(
        (frame(seq) for seq in range(200)),
        (frame(seq, size=(96, 128), level=50) for seq in itertools.count(200)),
    )
    with Player(sink, sizes), Viewer(url(sink)) as viewer:
        until = time.monotonic() + DEADLINE_S
        # OpenCV shows it at the size it began with; the grey is that of the new pictures.
        while abs(viewer.read()[-8:].mean() - 50) > 6:
            assert time.monotonic() < until


def test_viewers_learn_when_a_picture_was_captured(opened):
    sink = opened()
    with watch(sink) as viewer:
        wait_until(lambda: sink._stream("demo").mount.watched)
        sink.process(frame(0, fps=1))
        sink.process(frame(1_700_000_000, fps=1))
        data = b""
        while data.count(b"$\x01") < 1:
            data += viewer.recv(1 << 16)
        report = data[data.index(b"$\x01") + 4 :]
        assert report[1] == 200
        assert int.from_bytes(report[8:12], "big") in (2_208_988_800, 3_908_988_800)


# --- what it costs ---


def test_nothing_is_drawn_without_a_viewer(opened, monkeypatch):
    sink = opened()
    drawn = []
    draw = sink._annotator.draw
    monkeypatch.setattr(sink._annotator, "draw", lambda f: drawn.append(f.seq) or draw(f))
    for seq in range(5):
        sink.process(frame(seq))
    assert drawn == []
    with watch(sink) as viewer:
        sink.process(frame(5))
        assert count_pictures(viewer, sink) == 1
    assert drawn == [5]
    wait_until(lambda: not sink._stream("demo").mount.watched)
    sink.process(frame(6))
    assert drawn == [5]


def test_only_newer_frames_are_shown(opened):
    sink = opened()
    with watch(sink) as viewer:
        for seq in (4, 2, 4, 0, 6, 5):
            sink.process(frame(seq))
            wait_until(lambda: not sink._streams["demo"].busy)
        assert sink._streams["demo"].seq == 6
        assert count_pictures(viewer, sink) == 2


@pytest.mark.parametrize(
    ("fps", "of_source", "want"),
    [(10, 30, 10), (25, 30, 25), (30, 30, 30), (5, 4, 4), (0.5, 10, 1)],
)
def test_the_rate_is_limited(opened, fps, of_source, want):
    sink = opened(fps=fps)
    stream = sink._stream("demo")
    jitter_ns = itertools.cycle((0, 3_000_000, -3_000_000, 1_000_000))
    second = [
        stream.rate.is_due(10_000_000_000 + round(n * 1e9 / of_source) + next(jitter_ns))
        for n in range(of_source)
    ]
    assert sum(second) == pytest.approx(want, abs=1)


def test_a_viewer_that_reads_nothing_does_not_hold_back_the_stage(opened):
    sink = opened()
    noise = np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)
    large = Frame.of("demo", image=noise, **OBJECTS)
    with watch(sink) as viewer:
        for seq in range(100):  # were it to wait for the viewer, this would never end
            large.header.seq = seq
            sink.process(large)
            wait_until(lambda: not sink._streams["demo"].busy)
        wait_until(lambda: not sink._streams["demo"].mount.pending)
        assert len(sink._streams["demo"].mount.viewers[0].sender.waiting) <= 1
        assert viewer.recv(100)


def test_a_frame_that_comes_while_the_last_one_is_encoded_is_passed_by(opened, monkeypatch):
    go_on, calls = threading.Event(), []

    def slow(picture, width, quality):
        calls.append(int(picture[-1, 0, 0]))
        assert go_on.wait(DEADLINE_S)
        return encode(picture, width, quality)

    monkeypatch.setattr(rtsp, "encode", slow)
    sink = opened()
    with watch(sink) as viewer:
        for seq in range(5):
            sink.process(frame(seq))
        go_on.set()
        assert count_pictures(viewer, sink) == 1
        sink.process(frame(5))
        assert count_pictures(viewer, sink) == 1
    assert calls == [20, 70]


def test_an_image_that_cannot_be_sent_is_logged_once(opened, caplog, monkeypatch):
    monkeypatch.setattr(rtsp, "encode", lambda *_: b"no JPEG")
    sink = opened()
    with watch(sink):
        for seq in range(3):
            sink.process(frame(seq))
            wait_until(lambda: not sink._streams["demo"].busy)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines == ["stages.stage: /demo: images cannot be sent: not a JPEG file"]


# --- who may look ---


def test_others_need_the_password(opened, caplog):
    sink = opened(address="0.0.0.0", user="guest", password="s3cret")
    at = url(sink).replace("0.0.0.0", "127.0.0.1")
    with playing(sink):
        with Viewer(at) as viewer:
            assert not viewer.is_open
        with Viewer(at.replace("//", "//guest:wrong@")) as viewer:
            assert not viewer.is_open
        with Viewer(at.replace("//", "//guest:s3cret@")) as viewer:
            assert viewer.read().shape == (144, 192, 3)
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert lines[0].startswith(
        "stages.stage: streams reachable from the network at rtsp://0.0.0.0:"
    )
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"address": "0.0.0.0"},
            "address: 0.0.0.0 is reachable from the network; set user and password",
        ),
        ({"address": "192.0.2.7"}, "is reachable from the network"),
        ({"address": "::"}, "is reachable from the network"),
        ({"address": "camera.local"}, "expected an IP address of this machine"),
        ({"user": "guest"}, "expected both or neither"),
        ({"password": "secret"}, "expected both or neither"),
        ({"port": "99999"}, "up to 65535"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, why):
    with pytest.raises(SetupError, match=why) as refused:
        Rtsp.resolve(RtspSettings(**settings))
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"mount": "/live"},
        {"mount": "{stream}"},
        {"mount": "/a b/{stream}"},
        {"port": -1},
        {"port": 65536},
        {"port": "http"},
        {"width": 4000},
        {"quality": 0},
        {"fps": 0},
        {"user": "a:b"},
        {"path": "/x"},
    ],
)
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, RtspSettings)


def test_a_port_may_be_text_as_from_the_command_line(opened):
    settings = msgspec.convert({"port": "8554"}, RtspSettings)
    assert Rtsp(settings, context_of()).info()["address"] == "rtsp://127.0.0.1:8554/{stream}"


# --- when it cannot listen ---


def test_a_port_that_is_taken_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sink = Rtsp(RtspSettings(port=port), context_of())
        with pytest.raises(SetupError, match=f"port {port} is used .* set another port"):
            sink.open()
        sink.close()


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EACCES, "set one from 1024 up"),
        (errno.EADDRNOTAVAIL, "this machine has no address"),
        (errno.EMFILE, "cannot listen on 127.0.0.1"),
    ],
)
def test_what_the_system_refuses_is_said_in_one_line(monkeypatch, number, why):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(rtsp_server.socket, "create_server", refuse)
    sink = Rtsp(RtspSettings(), context_of())
    with pytest.raises(SetupError, match=why):
        sink.open()
    sink.close()


def test_closing_leaves_no_thread_and_no_descriptor():
    def left():
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    before = left()
    for _ in range(3):
        sink = Rtsp(RtspSettings(port=0), context_of(streams=("demo",)))
        sink.open()
        with watch(sink):
            sink.process(frame(0))
            sink.close()
    assert left() == before


# --- in a run ---

GRAPH = """\
streams:
  demo: {{source: {source}, mode: live, loop: true}}
stages:
  capture: {{use: capture}}
  boxes:   {{use: "tests.processes.stages:Boxes"}}
  ids:     {{use: "tests.processes.stages:Ids"}}
  rtsp:    {{use: rtsp, after: ids, port: %d}}
supervisor: {{restarts: 100}}
"""


@pytest.mark.processes
def test_a_run_is_watched_also_after_the_sink_was_killed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"rtsp://127.0.0.1:{port}/demo"

    def is_served():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with Run(tmp_path, source=CLIP, graph=GRAPH % port) as run:
        run.wait_until(is_served)
        with Viewer(address) as viewer:
            assert viewer.read().shape == (576, 768, 3)
            pid = run.workers()["rtsp"]
            run.strike("rtsp", signal.SIGKILL)
            until = time.monotonic() + DEADLINE_S
            while not viewer.is_over():
                assert time.monotonic() < until
        run.wait_until(lambda: run.workers().get("rtsp", pid) != pid and is_served())
        with Viewer(address) as viewer:  # the same port, though connections to it linger
            assert viewer.read().shape == (576, 768, 3)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0, run.stderr
    assert run.summary["stages"]["rtsp"]["restarts"] == 1


@pytest.mark.processes
def test_a_run_whose_port_is_taken_ends_with_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Run(tmp_path, source=CLIP, graph=GRAPH % port) as run:
            assert run.wait() == 2
            assert f"rtsp: port {port} is used by another program; set another port" in run.stderr
