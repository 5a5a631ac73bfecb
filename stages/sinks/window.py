"""The annotated window: all streams side by side, as they are worked on.

Space pauses, q and Esc end the run, and so does closing the window. A pause holds files where
they are. A live stream cannot be held: its picture stands still while the run goes on.
"""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EndRun, StageUnavailable
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved, Settings, Stage
from stages.detections import DETECTIONS, labels_of
from stages.drawing.annotator import Annotator

TITLE = "Eyeline"
SHOW_FPS = 60
"""Pictures that come faster than any screen shows them are not drawn."""
LARGEST = (1920, 1080)
"""Width and height that the tiles of several streams share, in pixels."""
LARGEST_AT_FIRST = (1280, 800)
"""Width and height of a new window, in pixels; a person may make it larger."""
END_KEYS = (ord("q"), ord("Q"), 27)
PAUSE_KEY = ord(" ")
RATE_FRAMES = 30
"""Frames over which the frame rate in the status line is taken."""


class WindowSettings(Settings, frozen=True):
    """Settings of the window."""

    status: bool = True
    """Show the stream's name, its frame rate, and its latency from capture to here."""


class Window(Stage):
    """Shows each frame, unless more come than a screen can show."""

    Settings = WindowSettings
    takes = (Array("image", "uint8", (None, None, 3)), *DETECTIONS)
    ordered = True

    settings: WindowSettings

    def __init__(self, settings: WindowSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._live = bool(context.live)
        self._annotator = Annotator(labels_of(context))
        self._tiles = Tiles(tuple(context.streams))
        self._captured_ns: dict[str, deque[int]] = {}
        self._drawn_s: dict[str, float] = {}
        self._picture: NDArray[np.uint8] | None = None
        self._changed = False
        self._shown_s = 0.0
        self._exists = False
        self._over = False
        self.paused = False

    @classmethod
    def resolve(cls, settings: WindowSettings) -> Resolved:
        """See that there is a display.

        Raises:
            StageUnavailable: there is none, or OpenCV cannot show windows.
        """
        problem = display_problem()
        if problem is not None:
            raise StageUnavailable(f"no window: {problem}")
        return Resolved()

    def open(self) -> None:
        """Keep Qt quiet; the window itself comes with the first picture, at its size."""
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")

    def info(self) -> Mapping[str, str]:
        """The keys."""
        return {"keys": "space pauses, q or Esc ends"}

    def process(self, frame: Frame) -> None:
        """Show a frame; in a pause of files, wait for its end.

        Raises:
            EndRun: the person at the window wants no more.
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
            self._picture = self._tiles.put(frame.stream, drawn)
            self._changed = True
        self._serve()

    def idle(self) -> None:
        """Keep the window alive between frames.

        Raises:
            EndRun: the person at the window wants no more.
        """
        if not self._over:
            self._serve()

    def end(self, stream: str) -> None:
        """Leave the last picture of a file where it is; a camera's place goes to the others."""
        if self._live:
            self._picture = self._tiles.forget(stream, self._picture)
            self._changed = True

    def close(self) -> None:
        """Close the window."""
        if not self._exists:
            return
        self._exists = False
        try:
            cv2.destroyWindow(TITLE)
            cv2.pollKey()  # only now it goes from the screen
        except cv2.error:
            pass  # it was closed by hand

    def _status(self, frame: Frame, rate: deque[int]) -> str:
        if not self.settings.status:
            return ""
        took_s = (rate[-1] - rate[0]) / 1e9
        fps = f"{(len(rate) - 1) / took_s:5.1f} fps  " if took_s > 0 else ""
        latency_ms = (time.monotonic_ns() - frame.captured_ns) / 1e6
        return f"{frame.stream}  {fps}{latency_ms:.0f} ms"

    def _serve(self, wait_ms: int = 0) -> None:
        """Show what is new and answer keys and the close button."""
        now_s = time.monotonic()
        if self._picture is not None and self._changed and now_s - self._shown_s >= 1 / SHOW_FPS:
            self._shown_s, self._changed = now_s, False
            self._show(self._picture)
        if not self._exists:
            return
        # Not waitKey: it keeps the low byte only, which makes a Q of the left arrow (0xff51).
        key = cv2.waitKeyEx(wait_ms) if wait_ms else cv2.pollKey()
        key = key & 0xFFFF if key >= 0 else -1  # above are Shift, NumLock and their like
        if key == PAUSE_KEY:
            self.paused = not self.paused
        if key in END_KEYS or not is_visible():
            self._over = True
            self.close()
            raise EndRun("the window was closed")

    def _show(self, picture: NDArray[np.uint8]) -> None:
        if not self._exists:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_GUI_NORMAL)
            height, width = picture.shape[:2]
            shrink = min(1.0, LARGEST_AT_FIRST[0] / width, LARGEST_AT_FIRST[1] / height)
            cv2.resizeWindow(TITLE, max(1, round(width * shrink)), max(1, round(height * shrink)))
            self._exists = True
        cv2.imshow(TITLE, picture)


