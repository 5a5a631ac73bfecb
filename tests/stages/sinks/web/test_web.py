"""The server of the status page: what it tells whom, what pictures cost, and hostile clients."""

import asyncio
import base64
import http.client
import json
import os
import random
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import aiohttp
import cv2
import msgspec
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.status import (
    Percentiles,
    RunStatus,
    SourceState,
    StageStatus,
    StreamStatus,
    WorkerStatus,
)
from stages.detections import Detections
from stages.sinks.web import auth, connections, middleware, routes, server
from stages.sinks.web.activity import ActivityLog
from stages.sinks.web.health import why_not_ready
from stages.sinks.web.history import BOUNDS_S, History, percentile
from stages.sinks.web.metrics import BUCKETS_S
from stages.sinks.web.settings import WebSettings
from stages.sinks.web.web import Scratch, Web
from tests.builders import context_of

TOKEN = "correct-horse-battery"
DEADLINE_S = 20.0
SECRET = "rtsp://admin:hunter2@cam/1"


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
    """A run that shows what a test wants, and notes what it is asked for."""

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
    """A stage that is open, and what a client asks of it."""

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
        """Status, headers, body."""
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
        """A connection that has asked for something and not read the answer."""
        client = self.connect()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client


@pytest.fixture
def opened():
    pages = []

    def make(run=None, **settings):
        pages.append(Page(run or StandIn(), **settings))
        return pages[-1]

    yield make
    for page in pages:
        page.stage.close()
    assert not [t.name for t in threading.enumerate() if t.name in ("web", "encoder", "reader_0")]


@pytest.fixture
def page(opened):
    return opened()


def frame(seq=0, stream="yard", value=0, size=(48, 64), boxes=(), ids=None, time_s=None):
    """Boxes are rows of x1, y1, x2, y2."""
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
    """Frames, one after the other, each 100 ms after the last by the clock of capture."""
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
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.002)


