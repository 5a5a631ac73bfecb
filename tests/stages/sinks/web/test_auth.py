"""Access: the token, other sites, and clients from the network."""

import asyncio
import base64

import aiohttp
import pytest

from stages.sinks.web import auth, routes
from tests.stages.sinks.web.status_page import (
    TOKEN,
    StandIn,
    live,
)


def test_nothing_can_be_changed_if_no_token_is_set(opened):
    page = opened(token=None)
    status, _, body = page.ask("POST", "/api/reload", token="anything")
    assert status == 403
    assert b"set a token in the settings" in body
    assert page.run.asked == []


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x"])
def test_nothing_is_changed_without_the_token(page, token, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_TOKEN_S", 0)
    status, headers, body = page.ask("POST", "/api/reload", token=token)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert TOKEN.encode() not in body
    assert page.run.asked == []


def test_basic_password_that_a_browser_resends_changes_nothing(page):
    basic = "Basic " + base64.b64encode(f"eyeline:{TOKEN}".encode()).decode()
    assert page.ask("POST", "/api/reload", Authorization=basic)[0] == 401
    assert page.run.asked == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "x", "\xe9"]
)
def test_requests_from_other_sites_are_refused(page, origin):
    for method, path in [("POST", "/api/reload"), ("GET", "/api/status"), ("GET", "/api/live")]:
        assert page.ask(method, path, None, TOKEN, Origin=origin)[0] == 403
    assert page.run.asked == []


def test_requests_of_the_page_itself_are_allowed(page):
    for host in (f"127.0.0.1:{page.port}", f"localhost:{page.port}", f"[::1]:{page.port}"):
        own = {"Origin": f"http://{host}", "Host": host, "Sec_Fetch_Site": "same-origin"}
        assert page.ask("POST", "/api/reload", None, TOKEN, **own)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "[::2]", "127.0.0.2"]
)
def test_host_name_that_is_not_listed_is_refused(page, host):
    assert page.get("/api/status", Host=host)[0] == 421
    assert page.get("/", Host=host)[0] == 421


def test_host_name_that_is_listed_is_allowed(opened):
    page = opened(hosts=("Eyeline.example",))
    own = {"Host": "eyeline.example", "Origin": "https://eyeline.example"}
    assert page.get("/api/status", **own)[0] == 200
    assert page.get("/api/status", Host="127.0.0.1", Origin="https://eyeline.example")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_images_are_not_shown_on_other_sites(page, site):
    asked = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors"}
    assert page.get("/snapshot/yard.jpg", **asked)[0] == 403
    assert page.get("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200


@pytest.fixture
def public(opened, monkeypatch):
    """A page that behaves as if it listened at an address of the network."""
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
def test_network_sees_nothing_without_the_token(public, path):
    for token in (None, "wrong"):
        status, _, body = public.get(path, token=token)
        assert status == 401
        assert b"yard" not in body


def test_network_sees_all_with_the_token(public):
    assert public.get("/api/status", token=TOKEN)[0] == 200
    basic = "Basic " + base64.b64encode(f"any:{TOKEN}".encode()).decode()
    assert public.get("/metrics", Authorization=basic)[0] == 200
    assert public.get("/api/status", token=TOKEN, Host="eyeline.example")[0] == 200


def test_answers_that_need_no_token_reveal_nothing(public):
    assert public.get("/healthz")[0] == 200
    assert public.get("/readyz")[::2] == (503, b"not ready\n")
    assert b"stages are opening" in public.get("/readyz", token=TOKEN)[2]
    for path in routes.PAGE_FILES:
        assert public.get(path)[0] == 200


@pytest.mark.parametrize(
    "bad", ["Bearer", "Basic", "Basic !!", "Basic w6k=", "Bearer \xe9", "Digest x"]
)
def test_malformed_authorization_is_refused(public, bad):
    assert public.get("/api/status", Authorization=bad)[0] == 401


def test_websocket_sends_the_token_as_a_subprotocol(public):
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
