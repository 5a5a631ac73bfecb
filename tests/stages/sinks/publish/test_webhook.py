"""The webhook sink against a real server: slow, broken, moved, secret and huge."""

import base64
import hashlib
import hmac
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from stages import backoff
from stages.sinks.publish import publisher as delivery
from stages.sinks.publish import webhook as module
from stages.sinks.publish.webhook import Webhook, WebhookSettings
from stages.sinks.publish.webhook_url import parse_url
from tests.broker import dropped, free_port, wait_until
from tests.builders import ROOT, context_of

CONTEXT = context_of(streams=("yard",), labels=("person", "car"))


def frame(seq, objects=(), stream="yard"):
    """Objects are (id, class)."""
    return Frame.of(
        stream,
        seq,
        seq / 2,
        boxes=np.array([[id, 2, id + 10, 20] for id, _ in objects], np.float32).reshape(-1, 4),
        scores=np.full(len(objects), 0.9, np.float32),
        classes=np.array([number for _, number in objects], np.int32),
        ids=np.array([id for id, _ in objects], np.int64),
    )


class Server(ThreadingHTTPServer):
    """Keeps what is posted, and answers as the test says: by default 200.

    An answer is a status, (status, headers), or a function of the handler.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port=0, tls=None):
        super().__init__(("127.0.0.1", port), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.answers = []
        """For the next requests, in order."""
        self.always = 200
        """For all others."""
        self.requests = []
        """(path, headers, body) of each, whatever was answered."""
        self.taken = []
        """What was posted and answered with 200."""
        self.over = threading.Event()

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, address):
        """A client that has gone is no news."""

    def frames(self):
        return [event["frame"] for event in self.taken if "frame" in event]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = server.answers.pop(0) if server.answers else server.always
        server.requests.append((self.path, dict(self.headers), body))
        if callable(answer):
            answer(self)
            return
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        if status == 200:
            server.taken += json.loads(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers), None))
        self.send_error(405)

    def log_message(self, *arguments):
        """Nothing to the terminal."""


@contextmanager
def running(*arguments, **options):
    made = Server(*arguments, **options)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.fixture
def server():
    with running() as made:
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What did not work is tried again soon."""
    monkeypatch.setattr(backoff, "MAX_DELAY_S", 0.05)


@pytest.fixture
def sink(tmp_path):
    """Makes opened sinks, and closes them."""
    made = []

    def sink(server=None, **settings):
        given = {"min_frames": 1, "leave_after_s": 1.0, "batch_s": 0.0, "events": "all"}
        given |= {"spool": str(tmp_path / "spool.db"), "timeout_s": 5.0}
        if server is not None:
            given["url"] = f"http://127.0.0.1:{server.port}/hook"
        stage = Webhook(WebhookSettings(**given | settings), CONTEXT)
        Webhook.resolve(stage.settings)
        stage.open()
        made.append(stage)
        return stage

    yield sink
    for stage in made:
        stage.close()


def feed(stage, numbers):
    for seq in numbers:
        stage.process(frame(seq))


# --- what is posted ---


def test_what_is_posted_is_a_list_of_what_happened(server, sink):
    stage = sink(server, events="changes", batch_s=0.2)
    for seq, objects in enumerate([[(3, 0)], [(3, 0)], [], [], []]):
        stage.process(frame(seq, objects))
    wait_until(lambda: len(server.taken) == 2)
    (path, headers, body) = server.requests[0]
    assert path == "/hook"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"].startswith("Eyeline/")
    assert body == (
        b'[{"event":"appeared","stream":"yard","time_s":0.0,'
        b'"captured_at":"1970-01-01T00:00:00.000Z",'
        b'"object":{"id":3,"label":"person","class":0,"score":0.9,"box":[3.0,2.0,13.0,20.0]},'
        b'"count":1},'
        b'{"event":"left","stream":"yard","time_s":0.5,"captured_at":"1970-01-01T00:00:00.500Z",'
        b'"object":{"id":3,"label":"person","class":0,"score":0.9,"box":[3.0,2.0,13.0,20.0]},'
        b'"count":0,"seen_s":0.5}]'
    )


def test_what_comes_within_the_time_is_posted_together(server, sink):
    stage = sink(server, batch_s=0.5)
    feed(stage, range(5))
    wait_until(lambda: len(server.taken) == 5)
    assert len(server.requests) == 1


def test_a_full_batch_does_not_wait(server, sink):
    stage = sink(server, batch_s=3600, batch_size=10)
    feed(stage, range(25))
    wait_until(lambda: server.frames() == list(range(20)))
    assert [len(json.loads(body)) for _, _, body in server.requests] == [10, 10]
    stage.close()
    assert server.frames() == list(range(25)), "at the end nothing waits for more"