def picture(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


# --- settings ---


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.7", "::"])
def test_beyond_loopback_nothing_is_served_without_a_token(address):
    with pytest.raises(SetupError, match="set a token"):
        Web.resolve(WebSettings(address=address))
    Web.resolve(WebSettings(address=address, token=TOKEN))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_on_loopback_no_token_is_needed(address):
    Web.resolve(WebSettings(address=address))


@pytest.mark.parametrize(
    "token", ["", "short", "seven77", "two words here", "naïve-token", "a\nbcdefgh"]
)
def test_a_token_that_cannot_serve_is_refused_and_not_repeated(token):
    with pytest.raises(SetupError, match="token: ") as refused:
        Web.resolve(WebSettings(token=token))
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("address", ["localhost", "cam.local", "1.2.3"])
def test_an_address_is_one_of_this_machine(address):
    with pytest.raises(SetupError, match="expected an IP address"):
        Web.resolve(WebSettings(address=address, token=TOKEN))


def test_a_port_may_be_text_but_not_too_high():
    Web.resolve(WebSettings(port="8080"))
    with pytest.raises(SetupError, match="up to 65535"):
        Web.resolve(WebSettings(port="65536"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"port": "eighty"}, WebSettings)


def test_a_taken_port_is_told_in_one_line(page):
    other = Web(WebSettings(port=page.port), context_of())
    other.run = page.run
    with pytest.raises(SetupError, match=f"port {page.port} is taken"):
        other.open()
    other.close()


def test_it_is_told_where_the_page_is_and_who_can_see_it(opened, caplog):
    caplog.set_level("INFO")
    page = opened()
    assert f"status page at http://127.0.0.1:{page.port}/" in caplog.text
    assert TOKEN not in caplog.text


# --- what can be asked for ---


def test_a_process_that_answers_is_healthy(page):
    assert page.get("/healthz")[::2] == (200, b"ok\n")


def test_a_run_that_is_ready_says_so_and_one_that_is_not_says_why(opened):
    assert opened().get("/readyz")[::2] == (200, b"ready\n")
    opening = stream_status("gate", condition=SourceState("opening"))
    late = stage_status(workers=[WorkerStatus("detector.1", 0, 0)])
    run = StandIn(ready=False, streams=[stream_status(), opening], stages=[late])
    status, _, body = opened(run).get("/readyz")
    assert status == 503
    assert body == b"not ready: starting: detector; no image yet: gate\n"
    assert opened(StandIn(phase="draining")).get("/readyz")[0] == 503
    assert why_not_ready(run_status(ready=False)) == "stages are opening"


def test_the_status_is_all_there_is_to_know(page):
    status, headers, body = page.get("/api/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert msgspec.json.decode(body, type=RunStatus) == page.run.now


def samples_of(text, parser=parse):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser(text)
        for sample in family.samples
    }


def test_the_metrics_hold_the_ledger_the_latency_the_stages_and_the_states(page):
    found = samples_of(page.get("/metrics")[2].decode())
    yard = ("stream", "yard")

    def of(name, *labels):
        return found["eyeline_" + name, *sorted(labels)]

    lost = [
        v
        for k, v in found.items()
        if k[0] in ("eyeline_frames_dropped_total", "eyeline_frames_failed_total")
    ]
    assert sorted(lost) == [2, 5, 40]
    assert (
        of("frames_captured_total", yard)
        == 1000
        == (of("frames_delivered_total", yard) + sum(lost) + of("frames_in_flight", yard))
    )
    assert of("frames_dropped_total", yard, ("cause", "busy")) == 40
    assert of("frames_failed_total", yard, ("cause", "detector")) == 5
    assert of("latency_seconds_bucket", yard, ("le", "0.005")) == 1
    assert of("latency_seconds_bucket", yard, ("le", "0.03")) == 3
    assert of("latency_seconds_bucket", yard, ("le", "10.0")) == 3
    assert of("latency_seconds_bucket", yard, ("le", "+Inf")) == 4
    assert of("latency_seconds_count", yard) == 4
    assert of("latency_seconds_sum", yard) == pytest.approx(20.064)
    assert of("stream_state", yard, ("eyeline_stream_state", "live")) == 1
    assert of("stream_state", yard, ("eyeline_stream_state", "waiting")) == 0
    assert of("stream_away_seconds_total", yard) == 4.5
    assert of("stream_reconnects_total", yard) == 2
    assert of("stream_info", yard, ("decoder", "FFmpeg h264"), ("kind", "live")) == 1
    detector = ("stage", "detector")
    provider = ("provider", "CPUExecutionProvider")
    assert of("stage_info", detector, provider, ("use", "detector")) == 1
    assert of("stage_count", detector, ("what", "sent")) == 42
    assert of("stage_processed_total", detector) == 955
    assert of("stage_failed_total", detector) == 5
    assert of("stage_restarts_total", detector) == 1
    assert of("stage_busy_seconds", detector, ("quantile", "0.5")) == 0.012
    assert of("stage_workers", detector) == 2
    assert of("slots", yard) == 3
    assert of("uptime_seconds") == 60


def test_metrics_come_as_openmetrics_where_that_is_understood(page):
    status, headers, body = page.get("/metrics", Accept="application/openmetrics-text")
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    found = samples_of(body.decode(), openmetrics)
    assert found["eyeline_frames_captured_total", ("stream", "yard")] == 1000


def test_a_stage_may_report_what_it_likes(opened):
    facts = {"stage": "x", "with space": "y", 'quo"te': "z", "fine": 'a"b\\c\nd'}
    page = opened(StandIn(stages=[stage_status(info=facts)]))
    found = samples_of(page.get("/metrics")[2].decode())
    info = next(dict(key[1:]) for key in found if key[0] == "eyeline_stage_info")
    assert info == {"stage": "detector", "use": "detector", "fine": 'a"b\\c\nd'}


def test_a_histogram_never_falls_although_others_count_meanwhile(opened):
    run = StandIn()
    run.latency = lambda stream, bounds: ([5, 4, *[9] * (len(BUCKETS_S) - 2), 8], 1.0)
    found = samples_of(opened(run).get("/metrics")[2].decode())
    counts = [v for k, v in found.items() if k[0] == "eyeline_latency_seconds_bucket"]
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        ("/", "text/html", b"<title>Eyeline</title>"),
        ("/style.css", "text/css", b"prefers-color-scheme"),
        ("/app.js", "text/javascript", b"connect();"),
        ("/connection.js", "text/javascript", b"WebSocket"),
        ("/icon.svg", "image/svg+xml", b"<svg"),
    ],
)
def test_the_page_is_there(page, path, kind, holds):
    status, headers, body = page.get(path)
    assert status == 200
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert holds in body


