"""Hostile clients: what they send, what they do not send, and how many they are."""

import os
import random
import re
import socket
from contextlib import ExitStack

import msgspec
import pytest

from pipeline.status import RunStatus
from stages.sinks.web import connections, middleware, server
from tests.stages.sinks.web.status_page import TOKEN, StandIn, feeding, wait_until


def targets(rng):
    """Make a path that does not exist, or is malformed."""
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
    """Yield 1,000 hostile requests, as bytes."""
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
        yield b"GET /stream/yard.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"  # answer unread


def test_1000_hostile_requests_reveal_nothing_and_stop_nothing(opened, caplog):
    page = opened(StandIn(), viewers=4)
    rng = random.Random(20)
    found, left = bytearray(), []
    sent = 0
    for attack in attacks(rng):
        sent += 1
        client = page.connect()
        client.settimeout(0.02)
        try:
            client.sendall(attack)
            while piece := client.recv(65536):
                found += piece
        except OSError:
            pass  # the server decides when this ends
        if sent % 4:
            client.close()
        else:
            left.append(client)  # stays open, sends and reads nothing
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
    text = bytes(found).decode("latin-1")
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


def test_idle_connections_are_closed_for_new_ones(page, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 20)
    idle = [page.connect() for _ in range(60)]
    for client in idle[:30]:
        client.send(b"GET / HTTP/1.1\r\nHo")
    for _ in range(5):
        assert page.get("/healthz")[0] == 200
    for client in idle:
        client.close()


def test_flood_of_connections_takes_few_descriptors(opened, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 20)
    monkeypatch.setattr(
        server, "KEEPALIVE_TIMEOUT_S", 1000
    )  # so that it is not for this that they go
    page = opened()
    before = len(os.listdir("/proc/self/fd"))
    with ExitStack() as clients:
        for opened_ in range(60, 601, 60):
            for _ in range(60):  # faster than the server accepts them
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", page.port))
            assert page.get("/healthz")[0] == 200
            # Those of the latest burst may still be open.
            assert len(os.listdir("/proc/self/fd")) - before - opened_ < 20 + 100
    assert page.get("/healthz")[0] == 200


def test_connection_is_refused_while_all_others_are_busy(opened, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    monkeypatch.setattr(connections, "REFUSAL_DELAY_S", 0)
    page = opened(viewers=3)
    clients = [page.asks("/stream/yard.mjpg") for _ in range(3)]
    wait_until(lambda: page.stage._server._slots.used == 3)
    status, headers, _ = page.get("/")
    assert (status, headers["Retry-After"]) == (503, "5")
    for client in clients:
        client.close()


def test_connection_without_a_request_is_closed(opened, monkeypatch):
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 0.2)
    page = opened()
    for start in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with page.connect() as client:
            client.sendall(start)
            assert client.recv(100) == b""


def test_connection_whose_body_does_not_come_is_closed(page, monkeypatch):
    monkeypatch.setattr(middleware, "REQUEST_TIMEOUT_S", 0.2)
    with page.connect() as client:
        head = f"POST /api/streams HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        client.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass  # closed all the same
    assert page.run.asked == []


@pytest.mark.parametrize("path", ["/api/status", "/none", "/stream/yard.mjpg"])
@pytest.mark.parametrize("expect", ["100-continue", "aiohttp"])
def test_answer_to_an_expectation_has_the_security_headers(page, path, expect):
    with page.connect() as client:
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nExpect: {expect}\r\n\r\n".encode()
        )
        answer = b""
        while b"X-Frame-Options: DENY" not in answer:
            received = client.recv(1000)
            assert received, answer
            answer += received
    assert set(re.findall(rb"Server: ([^\r]*)", answer)) == {b"Eyeline"}
