"""Health checks, and the holder of the token, are answered while others flood the port."""

import asyncio
import http.client
import resource
import threading
from contextlib import ExitStack, closing

import pytest

from stages.sinks.web import auth, connections, run_reader
from stages.sinks.web.responses import SECURITY_HEADERS
from tests.stages.sinks.web.test_web import DEADLINE_S, TOKEN, Page, StandIn, wait_until


@pytest.fixture
def page():
    opened = Page(StandIn(), viewers=3)
    yield opened
    opened.stage.close()


@pytest.fixture
def public(page, monkeypatch):
    """As if it listened at an address that others reach; a wrong token waits for ever."""
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
    """A client that has sent a wrong token and waits for the answer."""
    client = clients.enter_context(page.connect())
    before = len(limiter(page)._penalised)
    client.sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    wait_until(lambda: len(limiter(page)._penalised) > before)
    return client


def ask_from(address, page, path):
    """The status of an answer to the token's holder, who comes from this address."""
    source = (address, 0)
    with closing(
        http.client.HTTPConnection("127.0.0.1", page.port, DEADLINE_S, source_address=source)
    ) as client:
        client.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        return client.getresponse().status


def occupied(page, clients, monkeypatch):
    """All connections watch a stream."""
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    monkeypatch.setattr(connections, "REFUSAL_DELAY_S", 0)
    for _ in range(3):
        clients.enter_context(page.asks("/stream/yard.mjpg"))
    wait_until(lambda: page.stage._server._slots.used == 3)


def test_health_checks_are_answered_while_all_connections_are_taken(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    for _ in range(5):
        assert page.get("/healthz")[::2] == (200, b"ok\n")
        assert page.get("/readyz?x=1")[::2] == (200, b"ready\n")
    assert page.ask("HEAD", "/healthz")[::2] == (200, b"")
    page.run.now = StandIn(ready=False).now
    wait_until(lambda: page.get("/readyz")[::2] == (503, b"not ready\n"))


def test_what_the_reserve_answers_is_sealed(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    for path in ("/healthz", "/api/status"):
        headers = page.get(path)[1]
        for name, value in SECURITY_HEADERS.items():
            assert headers[name] == value


@pytest.mark.parametrize(
    "sent",
    [b"POST /healthz HTTP/1.1\r\n\r\n", b"\xff\x00\r\n\r\n", b"GET\r\n\r\n", b"x" * 9000],
)
def test_what_is_no_health_check_is_refused_in_the_reserve(page, clients, monkeypatch, sent):
    occupied(page, clients, monkeypatch)
    client = clients.enter_context(page.connect())
    client.sendall(sent)
    assert client.recv(100).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_a_health_check_that_fails_tells_nothing(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    page.run.status = lambda: 1 / 0
    monkeypatch.setattr(run_reader, "STATUS_TTL_S", 0)
    page.stage._server._reader.status._cached = None
    assert page.get("/readyz")[::2] == (500, b"internal error\n")


def test_one_who_is_slow_in_the_reserve_gives_way(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    monkeypatch.setattr(connections, "MAX_HEALTH_ONLY", 4)
    for _ in range(20):
        clients.enter_context(page.connect()).sendall(b"GET /healthz HTTP/1.1\r\nX: ")
    assert page.get("/healthz")[0] == 200
    wait_until(lambda: len(limiter(page)._reading) <= 4)


def test_one_whose_health_check_is_being_answered_does_not_give_way(page, clients, monkeypatch):
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


def test_one_who_asks_for_nothing_is_cut_off_in_the_reserve(page, clients, monkeypatch):
    occupied(page, clients, monkeypatch)
    monkeypatch.setattr(connections, "HEALTH_REQUEST_TIMEOUT_S", 0.05)
    client = clients.enter_context(page.connect())
    try:
        assert client.recv(100) == b""
    except ConnectionResetError:
        pass  # cut off just the same


def test_wrong_tokens_hold_no_connection(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SERVED", 3)
    for _ in range(10):
        wrong(public, clients)
    assert public.get("/healthz")[0] == 200
    assert public.get("/api/status", token=TOKEN)[0] == 200


def test_an_address_of_many_wrong_tokens_may_only_ask_for_health(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PENALISED_PER_ADDRESS", 2)
    for _ in range(2):
        wrong(public, clients)
    assert ask_from("127.0.0.1", public, "/api/status") == 429
    assert ask_from("127.0.0.1", public, "/healthz") == 200
    assert ask_from("127.0.0.2", public, "/api/status") == 200


def test_of_too_many_wrong_tokens_the_oldest_gets_its_answer(public, clients, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PENALISED", 2)
    first, second = wrong(public, clients), wrong(public, clients)
    clients.enter_context(public.connect()).sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    assert first.recv(100).startswith(b"HTTP/1.1 401 ")
    second.setblocking(False)
    with pytest.raises(BlockingIOError):
        second.recv(100)


def test_there_is_one_guess_per_connection(public, clients, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 0)
    client = clients.enter_context(public.connect())
    client.sendall(
        b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
    )
    answer = b""
    while received := client.recv(1000):
        answer += received
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_who_leaves_while_waiting_is_forgotten(public, clients):
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
def test_the_address_of_a_client_is_its_own_or_its_network(peer, address):
    transport = asyncio.Transport({"peername": peer})
    assert connections.client_address(transport) == address
    assert connections.client_address(None) == ""


def test_fewer_descriptors_mean_fewer_connections(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert connections.connections_per_kind() == 48