def test_the_page_asks_nobody_else_for_anything(page):
    for path in routes.PAGE_FILES:
        text = page.get(path)[2].decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|\burl\(", text), path


def test_every_answer_is_sealed(page):
    asked = ["/", "/api/status", "/metrics", "/healthz", "/nothing", "/stream/none.mjpg"]
    for path in asked:
        headers = page.get(path)[1]
        assert headers["Server"] == "Eyeline"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


def test_a_method_that_is_not_meant_is_refused_with_those_that_are(page):
    status, headers, _ = page.ask("PUT", "/api/streams", b"{}")
    assert (status, headers["Allow"]) == (405, "POST")
    assert page.ask("HEAD", "/api/status")[::2] == (200, b"")


# --- who may change something ---


def test_without_a_token_set_nothing_can_be_changed(opened):
    page = opened(token=None)
    status, _, body = page.ask("POST", "/api/reload", token="anything")
    assert status == 403
    assert b"set a token in the settings" in body
    assert page.run.asked == []


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x"])
def test_without_the_token_nothing_is_changed(page, token, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 0)
    status, headers, body = page.ask("POST", "/api/reload", token=token)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert TOKEN.encode() not in body
    assert page.run.asked == []


def test_a_password_that_a_browser_sends_by_itself_changes_nothing(page):
    basic = "Basic " + base64.b64encode(f"eyeline:{TOKEN}".encode()).decode()
    assert page.ask("POST", "/api/reload", Authorization=basic)[0] == 401
    assert page.run.asked == []


@pytest.mark.parametrize(
    ("method", "path", "body", "asked"),
    [
        ("POST", "/api/reload", None, ("reload", {})),
        ("POST", "/api/streams/yard/pause", None, ("pause", {"stream": "yard"})),
        ("POST", "/api/streams/yard/resume", None, ("resume", {"stream": "yard"})),
        ("DELETE", "/api/streams/yard", None, ("remove", {"stream": "yard"})),
        (
            "POST",
            "/api/streams",
            b'{"name": "gate", "source": "0", "max_age_ms": 500}',
            ("add", {"stream": "gate", "settings": {"source": "0", "max_age_ms": 500}}),
        ),
    ],
)
def test_with_the_token_it_is_done(page, method, path, body, asked):
    assert page.ask(method, path, body, TOKEN)[::2] == (200, b'{"done":true}')
    assert page.run.asked == [asked]


def test_a_refusal_says_why_and_hides_credentials(page):
    page.run.answer = f"streams.gate: cannot open {SECRET}"
    body = json.dumps({"name": "gate", "source": SECRET}).encode()
    status, _, told = page.ask("POST", "/api/streams", body, TOKEN)
    assert status == 400
    assert json.loads(told) == {"error": "streams.gate: cannot open rtsp://cam/1"}
    page.run.answer = "no answer within 5 s"
    assert page.ask("POST", "/api/reload", None, TOKEN)[0] == 504
    page.run.answer = "it is paused already"
    assert page.ask("POST", "/api/streams/yard/pause", None, TOKEN)[0] == 409


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"source": "http://10.0.0.1/"}, "source: not allowed in a request"),
        ({"source": "/etc/passwd"}, "source: not allowed in a request"),
        (
            {"source": "0", "pipeline": "filesrc ! filesink"},
            "'pipeline' cannot be set by a request",
        ),
        ({"source": "0", "path": "x"}, "'path' cannot be set by a request"),
    ],
)
def test_a_request_opens_and_writes_nothing_that_is_not_listed(page, body, words):
    sent = json.dumps({"name": "gate", **body}).encode()
    status, _, told = page.ask("POST", "/api/streams", sent, TOKEN)
    assert status == 403
    assert json.loads(told)["error"].startswith(words)
    assert page.run.asked == []


def test_an_entry_of_sources_that_is_none_is_refused_before_the_start():
    with pytest.raises(SetupError, match=r"^sources: expected SCHEME://HOST"):
        Web.resolve(WebSettings(sources=("file:///etc",)))


def test_an_unknown_stream_is_not_found(page):
    for method, path in [("DELETE", "/api/streams/no"), ("POST", "/api/streams/no/pause")]:
        status, _, told = page.ask(method, path, None, TOKEN)
        assert (status, json.loads(told)) == (404, {"error": "no stream named no"})
    assert page.run.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"name": 3}',
        b'{"name": "../x"}',
        b'{"name": "a\\n"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ],
)
def test_a_body_that_is_not_meant_is_refused(page, body):
    assert page.ask("POST", "/api/streams", body, TOKEN)[0] == 400
    assert page.run.asked == []


def test_a_body_that_is_too_long_is_refused(page):
    status, _, _ = page.ask("POST", "/api/streams", b'{"name": "x' + b"x" * (64 << 10), TOKEN)
    assert status == 413
    assert page.run.asked == []


# --- other sites ---


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "x", "\xe9"]
)
def test_requests_of_other_sites_are_refused(page, origin):
    for method, path in [("POST", "/api/reload"), ("GET", "/api/status"), ("GET", "/api/live")]:
        assert page.ask(method, path, None, TOKEN, Origin=origin)[0] == 403
    assert page.run.asked == []


def test_its_own_page_is_no_other_site(page):
    for host in (f"127.0.0.1:{page.port}", f"localhost:{page.port}", f"[::1]:{page.port}"):
        own = {"Origin": f"http://{host}", "Host": host, "Sec_Fetch_Site": "same-origin"}
        assert page.ask("POST", "/api/reload", None, TOKEN, **own)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "[::2]", "127.0.0.2"]
)
def test_a_name_that_was_made_to_point_here_is_refused(page, host):
    assert page.get("/api/status", Host=host)[0] == 421
    assert page.get("/", Host=host)[0] == 421


