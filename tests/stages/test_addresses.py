"""Parts of a source as it is written."""

from pathlib import Path

import pytest

from stages.addresses import host_of, lacks_host, parse_source, scheme_of, split_login


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        (3, 3),
        ("3", 3),
        ("rtsp://cam/x", "rtsp://cam/x"),
        ("clip.mp4", Path("clip.mp4")),
        ("~/clip.mp4", Path.home() / "clip.mp4"),
        ("file:///a%20b/c.mp4", Path("/a b/c.mp4")),
    ],
)
def test_a_source_is_an_index_an_address_or_a_path(source, parsed):
    assert parse_source(source) == parsed


def test_standard_input_is_a_descriptor_that_workers_inherit():
    paths = {parse_source(spelling) for spelling in ("-", "/dev/stdin", "/dev/fd/0")}
    assert len(paths) == 1
    assert paths != {Path("/dev/fd/0")}


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("rtsp://cam/x", "cam", 554),
        ("rtsps://cam/x", "cam", 322),
        ("http://cam:8000/x", "cam", 8000),
        ("rtsp://[fe80::1]:9/x", "fe80::1", 9),
        ("rtsp://u:12/se@cret@cam:554/x", "u", 12),
        ("udp://cam", "cam", None),
        ("rtsp://[bad/x", "?", None),
        ("rtsp://cam:99999/x", "?", None),
    ],
)
def test_host_and_port_of_an_address(address, host, port):
    assert host_of(address) == (host, port)


@pytest.mark.parametrize(
    ("source", "scheme", "lacks"),
    [
        ("RTSP://cam/x", "rtsp", False),
        ("rtsp:///x", "rtsp", True),
        ("udp://", "udp", False),
        ("clip.mp4", "", False),
        (0, "", False),
    ],
)
def test_an_address_has_a_scheme_and_may_lack_its_host(source, scheme, lacks):
    assert (scheme_of(source), lacks_host(source)) == (scheme, lacks)


@pytest.mark.parametrize(
    ("address", "bare", "user", "password"),
    [
        ("rtsp://cam/x", "rtsp://cam/x", None, ""),
        ("http://u:p%40ss@cam:80/x?a=b@c", "http://cam:80/x?a=b@c", "u", "p@ss"),
        ("http://u@cam", "http://cam", "u", ""),
    ],
)
def test_a_login_is_split_off_and_decoded(address, bare, user, password):
    assert split_login(address) == (bare, user, password)