def test_headers_user_and_signature_are_sent(server, sink):
    stage = sink(
        url=f"http://me:open%20sesame@127.0.0.1:{server.port}/a/b?c=d",
        headers={"X-Site": "yard 7"},
        secret="horse",
    )
    feed(stage, [0])
    wait_until(lambda: server.requests)
    path, headers, body = server.requests[0]
    assert path == "/a/b?c=d"
    assert headers["X-Site"] == "yard 7"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"me:open sesame"
    right = hmac.new(b"horse", body, hashlib.sha256).hexdigest()
    assert headers["X-Eyeline-Signature"] == f"sha256={right}"


def test_many_are_posted_in_order(server, sink):
    stage = sink(server)
    feed(stage, range(3000))
    wait_until(lambda: len(server.taken) == 3000)
    assert server.frames() == list(range(3000))
    wait_until(lambda: stage.counters()["sent"] == 3000)
    assert stage.counters()["waiting"] == 0


# --- answers ---


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_errors_that_pass_are_tried_again_with_the_same_key(server, sink, status):
    server.answers = [status] * 5
    stage = sink(server)
    feed(stage, [7])
    wait_until(lambda: server.frames() == [7])
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.requests}) == 1
    assert len({body for _, _, body in server.requests}) == 1
    assert len(server.requests) == 6
    wait_until(lambda: stage.counters()["waiting"] == 0)
    assert not dropped(stage)


def test_a_batch_that_failed_is_posted_as_it_was_though_more_has_come(server, sink):
    failed = threading.Event()
    server.answers = [lambda handler: (failed.set(), handler.send_error(500))]
    stage = sink(server)
    feed(stage, [0])
    assert failed.wait(10)
    feed(stage, range(1, 40))
    wait_until(lambda: len(server.taken) == 40)
    assert server.requests[0][2] == server.requests[1][2]
    assert server.frames() == list(range(40))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422, 301, 302, 303])
def test_refused_messages_are_dropped_after_three_attempts_and_counted(
    server, sink, caplog, status
):
    server.answers = [status] * 3
    stage = sink(server)
    feed(stage, [0])
    wait_until(lambda: dropped(stage) == {"refused": 1})
    assert len(server.requests) == 3
    feed(stage, [1])
    wait_until(lambda: server.frames() == [1])
    assert f"answered {status}" in caplog.text
    assert not [path for path, _, body in server.requests if body is None], "nothing was GET"


def test_what_is_too_large_is_posted_in_parts(server, sink):
    def picky(handler):
        _, _, body = handler.server.requests[-1]
        events = json.loads(body)
        if len(events) > 3:
            handler.send_error(413)
            return
        handler.server.taken += events
        handler.send_response(200)
        handler.end_headers()

    server.always = picky
    stage = sink(server, batch_s=0.3)
    feed(stage, range(20))
    wait_until(lambda: len(server.taken) == 20)
    assert server.frames() == list(range(20))
    assert not dropped(stage)


def test_a_redirection_on_the_same_host_is_followed(server, sink):
    newer = f"http://127.0.0.1:{server.port}/newer?x=1"
    server.answers = [(308, {"Location": "/new"}), (307, {"location": newer})]
    stage = sink(server, secret="horse")
    feed(stage, [0])
    wait_until(lambda: server.frames() == [0])
    assert [path for path, _, _ in server.requests] == ["/hook", "/new", "/newer?x=1"]
    assert not dropped(stage)


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{other}/x", "//127.0.0.1:{other}/x", "", "x"]
)
def test_a_redirection_elsewhere_is_not_followed(server, sink, caplog, location):
    with running() as other:
        target = location.format(other=other.port)
        server.always = (307, {"Location": target})
        stage = sink(server, headers={"Authorization": "Bearer horse"})
        feed(stage, [0])
        wait_until(lambda: dropped(stage) == {"refused": 1})
        assert other.requests == []
    assert "horse" not in caplog.text


def test_a_circle_of_redirections_ends(server, sink):
    server.always = (307, {"Location": "/hook"})
    stage = sink(server)
    feed(stage, [0])
    wait_until(lambda: dropped(stage) == {"refused": 1})
    assert "circle" in stage.info()["trouble"]


def test_a_server_that_asks_for_time_gets_it(server, sink, caplog):
    server.answers = [(429, {"Retry-After": "1"})]
    stage = sink(server)
    feed(stage, [0])
    wait_until(lambda: server.frames() == [0])
    assert "answered 429 Too Many Requests; spooling to disk, retrying in 1 s" in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("999999", 300.0), ("0", 0.0), ("", None), ("-1", None), ("Fri, 31 Dec", None)],
)
def test_it_is_never_given_more_than_five_minutes(text, seconds):
    assert module._retry_after(text) == seconds


# --- servers that behave badly ---