def test_a_name_that_is_listed_is_known(opened):
    page = opened(hosts=("Eyeline.example",))
    own = {"Host": "eyeline.example", "Origin": "https://eyeline.example"}
    assert page.get("/api/status", **own)[0] == 200
    assert page.get("/api/status", Host="127.0.0.1", Origin="https://eyeline.example")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pictures_are_not_shown_on_other_sites(page, site):
    asked = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors"}
    assert page.get("/snapshot/yard.jpg", **asked)[0] == 403
    assert page.get("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200


# --- open to the network ---


@pytest.fixture
def public(opened, monkeypatch):
    """As if it listened at an address that others reach."""
    monkeypatch.setattr(auth, "is_loopback", lambda address: False)
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 0)
    return opened(StandIn(ready=False))


READS = [
    "/api/status",
    "/api/events",
    "/metrics",
    "/stream/yard.mjpg",
    "/snapshot/yard.jpg",
    "/api/live",
]


@pytest.mark.parametrize("path", READS)
def test_nothing_is_shown_to_the_network_without_the_token(public, path):
    for token in (None, "wrong"):
        status, _, body = public.get(path, token=token)
        assert status == 401
        assert b"yard" not in body


def test_with_the_token_all_is_shown_to_the_network(public):
    assert public.get("/api/status", token=TOKEN)[0] == 200
    basic = "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()
    assert public.get("/metrics", Authorization=basic)[0] == 200
    assert public.get("/api/status", token=TOKEN, Host="eyeline.example")[0] == 200


def test_what_needs_no_token_tells_nothing(public):
    assert public.get("/healthz")[0] == 200
    assert public.get("/readyz")[::2] == (503, b"not ready\n")
    assert b"stages are opening" in public.get("/readyz", token=TOKEN)[2]
    for path in routes.PAGE_FILES:
        assert public.get(path)[0] == 200


@pytest.mark.parametrize(
    "bad", ["Bearer", "Basic", "Basic !!", "Basic w6k=", "Bearer \xe9", "Digest x"]
)
def test_an_odd_authorization_is_a_wrong_one(public, bad):
    assert public.get("/api/status", Authorization=bad)[0] == 401


async def live(page, *protocols, **headers):
    """A viewer's connection, and the session it belongs to."""
    session = aiohttp.ClientSession()
    try:
        return session, await session.ws_connect(
            f"http://127.0.0.1:{page.port}/api/live", protocols=protocols, headers=headers
        )
    except BaseException:
        await session.close()
        raise


def test_a_browser_brings_the_token_of_a_websocket_as_a_protocol(public):
    async def status_of(token):
        text = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        try:
            session, viewer = await live(public, "eyeline", f"token.{text}")
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        async with session:
            assert viewer.protocol == "eyeline"
            return (await viewer.receive_json())["type"]

    assert asyncio.run(status_of("wrong")) == 401
    assert asyncio.run(status_of(TOKEN)) == "hello"


# --- pictures ---


def test_a_snapshot_is_the_picture_with_its_boxes(page):
    def made(seq):
        return frame(seq, value=40, size=(120, 160), boxes=[(40, 50, 120, 110)], ids=[3])

    with feeding(page.stage, made):
        status, headers, body = page.get("/snapshot/yard.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert headers["X-Captured-At"].startswith("1970-01-01T00:")
    shown = picture(body).astype(int)
    assert shown.shape == (120, 160, 3)
    assert np.abs(shown[5, 5] - 40).max() < 8
    assert np.abs(shown[80, 40] - 40).max() > 60  # the box's left side
    assert np.abs(shown[80, 80] - 40).max() < 8  # its inside


def test_a_large_picture_is_made_smaller_before_it_is_drawn_on():
    scratch = Scratch()
    given = frame(size=(1080, 1920), boxes=[(192, 108, 960, 540)], ids=[1])
    small = scratch.copy(given, Detections.of(given), 640)
    assert small["image"].shape == (360, 640, 3)
    assert small["boxes"].tolist() == [[64, 36, 320, 180]]
    assert small["ids"].tolist() == [1]
    tall = frame(size=(4000, 10))
    assert scratch.copy(tall, Detections.of(tall), 64)["image"].shape == (128, 1, 3)


def test_a_small_picture_is_copied_as_it_is(rng):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    given = frame(size=(20, 30), boxes=[(1, 2, 3, 4)])
    given.put("image", image)
    copy = Scratch().copy(given, Detections.of(given), 640)
    assert np.array_equal(copy["image"], image)
    assert copy["boxes"].tolist() == [[1, 2, 3, 4]]
    assert not np.shares_memory(copy["image"], given["image"])


def test_the_memory_of_a_copy_is_used_again_and_grows_with_what_comes():
    scratch, before = Scratch(), 0
    for count in (0, 3, 2000, 5):
        given = frame(size=(40 + count % 7, 60), boxes=[(1, 2, 3, 4)] * count)
        copy = scratch.copy(given, Detections.of(given), 640)
        assert len(copy["boxes"]) == len(copy["ids"]) == count
        assert len(scratch._memory) >= before
        before = len(scratch._memory)


def test_a_stream_without_a_picture_says_so(page, monkeypatch):
    monkeypatch.setattr(routes, "SNAPSHOT_TIMEOUT_S", 0.05)
    status, headers, body = page.get("/snapshot/yard.jpg")
    assert (status, body) == (503, b"no image of yard within 0.05 s\n")
    assert "Retry-After" in headers
    assert page.get("/snapshot/none.jpg")[0] == 404


def count_copies(monkeypatch):
    copied, copy = [], Scratch.copy

    def counting(scratch, given, *more):
        copied.append((given.stream, given.seq))
        return copy(scratch, given, *more)

    monkeypatch.setattr(Scratch, "copy", counting)
    return copied


def test_nothing_is_copied_while_nobody_looks(page, monkeypatch):
    copied = count_copies(monkeypatch)
    for seq in range(20):
        page.stage.process(frame(seq))
    assert copied == []
    with feeding(page.stage, lambda seq: frame(20 + seq)):
        assert page.get("/snapshot/yard.jpg")[0] == 200
    wait_until(lambda: not page.stage._server.is_awaited("yard"))
    seen = len(copied)
    assert seen >= 1
    for seq in range(10_000, 10_020):
        page.stage.process(frame(seq))
    assert len(copied) == seen


@contextmanager
def pictures(page, stream="yard"):
    """A stream of pictures, as a simple client reads it."""
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, DEADLINE_S)) as client:
        client.request("GET", f"/stream/{stream}.mjpg")
        with client.getresponse() as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
            yield answer


