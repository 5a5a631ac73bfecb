"""Images for viewers: snapshots, multipart streams, and the page's WebSocket."""

import asyncio
import json

import aiohttp
import msgspec
import numpy as np
import pytest

from pipeline.frame import Frame
from stages.drawing.palette import COLOURS
from stages.sinks.web import routes
from tests.stages.sinks.web.status_page import (
    DEADLINE_S,
    decode,
    feeding,
    frame,
    live,
    multipart,
    read_part,
    wait_until,
)
from tests.stages.task_frames import BEACH, GREY, RED, task_frame


def test_snapshot_is_the_image_with_its_boxes(page):
    def made(seq):
        return frame(seq, value=40, size=(120, 160), boxes=[(40, 50, 120, 110)], ids=[3])

    with feeding(page.stage, made):
        status, headers, body = page.get("/snapshot/yard.jpg")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert headers["X-Captured-At"].startswith("1970-01-01T00:")
    shown = decode(body).astype(int)
    assert shown.shape == (120, 160, 3)
    assert np.abs(shown[5, 5] - 40).max() < 8
    assert np.abs(shown[80, 40] - 40).max() > 60  # the box's left side
    assert np.abs(shown[80, 80] - 40).max() < 8  # its inside


def test_snapshot_of_a_stream_without_images_times_out(page, monkeypatch):
    monkeypatch.setattr(routes, "SNAPSHOT_TIMEOUT_S", 0.05)
    status, headers, body = page.get("/snapshot/yard.jpg")
    assert (status, body) == (503, b"no image of yard within 0.05 s\n")
    assert "Retry-After" in headers
    assert page.get("/snapshot/none.jpg")[0] == 404


def test_multipart_client_gets_one_image_after_the_other(page):
    with feeding(page.stage, lambda seq: frame(seq, value=seq % 250)), multipart(page) as answer:
        values = [int(decode(read_part(answer))[0, 0, 0]) for _ in range(5)]
    assert len(set(values)) >= 3


def test_multipart_answer_ends_with_the_stream(page):
    with page.asks("/stream/yard.mjpg") as client:
        wait_until(lambda: page.stage._server.is_awaited("yard"))
        page.stage.end("yard")
        file = client.makefile("rb")
        text = file.read()
        file.close()
    assert b"200 OK" in text
    assert b"image/jpeg\r\nContent-Length" not in text


async def next_image(viewer):
    while True:
        message = await viewer.receive(DEADLINE_S)
        assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
        if message.type is aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "big")
            return json.loads(message.data[4 : 4 + length]), decode(message.data[4 + length :])


def test_viewer_gets_the_next_image_after_it_has_shown_the_last(page):
    async def view():
        session, viewer = await live(page)
        async with session:
            assert (await viewer.receive_json())["type"] == "hello"
            await viewer.send_json({"watch": ["yard", "gate", "../x", "", "no such"]})
            shown = []
            for _ in range(3):
                shown.append(await next_image(viewer))
                # No frame is awaited until this one is on the screen.
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


def test_image_comes_with_what_models_give_and_without_masks(page):
    def made(seq):
        given = task_frame(seq)
        return Frame.of("yard", seq, (seq + 1) / 10, **{name: given[name] for name in given})

    async def view():
        session, viewer = await live(page)
        async with session:
            await viewer.send_json({"watch": ["yard"]})
            return await next_image(viewer)

    with feeding(page.stage, made):
        head, image = asyncio.run(view())
    assert head["labels"] == [{"label": "beach", "class": 7, "score": BEACH.score}]
    (found,) = head["objects"]
    assert found["attributes"]["colour"]["label"] == RED.label
    assert len(found["keypoints"]) == 2
    assert "mask" not in found
    tinted = 0.6 * GREY + 0.4 * np.array(COLOURS[0])
    assert np.abs(image[100, 70] - tinted).max() <= 24


def test_viewer_is_sent_the_status_and_new_activities(page):
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
    "sent", ["{", "[]", '{"watch": "yard"}', "x" * 20_000, '{"watch": [1]}', b"\0"]
)
def test_viewer_that_sends_an_invalid_message_is_disconnected(page, sent):
    async def view():
        session, viewer = await live(page)
        async with session:
            await (viewer.send_bytes(sent) if isinstance(sent, bytes) else viewer.send_str(sent))
            while True:
                message = await viewer.receive(DEADLINE_S)
                if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    return

    asyncio.run(view())
    wait_until(lambda: page.stage._server._slots.used == 0)


def test_viewers_above_the_limit_are_refused(opened):
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


def test_viewer_that_does_not_read_does_not_slow_the_others(opened, monkeypatch):
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
        with multipart(page) as answer:
            for _ in range(20):
                assert len(read_part(answer)) > 100_000
        # The viewer that never read was disconnected when its image timed out.
        wait_until(lambda: page.stage._server._slots.used == 0)
        assert page.get("/snapshot/yard.jpg")[0] == 200
