"""Download of a model file: resumed after a break, and kept only if it has the expected hash.

The data goes to a file beside the target, whose name ends in .part. It stays there if the
connection breaks, and the next download goes on behind it. The target gets its name in one step,
after the hash of the whole file was found right. Proxies are those of urllib: the environment
variables http_proxy, https_proxy and no_proxy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.errors import CardError
from models.onnx_header import MAX_BYTES, sha256_of
from models.text import shown

if TYPE_CHECKING:
    from urllib.request import Request

MIRROR = "EYELINE_MIRROR"
"""Environment variable: a folder, or an address, that has model files under their names."""
CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
"""Longest wait for the server."""
SLOW_S = 30.0
"""Time in which `SLOW_BYTES` have to arrive."""
SLOW_BYTES = 30_000
ATTEMPTS = 5
"""Number of requests in one download; each but the first goes on behind the data before it."""
SCHEMES = ("http", "https", "ftp", "file")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes there are, and the number expected, if known."""


class _BrokenError(Exception):
    """The server cannot be reached, refuses, or sends no more; the text is the reason."""


class _Part(NamedTuple):
    """The file that a download fills; locked, so that no other process writes to it."""

    path: Path
    fd: int

    @property
    def size(self) -> int:
        """Number of bytes there are."""
        return os.fstat(self.fd).st_size

    def empty(self) -> None:
        """Start again."""
        os.ftruncate(self.fd, 0)

    def append(self, data: bytes) -> None:
        """Write data at the end.

        Raises:
            CardError: it cannot be written.
        """
        try:
            os.lseek(self.fd, 0, os.SEEK_END)
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            # A full disk does not get better by half a model on it.
            with contextlib.suppress(OSError):
                self.empty()
            full = "the disk is full" if error.errno in FULL else error.strerror
            raise CardError(
                f"{self.path.parent}: the model file cannot be written: {full}; free some space, "
                "or set EYELINE_CACHE to another folder"
            ) from None


def download(url: str, target: Path, sha256: str, progress: Progress | None = None) -> None:
    """Download a file to `target`, whose folder is made.

    The mirror that the variable EYELINE_MIRROR names, if there is one, is tried first: for a file
    with the name of the target, or with that in the url. A download that broke before goes on
    behind the data it left.

    Args:
        url: address of the file.
        target: path of the file; not touched before the download is complete and right.
        sha256: expected hash, in hexadecimal.
        progress: called after each chunk.

    Raises:
        CardError: no connection, too large, another hash, or the file cannot be written.
    """
    with _open_part(target) as part:
        if target.exists() and sha256_of(target) == sha256:
            return  # another process was faster
        passed_over = ""
        for address in _addresses(url, target):
            try:
                _fetch(address, part, sha256, progress)
                break
            except CardError as error:
                if address == url:
                    raise CardError(f"{shown(error, 220)}{passed_over}") from None
                passed_over = f"; {MIRROR} was tried before"
        os.fsync(part.fd)
        os.replace(part.path, target)


def _addresses(url: str, target: Path) -> list[str]:
    """Return the addresses to try: those in the mirror that may have the file, then the url."""
    from urllib.parse import quote, unquote

    mirror = os.environ.get(MIRROR, "")
    if not mirror:
        return [url]
    names = (target.name, unquote(_without_secrets(url).rpartition("/")[2]))
    if re.match(r"https?://", mirror, re.IGNORECASE):
        return [*(f"{mirror.rstrip('/')}/{quote(name)}" for name in names), url]
    try:
        files = [(Path(mirror).expanduser() / name).resolve() for name in names]
        return [*(file.as_uri() for file in files if file.is_file()), url]
    except (OSError, RuntimeError, ValueError):
        return [url]


@contextlib.contextmanager
def _open_part(target: Path) -> Iterator[_Part]:
    """Open the file that a download fills; it is removed in the end unless it can be resumed."""
    import tempfile

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _lock(target.with_name(target.name + ".part"))
        if part is None:  # another process fills it at this moment
            fd, path = tempfile.mkstemp(dir=target.parent, suffix=".part")
            part = _Part(Path(path), fd)
    except OSError as error:
        raise CardError(
            f"{target.parent}: the model file cannot be written: {error.strerror}; correct the "
            "folder's rights, or set EYELINE_CACHE to another folder"
        ) from None
    kept = part.path == target.with_name(target.name + ".part")
    try:
        yield part
    finally:
        if not kept or part.size == 0:
            part.path.unlink(missing_ok=True)
        os.close(part.fd)


def _lock(path: Path) -> _Part | None:
    """Open a file and lock it; None: another process has locked it.

    Raises:
        OSError: it cannot be opened.
    """
    import fcntl

    for _ in range(ATTEMPTS):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls its owner may have given it its name, or removed it.
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return _Part(path, fd)
        except FileNotFoundError:
            pass
        except OSError:  # locked, or on a file system without locks
            os.close(fd)
            return None
        os.close(fd)
    return None