def read_part(file):
    """The next JPEG of a stream of pictures."""
    while not file.readline().startswith(b"--"):
        pass
    length = 0
    while line := file.readline().strip():
        name, _, value = line.partition(b": ")
        if name == b"Content-Length":
            length = int(value)
    return file.read(length)


def test_simple_clients_get_a_stream_of_pictures(page):
    with feeding(page.stage, lambda seq: frame(seq, value=seq % 250)), pictures(page) as answer:
        values = [int(picture(read_part(answer))[0, 0, 0]) for _ in range(5)]
    assert len(set(values)) >= 3


def test_a_stream_that_is_over_ends_its_pictures(page):
    with page.asks("/stream/yard.mjpg") as client:
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.end("yard")
        file = client.makefile("rb")
        text = file.read()
        file.close()
    assert b"200 OK" in text
    assert b"image/jpeg\r\nContent-Length" not in text


def test_all_who_look_share_one_copy(page, monkeypatch):
    copied = count_copies(monkeypatch)
    with ExitStack() as stack:
        answers = [stack.enter_context(pictures(page)) for _ in range(5)]
        waiting = page.stage._server._broadcaster._waiting
        wait_until(lambda: len(waiting.get("yard", ())) == 5)
        page.stage.process(frame(7))
        assert len({read_part(answer) for answer in answers}) == 1
    assert copied == [("yard", 7)]


@pytest.mark.parametrize("start_s", [0.1, 5000.0])
def test_no_more_pictures_are_taken_than_asked_for(opened, monkeypatch, start_s):
    copied = count_copies(monkeypatch)
    page = opened(fps=2)

    def is_free():
        stream = page.stage._streams.get("yard")
        return page.stage._server.is_awaited("yard") and not (stream and stream.busy)

    with pictures(page) as answer:
        for seq in [*range(25), *range(101, 108)]:  # ten per second, and a pause
            wait_until(is_free)
            page.stage.process(frame(seq, time_s=start_s + seq * 0.1))
        for _ in range(8):
            read_part(answer)
    # One that is early by less than a quarter of the interval will do; the next is due as before.
    assert [seq for _, seq in copied] == [0, 4, 9, 14, 19, 24, 101, 105]


def test_what_comes_behind_a_newer_frame_is_not_shown(page, monkeypatch):
    copied = count_copies(monkeypatch)
    page.stage.process(frame(5))
    with page.asks("/stream/yard.mjpg") as client:
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.process(frame(3))
        page.stage.process(frame(5))
        assert copied == []
        page.stage.process(frame(6))
        assert copied == [("yard", 6)]
        client.shutdown(socket.SHUT_RDWR)


def test_a_stream_that_is_added_again_begins_anew(page, monkeypatch):
    copied = count_copies(monkeypatch)
    page.stage.process(frame(100, time_s=50.0))
    page.stage.end("yard")
    with page.asks("/stream/yard.mjpg") as client:
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.process(frame(101, time_s=51.0))  # late, after the end
        wait_until(lambda: not page.stage._streams["yard"].busy)
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.process(frame(0, time_s=52.0))
        client.shutdown(socket.SHUT_RDWR)
    assert copied == [("yard", 101), ("yard", 0)]


