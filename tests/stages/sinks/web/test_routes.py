"""The paths of the server: their answers, and requests to the supervisor."""

import json
import re

import msgspec
import pytest

from pipeline.status import RunStatus, SourceState, WorkerStatus
from stages.sinks.web import routes
from stages.sinks.web.health import why_not_ready
from tests.stages.sinks.web.status_page import (
    TOKEN,
    StandIn,
    run_status,
    stage_status,
    stream_status,
)

SECRET = "rtsp://admin:hunter2@cam/1"


def test_healthz_answers_ok(page):
    assert page.get("/healthz")[::2] == (200, b"ok\n")


def test_readyz_answers_ready_or_the_reason(opened):
    assert opened().get("/readyz")[::2] == (200, b"ready\n")
    opening = stream_status("gate", condition=SourceState("opening"))
    late = stage_status(workers=[WorkerStatus("detector.1", 0, 0)])
    run = StandIn(ready=False, streams=[stream_status(), opening], stages=[late])
    status, _, body = opened(run).get("/readyz")
    assert status == 503
    assert body == b"not ready: starting: detector; no image yet: gate\n"
    assert opened(StandIn(phase="draining")).get("/readyz")[0] == 503
    assert why_not_ready(run_status(ready=False)) == "stages are opening"


def test_status_is_the_whole_run_as_json(page):
    status, headers, body = page.get("/api/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert msgspec.json.decode(body, type=RunStatus) == page.run.now


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
def test_files_of_the_page_are_served(page, path, kind, holds):
    status, headers, body = page.get(path)
    assert status == 200
    assert headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert holds in body


def test_page_contacts_no_other_host(page):
    for path in routes.PAGE_FILES:
        text = page.get(path)[2].decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|\burl\(", text), path


def test_every_answer_has_the_security_headers(page):
    asked = ["/", "/api/status", "/metrics", "/healthz", "/nothing", "/stream/none.mjpg"]
    for path in asked:
        headers = page.get(path)[1]
        assert headers["Server"] == "Eyeline"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


def test_wrong_method_is_refused_with_the_allowed_ones(page):
    status, headers, _ = page.ask("PUT", "/api/streams", b"{}")
    assert (status, headers["Allow"]) == (405, "POST")
    assert page.ask("HEAD", "/api/status")[::2] == (200, b"")


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
def test_change_with_the_token_reaches_the_supervisor(page, method, path, body, asked):
    assert page.ask(method, path, body, TOKEN)[::2] == (200, b'{"done":true}')
    assert page.run.asked == [asked]


def test_refusal_has_the_reason_and_no_credentials(page):
    page.run.answer = f"streams.gate: cannot open {SECRET}"
    body = json.dumps({"name": "gate", "source": SECRET}).encode()
    status, _, found = page.ask("POST", "/api/streams", body, TOKEN)
    assert status == 400
    assert json.loads(found) == {"error": "streams.gate: cannot open rtsp://cam/1"}
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
def test_source_or_setting_that_is_not_allowed_is_refused(page, body, words):
    sent = json.dumps({"name": "gate", **body}).encode()
    status, _, found = page.ask("POST", "/api/streams", sent, TOKEN)
    assert status == 403
    assert json.loads(found)["error"].startswith(words)
    assert page.run.asked == []


def test_unknown_stream_is_not_found(page):
    for method, path in [("DELETE", "/api/streams/no"), ("POST", "/api/streams/no/pause")]:
        status, _, found = page.ask(method, path, None, TOKEN)
        assert (status, json.loads(found)) == (404, {"error": "no stream named no"})
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
def test_invalid_body_is_refused(page, body):
    assert page.ask("POST", "/api/streams", body, TOKEN)[0] == 400
    assert page.run.asked == []


def test_body_that_is_too_long_is_refused(page):
    status, _, _ = page.ask("POST", "/api/streams", b'{"name": "x' + b"x" * (64 << 10), TOKEN)
    assert status == 413
    assert page.run.asked == []


def test_internal_error_is_not_revealed(opened):
    run = StandIn()
    run.status = lambda: 1 / 0
    page = opened(run)
    status, _, body = page.get("/api/status")
    assert (status, json.loads(body)) == (500, {"error": "internal error"})
    assert page.get("/healthz")[0] == 200
