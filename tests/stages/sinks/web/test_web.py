"""The stage: its settings, what it copies for viewers, and when."""

import json
import socket
import subprocess
import sys
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest

from pipeline.errors import SetupError
from stages.sinks.web.settings import WebSettings
from stages.sinks.web.web import Scratch, Web
from tests.builders import ROOT, context_of
from tests.stages.sinks.web.status_page import (
    TOKEN,
    feeding,
    frame,
    multipart,
    read_part,
    wait_until,
)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.7", "::"])
def test_address_reachable_from_network_without_token_is_refused(address):
    with pytest.raises(SetupError, match="set a token"):
        Web.resolve(WebSettings(address=address))
    Web.resolve(WebSettings(address=address, token=TOKEN))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_address_needs_no_token(address):
    Web.resolve(WebSettings(address=address))


@pytest.mark.parametrize(
    "token", ["", "short", "seven77", "two words here", "naïve-token", "a\nbcdefgh"]
)
def test_unusable_token_is_refused_and_not_repeated(token):
    with pytest.raises(SetupError, match="token: ") as refused:
        Web.resolve(WebSettings(token=token))
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize("address", ["localhost", "cam.local", "1.2.3"])
def test_address_that_is_no_ip_address_is_refused(address):
    with pytest.raises(SetupError, match="expected an IP address"):
        Web.resolve(WebSettings(address=address, token=TOKEN))


def test_port_can_be_text_but_not_above_65535():
    Web.resolve(WebSettings(port="8080"))
    with pytest.raises(SetupError, match="up to 65535"):
        Web.resolve(WebSettings(port="65536"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"port": "eighty"}, WebSettings)


def test_invalid_entry_of_sources_is_refused_before_the_start():
    with pytest.raises(SetupError, match=r"^sources: expected SCHEME://HOST"):
        Web.resolve(WebSettings(sources=("file:///etc",)))


def test_port_in_use_is_reported_in_one_line(page):
    other = Web(WebSettings(port=page.port), context_of())
    other.run = page.run
    with pytest.raises(SetupError, match=f"port {page.port} is used"):
        other.open()
    other.close()


def test_address_of_the_page_is_logged_without_the_token(opened, caplog):
    caplog.set_level("INFO")
    page = opened()
    assert f"status page at http://127.0.0.1:{page.port}/" in caplog.text
    assert TOKEN not in caplog.text


def test_large_image_is_scaled_before_drawing():
    scratch = Scratch()
    given = frame(size=(1080, 1920), boxes=[(192, 108, 960, 540)], ids=[1])
    small = scratch.copy(given, 640)
    assert small["image"].shape == (360, 640, 3)
    assert small["boxes"].tolist() == [[64, 36, 320, 180]]
    assert small["ids"].tolist() == [1]
    tall = frame(size=(4000, 10))
    assert scratch.copy(tall, 64)["image"].shape == (128, 1, 3)


def test_small_image_is_copied_unchanged(rng):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    given = frame(size=(20, 30), boxes=[(1, 2, 3, 4)])
    given.put("image", image)
    copy = Scratch().copy(given, 640)
    assert np.array_equal(copy["image"], image)
    assert copy["boxes"].tolist() == [[1, 2, 3, 4]]
    assert not np.shares_memory(copy["image"], given["image"])


def test_memory_of_a_copy_is_reused_and_grows_as_needed():
    scratch, before = Scratch(), 0
    for count in (0, 3, 2000, 5):
        given = frame(size=(40 + count % 7, 60), boxes=[(1, 2, 3, 4)] * count)
        copy = scratch.copy(given, 640)
        assert len(copy["boxes"]) == len(copy["ids"]) == count
        assert len(scratch._memory) >= before
        before = len(scratch._memory)


def count_copies(monkeypatch):
    copied, copy = [], Scratch.copy

    def counting(scratch, given, *more):
        copied.append((given.stream, given.seq))
        return copy(scratch, given, *more)

    monkeypatch.setattr(Scratch, "copy", counting)
    return copied


