"""The frame that a reading thread fills, and the count of images that filled none."""

from __future__ import annotations

import threading

from pipeline.frame import Frame, SlotFullError
from stages.capture.reader import Reader, fill_frame


class DropCounter:
    """Counts images that became no frame; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = self._decode = 0

    def add(self, busy: int = 0, decode: int = 0) -> None:
        """Count images that (found no slot, could not be decoded)."""
        with self._lock:
            self._busy += busy
            self._decode += decode

    def take(self) -> tuple[int, int]:
        """Return both counts since the last call."""
        with self._lock:
            counts = self._busy, self._decode
            self._busy = self._decode = 0
            return counts


class FrameOffer:
    """Hands a frame from the stage to the reading thread, and back when it is filled."""

    def __init__(self, drops: DropCounter) -> None:
        """Begin without a frame.

        Args:
            drops: counts the images for which there is no frame, or that cannot be decoded.
        """
        self._drops = drops
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._woken = threading.Event()
        self.filled = False
        """Whether the frame that was offered last is filled."""

    def offer(self, frame: Frame) -> None:
        """Lend a frame for the next image."""
        with self._lock:
            self._frame, self.filled = frame, False
        self._woken.set()

    @property
    def is_open(self) -> bool:
        """Whether there is a frame to fill."""
        return self._frame is not None

    def wait(self) -> None:
        """Wait for a frame, or for `wake`."""
        self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """Make a waiting `wait` return."""
        self._woken.set()

    def fill(self, reader: Reader, captured_ns: int, wall_ns: int, source_ns: int) -> bool:
        """Put the last image into the offered frame, if there is one; else count it as dropped.

        Args:
            reader: whose last image is meant.
            captured_ns: see `fill_frame`.
            wall_ns: see `fill_frame`.
            source_ns: see `fill_frame`.

        Returns:
            Whether a frame was filled.

        Raises:
            SlotFullError: the image does not fit into the slot.
        """
        with self._lock:
            frame, self._frame = self._frame, None
        if frame is None:
            self._drops.add(busy=1)
            return False
        try:
            filled = fill_frame(frame, reader, captured_ns, wall_ns, source_ns)
        except SlotFullError:
            self._keep(frame)
            raise
        if not filled:
            self._keep(frame)
            return False
        with self._lock:
            self.filled = True
        return True

    def _keep(self, frame: Frame) -> None:
        """Keep the frame for the next image, as this one cannot be used."""
        self._drops.add(decode=1)
        with self._lock:
            self._frame = frame
