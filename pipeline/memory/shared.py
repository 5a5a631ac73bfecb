"""Shared memory: memfds that the workers inherit from the supervisor.

The one file that maps shared memory. A memfd has no name in any file system and ends with the last
process that has it, so nothing is left behind, whichever process is killed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

WORD = 8
"""Bytes of a word; an aligned store of one is atomic."""
PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)


class SharedMemory:
    """A sparse memfd, mapped before the workers are forked and so shared by all of them.

    A worker that was forked earlier maps it through the supervisor's descriptor.
    """

    def __init__(self, name: str, size: int, path: str | None = None) -> None:
        """Make new memory, or map existing memory.

        Args:
            name: label shown in /proc/PID/maps.
            size: bytes; rounded up to whole pages.
            path: existing memory, /proc/PID/fd/N; None: make it.
        """
        size = -(-size // PAGE) * PAGE
        self.fd = -1
        if path is None:
            self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
            os.ftruncate(self.fd, size)
        else:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = size
        self._map = mmap.mmap(self.fd, size)
        if path is not None:
            self._close_fd()  # the mapping stays until its last view goes
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("q")

    def close(self) -> None:
        """Unmap it here; other processes keep theirs."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        self._close_fd()

    def _close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __del__(self) -> None:
        self._close_fd()

    def resident_bytes(self) -> int:
        """Return how many of its bytes are resident in memory."""
        return os.fstat(self.fd).st_blocks * 512

    def release_pages(self, start: int, size: int) -> None:
        """Return the whole pages of a range to the system; they read as zeros afterwards.

        Args:
            start: byte at which the range begins.
            size: bytes of the range.
        """
        first, last = -(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE
        if last > first:
            keep_size, punch_hole = 1, 2
            _libc.fallocate64(
                self.fd,
                keep_size | punch_hole,
                ctypes.c_int64(first),
                ctypes.c_int64(last - first),
            )


def memory_available() -> int:
    """Return how many bytes the machine, or a smaller control group, can give without swapping."""
    room = [_meminfo_available()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            room.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or no limit ("max")
    return max(0, min(room))


def _meminfo_available() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _lines(path: str) -> Iterator[str]:
    try:
        yield from Path(path).read_text().splitlines()
    except OSError:
        return
