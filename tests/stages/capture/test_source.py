import errno
import os

import pytest

from stages.addresses import device_path
from stages.capture.source import (
    device_problem,
    http_error,
    is_device,
    is_recorded,
    network_problem,
)


@pytest.mark.parametrize(
    ("source", "recorded", "device"),
    [
        (0, False, True),
        ("3", False, True),
        ("/dev/video2", False, True),
        ("/dev/v4l/by-id/usb-cam", False, True),
        ("rtsp://cam/x", False, False),
        ("http://cam/x.mp4", False, False),
        ("clip.mp4", True, False),
        ("12:30.avi", True, False),
        ("9" * 5000, True, False),
    ],
)
def test_a_source_is_a_file_a_webcam_or_an_address(source, recorded, device):
    assert (is_recorded(source), is_device(source)) == (recorded, device)


def test_error_statuses_of_a_server_have_different_kinds():
    plain, known = "rtsp://cam/x", "rtsp://u:secret@cam/x"
    assert http_error(401, plain)[0] == http_error(401, known)[0] == "unauthorized"
    assert "USER:PASSWORD@" in http_error(401, plain)[1]
    assert http_error(401, known)[1] == "wrong user or password"
    assert http_error(403, known)[0] == "unauthorized"
    assert http_error(404, known) == (
        "not_found",
        "no such stream at cam:554; check the path in the address",
    )
    assert http_error(410, plain)[0] == "not_found"
    assert http_error(461, plain)[0] == "unsupported"
    assert http_error(503, plain) == ("failed", "cam:554 answers with error 503")


@pytest.mark.parametrize("kind", ["unknown_host", "refused", "unreachable", "timeout"])
def test_a_host_that_is_not_reached_is_named_without_the_password(kind):
    found, words = network_problem(kind, "rtsp://guest:secret@cam.local/x")
    assert found == kind
    assert "cam.local" in words
    assert "secret" not in words


def test_each_error_of_a_webcam_has_its_kind_and_text(tmp_path, monkeypatch):
    assert str(device_path(3)) == "/dev/video3"
    assert device_problem(tmp_path / "video0")[0] == "no_device"

    def refuse(number):
        def open_(*args):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("stages.capture.source.os.open", open_)
        return device_problem(tmp_path)

    assert "group video" in refuse(errno.EACCES)[1]
    assert "another program" in refuse(errno.EBUSY)[1]
    assert "Input/output error" in refuse(errno.EIO)[1]
