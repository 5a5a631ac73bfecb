"""Common base of the readers that use OpenCV's VideoCapture: files, pipes and live sources."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
from cv2 import VideoCapture

from pipeline.frame import Frame
from stages.capture.reader import Reader

# OpenCV reads past 4096 packets of sound and the like before an image, and then says that there is
# none, as of a damaged one. It reads this once in a process.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(1 << 30))


class Video(Reader):
    """A reader with a cv2.VideoCapture."""

    def __init__(self) -> None:
        self._capture = VideoCapture()
        """Not open yet."""
        self._shape = (0, 0)
        """Height and width of the last image, in pixels."""
        self._start_ms: float | None = None
        """Timestamp of the first image."""
        self.decoder = "OpenCV"
        self.source_ns = -1

    def _measure(self) -> None:
        """Read size and codec of a capture that has just been opened."""
        self._shape = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        self._start_ms = None
        name = {"FFMPEG": "FFmpeg"}.get(self._capture.getBackendName())
        self.decoder = f"OpenCV {name or self._capture.getBackendName()} {self._codec()}".strip()

    def _codec(self) -> str:
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        return "".join(chr(c) for c in code if 32 < c < 127)

    def _stamp_ns(self) -> int:
        """Return the time of the last image from the first one; 0 where there are no timestamps."""
        at_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._start_ms is None:
            self._start_ms = at_ms
        return round((at_ms - self._start_ms) * 1e6)

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it cannot be decoded."""
        target = frame.empty("image", (*self._shape, 3), np.uint8)
        try:
            done, image = self._capture.retrieve(target)
        except cv2.error:
            return False
        if not done or image is None:
            return False
        if image.ctypes.data != target.ctypes.data:
            # Other size or type than before: OpenCV has made an array of its own.
            self._put(frame, as_bgr(image))
        return True

    def _put(self, frame: Frame, image: Any) -> None:
        """Put an image into the frame in place of the one that is there."""
        self._shape = (image.shape[0], image.shape[1])
        frame.header.used = 0
        frame.put("image", image)

    def interrupt(self) -> None:
        """Do nothing: a file does not wait."""

    def close(self) -> None:
        """Release it."""
        self._capture.release()


def as_bgr(image: Any) -> Any:
    """Return an image of one, three or four channels as (height, width, 3) uint8 BGR."""
    if image.dtype != np.uint8:
        image = (image >> 8 if image.dtype == np.uint16 else image.clip(0, 255)).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return image