def drip(handler):
    """Sends a byte at a time, without an end."""
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"H")
        handler.wfile.flush()


def drip_body(handler):
    handler.server.taken += json.loads(handler.server.requests[-1][2])
    handler.send_response(200)
    handler.end_headers()
    drip(handler)


def test_a_server_that_drips_its_answer_runs_into_the_timeout(server, sink, caplog):
    server.answers = [drip]
    stage = sink(server, timeout_s=0.3)
    feed(stage, [0])
    wait_until(lambda: server.frames() == [0])
    assert "no answer within 0.3 s" in caplog.text


def test_a_server_that_does_not_answer_runs_into_the_timeout(server, sink, caplog):
    server.answers = [lambda handler: handler.server.over.wait(10)]
    stage = sink(server, timeout_s=0.3)
    feed(stage, [0])
    wait_until(lambda: server.frames() == [0])
    assert "no answer within 0.3 s" in caplog.text


def test_the_rest_of_a_good_answer_does_not_matter(server, sink):
    server.answers = [drip_body]
    stage = sink(server, timeout_s=0.3)
    feed(stage, [0])
    wait_until(lambda: stage.counters()["sent"] == 1)
    feed(stage, [1])
    wait_until(lambda: server.frames() == [0, 1])


def test_a_huge_answer_is_not_read(server, sink):
    written = []

    def huge(handler):
        handler.server.taken += json.loads(handler.server.requests[-1][2])
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(b"x" * 100_000)
                written.append(100_000)
        except OSError:
            pass

    server.answers = [huge]
    stage = sink(server)
    feed(stage, [0])
    wait_until(lambda: stage.counters()["sent"] == 1)
    feed(stage, [1])
    wait_until(lambda: server.frames() == [0, 1])
    assert sum(written) < 100_000_000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "connection closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "not HTTP"),
        (b"HTTP/1.1 \x1b[31m999 \r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 500 \x1b[31mred\xff" + b"!" * 500 + b"\r\n\r\n", r"answered 500 \[31mred"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "connection closed|not HTTP"),
    ],
)
def test_an_invalid_answer_is_reported_in_printable_words(server, sink, caplog, answer, words):
    def raw(handler):
        handler.wfile.write(answer)
        handler.close_connection = True

    server.answers = [raw]
    stage = sink(server)
    feed(stage, [0])
    wait_until(lambda: server.frames() == [0])
    (line,) = [r.getMessage() for r in caplog.records if "unreachable" in r.getMessage()]
    assert re.search(words, line)
    assert line.isprintable()
    assert len(line) < 250
    assert not dropped(stage)


def test_a_server_that_closes_while_it_is_written_to(server, sink):
    def slam(handler):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()

    server.answers = [slam] * 3
    stage = sink(server)
    feed(stage, range(500))
    wait_until(lambda: len(set(server.frames())) == 500)
    assert list(dict.fromkeys(server.frames())) == list(range(500))