def test_a_viewer_gets_the_next_picture_when_it_has_shown_the_last(page):
    async def view():
        session, viewer = await live(page)
        async with session:
            assert (await viewer.receive_json())["type"] == "hello"
            await viewer.send_json({"watch": ["yard", "gate", "../x", "", "no such"]})
            shown = []
            for _ in range(3):
                shown.append(await next_picture(viewer))
                # Nothing is wanted of the stream until this one is on the screen.
                assert not page.stage._server.is_awaited("yard")
                await viewer.send_json({"shown": "yard"})
            await viewer.send_json({"watch": []})
            return shown

    with feeding(page.stage, lambda seq: frame(seq, value=seq % 250)):
        shown = asyncio.run(view())
    frames = [head["frame"] for head, _ in shown]
    assert frames == sorted(set(frames))
    assert {head["stream"] for head, _ in shown} == {"yard"}
    for head, image in shown:
        assert abs(int(image[0, 0, 0]) - head["frame"] % 250) <= 2


async def next_picture(viewer):
    while True:
        message = await viewer.receive(DEADLINE_S)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type is aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "big")
            return json.loads(message.data[4 : 4 + length]), picture(message.data[4 + length :])


def test_a_viewer_is_told_the_status_and_what_happens(page):
    for seq in range(3):
        page.stage.process(frame(seq, boxes=[(0, 0, 9, 9)], ids=[7]))

    async def view():
        session, viewer = await live(page)
        async with session:
            hello = await viewer.receive_json()
            status = await viewer.receive_json()
            for seq in range(3, 6):
                page.stage.process(frame(seq, boxes=[(0, 0, 9, 9)] * 2, ids=[7, 8]))
            while True:
                events = await viewer.receive_json()
                if events["type"] == "events":
                    return hello, status, events

    hello, status, events = asyncio.run(view())
    assert hello["writes"] is hello["adds"] is True
    assert [event["id"] for event in hello["events"]] == [7]
    assert status["type"] == "status"
    assert status["status"] == msgspec.to_builtins(page.run.now)
    assert [(event["label"], event["id"], event["stream"]) for event in events["events"]] == [
        ("person", 8, "yard")
    ]


@pytest.mark.parametrize(
    "said", ["{", "[]", '{"watch": "yard"}', "x" * 20_000, '{"watch": [1]}', b"\0"]
)
def test_a_viewer_that_says_something_else_is_let_go(page, said):
    async def view():
        session, viewer = await live(page)
        async with session:
            await (viewer.send_bytes(said) if isinstance(said, bytes) else viewer.send_str(said))
            while True:
                message = await viewer.receive(DEADLINE_S)
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return

    asyncio.run(view())
    wait_until(lambda: page.stage._server._slots.used == 0)


def test_there_is_room_for_so_many_viewers(opened):
    page = opened(viewers=2)
    clients = [page.asks("/stream/yard.mjpg") for _ in range(2)]
    wait_until(lambda: page.stage._server._slots.used == 2)
    status, headers, body = page.get("/stream/yard.mjpg")
    assert (status, body) == (503, b"all 2 viewer slots are in use; try again later\n")
    assert headers["Retry-After"] == "10"
    assert page.get("/api/live")[0] == 503
    assert page.get("/api/status")[0] == 200
    for client in clients:
        client.close()
    wait_until(lambda: page.stage._server._slots.used == 0)


def test_one_who_does_not_read_costs_the_others_nothing(opened, monkeypatch):
    monkeypatch.setattr(routes, "SEND_TIMEOUT_S", 0.3)
    page = opened(quality=100, width=640)
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)

    def made(seq):
        return Frame.of(
            "yard",
            seq,
            (seq + 1) * 0.1,
            image=noise,
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            classes=np.zeros(0, np.int32),
        )

    with page.asks("/stream/yard.mjpg"), feeding(page.stage, made):
        with pictures(page) as answer:
            for _ in range(20):
                assert len(read_part(answer)) > 100_000
        # The one who never read was let go when its picture did not go.
        wait_until(lambda: page.stage._server._slots.used == 0)
        assert page.get("/snapshot/yard.jpg")[0] == 200


def test_it_ends_at_once_whoever_is_connected(page):
    clients = [page.asks(path) for path in ("/stream/yard.mjpg", "/snapshot/yard.jpg")]
    clients += [page.connect() for _ in range(5)]
    wait_until(lambda: page.stage._server._slots.used == 2)
    page.stage.close()
    for client in clients:
        with client, client.makefile("rb") as file:
            file.read()
    with pytest.raises(ConnectionRefusedError):
        page.connect()


# --- hostile ---


