"""Sources that a request may open: the listed ones, however an address or a path is written."""

import re
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import StreamSettings
from pipeline.errors import SetupError
from stages.capture.settings import CaptureSettings
from stages.sinks.web.allowed_sources import KEYS, AllowedSources, NotAllowedError


def allows(entries, source, pipelines=False, **more):
    try:
        AllowedSources(entries, pipelines).check({"source": source, **more})
    except NotAllowedError:
        return False
    return True


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://cam.lan/1",
        "http://127.0.0.1:8500/v1/kv",
        "/etc/passwd",
        "file:///etc/passwd",
        0,
        "0",
    ],
)
def test_no_source_is_allowed_by_default(source):
    assert not allows((), source)


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("rtsp://cam.lan", "rtsp://cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://user:p%40ss@CAM.lan:554/live?channel=1"),
        ("RTSP://cam.lan/", "rtsp://cam.lan"),
        ("rtsp://cam.lan:8554", "rtsp://cam.lan:8554/live"),
        ("rtsp://cam.lan:*", "rtsp://cam.lan:8554/live"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/live"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/live/1"),
        ("rtsp://*", "rtsp://any.example/live"),
        ("rtsp://*.cams.lan", "rtsp://gate.cams.lan/live"),
        ("rtsp://192.168.1.*", "rtsp://192.168.1.7/live"),
        ("http://[fe80::7]", "http://[FE80:0::7]/mjpg"),
        ("udp://239.0.0.1:5000", "udp://239.0.0.1:5000"),
    ],
)
def test_listed_address_is_allowed(entry, source):
    assert allows([entry], source)


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("rtsp://cam.lan", "http://cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://cam.lan.evil.example/live"),
        ("rtsp://cam.lan", "rtsp://cam.lan@evil.example/live"),
        ("rtsp://cam.lan", "rtsp://evil.example/@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://evil.example\\@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://user:a/b@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://evil.example#@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://evil.example?@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://a@b@cam.lan/live"),
        ("rtsp://cam.lan", "rtsp://cam.lan:8554/live"),
        ("rtsp://cam.lan", "rtsp://cam.lan/live\nx"),
        ("rtsp://cam.lan", "rtsp://"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/livestock"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/live/../admin"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/live/%2e%2E/admin"),
        ("rtsp://cam.lan/live", "rtsp://cam.lan/live%2f../admin"),
        ("rtsp://192.168.1.*", "rtsp://192.168.1.evil/live"),
        ("rtsp://192.168.1.*", "rtsp://192.168.10.1/live"),
        ("rtsp://*.lan", "rtsp://a.b.lan/live"),
        ("http://127.0.0.1", "http://2130706433/"),
        ("http://10.0.0.1", "http://0x0a000001/"),
        ("rtsp://cam.lan", "cam.lan"),
        ("rtsp://cam.lan", True),
        ("rtsp://cam.lan", None),
        ("rtsp://cam.lan", ["rtsp://cam.lan"]),
        ("rtsp://*", "file:///etc/passwd"),
        ("http://*", "concat:http://a/|/etc/passwd"),
        ("http://*", "subfile,,start,0,end,9,,:http://a/"),
    ],
)
def test_address_that_is_not_listed_is_refused(entry, source):
    assert not allows([entry], source)


PARTS = st.sampled_from([*"a:/@?#.%\\[]* \n", "cam.lan", "evil.example", "%40", "554", "[::1]"])


@given(st.lists(PARTS, max_size=8).map("".join))
def test_no_spelling_of_an_address_leads_to_another_host(behind):
    """FFmpeg's host: before the first / ? or #, after the last @, without the port."""
    if allows(["rtsp://cam.lan"], f"rtsp://{behind}"):
        authority = re.split("[/?#]", behind)[0]
        host = authority.rpartition("@")[2].partition(":")[0]
        assert host == "cam.lan"
        assert urlsplit(f"rtsp://{behind}").hostname == "cam.lan"


def test_listed_files_and_folders_are_allowed(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    (clips / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    folder, file = [str(clips)], [str(tmp_path / "secret.mp4")]
    assert allows(folder, str(clips / "a.mp4"))
    assert allows(folder, str(clips))
    assert allows(file, str(clips / "link.mp4"))
    for source in (
        str(tmp_path / "secret.mp4"),
        str(clips / "link.mp4"),
        f"{clips}/../secret.mp4",
        f"{clips}-more/a.mp4",
        "a\0b",
        "x" * 5000,
        "~no-such-user/a.mp4",
    ):
        assert not allows(folder, source), source


def test_camera_is_allowed_by_number_or_path():
    assert allows(["0"], 0)
    assert allows(["0"], "/dev/video0")
    assert allows(["/dev/video0"], "0")
    assert not allows(["0"], 1)


def test_pipeline_needs_a_setting_of_its_own():
    assert not allows(["rtsp://*"], "rtsp://cam.lan/", pipeline="filesrc ! filesink")
    assert allows((), "name", pipelines=True, pipeline="videotestsrc ! appsink")
    assert not allows((), "/etc/passwd", pipelines=True, pipeline=None)
    assert not allows((), "/etc/passwd", pipelines=True)


def test_every_stream_setting_is_in_keys_or_named_here():
    """A new setting that can name a file, a host or a program must not be added to KEYS."""
    fields = [
        field.name
        for struct in (CaptureSettings, StreamSettings)
        for field in msgspec.structs.fields(struct)
    ]
    assert set(fields) - set(KEYS) == {"pipeline"}
    assert set(KEYS) <= set(fields)


@pytest.mark.parametrize("key", ["path", "use", "after", "", "x" * 5000])
def test_unknown_key_is_refused(key):
    with pytest.raises(NotAllowedError) as refused:
        AllowedSources(["rtsp://*"], True).check({"source": "rtsp://cam.lan/", key: 1})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "entry",
    [
        "file:///etc",
        "rtsp://",
        "rtsp://user:secret@cam.lan/",
        "rtsp://ca*.lan/",
        "rtsp://cam.lan:x/",
        "rtsp://cam.lan/?a=b",
        "a\0b",
    ],
)
def test_invalid_entry_is_refused_and_not_repeated(entry):
    with pytest.raises(SetupError, match=r"^sources: ") as refused:
        AllowedSources([entry], False)
    assert "secret" not in str(refused.value)
