"""Snapshot addresses and MJPEG streams over HTTP, logins, and responses without an image."""

import base64
import hashlib
import queue
import re
import threading
from contextlib import ExitStack

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.capture.http_client import HttpClient
from stages.capture.http_snapshot import HttpImages, open_http
from stages.capture.settings import CaptureSettings
from stages.capture.watchdog import FIRST_IMAGE_S
from tests.builders import header, pixels
from tests.http_camera import jpeg, part, serving, stream

END_S = 20


@pytest.fixture
def serve():
    """Start servers that answer each GET by a function of its handler."""
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(serving(answer))


def opened(url, **more):
    return open_http(CaptureSettings(source=url, **more))


def image(reader):
    """Return the next image, as a frame; None: it is damaged."""
    assert reader.grab(), reader.end_reason()
    frame = Frame(header(), "demo", memoryview(np.empty(1 << 16, np.uint8)))
    return frame if reader.retrieve(frame) else None


def refusal(url, **more):
    with pytest.raises(SourceError) as caught:
        opened(url, **more).close()
    assert "secret" not in str(caught.value)
    return caught.value.kind, str(caught.value)


# --- snapshots ---


def test_a_snapshot_address_is_polled_over_one_connection(serve):
    server = serve(lambda handler: handler.give(jpeg(10 * len(handler.server.asked))))
    reader = opened(server.url("/shot"), fps=1000)
    values = [pixels(image(reader)) for _ in range(5)]
    reader.close()
    assert np.abs(np.subtract(values, [10, 20, 30, 40, 50])).max() <= 2
    assert len({client for _, _, client in server.asked}) == 1
    assert reader.source_ns == -1  # the time of arrival counts
    assert not reader.finite


def test_each_snapshot_keeps_its_own_size(serve):
    sizes = [(16, 8), (32, 24), (8, 8)]
    server = serve(lambda handler: handler.give(jpeg(9, *sizes[len(handler.server.asked) - 1])))
    reader = opened(server.url(), fps=1000)
    assert [image(reader)["image"].shape[1::-1] for _ in sizes] == sizes
    reader.close()


@pytest.mark.parametrize(("fps", "wait_s"), [(None, 0.2), (2, 0.5)])
def test_a_snapshot_address_is_polled_at_the_rate_of_the_settings(serve, fps, wait_s, monkeypatch):
    server = serve(lambda handler: handler.give(jpeg()))
    reader = opened(server.url(), fps=fps)
    waits = []
    monkeypatch.setattr(reader._stopped, "wait", lambda timeout: waits.append(timeout))
    monkeypatch.setattr("stages.capture.http_snapshot.time.monotonic", lambda: 7.0)
    for _ in range(4):
        assert reader.grab()
    reader.close()
    assert waits == pytest.approx([wait_s, 2 * wait_s, 3 * wait_s])


@pytest.mark.parametrize("kind", ["", "application/octet-stream"])
def test_a_jpeg_without_a_type_is_recognized_by_its_first_bytes(serve, kind):
    reader = opened(serve(lambda handler: handler.give(jpeg(), kind)).url())
    assert isinstance(reader, HttpImages)
    assert image(reader)
    reader.close()


def test_a_server_that_closes_each_connection_gets_new_ones(serve):
    server = serve(lambda handler: handler.give(jpeg(), Connection="close"))
    reader = opened(server.url(), fps=1000)
    assert all(image(reader) for _ in range(3))
    reader.close()
    assert len({client for _, _, client in server.asked}) == 3


def test_a_kept_connection_that_the_server_has_closed_is_replaced(serve):
    def answer(handler):
        handler.give(jpeg())
        handler.close_connection = True  # without a header that says so

    server = serve(answer)
    reader = opened(server.url(), fps=1000)
    assert all(image(reader) for _ in range(3))
    reader.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"no image at all", jpeg()[:-40], b"\xff\xd8\xff"],
    ids=["nothing", "words", "cut off", "a beginning"],
)
def test_a_damaged_snapshot_is_not_decoded(serve, body):
    bodies = [jpeg(), body, jpeg()]
    server = serve(lambda handler: handler.give(bodies[len(handler.server.asked) - 1]))
    reader = opened(server.url(), fps=1000)
    assert image(reader)
    if body:
        assert image(reader) is None
        assert image(reader)
    else:
        assert not reader.grab()
        assert reader.end_reason()[0] == "closed"
    reader.close()


def test_a_snapshot_with_bytes_behind_its_end_is_decoded(serve):
    reader = opened(serve(lambda handler: handler.give(jpeg() + bytes(2000))).url())
    assert image(reader)
    reader.close()