def targets(rng):
    """Paths that are not meant."""
    bits = [
        "..",
        "%2e%2e",
        "%00",
        "etc",
        "passwd",
        "%c0%ae",
        "\\",
        "stages",
        "web.py",
        "//",
        "?x=",
        "api",
        "streams",
        "{name}",
        "%s%n",
        "'",
        '"',
        "<script>",
        "*",
        ";",
        "snapshot",
        ".jpg",
    ]
    return "/" + "/".join(rng.choice(bits) for _ in range(rng.randrange(1, 9)))


def attacks(rng):
    """1,000 pieces of ill will, as it goes over the wire."""
    for _ in range(300):
        path = targets(rng)
        yield f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for _ in range(200):
        yield rng.randbytes(rng.randrange(1, 3000))
    for _ in range(100):
        yield b"GET / HTTP/1.1\r\n" + rng.randbytes(200) + b"\r\n\r\n"
    for _ in range(60):
        yield b"GET /" + b"a" * rng.randrange(8000, 100_000) + b" HTTP/1.1\r\n\r\n"
    for _ in range(60):
        yield b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * rng.randrange(100, 3000) + b"\r\n"
    for _ in range(60):
        length = rng.choice([b"-1", b"99999999999999", b"x", b"5, 6", b"1e9"])
        yield (
            b"POST /api/streams HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
            + length
            + b"\r\n\r\n{}"
        )
    for _ in range(60):
        size = rng.choice([b"ffffffffffffffff", b"-2", b"zz", b"10000"])
        yield (
            b"POST /api/streams HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            + size
            + b"\r\n"
            + b"x" * 90_000
        )
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "DELETE") * 10:
        yield f"{method} {targets(rng)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    for _ in range(60):
        yield (
            b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            + rng.randbytes(500)
        )
    for _ in range(30):
        yield b"GET /stream/yard.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"  # and never reads


def test_a_thousand_hostile_requests_later_it_still_answers_and_has_told_nothing(opened, caplog):
    page = opened(StandIn(), viewers=4)
    rng = random.Random(20)
    told, left = bytearray(), []
    sent = 0
    for attack in attacks(rng):
        sent += 1
        client = page.connect()
        client.settimeout(0.02)
        try:
            client.sendall(attack)
            while piece := client.recv(65536):
                told += piece
        except OSError:
            pass  # it is for the server to say when this ends
        if sent % 4:
            client.close()
        else:
            left.append(client)  # holds on, says and reads nothing
    assert sent == 1000
    status, _, body = page.get("/api/status")
    assert status == 200
    assert msgspec.json.decode(body, type=RunStatus) == page.run.now
    assert page.run.asked == []
    for client in left:
        client.close()
    wait_until(lambda: page.stage._server._slots.used == 0)
    with feeding(page.stage):
        assert page.get("/snapshot/yard.jpg")[0] == 200
    text = bytes(told).decode("latin-1")
    assert text.count("HTTP/1.1 ") > 400
    for secret in (
        TOKEN,
        "Traceback",
        "aiohttp",
        "Python",
        "site-packages",
        "/stages/",
        '.py"',
        "python",
    ):
        assert secret not in text, secret
    assert set(re.findall(r"\r\nServer: ([^\r]*)", text)) == {"Eyeline"}
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_idle_connections_give_way_to_those_who_ask(page, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 20)
    idle = [page.connect() for _ in range(60)]
    for client in idle[:30]:
        client.send(b"GET / HTTP/1.1\r\nHo")
    for _ in range(5):
        assert page.get("/healthz")[0] == 200
    for client in idle:
        client.close()


def test_a_flood_of_connections_takes_few_descriptors(opened, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 20)
    monkeypatch.setattr(
        server, "KEEPALIVE_TIMEOUT_S", 1000
    )  # so that it is not for this that they go
    page = opened()
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as clients:
        for opened_ in range(60, 601, 60):
            for _ in range(60):  # faster than they are accepted
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", page.port))
            assert page.get("/healthz")[0] == 200
            # Those of the newest burst may still be there.
            assert len(os.listdir("/proc/self/fd")) - before - opened_ < 20 + 100
    assert page.get("/healthz")[0] == 200


def test_when_all_connections_watch_one_more_is_told_so(opened, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    monkeypatch.setattr(connections, "REFUSAL_DELAY_S", 0)
    page = opened(viewers=3)
    clients = [page.asks("/stream/yard.mjpg") for _ in range(3)]
    wait_until(lambda: page.stage._server._slots.used == 3)
    status, headers, _ = page.get("/")
    assert (status, headers["Retry-After"]) == (503, "5")
    for client in clients:
        client.close()


def test_one_who_asks_for_nothing_is_cut_off(opened, monkeypatch):
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 0.2)
    page = opened()
    for start in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with page.connect() as client:
            client.sendall(start)
            assert client.recv(100) == b""


