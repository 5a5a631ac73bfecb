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

from pipeline.errors import EndRun, RunError, SetupError
from stages.sinks.files.file_lock import lock_file
from stages.sinks.files.output_path import is_standard_output

LOCK_PATIENCE_S = 0.5
"""How long the end of a process that was killed is waited for: its lock lasts until it is gone."""
READER_TIMEOUT_S = 10.0
"""How long a named pipe may be without a reader when it is opened."""
READER_PAUSE_S = 0.05
PROOF_BYTES = 4096
"""At most so much of the text written last is compared to see that a file holds it."""
TAIL_BYTES = 1 << 20
"""In so much of the end of a file the end of its last whole line is looked for."""


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """How far a file has been written: what a stage saves with its state."""

    path: str
    device: int = 0
    inode: int = 0
    """With `device`: which file, as its name may belong to another one later."""
    generation: int = 0
    """Number of the file under this name; a file that was cut short counts as another one."""
    offset: int = 0
    """Bytes up to the end of the last whole line."""
    proof_bytes: int = 0
    """Bytes before `offset` that were written last, of which `proof` is the CRC-32."""
    proof: int = 0


class ResumableTextFile:
    """A text file of whole lines that is cut back after a crash to where its writer had been.

    The writer saves `mark` with its state after each line, and gives what it had saved to `resume`
    before it goes on. Several streams may share the file: each has its own mark, and the newest
    counts, since lines are written one at a time. The file is cut just before the first line is
    written, as only then all marks are known; a run that had saved none starts an empty file.

    The file may be rotated while it is written. Before each line, and in `follow`, the writer sees
    whether the file was cut short (it goes on at its end, never behind a gap), or whether the name
    now belongs to another file or to none (it goes on in that file, behind what is there). After a
    crash only a file that is known to hold what was written last is cut. Where a line may have
    been written but was not saved, it is cut off the old file if that is still in the same folder,
    and not written again if it is at the end of the new one.

    A regular file is locked: two runs cannot write it. Standard output, pipes and devices cannot be
    cut, locked or rotated: there, a line may come twice after a crash.

    Every method that touches the file raises RunError when that fails (a full disk, say), and
    EndRun when the reader of a pipe has gone.

    Args:
        path: of the file; "-" is standard output.
        beat: called while the reader of a pipe is waited for.
    """

    def __init__(self, path: str, beat: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.mark = Mark(path)
        self._beat = beat
        self._descriptor = -1
        self._is_regular = False
        self._started = False
        self._resumes = False
        self._end_before = b""
        """End of the file as it was found after a crash: it may hold the line that comes again."""
        self._warned = False

    def open(self) -> None:
        """Open the file, or make it, and lock it; leave alone what is in it.

        Raises:
            SetupError: another run writes it, or it is a named pipe that nothing reads.
        """
        if is_standard_output(self.path):
            self._descriptor = 1
            return
        with self._failures():
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open_by_name(READER_TIMEOUT_S, LOCK_PATIENCE_S)

    def resume(self, mark: Mark) -> None:
        """Keep at least the lines before this mark."""
        newest = self.mark.generation, self.mark.offset
        if mark.path == self.path and (mark.generation, mark.offset) > newest:
            self.mark, self._resumes = mark, True

    def start(self) -> None:
        """Cut the file to what is to be kept, unless that has been done."""
        if self._started:
            return
        self._started = True
        if not self._is_regular:
            return
        with self._failures():
            if not self._is_at(self._stat_of_name()):
                self._reopen()
            if self._resumes:
                self._find_place()
            else:
                self._cut(0)
                self._begin_generation(0)

    def follow(self) -> None:
        """See whether the file was cut short, moved, deleted or replaced, and go on accordingly."""
        if not (self._started and self._is_regular):
            return
        with self._failures():
            found = self._stat_of_name()
            if found is not None and self._is_at(found):
                if found.st_size < self.mark.offset:
                    self._go_on_at_end()
            elif self._reopen():
                self._go_on_at_end()

    def write(self, text: bytes) -> None:
        """Write whole lines, past every buffer of this process."""
        self.start()
        self.follow()
        if not text:
            return
        if self._end_before.endswith(text):
            self._end_before = b""  # written by the process that was killed before it was saved
            return
        while not self._append(text):
            self._go_on_at_end()

    def close(self) -> None:
        """Close the file. May be called twice, and before `open`."""
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1
        self._is_regular = False

    def _append(self, text: bytes) -> bool:
        """Write at the end of the file; False: it did not end with a whole line, and is cut."""
        rest = memoryview(text)
        with self._failures():
            try:
                while rest:
                    part = rest if self._is_regular else rest[: self._room()]
                    rest = rest[os.write(self._descriptor, part) :]
            except OSError:
                self._drop_part()
                raise
            if not self._is_regular:
                return True
            # The file is in append mode: where the text is only the system knows.
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            start = end - len(text)
            if start != self.mark.offset:  # another program wrote into the file, or cut it
                if not self._is_line_start(start):
                    self._cut(max(0, start))
                    return False
                self._begin_generation(start)
        proof = text[-PROOF_BYTES:]
        self.mark = msgspec.structs.replace(
            self.mark, offset=end, proof_bytes=len(proof), proof=zlib.crc32(proof)
        )
        return True

    def _room(self) -> int:
        """Wait until a pipe has room, however long its reader pauses; so many bytes fit at least.

        Raises:
            EndRun: the run is being stopped.
        """
        pipe = select.poll()
        pipe.register(self._descriptor, select.POLLOUT)
        while not pipe.poll(READER_PAUSE_S * 1000):
            self._beat()
        return select.PIPE_BUF

    def _drop_part(self) -> None:
        """Remove the part of a line that was written before a failure."""
        with suppress(OSError):  # a disk in a worse state than full: the first error says it
            if self._is_regular and os.fstat(self._descriptor).st_size > self.mark.offset:
                self._cut(self.mark.offset)

    # --- which file it is ---

    def _open_by_name(self, reader_timeout_s: float = 0.0, lock_patience_s: float = 0.0) -> int:
        """Open what the name belongs to now, or make it, and lock it."""
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
            with suppress(EndRun):  # the end of the run waits for the reader too, or for SIGTERM
                self._beat()
            time.sleep(READER_PAUSE_S)
        try:
            self._is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if self._is_regular:
                lock_file(descriptor, self.path, lock_patience_s)
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
        """Whether what was found under the name is the file that is open."""
        mine = os.fstat(self._descriptor)
        return found is not None and os.path.samestat(found, mine)

    def _reopen(self) -> bool:
        """Take the file that has the name now; False: it cannot be had, the old one is kept."""
        try:
            descriptor = self._open_by_name()
        except (OSError, SetupError) as error:
            self._is_regular = True
            if not os.fstat(self._descriptor).st_nlink:
                raise  # what is written to a deleted file is lost
            if not self._warned:
                reason = getattr(error, "strerror", None) or error
                logging.warning(
                    "%r was moved and cannot be opened again (%s); writing goes on in the moved "
                    "file",
                    self.path,
                    reason,
                )
            self._warned = True
            return False
        os.close(self._descriptor)
        self._descriptor, self._warned = descriptor, False
        return True

    # --- where in it ---

    def _find_place(self) -> None:
        """Go on after a crash: in the file of the mark, or in the one that has its name now."""
        if _holds(self._descriptor, self.mark):
            self._cut(self.mark.offset)
            return
        self._cut_moved_file()
        self._go_on_at_end()
        offset = self.mark.offset
        self._end_before = _read(self._descriptor, max(0, offset - TAIL_BYTES), offset)

    def _cut_moved_file(self) -> None:
        """Cut what was not saved off the file of the mark, if it was moved within its folder."""
        with suppress(OSError), os.scandir(os.path.dirname(self.path) or ".") as entries:
            for entry in entries:
                if entry.inode() != self.mark.inode or not entry.is_file(follow_symlinks=False):
                    continue
                descriptor = os.open(entry.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _holds(descriptor, self.mark):
                        os.ftruncate(descriptor, self.mark.offset)
                finally:
                    os.close(descriptor)
                return

    def _go_on_at_end(self) -> None:
        """Go on behind the last whole line of the file, whatever it holds."""
        size = os.fstat(self._descriptor).st_size if self._is_regular else 0
        tail = _read(self._descriptor, max(0, size - TAIL_BYTES), size) if size else b""
        unfinished = len(tail) - (tail.rfind(b"\n") + 1)
        if unfinished:
            size -= unfinished
            self._cut(size)
        self._begin_generation(size)

    def _begin_generation(self, offset: int) -> None:
        mine = os.fstat(self._descriptor)
        self.mark = Mark(self.path, mine.st_dev, mine.st_ino, self.mark.generation + 1, offset)

    def _is_line_start(self, offset: int) -> bool:
        return offset == 0 or (
            offset > 0 and _read(self._descriptor, offset - 1, offset) in (b"\n", b"")
        )

    def _cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    # --- what goes wrong ---

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> RunError | EndRun | SetupError:
        name = "standard output" if is_standard_output(self.path) else repr(self.path)
        if error.errno == errno.EPIPE:
            return EndRun(f"the reader of {name} has gone")
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


def _holds(descriptor: int, mark: Mark) -> bool:
    """Whether an open file is the one of a mark, and still holds what was written last."""
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) != (mark.device, mark.inode) or found.st_size < mark.offset:
        return False
    start = mark.offset - mark.proof_bytes
    return zlib.crc32(_read(descriptor, start, mark.offset)) == mark.proof


def _read(descriptor: int, start: int, end: int) -> bytes:
    """Part of a file that is open for writing; empty where it may not be read."""
    try:
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(reading, end - start, start)
    finally:
        os.close(reading)
