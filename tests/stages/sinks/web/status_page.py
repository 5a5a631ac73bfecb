"""A status page that is open, with a run that a test controls, and its clients."""

import http.client
import socket
import threading
import time
from contextlib import closing, contextmanager

import aiohttp
import cv2
import numpy as np

from pipeline.frame import Frame
from pipeline.status import (
    Percentiles,
    RunStatus,
    SourceState,
    StageStatus,
    StreamStatus,
    WorkerStatus,
)
from stages.sinks.web.settings import WebSettings
from stages.sinks.web.web import Web
from tests.builders import context_of

TOKEN = "correct-horse-battery"
DEADLINE_S = 20.0


def stream_status(name="yard", **fields):
    given = {
        "source": "rtsp://***@cam/1",
        "condition": SourceState("live"),
        "since_s": 10.0,
        "away_s": 4.5,
        "reconnects": 2,
        "live": True,
        "decoder": "FFmpeg h264",
        "width": 640,
        "height": 480,
        "fps": 25.0,
        "slots": 3,
        "captured": 1000,
        "delivered": 950,
        "dropped": {"busy": 40, "stale": 2},
        "failed": {"detector": 5},
        "in_flight": 3,
        "latency_ms": Percentiles(30.0, 50.0, 60.0, 70.0),
        "hops_ms": {"detector": Percentiles(20.0, 30.0, 40.0, 50.0)},
    }
    return StreamStatus(name=name, **given | fields)


def stage_status(name="detector", **fields):
    given = {
        "use": "detector",
        "after": "capture",
        "processed": 955,
        "failed": 5,
        "restarts": 1,
        "busy_ms": Percentiles(12.0, 14.0, 15.0, 20.0),
        "waited_ms": 1.5,
        "cpu_s": 11.0,
        "info": {"provider": "CPUExecutionProvider", "trouble": "none to speak of"},
        "counts": {"sent": 42},
        "workers": [WorkerStatus("detector.1", 4711, 1), WorkerStatus("detector.2", 4712, 0)],
    }
    return StageStatus(name=name, **given | fields)


def run_status(streams=None, stages=None, **fields):
    given = {
        "version": "0.1.0",
        "config": "daemon.yaml",
        "pid": 4700,
        "now": "2026-11-21T08:00:00.000Z",
        "uptime_s": 60.0,
        "phase": "running",
        "ready": True,
        "reloads": 0,
        "reload_error": "",
        "streams": [stream_status()] if streams is None else streams,
        "stages": [stage_status()] if stages is None else stages,
    }
    return RunStatus(**given | fields)


class StandIn:
    """A run with the status that a test sets; records the requests."""

    def __init__(self, **fields):
        self.now = run_status(**fields)
        self.asked = []
        self.answer = ""
        self.took_s = [0.004, 0.03, 0.03, 20.0]

    def status(self):
        return self.now

    def latency(self, stream, bounds_s):
        if all(known.name != stream for known in self.now.streams):
            raise KeyError(stream)
        counts = [sum(took <= bound for took in self.took_s) for bound in bounds_s]
        return [*counts, len(self.took_s)], sum(self.took_s)

    def ask(self, request, timeout_s=5.0, **arguments):
        self.asked.append((request, arguments))
        return self.answer


class Page:
    """A stage that is open, and requests of clients."""

    def __init__(self, run, **settings):
        self.run = run
        given = WebSettings(
            **{"port": 0, "token": TOKEN, "sources": ("0", "rtsp://cam")} | settings
        )
        Web.resolve(given)
        self.stage = Web(given, context_of(labels=("person", "car"), streams=("yard",)))
        self.stage.run = run
        self.stage.open()
        self.port = int(self.stage.info()["address"].rstrip("/").rpartition(":")[2])

    def ask(self, method, path, body=None, token=None, **headers):
        """Send a request; return status, headers and body."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, DEADLINE_S)) as client:
            client.request(method, path, body, sent)
            answer = client.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def asks(self, path):
        """Send a request and return its connection, with the answer unread."""
        client = self.connect()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client


def frame(seq=0, stream="yard", value=0, size=(48, 64), boxes=(), ids=None, time_s=None):
    """Make a frame; boxes are rows of x1, y1, x2, y2."""
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    arrays = {
        "image": np.full((*size, 3), value, np.uint8),
        "boxes": corners,
        "scores": np.full(len(corners), 0.5, np.float32),
        "classes": np.zeros(len(corners), np.int32),
    }
    if ids is not None:
        arrays["ids"] = np.asarray(ids, np.int64)
    return Frame.of(stream, seq, (seq + 1) * 0.1 if time_s is None else time_s, **arrays)


@contextmanager
def feeding(stage, make=frame):
    """Feed frames, each 100 ms after the last by the clock of capture."""
    over = threading.Event()

    def feed():
        seq = 0
        while not over.wait(0.002):
            stage.process(make(seq))
            seq += 1

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        over.set()
        feeder.join()


def wait_until(condition):
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "condition not met in time"
        time.sleep(0.002)


def decode(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


async def live(page, *protocols, **headers):
    """Open the WebSocket of a viewer; return its session, and the WebSocket."""
    session = aiohttp.ClientSession()
    try:
        return session, await session.ws_connect(
            f"http://127.0.0.1:{page.port}/api/live", protocols=protocols, headers=headers
        )
    except BaseException:
        await session.close()
        raise


@contextmanager
def multipart(page, stream="yard"):
    """Request the images of a stream as multipart; yield the answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, DEADLINE_S)) as client:
        client.request("GET", f"/stream/{stream}.mjpg")
        with client.getresponse() as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
            yield answer


def read_part(file):
    """Return the next JPEG of a multipart answer."""
    while not file.readline().startswith(b"--"):
        pass
    length = 0
    while line := file.readline().strip():
        name, _, value = line.partition(b": ")
        if name == b"Content-Length":
            length = int(value)
    return file.read(length)
