"""A download is complete and right, or leaves one line and what can be resumed."""

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest

from models import download as module
from models.download import download
from models.errors import CardError

DATA = os.urandom(1 << 20)
HASH = hashlib.sha256(DATA).hexdigest()


@dataclass
class Site:
    """What the server does, and the requests it got."""

    data: bytes = DATA
    ranges: bool = True
    breaks: list = field(default_factory=list)
    """Number of bytes after which the answer of the first, second, ... request ends."""
    status: int = 0
    """Status of every answer; 0: by the request."""
    redirect: str = ""
    length: int | None = None
    """Announced length; None: the right one."""
    shift: int = 0
    """Added to the position in Content-Range."""
    silent: bool = False
    """Whether the server accepts requests and sends nothing."""
    seen: list = field(default_factory=list)
    """(path, Range, Authorization) of each request."""
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        wanted = self.headers.get("Range")
        site.seen.append((self.path, wanted, self.headers.get("Authorization")))
        if site.silent:
            site.closing.wait(20)
            return
        if site.redirect and self.path != "/final/m.onnx":
            self.send_response(302)
            self.send_header("Location", site.redirect)
            self.end_headers()
            return
        if site.status:
            self.send_error(site.status)
            return
        start = int(re.match(r"bytes=(\d+)-$", wanted)[1]) if wanted and site.ranges else 0
        body = site.data[start:]
        if start >= len(site.data) and wanted and site.ranges:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            at = start + site.shift
            self.send_header("Content-Range", f"bytes {at}-{len(site.data) - 1}/{len(site.data)}")
        length = len(body) if site.length is None else site.length
        self.send_header("Content-Length", str(length))
        self.end_headers()
        cut = site.breaks.pop(0) if site.breaks else len(body)
        self.wfile.write(body[:cut])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing: a client that goes breaks its connection."""


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "EYELINE_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    server = Server(("127.0.0.1", 0), Handler)
    server.site = site = Site(url=f"http://127.0.0.1:{server.server_address[1]}/a/m.onnx")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "models" / "m.onnx"


def part_of(target):
    return target.with_name("m.onnx.part")


def files_of(target):
    return sorted(path.name for path in target.parent.iterdir())


def ranges(site):
    return [wanted for _, wanted, _ in site.seen]


def test_a_whole_file_gets_its_name_and_reports_progress(site, target):
    steps = []
    download(site.url, target, HASH, lambda *step: steps.append(step))
    assert target.read_bytes() == DATA
    assert files_of(target) == ["m.onnx"]
    assert steps[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_broken_connection_is_resumed_within_one_download(site, target):
    site.breaks = [100_000, 200_000, 1]
    steps = []
    download(site.url, target, HASH, lambda *step: steps.append(step))
    assert target.read_bytes() == DATA
    assert ranges(site) == [None, "bytes=100000-", "bytes=300000-", "bytes=300001-"]
    assert {total for _, total in steps} == {len(DATA)}


def test_what_a_broken_download_left_is_used_by_the_next(site, target):
    site.breaks = [500_000, 0]
    expected = r"connection ended after 500,000 of 1,048,576 bytes\).*go on behind 500,000 bytes"
    with pytest.raises(CardError, match=expected):
        download(site.url, target, HASH)
    assert files_of(target) == ["m.onnx.part"]
    site.seen.clear()
    download(site.url, target, HASH)
    assert ranges(site) == ["bytes=500000-"]
    assert target.read_bytes() == DATA
    assert files_of(target) == ["m.onnx"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"shift": 7}], ids=["none", "wrong"])
def test_a_server_without_right_ranges_starts_again(site, target, change):
    vars(site).update(change)
    site.breaks = [300_000]
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA


def test_a_part_of_another_version_is_replaced_by_the_whole(site, target):
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(b"x" * 1000)
    download(site.url, target, HASH)
    assert ranges(site) == ["bytes=1000-", None]
    assert target.read_bytes() == DATA


def test_a_part_that_is_complete_needs_no_more_data(site, target):
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(DATA)
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA
    assert ranges(site) == [f"bytes={len(DATA)}-"]


def test_a_part_that_is_too_long_is_replaced_by_the_whole(site, target):
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(DATA + b"x")
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA


def test_another_hash_leaves_no_file(site, target):
    site.data = DATA[:-1] + b"!"
    with pytest.raises(CardError, match=r"m\.onnx: wrong sha256 \(found .*; file discarded"):
        download(site.url, target, HASH)
    assert files_of(target) == []


def test_a_file_that_was_there_stays_if_the_download_fails(site, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"before")
    site.data = b"other"
    with pytest.raises(CardError, match="wrong sha256"):
        download(site.url, target, HASH)
    assert target.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": 404}, r"HTTP 404 Not Found"),
        ({"status": 503}, r"HTTP 503 Service Unavailable"),
        ({"length": len(DATA) + 5, "ranges": False}, r"ended after 1,048,576 of 1,048,581 bytes"),
        ({"length": 1 << 40}, r"1,099,511,627,776 bytes, and a model has at most"),
    ],
    ids=["404", "503", "wrong length", "too large"],
)
def test_a_wrong_answer_gives_one_line(site, target, change, reason):
    vars(site).update(change)
    with pytest.raises(CardError, match=rf"download failed \(.*{reason}") as caught:
        download(site.url, target, HASH)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_shorter_announced_length_is_found_by_the_hash(site, target):
    site.length = 1000
    with pytest.raises(CardError, match="wrong sha256"):
        download(site.url, target, HASH)
    assert files_of(target) == []


def test_a_redirect_is_followed_with_the_range(site, target):
    site.redirect = site.url.replace("/a/", "/final/")
    site.breaks = [1000]
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA
    assert [(path, wanted) for path, wanted, _ in site.seen][-1] == ("/final/m.onnx", "bytes=1000-")


def test_redirects_in_a_circle_end_with_one_line(site, target):
    site.redirect = site.url
    with pytest.raises(CardError, match=r"download failed \(HTTP 302 .*redirect"):
        download(site.url, target, HASH)
    assert len(site.seen) < 15


def test_a_redirect_to_a_local_file_is_refused(site, target, tmp_path):
    (tmp_path / "secret").write_bytes(DATA)
    site.redirect = (tmp_path / "secret").as_uri()
    with pytest.raises(CardError, match=r"download failed \(HTTP 302"):
        download(site.url, target, HASH)


def test_a_server_that_sends_nothing_is_left_after_the_timeout(site, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    site.silent = True
    with pytest.raises(CardError, match=r"download failed \(timed out\)"):
        download(site.url, target, HASH)
    assert len(site.seen) == 1


def test_a_server_that_is_too_slow_is_left(site, target, monkeypatch):
    monkeypatch.setattr(module, "SLOW_S", 0)
    monkeypatch.setattr(module, "SLOW_BYTES", 1 << 30)
    with pytest.raises(CardError, match=r"download failed \(only [\d,]+ bytes in 0 s\)"):
        download(site.url, target, HASH)


def test_no_server_gives_one_line(site, target):
    url = "http://127.0.0.1:1/m.onnx"
    with pytest.raises(CardError, match=r"m\.onnx: download failed \(.*refused\); check the net"):
        download(url, target, HASH)
    assert files_of(target) == []


@pytest.mark.parametrize("url", ["m.onnx", "gopher://x/m.onnx", "http://[/m.onnx", "http:///"])
def test_an_address_of_no_file_gives_one_line(target, url):
    with pytest.raises(CardError, match=r"download failed \("):
        download(url, target, HASH)


def test_a_password_goes_to_the_server_and_not_into_messages(site, target):
    url = site.url.replace("//", "//me:pass%3Aword@") + "?token=hidden"
    download(url, target, HASH)
    assert site.seen[0][2] == "Basic bWU6cGFzczp3b3Jk"  # base64 of me:pass:word
    site.status = 403
    target.unlink()
    with pytest.raises(CardError, match="HTTP 403") as caught:
        download(url, target, HASH)
    assert not re.search("pass|hidden", str(caught.value))


# --- the disk ---


def test_a_full_disk_gives_one_line_and_keeps_nothing(site, target):
    target.parent.mkdir(parents=True)
    part_of(target).symlink_to("/dev/full")  # writing to it fails as on a full disk
    with pytest.raises(CardError, match=r"cannot be written: the disk is full; free some space"):
        download(site.url, target, HASH)
    assert files_of(target) == []


def test_a_size_limit_of_the_process_counts_as_a_full_disk(site, target):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from models.download import download\n"
        "from models.errors import CardError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])\n"
        "except CardError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, site.url, target, HASH],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the disk is full" in done.stdout
    assert files_of(target) == []


def test_a_folder_that_cannot_be_made_gives_one_line(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CardError, match=r"cannot be written: (Not a directory|File exists)"):
        download(site.url, tmp_path / "file" / "m.onnx", HASH)


# --- several at a time ---


def test_downloads_at_the_same_time_do_not_disturb_each_other(site, target):
    site.breaks = [10_000, 20_000, 30_000]
    failures = []

    def run():
        try:
            download(site.url, target, HASH)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert target.read_bytes() == DATA
    assert files_of(target) == ["m.onnx"]


def test_a_part_that_another_download_fills_is_left_alone(site, target):
    with module._open_part(target) as held:
        held.append(b"half")
        download(site.url, target, HASH)
        assert target.read_bytes() == DATA
        assert part_of(target).read_bytes() == b"half"
        assert files_of(target) == ["m.onnx", "m.onnx.part"]


# --- the mirror ---


def test_a_mirror_folder_is_used_before_the_address(site, target, tmp_path, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(DATA)
    monkeypatch.setenv("EYELINE_MIRROR", str(folder))
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA
    assert site.seen == []


def test_a_mirror_address_is_used_before_the_address(site, target, monkeypatch):
    monkeypatch.setenv("EYELINE_MIRROR", site.url.replace("/a/m.onnx", "/mirror/"))
    download("http://127.0.0.1:1/far/m.onnx", target, HASH)
    assert target.read_bytes() == DATA
    assert [path for path, _, _ in site.seen] == ["/mirror/m.onnx"]


def test_a_mirror_is_looked_in_for_the_name_of_the_target_too(site, target, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"of another card")
    (tmp_path / "m.onnx").write_bytes(DATA)
    monkeypatch.setenv("EYELINE_MIRROR", str(tmp_path))
    download(site.url.replace("m.onnx", "model.onnx"), target, HASH)
    assert target.read_bytes() == DATA
    assert site.seen == []


def test_a_mirror_without_the_right_file_is_passed_over(site, target, tmp_path, monkeypatch):
    monkeypatch.setenv("EYELINE_MIRROR", str(tmp_path))
    download(site.url, target, HASH)
    target.unlink()
    (tmp_path / "m.onnx").write_bytes(b"another model of this name")
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA
    target.unlink()
    monkeypatch.setenv("EYELINE_MIRROR", "http://127.0.0.1:1/mirror")
    download(site.url, target, HASH)
    assert target.read_bytes() == DATA
    site.status = 500
    target.unlink()
    with pytest.raises(CardError, match=r"HTTP 500.*EYELINE_MIRROR was tried before"):
        download(site.url, target, HASH)


# --- proxies ---


def test_a_proxy_of_the_environment_is_used(site, target, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url.replace("/a/m.onnx", ""))
    monkeypatch.setenv("no_proxy", "")
    download("http://models.invalid/far/m.onnx", target, HASH)
    assert target.read_bytes() == DATA
    assert [path for path, _, _ in site.seen] == ["http://models.invalid/far/m.onnx"]


def test_a_host_in_no_proxy_is_asked_directly(site, target, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    download(site.url, target, HASH)
    assert [path for path, _, _ in site.seen] == ["/a/m.onnx"]