def _fetch(url: str, part: _Part, sha256: str, progress: Progress | None) -> None:
    """Fill the part from one address, and check its hash.

    Raises:
        CardError: no connection, too large, another hash, or the file cannot be written.
    """
    resumed = part.size > 0
    _receive(url, part, progress)
    found = sha256_of(part.path)
    if found != sha256 and resumed:  # what was there before may be of another version of the file
        part.empty()
        _receive(url, part, progress)
        found = sha256_of(part.path)
    if found != sha256:
        part.empty()
        raise CardError(
            f"{_without_secrets(url)}: wrong sha256 (found {found}, the card states {sha256}); "
            "file discarded, correct the card or its url"
        )


def _receive(url: str, part: _Part, progress: Progress | None) -> None:
    """Fill the part from one address; a connection that breaks is opened again.

    Raises:
        CardError: no connection, too large, or the file cannot be written.
    """
    from http.client import HTTPException

    for attempt in range(ATTEMPTS):
        before = part.size
        try:
            _request(url, part, progress)
        except (_BrokenError, OSError, ValueError, HTTPException) as error:
            # URLError and timeouts are OSErrors
            if part.size > before and attempt + 1 < ATTEMPTS:
                continue
            again = f"; run it again to go on behind {part.size:,} bytes" if part.size else ""
            raise CardError(
                f"{_without_secrets(url)}: download failed ({_reason(error)}); check the network "
                f"connection and the address{again}"
            ) from None
        return


def _request(url: str, part: _Part, progress: Progress | None) -> None:
    """Ask for the data behind that of the part, and append it.

    Raises:
        _BrokenError: less data than the server announced, or too slow.
        CardError: too large, or the file cannot be written.
        OSError, ValueError, HTTPException: no connection, or a wrong answer.
    """
    import urllib.error
    import urllib.request

    start = part.size
    try:
        # Not urlopen, which keeps the proxies that it found in the environment once.
        opener = urllib.request.build_opener()
        response = opener.open(_request_for(url, start), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416 or not start:
                raise _BrokenError(f"HTTP {error.code} {error.reason}") from None
            # There is nothing behind it: it is complete, or of a longer file.
            if error.headers.get("Content-Range", "").strip() == f"bytes */{start}":
                return
        part.empty()
        _request(url, part, progress)
        return
    with response:
        if start and not _goes_on(response, start):
            part.empty()
            if response.status == 206:  # another part of the file
                _request(url, part, progress)
                return
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if total is not None and total > MAX_BYTES:
            raise _BrokenError(f"{total:,} bytes, and a model has at most {MAX_BYTES:,}")
        _append_all(response, part, total, progress)


def _goes_on(response: Any, start: int) -> bool:
    """Return whether an answer has the data from byte `start` on."""
    position = re.match(r"\s*bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and position is not None and int(position[1]) == start


def _append_all(response: Any, part: _Part, total: int | None, progress: Progress | None) -> None:
    """Append the data of an answer.

    Raises:
        _BrokenError: less data than announced, or too slow.
        CardError: too large, or the file cannot be written.
        OSError, HTTPException: the connection broke.
    """
    size = part.size
    since, mark = time.monotonic(), size
    # read1: read would wait for a whole chunk, and a slow server is to be noticed before that.
    while data := response.read1(CHUNK_BYTES):
        part.append(data)
        size += len(data)
        if size > MAX_BYTES:
            part.empty()
            raise _BrokenError(f"more than {MAX_BYTES:,} bytes")
        if progress is not None:
            progress(size, total)
        now = time.monotonic()
        if now - since > SLOW_S:
            if size - mark < SLOW_BYTES:
                raise _BrokenError(f"only {size - mark:,} bytes in {now - since:.0f} s")
            since, mark = now, size
    if total is not None and size < total:
        raise _BrokenError(f"the connection ended after {size:,} of {total:,} bytes")


def _request_for(url: str, start: int) -> Request:
    """Make the request for the data from byte `start` on.

    Raises:
        ValueError: no address of a file.
    """
    from urllib.parse import unquote, urlsplit
    from urllib.request import Request

    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"an address begins with https:// (found {parts.scheme or 'none'})")
    user, at, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host).geturl() if parts.scheme != "ftp" else url)
    if at and parts.scheme != "ftp":
        # Not sent to the server to which this one may redirect.
        code = b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    return request


def _reason(error: Exception) -> str:
    """Return the reason of an error, which may quote the server."""
    return shown(getattr(error, "reason", None) or error or type(error).__name__, 100)


def _without_secrets(url: str) -> str:
    """Return the address without the parts that may be secret: user, password, parameters."""
    bare = re.sub(r"[?#].*", "", url, flags=re.DOTALL)
    return re.sub(r"(?<=//)[^/]*@", "", bare)
