"""A frame: a header that is sent over sockets, and named arrays that stay in a slot.

A stage sends only the header to the next one. It names the slot of shared memory and the place of
each array in that slot, so the receiver uses views and nothing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

ALIGN = 64
"""Arrays start at multiples of this many bytes: a cache line, and enough for any SIMD load."""
FILE = "file"
"""Array with the name of the file that the image was read from, as bytes."""


class Status(IntEnum):
    """State of the frame that a header belongs to."""

    LIVE = 0
    """A frame in the pipeline; the only status with arrays."""
    DROPPED = 1
    """A frame dropped on purpose, see `Header.cause`; its header is sent on to keep the order."""
    FAILED = 2
    """A frame that a stage could not process, see `Header.cause`."""
    END = 3
    """The end of the stream."""


class Span(msgspec.Struct, array_like=True, gc=False):
    """Times at which one stage worked on a frame."""

    stage: int
    """Index of the stage in the graph."""
    worker: int
    """Index of the worker in the graph."""
    taken_ns: int
    """Monotonic time at which the worker received the frame."""
    start_ns: int
    end_ns: int


class Header(msgspec.Struct, array_like=True):
    """The part of a frame that is sent over ZeroMQ; about 200 bytes."""

    stream: int
    """Index of the stream in the graph."""
    seq: int
    """Number of the frame in its stream, from 0, without gaps."""
    attempt: int
    """Number of resends of the frame; only the newest attempt is valid."""
    slot: int
    generation: int
    """Number of loans of the slot; separates the frame from earlier ones in the same slot."""
    status: Status = Status.LIVE
    cause: str = ""
    """Cause if the frame is not live: "stale", "restart", "poison" or "failed:STAGE"; else ""."""
    captured_ns: int = 0
    """Monotonic time of capture."""
    wall_ns: int = 0
    """Wall-clock time of capture, Unix epoch."""
    source_ns: int = -1
    """Timestamp of the source, from the start of the stream; -1 if it has none."""
    ntp_ns: int = -1
    """Time of capture by the wall clock of the camera (RTCP), Unix epoch; -1: unknown."""
    width: int = 0
    height: int = 0
    still: bool = False
    """Whether it is a still image, unrelated to its neighbours: it is not tracked."""
    arrays: dict[str, tuple[int, str, tuple[int, ...]]] = {}
    """Array name -> (byte offset in the slot, dtype, shape)."""
    used: int = 0
    """Bytes of the slot that are in use."""
    limit: int = 0
    """Bytes of the slot that this branch of the graph may use."""
    spans: list[Span] = []
    fps: float = 0.0
    """Frames per second that the source declares; 0: unknown."""

    def without_arrays(self, status: Status, cause: str) -> None:
        """Turn this into the header of a frame that is not processed further."""
        self.status, self.cause = status, cause
        self.arrays.clear()


class SlotFullError(MemoryError):
    """An array does not fit in the free part of the slot of its frame."""


class Frame:
    """One image of a stream as a stage sees it: its facts, and its named arrays.

    Arrays read with `frame["name"]` are read-only views of shared memory, valid only inside
    `process`. A stage that keeps one or draws on it makes a copy.
    """

    __slots__ = ("_memory", "header", "stream")

    def __init__(self, header: Header, stream: str, memory: memoryview) -> None:
        self.header = header
        self.stream = stream
        """Name of the stream."""
        self._memory = memory

    @classmethod
    def of(
        cls, stream: str = "test", seq: int = 0, time_s: float = 0.0, **arrays: ArrayLike
    ) -> Frame:
        """Make a frame in private memory: for tests, and to call stages without a pipeline.

        Args:
            stream: name of the stream.
            seq: number of the frame.
            time_s: its timestamp, in seconds.
            arrays: its arrays by name.
        """
        values = {name: np.asarray(value) for name, value in arrays.items()}
        size = sum(value.nbytes + ALIGN for value in values.values()) + (64 << 20)
        image = values.get("image")
        height, width = image.shape[:2] if image is not None else (0, 0)
        now = round(time_s * 1e9)
        header = Header(
            stream=0,
            seq=seq,
            attempt=0,
            slot=0,
            generation=1,
            captured_ns=now,
            wall_ns=now,
            source_ns=now,
            width=width,
            height=height,
            limit=size,
        )
        frame = cls(header, stream, memoryview(np.empty(size, np.uint8)))  # type: ignore[arg-type]
        for name, value in values.items():
            frame.put(name, value)
        return frame

    @property
    def seq(self) -> int:
        """Number of the frame in its stream, from 0."""
        return self.header.seq

    @property
    def width(self) -> int:
        """Width of the captured image in pixels."""
        return self.header.width

    @property
    def height(self) -> int:
        """Height of the captured image in pixels."""
        return self.header.height

    @property
    def still(self) -> bool:
        """Whether it is a still image, unrelated to those before and after it."""
        return self.header.still

    @property
    def file(self) -> str:
        """Name of the file in its folder, if the source is image files; else ""."""
        return os.fsdecode(self[FILE].tobytes()) if FILE in self else ""

    @property
    def captured_ns(self) -> int:
        """Monotonic time of capture."""
        return self.header.captured_ns

    @property
    def wall_ns(self) -> int:
        """Wall-clock time of capture, nanoseconds since the Unix epoch."""
        return self.header.wall_ns

    @property
    def time_s(self) -> float:
        """Time in the stream in seconds, by the clock of the source or else of the capture."""
        ns = self.header.source_ns
        return (ns if ns >= 0 else self.header.captured_ns) / 1e9

    def __contains__(self, name: str) -> bool:
        return name in self.header.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.arrays)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a read-only view of an array.

        Raises:
            KeyError: no stage before this one gave an array of that name.
        """
        try:
            view = self._view(name)
        except KeyError:
            found = ", ".join(self.header.arrays) or "none"
            raise KeyError(f"the frame has no array {name!r} (found {found})") from None
        view.flags.writeable = False
        return view

    def put_file(self, name: str) -> None:
        """Record the file that the image was read from; directly after the array `image` is put.

        Raises:
            SlotFullError: the slot has no room for it.
        """
        self.put(FILE, np.frombuffer(os.fsencode(name), np.uint8))

    def put(self, name: str, value: ArrayLike) -> None:
        """Add an array, or replace one, by copying `value` into the slot.

        Raises:
            SlotFullError: the slot has no room for it.
        """
        array = np.asarray(value)
        self.empty(name, array.shape, array.dtype)[...] = array

    def empty(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Add an array, or replace one, and return the writable, uninitialised view to fill.

        Raises:
            SlotFullError: the slot has no room for it.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:  # pointers, which mean nothing in another process
            raise TypeError(f"array {name!r}: expected numbers (found dtype {kind})")
        size = kind.itemsize
        for side in shape:
            size *= side
        header = self.header
        # An array with a zero side needs no room, so it fits in a full slot.
        start = -(-header.used // ALIGN) * ALIGN if size else 0
        if start + size > header.limit:
            raise SlotFullError(
                f"array {name!r} {tuple(shape)} {kind} needs {size} bytes; "
                f"the frame's slot has {max(0, header.limit - start)} left"
            )
        header.used = max(header.used, start + size)
        header.arrays[name] = (start, kind.str, tuple(shape))
        return self._view(name)

    def _view(self, name: str) -> NDArray[Any]:
        offset, dtype, shape = self.header.arrays[name]
        return np.ndarray(shape, dtype, self._memory, offset)
