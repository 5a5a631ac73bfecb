"""The annotated window: all streams side by side.

Space pauses; q, Esc and the close button end the run. A pause stops files. A live stream cannot be
stopped: its image stays the same while the run continues.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EndRun, StageUnavailable
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved, Settings, Stage
from stages.detections import RESULTS
from stages.drawing.annotator import annotator_of
from stages.drawing.mosaic import Mosaic
from stages.sinks.display import display_problem

TITLE = "Eyeline"
SHOW_FPS = 60
"""Frames that arrive faster than a screen shows them are not drawn."""
MAX_INITIAL_SIZE_PX = (1280, 800)
"""Largest width and height of a new window, in pixels; the user can enlarge it."""
END_KEYS = (ord("q"), ord("Q"), 27)
PAUSE_KEY = ord(" ")
RATE_FRAMES = 30
"""Number of frames over which the status line averages the frame rate."""


class WindowSettings(Settings, frozen=True):
    """Settings of the window."""

    status: bool = True
    """Show the name of the stream, its frame rate, and the latency from capture to display."""


class Window(Stage):
    """Shows each frame, unless they arrive faster than a screen can show."""

    Settings = WindowSettings
    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS)
    ordered = True

    settings: WindowSettings

    def __init__(self, settings: WindowSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._live = bool(context.live)
        self._annotator = annotator_of(context)
        self._mosaic = Mosaic(tuple(context.streams))
        self._captured_ns: dict[str, deque[int]] = {}
        self._drawn_s: dict[str, float] = {}
        self._image: NDArray[np.uint8] | None = None
        self._changed = False
        self._shown_s = 0.0
        self._exists = False
        self._over = False
        self.paused = False

    @classmethod
    def resolve(cls, settings: WindowSettings) -> Resolved:
        """Check that there is a display.

        Raises:
            StageUnavailable: there is none, or OpenCV cannot show windows.
        """
        problem = display_problem()
        if problem is not None:
            raise StageUnavailable(f"no window: {problem}")
        return Resolved()

    def open(self) -> None:
        """Silence Qt; the window is made with the first image, in its size."""
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")

    def info(self) -> Mapping[str, str]:
        """Return the keys."""
        return {"keys": "space pauses, q or Esc ends"}

    def process(self, frame: Frame) -> None:
        """Show a frame; if files are paused, wait for the end of the pause.

        Raises:
            EndRun: the user closed the window or pressed a key that ends the run.
        """
        rate = self._captured_ns.setdefault(frame.stream, deque(maxlen=RATE_FRAMES))
        rate.append(frame.captured_ns)
        if self._over:
            return
        while self.paused and not self._live and not self._over:
            self.beat()
            self._serve(wait_ms=20)
        now_s = time.monotonic()
        if not self.paused and now_s - self._drawn_s.get(frame.stream, 0.0) >= 1 / SHOW_FPS:
            self._drawn_s[frame.stream] = now_s
            drawn = self._annotator.draw(frame, self._status(frame, rate))
            self._image = self._mosaic.put(frame.stream, drawn)
            self._changed = True
        self._serve()

    def idle(self) -> None:
        """Answer keys between frames.

        Raises:
            EndRun: the user closed the window or pressed a key that ends the run.
        """
        if not self._over:
            self._serve()

    def end(self, stream: str) -> None:
        """Keep the last image of a file; remove the tile of a live stream."""
        if self._live:
            self._image = self._mosaic.forget(stream, self._image)
            self._changed = True

    def close(self) -> None:
        """Close the window."""
        if not self._exists:
            return
        self._exists = False
        try:
            cv2.destroyWindow(TITLE)
            cv2.pollKey()  # removes it from the screen
        except cv2.error:
            pass  # the user has closed it

    def _status(self, frame: Frame, rate: deque[int]) -> str:
        if not self.settings.status:
            return ""
        took_s = (rate[-1] - rate[0]) / 1e9
        fps = f"{(len(rate) - 1) / took_s:5.1f} fps  " if took_s > 0 else ""
        latency_ms = (time.monotonic_ns() - frame.captured_ns) / 1e6
        return f"{frame.stream}  {fps}{latency_ms:.0f} ms"

    def _serve(self, wait_ms: int = 0) -> None:
        """Show a new image, and answer keys and the close button."""
        now_s = time.monotonic()
        if self._image is not None and self._changed and now_s - self._shown_s >= 1 / SHOW_FPS:
            self._shown_s, self._changed = now_s, False
            self._show(self._image)
        if not self._exists:
            return
        # Not waitKey: it keeps the low byte only, which makes a Q of the left arrow (0xff51).
        key = cv2.waitKeyEx(wait_ms) if wait_ms else cv2.pollKey()
        key = key & 0xFFFF if key >= 0 else -1  # the bits above are Shift, NumLock and the like
        if key == PAUSE_KEY:
            self.paused = not self.paused
        if key in END_KEYS or not is_visible():
            self._over = True
            self.close()
            raise EndRun("the window was closed")

    def _show(self, image: NDArray[np.uint8]) -> None:
        if not self._exists:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_GUI_NORMAL)
            height, width = image.shape[:2]
            shrink = min(1.0, MAX_INITIAL_SIZE_PX[0] / width, MAX_INITIAL_SIZE_PX[1] / height)
            cv2.resizeWindow(TITLE, max(1, round(width * shrink)), max(1, round(height * shrink)))
            self._exists = True
        cv2.imshow(TITLE, image)


def is_visible() -> bool:
    """Return whether the window is open; OpenCV raises an error when the last one was closed."""
    try:
        return bool(cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0)
    except cv2.error:
        return False
