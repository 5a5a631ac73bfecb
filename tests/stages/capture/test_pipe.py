"""Sources that are read once, as FIFOs and standard input; and the kinds of paths."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from pipeline.errors import SetupError, SourceError
from stages.capture import opencv_pipe
from stages.capture.capture import Capture
from stages.capture.settings import CaptureSettings
from stages.capture.source import kind_of
from tests.builders import ROOT
from tests.reading import DEADLINE_S, Reading

COUNT = 30


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A Matroska file of 20 images per second, whose image `i` has the grey 8 * i at its top
    left; the rest is noise, as FFmpeg needs some thousand bytes before it opens a file."""
    path = tmp_path_factory.mktemp("pipe") / "grey.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 20.0, (40, 24))
    assert writer.isOpened()
    noise = np.random.default_rng(1).integers(0, 256, (24, 40, 1), np.uint8).repeat(3, 2)
    for i in range(COUNT):
        noise[0, 0] = 8 * i
        writer.write(noise)
    writer.release()
    return path.read_bytes()


def jpegs(*sizes):
    """Return JPEG after JPEG, without a container."""
    return b"".join(
        cv2.imencode(".jpg", np.full((height, width, 3), 100, np.uint8))[1].tobytes()
        for width, height in sizes
    )


@contextmanager
def written(target, data):
    """Write into the pipe that `target` opens, while the block runs."""

    def write():
        with target() as file:
            try:
                file.write(data)
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "a%03d?:b.jpg"  # no character in a name has a meaning
    os.mkfifo(path)
    return path


@contextmanager
def reading_fifo(fifo, data, **settings):
    with (
        written(lambda: fifo.open("wb", buffering=0), data),
        Reading(str(fifo), **settings) as read,
    ):
        yield read


def values(reading):
    return [int(frame.image[0, 0, 0]) for frame in reading.frames]


def times_ms(reading):
    return [frame.source_ns / 1e6 for frame in reading.frames]


# --- pipes ---


def test_a_fifo_is_read_to_its_end_losslessly_by_its_own_clock(fifo, video):
    with reading_fifo(fifo, video) as reading:
        assert reading.capture.live is False
        reading.to_the_end()
    assert values(reading) == [8 * i for i in range(COUNT)]
    assert times_ms(reading) == pytest.approx([50 * i for i in range(COUNT)], abs=1)
    assert reading.capture.problem() is None
    assert list(reading.missed) == [0, 0]


def test_an_inherited_descriptor_of_a_substitution_is_read(video):
    reader, writer = os.pipe()
    try:
        with (
            written(lambda: os.fdopen(writer, "wb"), video),
            Reading(f"/dev/fd/{reader}") as reading,
        ):
            reading.to_the_end()
    finally:
        os.close(reader)
    assert len(reading.frames) == COUNT


@pytest.mark.parametrize("by", ["name", "descriptor"])
def test_a_socket_is_read_too(by, tmp_path, video):
    if by == "name":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        source, near = str(tmp_path / "s"), None
    else:
        listener, near = socket.socketpair()
        source = f"/dev/fd/{near.fileno()}"

    def send():
        peer = listener.accept()[0] if by == "name" else listener
        peer.sendall(video)
        peer.close()

    sender = threading.Thread(target=send)
    sender.start()
    with Reading(source) as reading:
        reading.to_the_end()
    sender.join()
    for one in (listener, near):
        if one is not None:
            one.close()
    assert len(reading.frames) == COUNT


def test_images_without_a_container_are_timed_by_arrival(fifo, caplog):
    with reading_fifo(fifo, jpegs(*[(16, 16)] * 5)) as reading:
        reading.to_the_end()
    for frame, at_ms in zip(reading.frames, times_ms(reading), strict=True):
        assert at_ms == pytest.approx((frame.captured_ns - reading.started_ns) / 1e6, abs=1)
    assert "has no timestamps" in caplog.text


def test_images_without_a_container_are_timed_by_the_set_rate(fifo, caplog):
    with reading_fifo(fifo, jpegs(*[(16, 16)] * 5), fps=4) as reading:
        reading.to_the_end()
    assert times_ms(reading) == [0, 250, 500, 750, 1000]
    assert caplog.text == ""


def test_images_that_become_larger_end_a_pipe_with_a_problem(fifo):
    with reading_fifo(fifo, jpegs((16, 16), (16, 16), (64, 64), (64, 64)), fps=4) as reading:
        reading.to_the_end()
    assert len(reading.frames) == 2
    assert "the size of the images changes" in reading.capture.problem()