def test_a_snapshot_address_that_begins_to_refuse_is_reported(serve):
    def answer(handler):
        handler.give(jpeg(), status=200 if len(handler.server.asked) < 3 else 503)

    reader = opened(serve(answer).url(), fps=1000)
    assert reader.grab()
    assert reader.grab()
    assert not reader.grab()
    assert reader.end_reason() == ("failed", reader.end_reason()[1])
    assert "answers with error 503" in reader.end_reason()[1]
    reader.close()


def test_an_image_without_an_end_is_refused(serve, monkeypatch):
    monkeypatch.setattr("stages.capture.http_snapshot.MAX_IMAGE_BYTES", 100_000)

    def answer(handler):
        handler.give(kind="image/jpeg", Content_Length="")
        for _ in range(100):
            handler.wfile.write(bytes(10_000))
        handler.close_connection = True

    reader = opened(serve(answer).url())
    assert not reader.grab()
    assert reader.end_reason()[0] == "unsupported"
    reader.close()


# --- MJPEG ---


@pytest.mark.parametrize(
    ("boundary", "line", "length", "end"),
    [
        ("frame", b"--frame", True, b"\r\n"),
        ("frame", b"--frame", False, b"\r\n"),
        ("--frame", b"--frame", True, b"\r\n"),
        ("--frame", b"--frame", False, b""),
        ('"other"', b"--frame", False, b"\r\n\r\n"),
        ("frame", b"--frame", True, b""),
    ],
)
def test_images_of_an_mjpeg_stream_are_found(serve, boundary, line, length, end):
    values = range(0, 200, 20)
    parts = [part(jpeg(value), line, length, end) for value in values]
    reader = opened(serve(stream([*parts, line + b"--\r\n"], boundary)).url())
    found = [pixels(image(reader)) for _ in values]
    assert np.abs(np.subtract(found, values)).max() <= 2
    assert not reader.grab()
    assert reader.end_reason() == ("closed", "stream ended by the other side")
    assert reader.source_ns == -1
    reader.close()


def test_images_of_an_mjpeg_stream_keep_their_own_size(serve):
    sizes = [(64, 48), (16, 8), (128, 64)]
    reader = opened(serve(stream([part(jpeg(5, *size)) for size in sizes])).url())
    assert [image(reader)["image"].shape[1::-1] for _ in sizes] == sizes
    reader.close()


def test_parts_that_are_no_images_are_passed_stopped(serve):
    parts = [part(b'{"motion": 1}', kind=b"application/json"), part(jpeg(60))]
    reader = opened(serve(stream(parts)).url())
    assert pixels(image(reader)) == pytest.approx(60, abs=2)
    reader.close()


def test_a_part_with_a_wrong_length_is_damaged_and_the_next_is_not(serve):
    wrong = part(jpeg(1)).replace(b"Content-Length: ", b"Content-Length: 2\r\nX-Was: ")
    reader = opened(serve(stream([wrong, part(jpeg(80))])).url())
    assert image(reader) is None
    assert pixels(image(reader)) == pytest.approx(80, abs=2)
    reader.close()


def test_an_image_of_an_mjpeg_stream_that_is_too_large_is_refused(serve):
    huge = part(b"").replace(b"Length: 0", b"Length: 99999999999")
    reader = opened(serve(stream([huge])).url())
    assert not reader.grab()
    assert reader.end_reason()[0] == "unsupported"
    reader.close()


def test_a_grab_that_waits_for_a_silent_stream_is_interrupted(serve):
    waiting, over = queue.SimpleQueue(), threading.Event()

    def answer(handler):
        handler.give(kind="multipart/x-mixed-replace; boundary=frame", Content_Length="")
        waiting.put(True)
        over.wait(END_S)

    reader = opened(serve(answer).url(), stall_timeout_s=600)
    results = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: results.put(reader.grab()))
    thread.start()
    assert waiting.get(timeout=END_S)
    reader.interrupt()
    assert results.get(timeout=END_S) is False
    over.set()
    thread.join()
    reader.close()
    reader.close()


def test_the_first_image_may_take_longer_than_the_next_ones(serve, monkeypatch):
    timeouts = []
    monkeypatch.setattr(HttpClient, "set_timeout", lambda self, s: timeouts.append(s))
    reader = opened(serve(stream([part(jpeg())])).url(), stall_timeout_s=2)
    assert timeouts == [FIRST_IMAGE_S]
    assert reader.grab()
    assert timeouts == [FIRST_IMAGE_S, 2]
    reader.close()


# --- logins ---