def test_a_body_that_does_not_come_is_not_waited_for(page, monkeypatch):
    monkeypatch.setattr(middleware, "REQUEST_TIMEOUT_S", 0.2)
    with page.connect() as client:
        head = f"POST /api/streams HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass  # cut off just the same
    assert page.run.asked == []


def test_an_answer_that_fails_tells_nothing(opened):
    run = StandIn()
    run.status = lambda: 1 / 0
    page = opened(run)
    status, _, body = page.get("/api/status")
    assert (status, json.loads(body)) == (500, {"error": "internal error"})
    assert page.get("/healthz")[0] == 200


# --- the feed and the curves ---


def test_an_object_is_told_of_when_it_comes_and_when_it_leaves(page):
    for seq in range(60):
        page.stage.process(frame(seq, boxes=[(0, 0, 9, 9)] if 5 <= seq < 20 else (), ids=None))
    for seq in range(60, 70):
        flickering = [(0, 0, 9, 9)] if seq == 65 else []
        page.stage.process(
            frame(seq, boxes=[(0, 0, 9, 9), *flickering], ids=[3, 4][: 1 + len(flickering)])
        )
    page.stage.end("yard")
    told = json.loads(page.get("/api/events")[2])
    assert [(one["label"], one.get("id"), one["text"]) for one in told] == [
        ("person", None, "appeared, 1 now"),
        ("person", None, "left after 1 s, 0 now"),
        ("person", 3, "appeared"),
        ("person", 3, "left after 1 s"),
    ]
    assert {one["stream"] for one in told} == {"yard"}
    assert told[0]["at"] == "1970-01-01T00:00:00.800Z"  # in the third frame of it
    assert told[0]["score"] == 0.5


def test_a_busy_street_does_not_wash_away_that_a_camera_has_gone():
    feed = ActivityLog(5)
    feed.add(0, "waiting", stream="gate", urgent=True)
    for id in range(100):
        feed.add(0, "appeared", stream="yard", label="person", id=id)
    assert [one.id or one.text for one in feed.after(0)] == ["waiting", 95, 96, 97, 98, 99]
    assert [one.id for one in feed.after(feed.newest - 2)] == [98, 99]


def test_the_feed_tells_of_streams_and_stages():
    run, feed = StandIn(streams=[stream_status("a"), stream_status("b")]), ActivityLog(50)
    history = History(run, feed)
    history.sample()
    assert feed.after(0) == []
    away = SourceState("waiting", "refused", "nothing listens there")
    run.now = run_status(
        streams=[stream_status("a", condition=away), stream_status("c")],
        stages=[stage_status(restarts=3)],
        reloads=1,
    )
    history.sample()
    run.now = run_status(
        streams=[stream_status("a")], stages=[stage_status(restarts=3)], reload_error="line 3: bad"
    )
    history.sample()
    assert [(one.stream, one.text, one.urgent) for one in feed.after(0)] == [
        ("a", "waiting: nothing listens there", True),
        ("c", "added", False),
        ("c", "live", False),
        ("b", "removed", False),
        ("", "process of stage detector died, restarted 2 times", True),
        ("", "settings reloaded", False),
        ("a", "live again", False),
        ("c", "removed", False),
        ("", "settings reload refused: line 3: bad", True),
    ]


def test_the_curves_hold_what_came_since_the_sample_before():
    run = StandIn()
    history = History(run, ActivityLog(10))
    history.sample()
    assert list(history.samples["yard"]) == []
    run.took_s = run.took_s + [0.1] * 100
    run.now = run_status(streams=[stream_status(delivered=1050, captured=1100)])
    history.sample()
    history.sample()
    first, second = history.samples["yard"]
    assert first.fps > 0
    assert first.p50_ms == pytest.approx(100, rel=0.1)
    assert first.p95_ms == pytest.approx(100, rel=0.1)
    assert (second.fps, second.p50_ms, second.p95_ms) == (0, None, None)
    run.now = run_status(streams=[stream_status(captured=1)])
    history.sample()
    assert list(history.samples["yard"]) == []  # another stream by the same name


@pytest.mark.parametrize(("share", "ms"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0)])
def test_a_percentile_lies_between_the_bounds_around_it(share, ms):
    took = [i / 1000 for i in range(1, 101)]
    counts = [sum(one <= bound for one in took) for bound in BOUNDS_S]
    assert percentile([*counts, 100], share) == pytest.approx(ms, rel=0.1)


def test_percentiles_at_the_edges():
    nothing = [0] * (len(BOUNDS_S) + 1)
    assert percentile(nothing, 0.5) is None
    assert percentile([*nothing[:-1], 4], 0.5) == round(BOUNDS_S[-1] * 1e3, 1)
    assert 0 < percentile([4] * (len(BOUNDS_S) + 1), 0.5) < 1
