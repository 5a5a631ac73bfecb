"""The tests' own camera: what others rely on when they kill, freeze and slow it down."""

import itertools
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.camera import CLIP, PORTS, ROOT, Camera, age_ms, draw_clock, read_clip, read_clock
from tests.stages.sinks.rtsp.test_server import Reader

pytestmark = pytest.mark.live

DEADLINE_S = 30.0


# --- the clock in the pixels ---


@pytest.mark.parametrize("size", [(640, 368), (256, 64), (1920, 1080), (333, 200)])
@pytest.mark.parametrize("quality", [100, 85, 30])
def test_number_and_time_can_be_read_from_a_picture(size, quality):
    picture = np.full((size[1], size[0], 3), 90, np.uint8)
    wall_ms = time.time_ns() // 1_000_000
    draw_clock(picture, 12345, wall_ms)
    file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    assert read_clock(cv2.imdecode(file, cv2.IMREAD_COLOR)) == (12345, wall_ms)
    assert 0 <= age_ms(picture) < DEADLINE_S * 1000


@given(some.integers(0, 2**24 - 1), some.integers(-(2**38), 2**38))
def test_any_number_and_any_time_of_these_years_can_be_read(number, from_now_ms):
    picture = np.zeros((16, 320, 3), np.uint8)
    wall_ms = time.time_ns() // 1_000_000 + from_now_ms
    draw_clock(picture, number, wall_ms)
    assert read_clock(picture) == (number, wall_ms)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_image_has_no_clock(level):
    picture = np.full((368, 640, 3), level, np.uint8)
    assert read_clock(picture) is None
    assert age_ms(picture) is None


def test_a_damaged_clock_has_no_time(rng):
    picture = np.zeros((368, 640, 3), np.uint8)
    draw_clock(picture, 7, 7)
    picture[:, 300:340] = 128
    assert read_clock(picture) is None
    assert read_clock(rng.integers(0, 255, (368, 640, 3), np.uint8)) is None
    assert read_clock(picture[:10]) is None
    assert read_clock(picture[:, :100]) is None


# --- the mp4 file ---


def test_the_clip_is_read_as_its_origin_describes_it():
    clip = read_clip(CLIP)
    assert len(clip.samples) == 300
    assert [i for i, sample in enumerate(clip.samples) if sample.key] == [0, 50, 100, 150, 200, 250]
    assert [sample.pts_ns for sample in clip.samples] == [i * 100_000_000 for i in range(300)]
    assert clip.fps == pytest.approx(10)
    assert (clip.sps[0] & 31, clip.pps[0] & 31) == (7, 8)
    for sample in clip.samples:
        at, kinds = 0, []
        while at < len(sample.data):
            kinds.append(sample.data[at + 4] & 31)
            at += 4 + int.from_bytes(sample.data[at : at + 4], "big")
        assert at == len(sample.data)
        assert (5 in kinds) == sample.key


@pytest.mark.parametrize("data", [b"", b"no mp4 file at all", CLIP.read_bytes()[:40]])
def test_what_is_no_clip_is_refused(tmp_path, data):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match="expected an mp4 file with"):
        read_clip(tmp_path / "x.mp4")


# --- the process ---


class Player:
    """FFmpeg behind OpenCV."""

    def __init__(self, url, transport="tcp", timeout_s=DEADLINE_S):
        with pytest.MonkeyPatch.context() as patch:  # OpenCV reads its options from there alone
            patch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"rtsp_transport;{transport}")
            params = [cv2.CAP_PROP_N_THREADS, 1, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            params += [round(timeout_s * 1000)]
            self.capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, params)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.capture.release()

    def read(self):
        done, picture = self.capture.read()
        assert done, "no picture comes any more"
        return picture

    def clocks(self, count):
        return [read_clock(self.read()) for _ in range(count)]

    def ends(self):
        """What is left in it, until nothing comes."""
        return list(itertools.takewhile(lambda r: r[0], (self.capture.read() for _ in range(500))))


def pictures_of_the_clip(count):
    capture = cv2.VideoCapture(str(CLIP))
    try:
        return [capture.read()[1] for _ in range(count)]
    finally:
        capture.release()


