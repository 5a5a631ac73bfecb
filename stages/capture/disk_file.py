"""A video file on disk while it is read: its headers, and changes under the reader."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from stages.capture.container import read_container
from stages.capture.source import SourceProblem


class DiskFile:
    """An open descriptor of a file, which stays valid when the file is renamed or removed."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its headers.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path.absolute()  # FFmpeg takes 12:30.avi for a protocol
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        """Closes the descriptor. May be called twice."""
        self._size = os.fstat(self._fd).st_size
        with open(self._fd, "rb", closefd=False) as file:
            self.container = read_container(file)

    def end_problem(self) -> SourceProblem:
        """Return why the file ends too early where FFmpeg has stopped; ("", ""): it does not."""
        size = os.fstat(self._fd).st_size
        if size < self._size:
            left = f"{size} of {self._size} bytes"
            return "closed", f"the file was truncated while it was read ({left} are left)"
        if size > self._size:
            grown = f"from {self._size} to {size} bytes"
            return "closed", f"the file grew while it was read ({grown}); read to its former end"
        error = self._read_error()
        return ("failed", f"the file cannot be read to its end: {error}") if error else ("", "")

    def _read_error(self) -> str:
        """Return the error of the file system where FFmpeg has stopped to read; "": none."""
        own = os.fstat(self._fd)
        with contextlib.suppress(FileNotFoundError):  # no /proc: nothing is known
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if not os.path.samestat(own, os.stat(f"/proc/self/fd/{name}")):
                        continue
                    info = Path(f"/proc/self/fdinfo/{name}").read_text()
                    offset = int(info.partition("pos:")[2].split()[0])
                    try:
                        os.pread(self._fd, 1, offset)
                    except OSError as error:
                        return error.strerror or str(error)
        return ""
