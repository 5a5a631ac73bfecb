"""What is shown of addresses, of texts that hold some, and of pipelines."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import MAX_MESSAGE, display_value, one_line
from pipeline.urls import HIDDEN, display_pipeline, display_url, is_broken, login_advice, redact

SECRET = "S3CRET"

schemes = st.sampled_from(["rtsp", "rtsps", "http", "https", "srt", "mqtt", "udp", "RTSP"])
hosts = st.sampled_from(["cam", "cam.lan", "192.168.1.5", "[fe80::1]", "größe.de", "127.0.0.1"])
ports = st.sampled_from(["", ":554", ":9"])
anything = st.text(
    st.one_of(st.sampled_from(list(string.punctuation + " ")), st.characters(codec="utf-8")),
    max_size=6,
)


@st.composite
def secrets(draw):
    """A password with SECRET in it, and any characters around it."""
    return f"{draw(anything)}{SECRET}{draw(anything)}"


@st.composite
def addresses(draw):
    """An address that holds a secret: as login, in the path, the query or the fragment."""
    scheme, host, port, secret = draw(schemes), draw(hosts), draw(ports), draw(secrets())
    slashes = draw(st.sampled_from(["://", "://", ":/", ":", ""]))
    begin = f"{scheme}{slashes}" if slashes else ""
    key = draw(st.sampled_from(["password", "p", "access_token", "api-key", "passphrase", "x"]))
    return draw(
        st.sampled_from(
            [
                f"{begin}admin:{secret}@{host}{port}/stream1",
                f"{begin}{SECRET}@{host}{port}",
                f"{begin}admin:{secret}@{host}{port}/a?b=c#d",
                f"{begin}{host}{port}/user=admin_{key}={secret}_channel=1.sdp",
                f"{begin}{host}{port}/x?{key}={secret}",
                f"{begin}{host}{port}/x?y=1&{key}={secret}&z",
                f"{begin}{host}{port}?{key}={secret}",
                f"{begin}{host}{port}/x#{secret}",
            ]
        )
    )


@given(addresses())
def test_no_part_of_an_address_that_may_be_a_secret_is_shown(address):
    shown = display_url(address)
    assert SECRET not in shown
    assert redact(shown) == shown


@given(
    addresses(),
    st.sampled_from(["source", "streams.yard.url", "token", "stages.sinks.publish.mqtt.broker"]),
)
def test_a_value_where_an_address_is_expected_is_never_shown(address, key):
    for value in (address, [address], {"a": address}, {address: 1}):
        assert SECRET not in display_value(value, key)
        assert SECRET not in display_value(value, "other")


@given(
    schemes, hosts, ports, st.text(string.ascii_letters + string.digits + "#/?@:&=%$!", max_size=8)
)
def test_an_address_within_a_text_shows_no_password(scheme, host, port, around):
    text = f"cannot open {scheme}://admin:{around}{SECRET}{around}@{host}{port}/x: refused"
    assert SECRET not in one_line(text)
    assert SECRET not in one_line(f"{text} {'x' * 3 * MAX_MESSAGE}")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://cam.local:554/stream1", "rtsp://cam.local:554/stream1"),
        ("rtsp://user:pw@cam.local:554/stream1", "rtsp://cam.local:554/stream1"),
        ("rtsp://user:pw@[fe80::1]/a/b.sdp", "rtsp://[fe80::1]/a/b.sdp"),
        ("http://cam.local/video.cgi?user=me&pwd=x", "http://cam.local/..."),
        ("http://cam.local?x", "http://cam.local/..."),
        ("rtsp://cam/user=admin_password=x.sdp", "rtsp://cam/..."),
        ("rtsp://cam/a%3Db", "rtsp://cam/..."),
        ("http://user:p@ss@cam.local/a", "http://cam.local/a"),
        ("rtsp://user:pa ss@cam.local/a", "rtsp://cam.local/a"),
        ("rtsp://user:p/ss@cam.local/a", "rtsp://..."),
        ("rtsp://user:1234/x@y@cam.local/a", "rtsp://..."),
        ("rtsp://user:password", "rtsp://..."),
        ("rtsp:/user:pw@cam/a", HIDDEN),
        ("user:pw@cam/a", HIDDEN),
        ("cam/a?b", HIDDEN),
        ("tcp://*:5556", "tcp://*:5556"),
        ("ipc:///run/eyeline.sock", "ipc:///run/eyeline.sock"),
        ("clip.mp4", "clip.mp4"),
        ("folder/clip 1.mp4", "folder/clip 1.mp4"),
        ("/data/run=3/12:30.mp4", "/data/run=3/12:30.mp4"),
        ("../a=b.mp4", "../a=b.mp4"),
        (0, "0"),
    ],
)
def test_the_harmless_parts_of_an_address_are_shown(address, shown):
    assert display_url(address) == shown


def test_the_name_of_an_existing_file_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert display_url("a:b@c.mp4") == HIDDEN
    (tmp_path / "a:b@c.mp4").touch()
    assert display_url("a:b@c.mp4") == "a:b@c.mp4"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("opened rtsp://u:pw@cam/a: refused", "opened rtsp://cam/a: refused"),
        ("(http://cam/a), then", "(http://cam/a), then"),
        ("GET /a?user=x&pwd=y failed", "GET /a?... failed"),
        ("no host u:pw@cam.", f"no host {HIDDEN}."),
        ("rtspsrc user-id=a user-pw=b", "rtspsrc user-id=a user-pw=..."),
        ("put USER:PASSWORD@ before the host", "put USER:PASSWORD@ before the host"),
        ("rtsp://cam/a: write @ as %40", "rtsp://cam/a: write @ as %40"),
        ("/tmp/a:b@c.mp4: no such file", "/tmp/a:b@c.mp4: no such file"),
        ("[tcp @ 0x5] failed", "[tcp @ 0x5] failed"),
        ("yard: 12 frames", "yard: 12 frames"),
    ],
)
def test_a_text_keeps_its_harmless_parts(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "rtspsrc location=rtsp://u:pw@cam user-pw=x ! decodebin ! appsink",
            "rtspsrc ! decodebin ! appsink",
        ),
        ('filesrc location="a ! SECRET b" ! appsink', "filesrc ! appsink"),
        ('filesrc location="a', "(pipeline hidden)"),
        ("rtsp://u:pw@cam ! appsink", "? ! appsink"),
    ],
)
def test_the_elements_of_a_pipeline_are_shown(line, shown):
    assert display_pipeline(line) == shown


@pytest.mark.parametrize("password", ["p#ss", "p/ss", "p?ss", "1#2", "a/b@c"])
def test_a_login_that_ends_its_address_too_early_is_broken(password):
    address = f"rtsp://admin:{password}@cam/x"
    assert is_broken(address)
    assert "# as %23" in login_advice(address)


@pytest.mark.parametrize("password", ["p@ss", "1234/x@y", "1?2", "p ss", "p%ss"])
def test_a_doubtful_login_is_explained_and_not_refused(password):
    address = f"rtsp://admin:{password}@cam/x"
    assert not is_broken(address)
    assert "# as %23" in login_advice(address)


@pytest.mark.parametrize(
    "address", ["rtsp://admin:p%23ss@cam/x", "rtsp://cam/x?y#z", "rtsp://cam", "clip.mp4", "a@b"]
)
def test_an_address_without_a_doubtful_login_is_not_explained(address):
    assert not is_broken(address)
    assert login_advice(address) == ""