class Tiles:
    """One picture made of the pictures of all streams, in rows of equal tiles.

    Args:
        streams: their names, in the order of the tiles.
    """

    def __init__(self, streams: tuple[str, ...]) -> None:
        self._whole: NDArray[np.uint8] | None = None
        self._tile = (0, 0)
        self._lay_out(streams)

    def _lay_out(self, streams: Sequence[str]) -> None:
        self._streams = {stream: index for index, stream in enumerate(streams)}
        self._columns = math.ceil(math.sqrt(max(1, len(streams))))
        self._rows = math.ceil(max(1, len(streams)) / self._columns)

    def _change(self, streams: Sequence[str]) -> None:
        """Lay out anew, and keep the pictures that there are."""
        shown = {}
        if self._whole is not None:
            shown = {of: self._whole[self._area(of)].copy() for of in self._streams}
        self._whole = None
        self._lay_out(streams)
        for stream, picture in shown.items():
            if stream in self._streams:
                self.put(stream, picture)

    def _area(self, stream: str) -> tuple[slice, slice]:
        row, column = divmod(self._streams[stream], self._columns)
        width, height = self._tile
        return (
            slice(row * height, (row + 1) * height),
            slice(column * width, (column + 1) * width),
        )

    def forget(self, stream: str, shown: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Give the place of a stream that has ended to the others, if there are any.

        Args:
            stream: one of the names.
            shown: (H, W, 3) uint8, the picture that is on the screen; None: none yet.

        Returns:
            (H, W, 3) uint8, what to show now.
        """
        if stream not in self._streams or len(self._streams) < 2:
            return shown
        self._change([other for other in self._streams if other != stream])
        return shown if self._whole is None else self._whole

    def put(self, stream: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Put the newest picture of a stream into its tile.

        The first picture sets the shape of the tiles; others are fitted in with black edges.

        Args:
            stream: one of the names, or that of a stream that was added since.
            picture: (H, W, 3) uint8.

        Returns:
            (H, W, 3) uint8, the same array at every call; of a single stream, its own picture.
        """
        if stream not in self._streams:
            self._change([*self._streams, stream])
        if len(self._streams) < 2:
            return picture
        height, width = picture.shape[:2]
        if self._whole is None:
            shrink = min(1.0, LARGEST[0] / self._columns / width, LARGEST[1] / self._rows / height)
            self._tile = max(1, round(width * shrink)), max(1, round(height * shrink))
            shape = self._rows * self._tile[1], self._columns * self._tile[0], 3
            self._whole = np.zeros(shape, np.uint8)
        tile_width, tile_height = self._tile
        tile = self._whole[self._area(stream)]
        scale = min(tile_width / width, tile_height / height)
        fitted = (
            min(tile_width, max(1, round(width * scale))),
            min(tile_height, max(1, round(height * scale))),
        )
        if fitted != self._tile:
            tile[...] = 0
        top, left = (tile_height - fitted[1]) // 2, (tile_width - fitted[0]) // 2
        tile[top : top + fitted[1], left : left + fitted[0]] = cv2.resize(picture, fitted)
        return self._whole


def is_visible() -> bool:
    """Whether the window is there; OpenCV's answer where it was the last one is an error."""
    try:
        return bool(cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) > 0)
    except cv2.error:
        return False


def display_problem() -> str | None:
    """Why no window can be shown here, with the way out; None where one can.

    To be asked before a window is opened: Qt, which OpenCV shows windows with on Linux, ends the
    whole process where it finds no display.
    """
    toolkit = window_toolkit(cv2.getBuildInformation())
    if toolkit == "NONE":
        return "this OpenCV is built without windows; install opencv-python, not the headless one"
    if not sys.platform.startswith("linux"):
        return None
    display = os.environ.get("DISPLAY", "")
    if not display:
        if os.environ.get("WAYLAND_DISPLAY"):
            return "DISPLAY is not set; OpenCV needs Xwayland to show windows on Wayland"
        return "no display (DISPLAY is not set)"
    if toolkit.startswith("QT") and os.environ.get("QT_QPA_PLATFORM", "xcb") != "xcb":
        return f"QT_QPA_PLATFORM is {os.environ['QT_QPA_PLATFORM']!r}; OpenCV brings only 'xcb'"
    for library in ("libSM.so.6", "libICE.so.6", "libXext.so.6", "libX11.so.6"):
        try:
            x11 = ctypes.CDLL(library)
        except OSError:
            return f"{library} is missing; install it (Debian: apt-get install libsm6 libxext6)"
    if not display_answers(display, x11):
        return f"no answer from the display {display!r} (DISPLAY)"
    return None


def display_answers(display: str, x11: ctypes.CDLL) -> bool:
    """Whether an X server can be reached and lets us in."""
    host, _, number = display.rpartition(":")
    if host and host != "unix" and not host.startswith("/"):
        # Xlib would try an unreachable host for minutes.
        try:
            port = 6000 + int(number.partition(".")[0])
            socket.create_connection((host, port), timeout=2).close()
        except (OSError, ValueError):
            return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XOpenDisplay.argtypes = [ctypes.c_char_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(display.encode())
    if connection is None:
        return False
    x11.XCloseDisplay(connection)
    return True


def window_toolkit(build_information: str) -> str:
    """What OpenCV shows windows with: "QT5", "GTK3", "WIN32UI", "COCOA", or "NONE"."""
    for line in build_information.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "GUI":
            return value.strip().upper() or "NONE"
    return "NONE"