def test_nothing_is_copied_without_viewers(page, monkeypatch):
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


def test_all_viewers_share_one_copy(page, monkeypatch):
    copied = count_copies(monkeypatch)
    with ExitStack() as stack:
        answers = [stack.enter_context(multipart(page)) for _ in range(5)]
        waiting = page.stage._server._broadcaster._waiting
        wait_until(lambda: len(waiting.get("yard", ())) == 5)
        page.stage.process(frame(7))
        assert len({read_part(answer) for answer in answers}) == 1
    assert copied == [("yard", 7)]


@pytest.mark.parametrize("start_s", [0.1, 5000.0])
def test_no_more_frames_are_copied_than_fps_allows(opened, monkeypatch, start_s):
    copied = count_copies(monkeypatch)
    page = opened(fps=2)

    def is_free():
        # Until the server has published the last copy, its viewer still counts as waiting.
        published = page.stage._server._broadcaster._count == len(copied)
        return published and page.stage._server.is_awaited("yard")

    with multipart(page) as answer:
        for seq in [*range(25), *range(101, 108)]:  # ten per second, and a pause
            wait_until(is_free)
            page.stage.process(frame(seq, time_s=start_s + seq * 0.1))
        for _ in range(8):
            read_part(answer)
    # A frame early by less than a quarter of the interval is taken; the next is due as before.
    assert [seq for _, seq in copied] == [0, 4, 9, 14, 19, 24, 101, 105]


def test_frame_older_than_the_newest_is_not_shown(page, monkeypatch):
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


def test_stream_that_is_added_again_starts_over(page, monkeypatch):
    copied, ended = count_copies(monkeypatch), []
    broadcaster = page.stage._server._broadcaster
    end = broadcaster.end
    monkeypatch.setattr(broadcaster, "end", lambda stream: (end(stream), ended.append(stream)))
    page.stage.process(frame(100, time_s=50.0))
    page.stage.end("yard")
    # Two threads report the end, which would otherwise reach the viewer that comes now.
    wait_until(lambda: ended)
    with page.asks("/stream/yard.mjpg") as client:
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.process(frame(101, time_s=51.0))  # late, after the end
        wait_until(lambda: not page.stage._streams["yard"].busy)
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.process(frame(0, time_s=52.0))
        client.shutdown(socket.SHUT_RDWR)
    assert copied == [("yard", 101), ("yard", 0)]


def test_object_is_logged_when_it_appears_and_when_it_leaves(page):
    for seq in range(60):
        page.stage.process(frame(seq, boxes=[(0, 0, 9, 9)] if 5 <= seq < 20 else (), ids=None))
    for seq in range(60, 70):
        flickering = [(0, 0, 9, 9)] if seq == 65 else []
        page.stage.process(
            frame(seq, boxes=[(0, 0, 9, 9), *flickering], ids=[3, 4][: 1 + len(flickering)])
        )
    page.stage.end("yard")
    found = json.loads(page.get("/api/events")[2])
    assert [(one["label"], one.get("id"), one["text"]) for one in found] == [
        ("person", None, "appeared, 1 now"),
        ("person", None, "left after 1 s, 0 now"),
        ("person", 3, "appeared"),
        ("person", 3, "left after 1 s"),
    ]
    assert {one["stream"] for one in found} == {"yard"}
    assert found[0]["at"] == "1970-01-01T00:00:00.800Z"  # its third frame
    assert found[0]["score"] == 0.5


def test_close_ends_all_connections_at_once(page):
    clients = [page.asks(path) for path in ("/stream/yard.mjpg", "/snapshot/yard.jpg")]
    clients += [page.connect() for _ in range(5)]
    wait_until(lambda: page.stage._server._slots.used == 2)
    page.stage.close()
    for client in clients:
        with client, client.makefile("rb") as file:
            file.read()
    with pytest.raises(ConnectionRefusedError):
        page.connect()


def test_stage_is_imported_without_the_http_server():
    code = (
        "import sys, stages.sinks.web.web\n"
        "assert not {'aiohttp', 'prometheus_client'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