def test_the_rest_of_a_pipe_is_left_after_the_limit_of_frames(fifo, video):
    with reading_fifo(fifo, video * 50, frames=3) as reading:
        reading.to_the_end()
    assert len(reading.frames) == 3
    assert reading.capture.problem() is None


def refusal(source, **settings):
    with pytest.raises(SourceError) as caught, Reading(str(source), **settings):
        pass
    return caught.value.kind, str(caught.value).partition(f"{source}: ")[2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ended before its first byte"),
        (b"these are words", "holds no video that OpenCV can read"),
        (bytes(70_000), "holds no video that OpenCV can read"),
    ],
)
def test_a_pipe_without_a_video_is_refused(fifo, data, words):
    with written(lambda: fifo.open("wb", buffering=0), data):
        assert refusal(fifo)[1] == words


def test_a_fifo_that_no_program_writes_is_refused_in_time(fifo, monkeypatch):
    monkeypatch.setattr(opencv_pipe, "OPEN_TIMEOUT_S", 0.05)
    kind, words = refusal(fifo)
    assert kind == "timeout"
    assert words.startswith("no program has opened it for writing")


def test_a_silent_writer_has_longer_than_a_missing_one(fifo, monkeypatch):
    monkeypatch.setattr(opencv_pipe, "OPEN_TIMEOUT_S", 0.01)
    monkeypatch.setattr(opencv_pipe, "FIRST_IMAGE_S", 0.05)
    writer = os.open(fifo, os.O_RDWR)
    assert refusal(fifo) == ("frozen", "no data within 0.05 s")
    os.close(writer)


def test_a_grab_that_waits_for_a_silent_writer_is_interrupted(fifo, video):
    writer = os.open(fifo, os.O_RDWR)
    os.write(writer, video[: len(video) * 2 // 3])
    images = opencv_pipe.PipeVideo(fifo, CaptureSettings(source=str(fifo)))
    thread = threading.Thread(target=lambda: [None for _ in iter(images.grab, False)])
    thread.start()
    images.interrupt()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    images.close()
    images.close()
    images.interrupt()
    os.close(writer)


def test_gstreamer_does_not_read_pipes(fifo):
    with pytest.raises(SetupError, match="files and pipes are read by OpenCV"):
        Capture.resolve(CaptureSettings(source=str(fifo), backend="gstreamer"))


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_run_reads_standard_input(name, kind, video, tmp_path):
    (tmp_path / "v.mkv").write_bytes(video)
    (tmp_path / "my.yaml").write_text(
        "streams: {}\nstages:\n  capture: {use: capture}\n  out: {use: 'null'}\n"
    )
    command = [sys.executable, str(ROOT / "run.py"), "run", "my.yaml", "--source", name]
    given = {"stdin": (tmp_path / "v.mkv").open("rb")} if kind == "file" else {"input": video}
    done = subprocess.run(
        command, **given, cwd=tmp_path, capture_output=True, timeout=DEADLINE_S * 2
    )
    assert done.returncode == 0, done.stderr
    assert b"30 captured = 30 delivered" in done.stderr
    if kind == "file":
        given["stdin"].close()


# --- kinds of paths ---


def test_the_kind_of_a_path_depends_on_the_disk_not_its_name(tmp_path, fifo):
    name = "/dev/shm/eyeline-test-of-sources.mp4"
    assert kind_of(str(tmp_path)) == "recorded"
    assert kind_of(str(fifo)) == "pipe"
    for path in ("/dev/null", "/dev/zero", "/dev/tty"):
        assert kind_of(path) == "unusable"
    assert kind_of(name) == "recorded"
    for path in ("/dev/video77", "/dev/v4l/by-id/none", 7, "7"):
        assert kind_of(path) == "device"
    (tmp_path / "cam").symlink_to("/dev/video77")
    assert kind_of(str(tmp_path / "cam")) == "device"
    assert kind_of("x\0y") == "recorded"


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("/dev/null", "this device is not a camera"),
        ("/dev/tty", "a terminal is not a video source"),
    ],
)
def test_a_device_that_is_not_a_camera_is_refused_before_the_run(device, words):
    with pytest.raises(SourceError, match=words):
        Capture.resolve(CaptureSettings(source=device, wait=True))
