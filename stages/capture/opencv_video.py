"""What reading files and reading live sources with OpenCV have in common."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from pipeline.frame import Frame
from stages.capture.reader import Pictures

# OpenCV reads past 4096 packets of sound and the like before a picture, and then says that there is
# none, as of a damaged one. It looks here once in a process.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(1 << 30))


class Video(Pictures):
    """What files and live sources have in common: a cv2.VideoCapture that is open."""

    _capture: cv2.VideoCapture
    _shape: tuple[int, int]
    """Height and width of the last picture, in pixels."""

    def _measure(self) -> None:
        self._shape = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        self._start_ms: float | None = None
        name = {"FFMPEG": "FFmpeg"}.get(self._capture.getBackendName())
        self.decoder = f"OpenCV {name or self._capture.getBackendName()} {self._codec()}".strip()

    def _codec(self) -> str:
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        return "".join(chr(c) for c in code if 32 < c < 127)

    def _stamp_ns(self) -> int:
        """Time of the last picture from the first one; 0 where there are no timestamps."""
        at_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._start_ms is None:
            self._start_ms = at_ms
        return round((at_ms - self._start_ms) * 1e6)

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last picture into the frame; False: it cannot be decoded."""
        target = frame.empty("image", (*self._shape, 3), np.uint8)
        try:
            done, picture = self._capture.retrieve(target)
        except cv2.error:
            return False
        if not done or picture is None:
            return False
        if picture.ctypes.data != target.ctypes.data:
            # Other size or type than before: OpenCV has made an array of its own.
            self._put(frame, as_bgr(picture))
        return True

    def _put(self, frame: Frame, picture: Any) -> None:
        """Put a picture into the frame in place of what is there."""
        self._shape = (picture.shape[0], picture.shape[1])
        frame.header.used = 0
        frame.put("image", picture)

    def interrupt(self) -> None:
        """A file does not wait."""

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()


def as_bgr(picture: Any) -> Any:
    """A picture of one, three or four channels as (height, width, 3) uint8 BGR."""
    if picture.dtype != np.uint8:
        picture = (picture >> 8 if picture.dtype == np.uint16 else picture.clip(0, 255)).astype(
            np.uint8
        )
    if picture.ndim == 2 or picture.shape[2] == 1:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 4:
        return cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR)
    return picture
