"""Health checks, and clients with the token, are answered while others flood the port."""

import asyncio
import http.client
import resource
import threading
from contextlib import ExitStack, closing

import pytest

from stages.sinks.web import auth, connections, run_reader
from stages.sinks.web.responses import SECURITY_HEADERS
from tests.stages.sinks.web.status_page import DEADLINE_S, TOKEN, Page, StandIn, wait_until


@pytest.fixture
def page():
    opened = Page(StandIn(), viewers=3)
    yield opened
    opened.stage.close()


@pytest.fixture
def public(page, monkeypatch):
    """A page that behaves as if open to the network; a wrong token is never answered."""
    monkeypatch.setattr(page.stage._server._authorizer, "is_local", False)
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 1000)
    monkeypatch.setattr(connections, "REFUSAL_DELAY_S", 0)
    return page


@pytest.fixture
def clients():
    with ExitStack() as opened:
        yield opened


def limiter(page):
    return page.stage._server._limiter


def wrong(page, clients):
    """Send a wrong token; return the connection, which waits for the answer."""
    client = clients.enter_context(page.connect())
    before = len(limiter(page)._penalised)
    client.sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    wait_until(lambda: len(limiter(page)._penalised) > before)
    return client


def ask_from(address, page, path):
    """Send a request with the token from an address; return the status of the answer."""
    source = (address, 0)
    with closing(
        http.client.HTTPConnection("127.0.0.1", page.port, DEADLINE_S, source_address=source)
    ) as client:
        client.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        return client.getresponse().status


def occupied(page, clients, monkeypatch):
    """Make all connections busy with a stream."""
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    monkeypatch.setattr(connections, "REFUSAL_DELAY_S", 0)
    for _ in range(3):
        clients.enter_context(page.asks("/stream/yard.mjpg"))
    wait_until(lambda: page.stage._server._slots.used == 3)


def test_health_checks_are_answered_while_all_connections_are_busy(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    for _ in range(5):
        assert page.get("/healthz")[::2] == (200, b"ok\n")
        assert page.get("/readyz?x=1")[::2] == (200, b"ready\n")
    assert page.ask("HEAD", "/healthz")[::2] == (200, b"")
    page.run.now = StandIn(ready=False).now
    wait_until(lambda: page.get("/readyz")[::2] == (503, b"not ready\n"))


def test_health_only_answers_have_the_security_headers(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    for path in ("/healthz", "/api/status"):
        headers = page.get(path)[1]
        for name, value in SECURITY_HEADERS.items():
            assert headers[name] == value


@pytest.mark.parametrize(
    "sent",
    [b"POST /healthz HTTP/1.1\r\n\r\n", b"\xff\x00\r\n\r\n", b"GET\r\n\r\n", b"x" * 9000],
)
def test_other_request_on_a_health_only_connection_is_refused(page, clients, monkeypatch, sent):
    occupied(page, clients, monkeypatch)
    client = clients.enter_context(page.connect())
    client.sendall(sent)
    assert client.recv(100).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_failed_health_check_reveals_nothing(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    page.run.status = lambda: 1 / 0
    monkeypatch.setattr(run_reader, "STATUS_TTL_S", 0)
    page.stage._server._reader.status._cached = None
    assert page.get("/readyz")[::2] == (500, b"internal error\n")


def test_slow_health_only_connection_is_closed_for_a_new_one(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    monkeypatch.setattr(connections, "MAX_HEALTH_ONLY", 4)
    for _ in range(20):
        clients.enter_context(page.connect()).sendall(b"GET /healthz HTTP/1.1\r\nX: ")
    assert page.get("/healthz")[0] == 200
    wait_until(lambda: len(limiter(page)._reading) <= 4)


def test_health_check_that_is_being_answered_is_not_closed(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    monkeypatch.setattr(connections, "MAX_HEALTH_ONLY", 4)
    asked, answer = threading.Event(), threading.Event()

    def slow_status(status=page.run.now):
        asked.set()
        assert answer.wait(DEADLINE_S)
        return status

    page.run.status = slow_status
    page.stage._server._reader.status._cached = None
    check = clients.enter_context(page.asks("/readyz"))
    assert asked.wait(DEADLINE_S)
    for _ in range(20):
        clients.enter_context(page.connect())
    assert page.get("/healthz")[0] == 200
    answer.set()
    assert check.recv(100).startswith(b"HTTP/1.1 200 ")


def test_health_only_connection_without_a_request_is_closed(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    monkeypatch.setattr(connections, "HEALTH_REQUEST_TIMEOUT_S", 0.05)
    client = clients.enter_context(page.connect())
    try:
        assert client.recv(100) == b""
    except ConnectionResetError:
        pass  # closed all the same


def test_wrong_tokens_do_not_count_as_served(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    for _ in range(10):
        wrong(public, clients)
    assert public.get("/healthz")[0] == 200
    assert public.get("/api/status", token=TOKEN)[0] == 200


def test_address_with_many_wrong_tokens_gets_health_checks_only(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PENALISED_PER_ADDRESS", 2)
    for _ in range(2):
        wrong(public, clients)
    assert ask_from("127.0.0.1", public, "/api/status") == 429
    assert ask_from("127.0.0.1", public, "/healthz") == 200
    assert ask_from("127.0.0.2", public, "/api/status") == 200


def test_oldest_of_too_many_wrong_tokens_is_answered_at_once(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PENALISED", 2)
    first, second = wrong(public, clients), wrong(public, clients)
    clients.enter_context(public.connect()).sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert first.recv(100).startswith(b"HTTP/1.1 401 ")
    second.setblocking(False)
    with pytest.raises(BlockingIOError):
        second.recv(100)


def test_connection_is_closed_after_a_wrong_token(public, clients, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 0)
    client = clients.enter_context(public.connect())
    client.sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    answer = b""
    while received := client.recv(1000):
        answer += received
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_penalised_client_that_disconnects_is_forgotten(public, clients):
    for client in [wrong(public, clients) for _ in range(5)]:
        client.close()
    wait_until(lambda: not limiter(public)._penalised)
    assert not limiter(public)._penalised_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("192.168.1.7", 4711), "192.168.1.7"),
        (("2001:db8::7:1", 4711, 0, 0), "2001:db8::/64"),
        (("2001:db8:0:0:1::7", 4711, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        (("::ffff:192.168.1.7", 4711, 0, 0), "192.168.1.7"),
        (None, ""),
    ],
)
def test_client_address_of_ipv6_is_its_network(peer, address):
    transport = asyncio.Transport({"peername": peer})
    assert connections.client_address(transport) == address
    assert connections.client_address(None) == ""


def test_fewer_descriptors_mean_fewer_connections(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert connections.connections_per_kind() == 48