def test_a_server_that_goes_and_comes_back_misses_nothing(sink, caplog):
    caplog.set_level(logging.INFO)
    port, got = free_port(), []
    stage = sink(url=f"http://127.0.0.1:{port}/")
    for start in (0, 100, 200):
        feed(stage, range(start, start + 50))
        wait_until(lambda start=start: caplog.text.count("unreachable:") == start // 100 + 1)
        with running(port) as server:
            wait_until(lambda server=server: server.taken)
            feed(stage, range(start + 50, start + 100))
            wait_until(lambda: stage.counters()["waiting"] == 0)
        got += server.frames()
    assert list(dict.fromkeys(got)) == list(range(300))
    told = [r.getMessage() for r in caplog.records]
    assert re.fullmatch(
        rf"stages.stage: http://127.0.0.1:{port} unreachable: connection refused; "
        r"spooling to disk, retrying in 1 s",
        told[0],
    )
    assert re.match(rf"stages.stage: http://127.0.0.1:{port} reachable again after \d+ s", told[1])
    assert len(told) == 6, told


def test_what_is_left_at_the_end_is_posted_by_the_next_run(server, sink):
    server.always = 500
    first = sink(server)
    feed(first, range(150))
    wait_until(lambda: "trouble" in first.info())
    first.close()
    server.always = 200
    second = sink(server)
    second.process(frame(0))
    wait_until(lambda: len(server.taken) == 151)
    assert server.frames() == [*range(150), 0]


def test_closing_is_bounded_whatever_the_server_does(server, sink, monkeypatch):
    monkeypatch.setattr(delivery, "CLOSE_S", 0.2)
    server.answers = [drip]
    first = sink(server, timeout_s=300.0)
    feed(first, range(3))
    wait_until(lambda: server.requests)
    first.close()
    assert [t for t in threading.enumerate() if t.name == "webhook"] == []
    second = sink(server)
    wait_until(lambda: second.counters()["waiting"] == 0)  # after the answers to all
    assert len(server.taken) == 3


def test_nothing_is_posted_twice_when_all_is_well(server, sink, tmp_path):
    stage = sink(server)
    feed(stage, range(100))
    wait_until(lambda: len(server.taken) == 100)
    stage.end("yard")
    stage.close()
    assert server.frames() == list(range(100))
    assert stage.counters()["spooled"] == 0


# --- TLS ---


@pytest.fixture
def own_certificate(tmp_path):
    """Certificate and key for 127.0.0.1, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", tmp_path / "own.key", "-out", tmp_path / "own.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path / "own.pem", tmp_path / "own.key"


@pytest.fixture
def secure(own_certificate):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*own_certificate)
    with running(tls=tls) as made:
        yield made


def test_https_with_a_certificate_of_ones_own(secure, own_certificate, sink):
    stage = sink(url=f"https://127.0.0.1:{secure.port}/", ca=str(own_certificate[0]))
    feed(stage, range(3))
    wait_until(lambda: secure.frames() == [0, 1, 2])
    assert stage.info()["to"] == f"https://127.0.0.1:{secure.port}"


def test_a_certificate_of_an_unknown_authority_is_not_accepted(secure, sink):
    stage = sink(url=f"https://127.0.0.1:{secure.port}/")
    feed(stage, [0])
    wait_until(lambda: "trouble" in stage.info())
    assert "certificate is not trusted" in stage.info()["trouble"]
    assert secure.requests == []


def test_https_to_a_server_without_tls_is_reported(server, sink):
    stage = sink(url=f"https://127.0.0.1:{server.port}/")
    feed(stage, [0])
    wait_until(lambda: "trouble" in stage.info())
    assert "no TLS" in stage.info()["trouble"]


# --- settings ---


@pytest.mark.parametrize(
    ("text", "origin", "target"),
    [
        ("http://lan", "http://lan", "/"),
        ("HTTPS://lan:443/a?b", "https://lan", "/a?b"),
        ("http://lan:8080?b=c", "http://lan:8080", "/?b=c"),
        ("http://[::1]:81/a#b", "http://[::1]:81", "/a"),
        ("https://u:p@lan/secret", "https://lan", "/secret"),
        ("http://LaN/a;b//c", "http://LaN", "/a;b//c"),
    ],
)
def test_addresses(text, origin, target):
    assert (parse_url(text).origin, parse_url(text).target) == (origin, target)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "ftp://lan/horse"}, "url: expected https://"),
        ({"url": "lan/horse"}, "url: expected https://"),
        ({"url": "http://"}, "url: expected https://"),
        ({"url": "http://lan/a horse"}, "url: expected https://"),
        ({"url": "http://lan/\r\nX: horse"}, "url: expected https://"),
        ({"url": "http://u:horse@b@lan/"}, "url: expected https://"),
        ({"url": "http://lan:0"}, "port from 1"),
        ({"url": "http://lan:70000"}, "port from 1"),
        ({"headers": {"a b": "horse"}}, "expected the name of a header"),
        ({"headers": {"X": "a\r\nY: horse"}}, "X: expected a line"),
        ({"headers": {"Host": "horse"}}, "Host is set by the sink"),
        (
            {"url": "http://u:horse@lan", "headers": {"authorization": "x"}},
            "is set by the user in `url` already",
        ),
        ({"ca": "/nowhere.pem"}, "allowed with https:// only"),
        ({"url": "https://lan", "ca": "/nowhere.pem"}, "No such file"),
        ({"url": "https://lan", "ca": str(ROOT / "run.py")}, "not in PEM format"),
        ({"spool": "/tmp"}, "is a directory"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_without_credentials(given, words):
    with pytest.raises(SetupError, match=words) as refused:
        Webhook.resolve(WebhookSettings(**{"url": "http://lan"} | given))
    assert "\n" not in str(refused.value)
    assert "horse" not in str(refused.value)


def test_credentials_are_never_shown(sink, caplog):
    caplog.set_level(logging.DEBUG)
    port = free_port()
    stage = sink(
        url=f"http://me:horse@127.0.0.1:{port}/hook/horse?token=horse",
        headers={"X-Key": "horse"},
        secret="horse",
    )
    feed(stage, [0])
    wait_until(lambda: "trouble" in stage.info())
    stage.close()
    assert "horse" not in caplog.text + repr(stage.info())
    assert "horse" not in Webhook.spool_name(stage.settings)


def test_a_token_in_the_clear_is_warned_of(sink, caplog):
    sink(url="http://192.0.2.1/", headers={"authorization": "Bearer horse"})
    assert "are sent to http://192.0.2.1 unencrypted; use https://" in caplog.text
    assert "horse" not in caplog.text