def basic(handler):
    wanted = "Basic " + base64.b64encode(b"guest:se:cret#/?").decode()
    if handler.headers.get("Authorization") == wanted:
        handler.give(jpeg())
    else:
        handler.give(status=401, WWW_Authenticate='Basic realm="camera"')


def digest(algorithm="MD5", qop="auth"):
    """Accept a login by digest authentication only."""

    def hashed(text):
        name = "sha256" if algorithm.startswith("SHA") else "md5"
        return hashlib.new(name, text.encode()).hexdigest()

    def answer(handler):
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', handler.headers.get("Authorization", "")))
        first = hashed("guest:camera, front:se:cret#/?")
        second = hashed(f"GET:{handler.path}")
        middle = f"{given.get('nc')}:{given.get('cnonce')}:{qop}:" if qop else ""
        if given.get("response") == hashed(f"{first}:n0nce:{middle}{second}"):
            handler.give(jpeg())
            return
        wanted = f'Digest realm="camera, front", nonce="n0nce", algorithm={algorithm}'
        wanted += f', qop="{qop},auth-int"' if qop else ""
        handler.give(b"who are you", "text/html", 401, WWW_Authenticate=wanted)

    return answer


ANSWERS = {
    "basic": basic,
    "md5": digest(),
    "md5 as of old": digest(qop=""),
    "sha-256": digest("SHA-256"),
}
LOGIN = "guest:se%3Acret%23%2F%3F@"


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_camera_with_a_login_gets_it_with_each_request(serve, answer):
    server = serve(answer)
    reader = opened(server.url("/shot?x=1&y=2", LOGIN), fps=1000)
    assert all(image(reader) for _ in range(3))
    reader.close()
    assert len(server.asked) == 4  # the first request has no login
    assert server.asked[0][1] is None
    assert refusal(server.url(login="guest:secret@")) == ("unauthorized", "wrong user or password")
    assert "login required" in refusal(server.url())[1]


def test_a_login_is_not_sent_to_the_host_of_a_redirect(serve):
    other = serve(basic)
    elsewhere = other.url("/shot").replace("127.0.0.1", "localhost")
    server = serve(lambda handler: handler.give(status=302, Location=elsewhere))
    assert refusal(server.url(login=LOGIN))[0] == "unauthorized"
    assert {login for _, login, _ in other.asked} == {None}


# --- redirects, and responses without a stream ---


def test_a_redirect_is_followed(serve):
    def answer(handler):
        if handler.path == "/a?b":
            handler.give(jpeg())
        else:
            handler.give(status=301, Location="/a?b")

    reader = opened(serve(answer).url("/x"))
    assert image(reader)
    reader.close()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/x", "more than 5 redirects"),
        ("ftp://host/x", "that is not http"),
        ("//[x/", "without a host"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_refused(serve, location, words):
    server = serve(lambda handler: handler.give(status=302, Location=location))
    assert words in refusal(server.url("/x"))[1]


def test_a_web_page_is_not_taken_for_a_video(serve):
    server = serve(lambda handler: handler.give(b"<html>hello", "text/html; charset=utf-8"))
    kind, words = refusal(server.url("/"))
    assert kind == "failed"
    assert words.startswith("the address is a web page")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "unauthorized"), (403, "unauthorized"), (404, "not_found"), (500, "failed")],
)
def test_a_refusal_has_a_kind_and_a_text(serve, status, kind):
    server = serve(lambda handler: handler.give(b"no", "text/html", status))
    assert refusal(server.url("/x", "guest:secret@"))[0] == kind


@pytest.mark.parametrize("url", ["http:///x", "http://host:99999/", "http://[bad/", "https://"])
def test_an_address_of_no_host_is_refused(url):
    assert refusal(url)[1]


def test_a_server_that_does_not_speak_tls_is_reported(serve):
    server = serve(lambda handler: handler.give(jpeg()))
    words = refusal(server.url().replace("http:", "https:"))[1]
    assert "TLS handshake" in words


def test_a_host_that_sends_nothing_is_closed_in_time(monkeypatch):
    monkeypatch.setattr("stages.capture.http_snapshot.OPEN_TIMEOUT_S", 0.1)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        kind, words = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}/x")
    assert kind == "timeout"
    assert words.endswith(" does not answer; check that the camera is on")


def test_a_response_that_drips_is_closed_in_time(serve, monkeypatch):
    monkeypatch.setattr("stages.capture.http_snapshot.OPEN_TIMEOUT_S", 0.2)
    over = threading.Event()

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while not over.wait(0.02):
                handler.wfile.write(b"X")
        except OSError:
            pass
        handler.close_connection = True

    server = serve(answer)
    assert refusal(server.url())[0] == "timeout"
    over.set()
