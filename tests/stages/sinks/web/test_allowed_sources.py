"""What a request may open as a source: what is listed, however an address or a path is written."""

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


def may(entries, source, pipelines=False, **more):
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
def test_nothing_may_be_opened_by_default(source):
    assert not may((), source)


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
def test_an_address_that_is_listed_may_be_opened(entry, source):
    assert may([entry], source)


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
def test_an_address_that_is_not_listed_may_not_be_opened(entry, source):
    assert not may([entry], source)


PARTS = st.sampled_from([*"a:/@?#.%\\[]* \n", "cam.lan", "evil.example", "%40", "554", "[::1]"])


@given(st.lists(PARTS, max_size=8).map("".join))
def test_no_way_to_write_an_address_leads_to_another_host(behind):
    """FFmpeg: what stands before the first / ? or #, behind the last @, without the port."""
    if may(["rtsp://cam.lan"], f"rtsp://{behind}"):
        authority = re.split("[/?#]", behind)[0]
        host = authority.rpartition("@")[2].partition(":")[0]
        assert host == "cam.lan"
        assert urlsplit(f"rtsp://{behind}").hostname == "cam.lan"


def test_files_and_folders_that_are_listed_may_be_opened(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    (clips / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    folder, file = [str(clips)], [str(tmp_path / "secret.mp4")]
    assert may(folder, str(clips / "a.mp4"))
    assert may(folder, str(clips))
    assert may(file, str(clips / "link.mp4"))
    for source in (
        str(tmp_path / "secret.mp4"),
        str(clips / "link.mp4"),
        f"{clips}/../secret.mp4",
        f"{clips}-more/a.mp4",
        "a\0b",
        "x" * 5000,
        "~no-such-user/a.mp4",
    ):
        assert not may(folder, source), source


def test_cameras_of_the_machine_are_listed_by_number_or_path():
    assert may(["0"], 0)
    assert may(["0"], "/dev/video0")
    assert may(["/dev/video0"], "0")
    assert not may(["0"], 1)


def test_a_pipeline_needs_a_setting_of_its_own():
    assert not may(["rtsp://*"], "rtsp://cam.lan/", pipeline="filesrc ! filesink")
    assert may((), "name", pipelines=True, pipeline="videotestsrc ! appsink")
    assert not may((), "/etc/passwd", pipelines=True, pipeline=None)
    assert not may((), "/etc/passwd", pipelines=True)


def test_every_setting_of_a_stream_is_one_that_requests_may_give_or_is_named_here():
    """A new setting that can name a file, a host or a program must not be added to KEYS."""
    fields = [
        field.name
        for struct in (CaptureSettings, StreamSettings)
        for field in msgspec.structs.fields(struct)
    ]
    assert set(fields) - set(KEYS) == {"pipeline"}
    assert set(KEYS) <= set(fields)


@pytest.mark.parametrize("key", ["path", "use", "after", "", "x" * 5000])
def test_a_key_that_is_none_is_refused(key):
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
def test_an_entry_that_is_none_is_refused_without_repeating_it(entry):
    with pytest.raises(SetupError, match=r"^sources: ") as refused:
        AllowedSources([entry], False)
    assert "secret" not in str(refused.value)
