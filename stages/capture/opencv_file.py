"""Reading video files with OpenCV.

OpenCV decodes; what it does not say comes from the file's headers (`container.py`) and from its
coded pictures (`packets.py`).
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.graph.placement import usable_cores
from stages.capture.container import IDENTITY, Orientation, look_at
from stages.capture.image_folder import IMAGES, ImageFolder
from stages.capture.opencv_video import Video, as_bgr
from stages.capture.packets import Packets, Rest, stamp_of
from stages.capture.reader import Recorded
from stages.capture.source_clock import FileClock

DEFAULT_FPS = 25.0
SEEK_BEFORE_MS = 2000.0
MAX_LOST = 1000
"""Pictures that fail in a row after which a file counts as ended."""
AHEAD = 64
"""Coded pictures that are looked at before they are decoded; decoders hold back 16 at most."""
SLACK = 8
"""How far a count of pictures may be off, where damaged ones are among them."""

DECODED = ("avc1", "avc3", "h264", "hev1", "hvc1", "hevc", "mp4v", "fmp4", "xvid", "mjpg", "vp09")
"""Codecs that OpenCV decodes for certain: of a file that has one, something else is wrong."""

_TURNS: dict[Orientation, Callable[[Any], Any]] = {
    (-1, 0, 0, 1): lambda picture: cv2.flip(picture, 1),
    (1, 0, 0, -1): lambda picture: cv2.flip(picture, 0),
    (-1, 0, 0, -1): lambda picture: cv2.rotate(picture, cv2.ROTATE_180),
    (0, 1, -1, 0): lambda picture: cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE),
    (0, -1, 1, 0): lambda picture: cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE),
    (0, 1, 1, 0): lambda picture: cv2.transpose(picture),
    (0, -1, -1, 0): lambda picture: cv2.rotate(cv2.transpose(picture), cv2.ROTATE_180),
}
_ANGLES: dict[int, Orientation] = {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


class CodecError(SourceError):
    """The file is a video, and OpenCV does not decode its codec."""


class VideoFile(Video, Recorded):
    """A video file."""

    finite = True

    def __init__(self, path: Path, fps: float | None) -> None:
        """Open it.

        Args:
            path: of the file.
            fps: pictures per second, if the file does not say.

        Raises:
            SourceError: it is no video, or gives no picture.
        """
        self._path, self._asked_fps = path.absolute(), fps  # FFmpeg takes 12:30.avi for a protocol
        self.source_ns = -1
        self._offset_ns = 0
        self._trouble = ("", "")
        self._rest: Rest | None = None
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)  # whatever becomes of its name
        self._close_fd = weakref.finalize(self, os.close, self._fd)
        self._size = os.fstat(self._fd).st_size
        with open(self._fd, "rb", closefd=False) as file:
            self._container = look_at(file)
        try:
            self._open()
        except BaseException:
            self._close_fd()
            raise

    def _open(self) -> None:
        threads = 1 if usable_cores() <= 4 else 0
        self._capture = cv2.VideoCapture(
            str(self._path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads]
        )
        if not self._capture.isOpened():
            raise self._why_not()
        # The first picture is the proof that it is one.
        if not self._capture.grab():
            codec = self._codec()
            self._capture.release()
            raise _undecoded("opened, but gives no picture", codec)
        self._primed, self._repeated = True, False
        self._index = -1
        self._set_orientation()
        self._measure()
        self._set_clock()
        self._packets = Packets(self._path)

    def _why_not(self) -> SourceError:
        if self._container.codec and not self._container.missing:
            return _undecoded("cannot be read as a video", self._container.codec)
        if not self._container.lacks_index:
            return SourceError("cannot be read as a video", "unsupported")
        missing = f" ({self._container.missing})" if self._container.missing else ""
        return SourceError(
            f"the file is incomplete{missing}: its index (moov) is missing; it is still being "
            "recorded, or its recording was cut off",
            "unsupported",
        )

    def _set_clock(self) -> None:
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._stamped = self._container.has_clock or self._asked_fps is None
        self.fps = fps if self._stamped and 0 < fps < 1000 else self._asked_fps or 0.0
        if not self._stamped or not 0 < fps < 1000:
            fps = self._asked_fps or DEFAULT_FPS
        self._clock = FileClock(fps, self._container.joined)
        self._start_ms = stamp_of(self._capture)

    def _set_orientation(self) -> None:
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it knows no mirrored pictures
        orientation = self._container.orientation
        if orientation is None:
            angle = round(self._capture.get(cv2.CAP_PROP_ORIENTATION_META))
            orientation = _ANGLES.get(angle, IDENTITY)
        self._turn = _TURNS.get(orientation)

    # --- reading ---

    def grab(self) -> bool:
        """Go to the next picture; False at the end."""
        self.lost = 0
        if self._repeated:
            self._repeated = False
            return True
        if self._primed:
            self._primed = False
        elif not self._advance():
            self._trouble = self._trouble if self._trouble[0] else self._end()
            return False
        self._index += 1 + self.lost
        if self._rest is None and not self._follow_size():
            return False
        self.source_ns = self._offset_ns + self._time_ns()
        return True

    def _advance(self) -> bool:
        """Decode the next picture, past damaged ones; False at the end."""
        # OpenCV says the same of a damaged picture and of the end: only the end lasts.
        while not self._capture.grab():
            if self._rest is None and self._is_at_change(self._index + 1 + self.lost):
                return self._decode_rest()
            if self.lost >= MAX_LOST and (self._rest is None or self._rest.is_over):
                self.lost = 0
                return self._packets.change not in (None, self._change) and self._decode_rest()
            self.lost += 1
        return True

    def _time_ns(self) -> int:
        """The time of the last picture from the beginning of the file."""
        if self._rest is not None:
            for _ in range(self.lost):
                self._rest.stamp_ms()
        stamp_ms = self._stamp_ms()
        if stamp_ms is None:
            for _ in range(self.lost):
                self._clock.time_ns(None)
            return self._clock.time_ns(None)
        return self._clock.time_ns(self._stamp_from(stamp_ms))

    def _stamp_ms(self) -> float | None:
        if not self._stamped:
            return None
        return stamp_of(self._capture) if self._rest is None else self._rest.stamp_ms()

    def _stamp_from(self, stamp_ms: float) -> int:
        return round((stamp_ms - (self._start_ms or 0.0)) * 1e6)

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last picture into the frame; False: it cannot be decoded."""
        if self._turn is None:
            return super().retrieve(frame)
        try:
            done, picture = self._capture.retrieve()
        except cv2.error:
            return False
        if not done or picture is None:
            return False
        self._put(frame, self._turn(as_bgr(picture)))
        return True

    # --- changes of size ---

    @property
    def _change(self) -> object:
        """The change of size that the pictures of now come from."""
        return None if self._rest is None else self._rest.change

    def _is_at_change(self, index: int) -> bool:
        return self._packets.change is not None and index >= self._packets.change.at

    def _follow_size(self) -> bool:
        """See whether the picture has the size of those before; False: that cannot be followed."""
        self._packets.watch(self._index + AHEAD)
        change = self._packets.change
        if change is None or self._index < change.at - SLACK:
            return True
        if change.stamp_ms is None:
            return self._index < change.at or self._decode_rest()
        if change.stamp_ms == stamp_of(self._capture):
            return self._decode_rest()
        return self._index < change.at or self._refuse_size()

    def _decode_rest(self) -> bool:
        """Go to the first picture of another size."""
        if self._rest is not None:
            self._rest.close()
        self._capture.release()
        self._rest = Rest(self._packets)
        self._capture = self._rest.capture
        if not self._capture.grab():
            return self._refuse_size()
        self._shape = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        return True

    def _refuse_size(self) -> bool:
        height, width = self._shape
        self._trouble = (
            "unsupported",
            f"the size of its pictures, {width}x{height}, changes at picture {self._index}, "
            "which OpenCV cannot follow; convert the file to one size",
        )
        return False

    # --- going to other places ---

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, as if it had been played so many times in all since the last time."""
        round_ns = self.source_ns - self._offset_ns + round(self._clock.step_ns)
        self._offset_ns += rounds * round_ns
        self._release()
        self._open()

    def again(self) -> None:
        """Give the last picture once more."""
        self._repeated = True

    def seek(self, count: int, source_ns: int) -> bool:
        """Go on behind the first so many pictures; see `_sought`."""
        if self._sought(count, source_ns):
            return True
        self._release()
        self._open()
        return False

    def _sought(self, count: int, source_ns: int) -> bool:
        """Seek, and prove that what follows is what follows when all is read.

        The stamps of the coded pictures, each of which is there once, give the one that is shown
        at this place. Its time must be the one of before the crash; any doubt, and the file is
        read from its beginning instead.
        """
        stamps = self._stamps(count + AHEAD)
        if len(stamps) < count or len(set(stamps)) < len(stamps) or self._start_ms is None:
            return False
        shown = sorted(stamps)[:count]
        shown[0] = self._start_ms
        times = [self._clock.time_ns(self._stamp_from(stamp_ms)) for stamp_ms in shown]
        if times[-1] != source_ns:
            return False
        self._capture.set(cv2.CAP_PROP_POS_MSEC, max(0.0, shown[-1] - SEEK_BEFORE_MS))
        passed: list[float | None] = []
        while self._capture.grab():
            passed.append(stamp_of(self._capture))
            if passed[-1] is None or passed[-1] >= shown[-1]:
                break
        self._primed, self._index, self.source_ns = False, count - 1, source_ns
        return len(passed) > SLACK and passed == shown[-len(passed) :]

    def _stamps(self, most: int) -> list[float]:
        """The stamps of the first coded pictures, as far as all have one and one size."""
        stamps: list[float] = []
        packets = self._packets
        while len(stamps) < most and packets.grab() and packets.change is None:
            if packets.stamp_ms is None:
                return []
            stamps.append(packets.stamp_ms)
        return [] if packets.change is not None else stamps

    # --- the end ---

    def trouble(self) -> tuple[str, str]:
        """Kind and words of what ended it too early."""
        if self._trouble[0] or not self._container.missing:
            return self._trouble
        return "closed", f"the file is truncated ({self._container.missing}); read to its end"

    def _end(self) -> tuple[str, str]:
        """Why the file ends here, if it should not; else ("", "")."""
        size = os.fstat(self._fd).st_size
        if size < self._size:
            missing = f"{size} of {self._size} bytes"
            return "closed", f"the file was truncated while it was read ({missing} are left)"
        if size > self._size:
            grown = f"from {self._size} to {size} bytes"
            return "closed", f"the file grew while it was read ({grown}); read to the end it had"
        broken = self._read_error()
        return ("failed", f"the file cannot be read to its end: {broken}") if broken else ("", "")

    def _read_error(self) -> str:
        """Why the file system gives no more of the file where FFmpeg has stopped; "": it does."""
        own = os.fstat(self._fd)
        with contextlib.suppress(FileNotFoundError):  # no /proc: nothing is known
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(OSError):
                    if not os.path.samestat(own, os.stat(f"/proc/self/fd/{name}")):
                        continue
                    info = Path(f"/proc/self/fdinfo/{name}").read_text()
                    at = int(info.partition("pos:")[2].split()[0])
                    try:
                        os.pread(self._fd, 1, at)
                    except OSError as error:
                        return error.strerror or str(error)
        return ""

    def close(self) -> None:
        """Let go of it."""
        self._release()
        self._close_fd()

    def _release(self) -> None:
        self._capture.release()
        if self._rest is not None:
            self._rest.close()
            self._rest = None
        self._packets.close()


def _undecoded(how: str, codec: str) -> SourceError:
    if not codec or codec.lower() in DECODED:
        return SourceError(how, "unsupported")
    name = {"av01": "AV1 (av01)"}.get(codec.lower(), codec)
    return CodecError(
        f"{how}: OpenCV does not decode its codec, {name}; convert the file to H.264, or install "
        "GStreamer (`make gstreamer`)",
        "unsupported",
    )


def open_recorded(path: Path, fps: float | None) -> Recorded:
    """Open a video file, an image, or a folder of images.

    Args:
        path: where it is.
        fps: pictures per second of images, or of a file that does not say; None: 10, and 25.

    Raises:
        SourceError: it cannot be read.
    """
    if path.is_dir() or path.suffix.lower() in IMAGES:
        return ImageFolder(path, fps)
    return VideoFile(path, fps)
