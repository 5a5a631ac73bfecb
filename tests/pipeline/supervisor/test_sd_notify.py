"""Notifications to systemd, received by a socket in place of its own."""

import os
import socket
import struct
import subprocess
import sys
import time
import uuid

import pytest

from pipeline.supervisor import sd_notify as notify
from tests.builders import ROOT


class Listener:
    """Receives the messages to NOTIFY_SOCKET, and the processes that sent them."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(address)
        self.socket.settimeout(10)

    def hear(self):
        message, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        (sender,) = (data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS)
        return message.decode().split("\n"), struct.unpack("3i", sender)[0]

    def lines(self):
        return self.hear()[0]


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    name = uuid.uuid4().hex
    path = str(tmp_path / "notify") if request.param == "path" else f"@eyeline-test-{name}"
    listener = Listener(path.replace("@", "\0", 1))
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    yield listener
    listener.socket.close()


@pytest.fixture
def deaf(tmp_path, monkeypatch):
    """A socket that exists but is not read."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield unread


def test_the_states_of_a_service_are_sent_in_order(systemd):
    assert notify.status("opening 2 streams")
    assert notify.ready("2 streams live")
    assert notify.watchdog()
    before_us = time.monotonic_ns() // 1000
    assert notify.reloading()
    assert notify.ready()
    assert notify.stopping("frames in flight drain")
    assert systemd.lines() == ["STATUS=opening 2 streams"]
    assert systemd.lines() == ["READY=1", "STATUS=2 streams live"]
    assert systemd.lines() == ["WATCHDOG=1"]
    said, when = systemd.lines()
    assert said == "RELOADING=1"
    key, _, moment_us = when.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before_us <= int(moment_us) <= time.monotonic_ns() // 1000
    assert systemd.lines() == ["READY=1"]
    assert systemd.lines() == ["STOPPING=1", "STATUS=frames in flight drain"]


def test_the_sender_is_the_process_that_calls(systemd):
    code = "from pipeline.supervisor import sd_notify; assert sd_notify.ready()"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert systemd.hear() == (["READY=1"], process.pid)
    assert process.wait() == 0


def test_a_status_is_one_line_without_credentials(systemd):
    notify.status("yard: rtsp://admin:s3cret@cam.local/1\nWATCHDOG=trigger\r\n waits \udcff")
    (line,) = systemd.lines()
    assert line == "STATUS=yard: rtsp://cam.local/1 WATCHDOG=trigger waits ?"


def test_a_long_status_is_cut(systemd):
    notify.ready("x" * 5000)
    assert systemd.lines() == ["READY=1", "STATUS=" + "x" * 177 + " ... " + "x" * 118]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:9000"])
def test_without_systemd_nothing_is_retried(address, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify.ready("up")


def test_outside_systemd_nothing_happens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify.ready()
    assert notify.watchdog()


def test_a_socket_that_is_gone_returns_false(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify.ready()
    monkeypatch.setenv("NOTIFY_SOCKET", "/" + "x" * 200)
    assert not notify.ready()


def test_a_full_queue_does_not_block_and_returns_false(deaf):
    sent = 0
    while notify.watchdog():
        sent += 1
        assert sent < 100_000, "a queue without an end"
    assert sent
    assert not notify.ready()
    for _ in range(sent):
        deaf.recv(100)
    assert notify.ready()
    assert deaf.recv(100) == b"READY=1"


def test_no_descriptor_is_left_open(systemd):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        notify.watchdog()
        systemd.hear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "15000000"}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_counts_for_the_process_that_it_names(environment, expected, monkeypatch):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_s() == expected