def can_open(url):
    with Player(url) as player:
        return player.capture.isOpened()


def status(camera, path):
    """What it answers when asked for a description."""
    with socket.create_connection(("127.0.0.1", camera.port), timeout=DEADLINE_S) as client:
        client.sendall(f"DESCRIBE {camera.url(path)} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        return int(client.recv(4096).split()[1])


@pytest.fixture(scope="module")
def camera():
    """For those who leave it as it is."""
    with Camera(fps=50) as made:
        yield made


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_clock_runs(camera, transport):
    with Player(camera.url("/jpeg"), transport) as player:
        clocks = player.clocks(25)[5:]  # of the first ones, those for whom it is not ready are gone
    assert [clock.number - clocks[0].number for clock in clocks] == list(range(20))
    walls = [clock.wall_ms for clock in clocks]
    assert walls == sorted(walls)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_clip_comes_through_whole_from_its_first_picture(transport):
    with Camera(fps=50) as camera, Player(camera.url("/h264"), transport) as player:
        for want in pictures_of_the_clip(12):
            np.testing.assert_array_equal(player.read(), want)


def test_the_clip_goes_on_and_on():
    with Camera(fps=400) as camera, Player(camera.url("/h264")) as player:
        first = player.read()
        pictures = [player.read() for _ in range(300)]
    np.testing.assert_array_equal(pictures[-1], first)


def test_a_second_viewer_begins_with_a_key_picture_too(camera):
    keys = [p for i, p in enumerate(pictures_of_the_clip(251)) if i % 50 == 0]
    with Player(camera.url("/h264")) as one:
        one.read()
        with Player(camera.url("/h264")) as other:
            begun = other.read()
        assert any(np.array_equal(begun, key) for key in keys)


def by_hand(camera):
    """A viewer that sees the packets."""
    place = SimpleNamespace(address="127.0.0.1", port=camera.port, url=camera.url)
    return Reader(place)


def test_a_viewer_may_have_to_begin_amid_a_group_of_pictures():
    def kinds(reader):
        first = reader.picture()[0].payload
        return first[0] & 31 if first[0] & 31 != 28 else first[1] & 31

    sps, idr, other = 7, 5, 1
    with Camera(start="after_key", fps=100) as camera:
        with by_hand(camera) as reader:
            reader.play("/h264")
            assert [kinds(reader) for _ in range(51)] == [other] * 49 + [sps, other]
        with Player(camera.url("/h264")) as player:
            assert player.read().shape == (576, 768, 3)
    with Camera(fps=100) as camera, by_hand(camera) as reader:
        reader.play("/h264")
        assert kinds(reader) in (sps, idr)


def test_size_and_paths_can_be_chosen():
    with Camera(fps=50, size="320x240", jpeg="/live/1", h264="/live/2") as camera:
        assert status(camera, "/jpeg") == 404
        with Player(camera.url("/live/1")) as player:
            assert player.read().shape == (240, 320, 3)
        with Player(camera.url("/live/2")) as player:
            assert player.read().shape == (576, 768, 3)


@pytest.mark.parametrize("scheme", ["digest", "basic", "both"])
def test_a_password_is_asked_for(scheme):
    with Camera(user="guest", password="secret", scheme=scheme) as camera:
        assert "guest:secret@" in camera.url()
        assert can_open(camera.url("/jpeg"))
        assert not can_open(camera.url("/jpeg", "guest", "wrong"))
        assert not can_open(camera.url("/jpeg", ""))
        assert status(camera, "/jpeg") == 401


def test_a_transport_can_be_left_out():
    with Camera(transports="udp") as camera:
        with Player(camera.url("/jpeg"), "tcp") as player:
            assert not player.capture.isOpened()
        with Player(camera.url("/jpeg"), "udp") as player:
            assert player.read() is not None


def test_an_empty_camera_has_no_path():
    with Camera(empty=True) as camera:
        assert status(camera, "/jpeg") == status(camera, "/h264") == 404


def test_one_that_refuses_keeps_its_port():
    with Camera() as camera:
        camera.restart(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", camera.port))
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", camera.port))
        camera.restart(refuse=False)
        assert status(camera, "/jpeg") == 200


def test_a_slow_one_gives_half_as_many():
    with Camera(fps=20, slow=True) as camera, Player(camera.url("/jpeg")) as player:
        player.read()
        before_ms = player.capture.get(cv2.CAP_PROP_POS_MSEC)
        clocks = player.clocks(10)
        by_rtp_ms = player.capture.get(cv2.CAP_PROP_POS_MSEC) - before_ms
        by_clock_ms = clocks[-1].wall_ms - clocks[0].wall_ms
    assert by_rtp_ms == pytest.approx(500, abs=2)  # its timestamps do as if nothing were wrong
    assert by_clock_ms >= 9 * 100 * 0.8


def test_one_that_stalls_still_answers():
    with Camera(fps=50, stall_after=30) as camera:
        for pictures in (30, 0):  # in all: to connect again is no help
            with by_hand(camera) as reader:
                reader.play("/jpeg")
                for _ in range(pictures):
                    reader.picture()
                threading.Event().wait(0.5)
                assert reader.ask("GET_PARAMETER", "/jpeg").code == 200
                assert 0 not in [channel for channel, _ in reader.packets]


def test_one_that_is_killed_comes_back_at_the_same_port():
    with Camera(fps=50) as camera:
        port = camera.port
        for size in ("640x368", "320x240"):
            with Player(camera.url("/jpeg")) as player:
                player.read()
                camera.kill()
                player.ends()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            camera.restart(size=size)
            assert camera.port == port
            with Player(camera.url("/jpeg")) as player:
                assert player.read().shape[1] == int(size.partition("x")[0])


def test_one_that_is_frozen_says_nothing_until_it_thaws():
    with Camera(fps=50) as camera, Player(camera.url("/jpeg")) as player:
        before = player.read()
        camera.freeze()
        with socket.create_connection(("127.0.0.1", camera.port)) as client:  # by the kernel
            client.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            assert select.select([client], [], [], 0.5)[0] == []
            camera.thaw()
            client.settimeout(DEADLINE_S)
            assert client.recv(4096).startswith(b"RTSP/1.0 200 OK")
        assert read_clock(player.read()).number > read_clock(before).number


def test_after_a_freeze_it_does_not_catch_up():
    with Camera(fps=50) as camera, Player(camera.url("/jpeg")) as player:
        before = read_clock(player.read())
        camera.freeze()
        frozen_ms = time.time_ns() // 1_000_000
        threading.Event().wait(1.5)
        camera.thaw()
        clock = before
        while clock.wall_ms <= frozen_ms:  # what was under way
            before, clock = clock, read_clock(player.read())
        # One may have been under way, and have made room for the next.
        assert clock.number - before.number in (1, 2)
        assert clock.wall_ms - before.wall_ms >= 1000
        tenth = [read_clock(player.read()) for _ in range(10)][-1]
        assert tenth.wall_ms - clock.wall_ms >= 10 * 20 * 0.7


def test_it_ends_in_good_order_and_with_the_one_who_started_it():
    camera = Camera()
    camera.start()
    process = camera.process
    assert camera.port in PORTS
    camera.stop()
    assert process.returncode == 0
    camera.stop()  # twice is once
    camera.start()
    process = camera.process
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 0
    camera.kill()


def test_a_frozen_one_can_be_stopped():
    camera = Camera()
    camera.start()
    camera.freeze()
    process = camera.process
    camera.stop()
    assert process.returncode == 0


def test_a_wrong_option_is_an_error_at_once():
    with pytest.raises(RuntimeError, match="has not started"):
        Camera(clip="/does/not/exist.mp4").start()


def test_it_leaves_no_descriptor_open():
    before = len(os.listdir("/proc/self/fd"))
    with Camera() as camera:
        camera.restart()
        camera.restart()
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_runs_by_hand_as_its_description_says():
    command = [sys.executable, "-m", "tests.camera", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        port = int(process.stdout.readline())
        assert can_open(f"rtsp://127.0.0.1:{port}/jpeg")
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.stdout.close()
    text = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"--stall-after N +answers, but", text)
