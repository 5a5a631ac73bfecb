"""Text files that survive a crash of their writer, log rotation, and a second writer."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pipeline.context import Log
from pipeline.errors import EndRun, RunError, SetupError
from stages.sinks.files.file_lock import lock_file
from stages.sinks.files.output_path import is_standard_output

LOG = logging.getLogger(__name__)
LOCK_TIMEOUT_S = 0.5
"""Wait for the lock of a process that was killed: it is held until the process has ended."""
READER_TIMEOUT_S = 10.0
"""Wait for the reader of a named pipe that is opened."""
READER_PAUSE_S = 0.05
MAX_CHECKED_BYTES = 4096
"""Part of the text written last that is compared to see whether a file contains it."""
MAX_TAIL_BYTES = 1 << 20
"""Part of the end of a file in which the end of its last whole line is searched."""


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """A position in a file, which a stage saves with its state: its lines are written up to it."""

    path: str
    device: int = 0
    inode: int = 0
    """With `device`: identity of the file, since its name may belong to another one later."""
    generation: int = 0
    """Number of the file under this name; a file that was truncated counts as another one."""
    offset: int = 0
    """Bytes up to the end of the last whole line."""
    checked_bytes: int = 0
    """Bytes before `offset` that were written last, of which `checksum` is the CRC-32."""
    checksum: int = 0


class ResumableTextFile:
    """A text file of whole lines that is truncated after a crash to its last saved line.

    The writer saves `mark` with its state after each line, and passes the saved mark to `resume`
    after a crash. Several streams may share the file: each has its own mark, and the newest one
    counts, since lines are written one at a time. The file is truncated just before the first line
    is written, since only then all marks are known; a run without a saved mark starts an empty
    file.

    The file may be rotated while it is written. Before each line, and in `follow`, the writer
    checks whether the file was truncated (then it continues at its end, never behind a gap), or
    whether the name belongs to another file or to none (then it continues in that file, behind the
    lines that are there). After a crash only a file that contains the text written last is
    truncated. A line that was written but not saved is cut off the old file if that is in the same
    folder, and is not written again if it is at the end of the new one.

    A regular file is locked: two runs cannot write it. Standard output, pipes and devices cannot be
    truncated, locked or rotated: there, a line may occur twice after a crash.

    Every method that accesses the file raises RunError when that fails (a full disk, for example),
    and EndRun when the reader of a pipe has closed it.

    Args:
        path: name of the file; "-" is standard output.
        beat: called repeatedly while the reader of a pipe is waited for: the heartbeat of the
            worker.
        log: logger of the stage.
    """

    def __init__(self, path: str, beat: Callable[[], None] = lambda: None, log: Log = LOG) -> None:
        self.path = path
        self.mark = Mark(path)
        self._log, self._beat = log, beat
        self._descriptor = -1
        self._is_regular = False
        self._started = False
        self._is_resumed = False
        self._end_before = b""
        """End of the file as found after a crash: it may contain the line that is written again."""
        self._has_warned = False

    def open(self) -> None:
        """Open the file, or create it, and lock it; its content stays for now.

        Raises:
            SetupError: another run writes it, or it is a named pipe that nothing reads.
        """
        if is_standard_output(self.path):
            self._descriptor = 1
            return
        with self._failures():
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open_by_name(READER_TIMEOUT_S, LOCK_TIMEOUT_S)

    def resume(self, mark: Mark) -> None:
        """Keep at least the lines before this mark."""
        newest = self.mark.generation, self.mark.offset
        if mark.path == self.path and (mark.generation, mark.offset) > newest:
            self.mark, self._is_resumed = mark, True

    def start(self) -> None:
        """Truncate the file to the lines before the mark, unless that has been done."""
        if self._started:
            return
        self._started = True
        if not self._is_regular:
            return
        with self._failures():
            if not self._is_at(self._stat_of_name()):
                self._reopen()
            if self._is_resumed:
                self._continue_after_crash()
            else:
                self._truncate(0)
                self._begin_generation(0)

    def follow(self) -> None:
        """Check whether the file was truncated, moved, deleted or replaced, and continue there."""
        if not (self._started and self._is_regular):
            return
        with self._failures():
            found = self._stat_of_name()
            if found is not None and self._is_at(found):
                if found.st_size < self.mark.offset:
                    self._continue_at_end()
            elif self._reopen():
                self._continue_at_end()

    def write(self, text: bytes) -> None:
        """Write whole lines, without a buffer in this process."""
        self.start()
        self.follow()
        if not text:
            return
        if self._end_before.endswith(text):
            self._end_before = b""  # written by the process that was killed before it was saved
            return
        while not self._append(text):
            self._continue_at_end()

    def close(self) -> None:
        """Close the file. May be called twice, and before `open`."""
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1
        self._is_regular = False

    def _append(self, text: bytes) -> bool:
        """Write at the end of the file; False: its last line was not whole, and was removed."""
        rest = memoryview(text)
        with self._failures():
            try:
                while rest:
                    part = rest if self._is_regular else rest[: self._room()]
                    rest = rest[os.write(self._descriptor, part) :]
            except OSError:
                self._truncate_partial()
                raise
            if not self._is_regular:
                return True
            # The file is in append mode: only the system knows the position of the text.
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            start = end - len(text)
            if start != self.mark.offset:  # another program wrote into the file, or truncated it
                if not self._is_line_start(start):
                    self._truncate(max(0, start))
                    return False
                self._begin_generation(start)
        checked = text[-MAX_CHECKED_BYTES:]
        self.mark = msgspec.structs.replace(
            self.mark, offset=end, checked_bytes=len(checked), checksum=zlib.crc32(checked)
        )
        return True

    def _room(self) -> int:
        """Wait until a pipe has room, without a limit, and return the bytes that fit at least.

        Raises:
            EndRun: the run is being stopped.
        """
        pipe = select.poll()
        pipe.register(self._descriptor, select.POLLOUT)
        while not pipe.poll(READER_PAUSE_S * 1000):
            self._beat()
        return select.PIPE_BUF

    def _truncate_partial(self) -> None:
        """Remove the part of a line that was written before a failure."""
        with suppress(OSError):  # the first error is the one to report
            if self._is_regular and os.fstat(self._descriptor).st_size > self.mark.offset:
                self._truncate(self.mark.offset)

    # --- the file under the name ---

    def _open_by_name(self, reader_timeout_s: float = 0.0, lock_timeout_s: float = 0.0) -> int:
        """Open the file that has the name now, or create it, and lock it."""
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        until_s = time.monotonic() + reader_timeout_s
        while True:
            try:
                descriptor = os.open(self.path, flags, 0o666)
                break
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() >= until_s:
                    raise
            with suppress(EndRun):  # at the end of the run too, lines wait for the reader
                self._beat()
            time.sleep(READER_PAUSE_S)
        try:
            self._is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if self._is_regular:
                lock_file(descriptor, self.path, self._log, lock_timeout_s)
            else:
                os.set_blocking(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _stat_of_name(self) -> os.stat_result | None:
        try:
            return os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _is_at(self, found: os.stat_result | None) -> bool:
        """Return whether the file found under the name is the open one."""
        mine = os.fstat(self._descriptor)
        return found is not None and os.path.samestat(found, mine)

    def _reopen(self) -> bool:
        """Change to the file that has the name now; False: it cannot be opened, the old is kept."""
        try:
            descriptor = self._open_by_name()
        except (OSError, SetupError) as error:
            self._is_regular = True
            if not os.fstat(self._descriptor).st_nlink:
                raise  # what is written to a deleted file is lost
            if not self._has_warned:
                self._log.warning(
                    "%r was moved and cannot be opened again (%s); writing continues in the moved "
                    "file",
                    self.path,
                    (isinstance(error, OSError) and error.strerror) or error,
                )
            self._has_warned = True
            return False
        os.close(self._descriptor)
        self._descriptor, self._has_warned = descriptor, False
        return True

    # --- the position in it ---

    def _continue_after_crash(self) -> None:
        """Continue in the file of the mark, or else in the one that has its name now."""
        if _contains(self._descriptor, self.mark):
            self._truncate(self.mark.offset)
            return
        self._truncate_moved_file()
        self._continue_at_end()
        offset = self.mark.offset
        self._end_before = _read(self._descriptor, max(0, offset - MAX_TAIL_BYTES), offset)

    def _truncate_moved_file(self) -> None:
        """Cut unsaved lines off the file of the mark, if it was moved within its folder."""
        with suppress(OSError), os.scandir(os.path.dirname(self.path) or ".") as entries:
            for entry in entries:
                if entry.inode() != self.mark.inode or not entry.is_file(follow_symlinks=False):
                    continue
                descriptor = os.open(entry.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _contains(descriptor, self.mark):
                        os.ftruncate(descriptor, self.mark.offset)
                finally:
                    os.close(descriptor)
                return

    def _continue_at_end(self) -> None:
        """Continue behind the last whole line of the file."""
        size = os.fstat(self._descriptor).st_size if self._is_regular else 0
        tail = _read(self._descriptor, max(0, size - MAX_TAIL_BYTES), size) if size else b""
        unfinished = len(tail) - (tail.rfind(b"\n") + 1)
        if unfinished:
            size -= unfinished
            self._truncate(size)
        self._begin_generation(size)

    def _begin_generation(self, offset: int) -> None:
        mine = os.fstat(self._descriptor)
        self.mark = Mark(self.path, mine.st_dev, mine.st_ino, self.mark.generation + 1, offset)

    def _is_line_start(self, offset: int) -> bool:
        return offset == 0 or (
            offset > 0 and _read(self._descriptor, offset - 1, offset) in (b"\n", b"")
        )

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    # --- errors ---

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> RunError | EndRun | SetupError:
        name = "standard output" if is_standard_output(self.path) else repr(self.path)
        if error.errno == errno.EPIPE:
            return EndRun(f"the reader of {name} has closed it")
        if error.errno == errno.ENXIO and not self._started:
            return SetupError(
                f"path: nothing reads the pipe {name} (waited {READER_TIMEOUT_S:g} s); start its "
                "reader first"
            )
        advice = (
            "free some space or choose another path"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "choose another path"
        )
        return RunError(f"cannot write {name} ({error.strerror}); {advice}")


def _contains(descriptor: int, mark: Mark) -> bool:
    """Return whether an open file is that of a mark, and contains the text written last."""
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) != (mark.device, mark.inode) or found.st_size < mark.offset:
        return False
    start = mark.offset - mark.checked_bytes
    return zlib.crc32(_read(descriptor, start, mark.offset)) == mark.checksum


def _read(descriptor: int, start: int, end: int) -> bytes:
    """Return a part of a file that is open for writing; empty: it may not be read."""
    try:
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(reading, end - start, start)
    finally:
        os.close(reading)
