"""Files that sinks write: their names, and text that survives a crash of the writer."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import EndRun, RunError, SetupError

STDOUT = "-"
"""As a path: standard output."""


def stream_path(path: str, stream: str, streams: Collection[str]) -> str:
    """The file of one stream.

    `{stream}` in the path stands for the stream's name. Where it is missing, the name is added,
    out.txt becomes out-yard.txt, unless the stream is the only one.

    Args:
        path: as in the settings.
        stream: name of the stream.
        streams: names of those that there were at the start.
    """
    if "{stream}" in path:
        return path.replace("{stream}", stream)
    if set(streams) != {stream}:
        file = Path(path)
        return str(file.with_name(f"{file.stem}-{stream}{file.suffix}"))
    return path


def check_writable(path: str) -> None:
    """Make the directory that a file goes into, and see that the file can be written.

    An existing file is left as it is, and none is created. Of a path with `{stream}` the part
    before it is checked.

    Raises:
        SetupError: the path is a directory, or may not be written.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SetupError(f"path: {path!r} is not valid text") from None
    file = Path(path)
    while "{stream}" in str(file.parent):
        file = file.parent
    try:
        if path.endswith("/") or file.is_dir():
            raise SetupError(f"path: {path!r} is a directory; give the name of a file in it")
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            if not os.access(file, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            # Asking is not enough: a read-only or full disk shows only when a file is made.
            tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise SetupError(
            f"path: cannot write {path!r} ({error.strerror}); choose a place where you may write"
        ) from None


class Lines:
    """A text file of whole lines that is cut back after a crash to where its writer had been.

    The writer saves `offset` with its state after each line, and tells `resume` what it had saved
    before it went on. Several streams may share the file: each tells its own offset, and the
    farthest counts, since lines are written one at a time. The file is cut just before the
    first line is written, as only then all offsets are known; a run that was told none starts
    an empty file.

    Standard output, pipes and devices cannot be cut: there, a line may come twice after a crash.

    Every method that touches the file raises RunError when that fails (a full disk, say), and
    EndRun when the reader of a pipe has gone.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.offset = 0
        """Bytes up to the end of the last whole line."""
        self._descriptor = -1
        self._cut = False

    def open(self) -> None:
        """Open the file, or make it; leave alone what is in it."""
        if self.path == STDOUT:
            self._descriptor = 1
            return
        try:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise self._failure(error) from None

    def resume(self, offset: int) -> None:
        """Keep at least the lines before this offset."""
        self.offset = max(self.offset, offset)

    def start(self) -> None:
        """Cut the file to what is to be kept, unless that has been done."""
        if self._cut:
            return
        self._cut = True
        try:
            held = os.fstat(self._descriptor)
            if self.path == STDOUT or not stat.S_ISREG(held.st_mode):
                return
            # Somebody may have emptied the file meanwhile: never fill the gap with zeros.
            self.offset = min(self.offset, held.st_size)
            os.ftruncate(self._descriptor, self.offset)
            os.lseek(self._descriptor, self.offset, os.SEEK_SET)
        except OSError as error:
            raise self._failure(error) from None

    def write(self, text: bytes) -> None:
        """Write whole lines, past every buffer of this process."""
        self.start()
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._drop_part()
            raise self._failure(error) from None
        self.offset += len(text)

    def close(self) -> None:
        """Close the file. May be called twice, and before `open`."""
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1

    def _drop_part(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.offset)
        except OSError:
            pass  # a pipe, or a disk in a worse state than full: the first error says it

    def _failure(self, error: OSError) -> RunError | EndRun:
        name = "standard output" if self.path == STDOUT else repr(self.path)
        if error.errno == errno.EPIPE:
            return EndRun(f"the reader of {name} has gone")
        advice = (
            "free some space or choose another path"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose another path"
        )
        return RunError(f"cannot write {name} ({error.strerror}); {advice}")
