"""Reading of video files with OpenCV.

OpenCV decodes; other facts come from the file's headers (`container.py`) and from its packets
(`packets.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from pipeline.context import Log
from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.graph.placement import usable_cores
from stages.capture.container import IDENTITY, Container, Orientation
from stages.capture.disk_file import DiskFile
from stages.capture.image_folder import IMAGES, ImageFolder
from stages.capture.opencv_video import Video, as_bgr
from stages.capture.packets import Packets, Section, stamp_of
from stages.capture.reader import FileReader
from stages.capture.source import SourceProblem
from stages.capture.source_clock import FileClock

DEFAULT_FPS = 25.0
SEEK_BEFORE_MS = 2000.0
"""Milliseconds before the wanted place at which a seek begins."""
MAX_LOST = 1000
"""Images that fail in a row after which a file counts as ended."""
AHEAD = 64
"""Packets that are read ahead of the decoder, which holds back 16 at most."""
SLACK = 8
"""Largest error of a count of images, where damaged ones are among them."""

DECODED = ("avc1", "avc3", "h264", "hev1", "hvc1", "hevc", "mp4v", "fmp4", "xvid", "mjpg", "vp09")
"""Codecs that OpenCV always decodes: a file that has one is wrong in another way."""

_TURNS: dict[Orientation, Callable[[Any], Any]] = {
    (-1, 0, 0, 1): lambda image: cv2.flip(image, 1),
    (1, 0, 0, -1): lambda image: cv2.flip(image, 0),
    (-1, 0, 0, -1): lambda image: cv2.rotate(image, cv2.ROTATE_180),
    (0, 1, -1, 0): lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    (0, -1, 1, 0): lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
    (0, 1, 1, 0): lambda image: cv2.transpose(image),
    (0, -1, -1, 0): lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
}
_ANGLES: dict[int, Orientation] = {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


class CodecError(SourceError):
    """The file is a video, and OpenCV does not decode its codec."""


class VideoFile(Video, FileReader):
    """A video file."""

    finite = True

    def __init__(self, path: Path, fps: float | None) -> None:
        """Open it.

        Args:
            path: path of the file.
            fps: images per second, if the file does not say.

        Raises:
            SourceError: it is not a video, or gives no image.
        """
        super().__init__()
        self._requested_fps = fps
        self._offset_ns = 0
        self._problem: SourceProblem = ("", "")
        self._section: Section | None = None
        self._file = DiskFile(path)
        self._container: Container = self._file.container
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        threads = 1 if usable_cores() <= 4 else 0
        self._capture = cv2.VideoCapture(
            str(self._file.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads]
        )
        if not self._capture.isOpened():
            raise self._open_error()
        # Only an image proves that it is a video.
        if not self._capture.grab():
            codec = self._codec()
            self._capture.release()
            raise _undecoded("opened, but no image can be decoded", codec)
        self._primed, self._rereads = True, False
        self._index = -1
        self._set_orientation()
        self._measure()
        self._set_clock()
        self._packets = Packets(self._file.path)

    def _open_error(self) -> SourceError:
        if self._container.codec and not self._container.missing:
            return _undecoded("cannot be read as a video", self._container.codec)
        if not self._container.lacks_index:
            return SourceError("cannot be read as a video", "unsupported")
        missing = f" ({self._container.missing})" if self._container.missing else ""
        return SourceError(
            f"the file is incomplete{missing}: its index (moov) is missing; it is still being "
            "recorded, or the recording was cut off",
            "unsupported",
        )

    def _set_clock(self) -> None:
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._stamped = self._container.has_clock or self._requested_fps is None
        self.fps = fps if self._stamped and 0 < fps < 1000 else self._requested_fps or 0.0
        if not self._stamped or not 0 < fps < 1000:
            fps = self._requested_fps or DEFAULT_FPS
        self._clock = FileClock(fps, self._container.joined)
        self._start_ms = stamp_of(self._capture)

    def _set_orientation(self) -> None:
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # it supports no mirroring
        orientation = self._container.orientation
        if orientation is None:
            angle = round(self._capture.get(cv2.CAP_PROP_ORIENTATION_META))
            orientation = _ANGLES.get(angle, IDENTITY)
        self._turn = _TURNS.get(orientation)

    # --- reading ---

    def grab(self) -> bool:
        """Go to the next image; False at the end."""
        self.lost = 0
        if self._rereads:
            self._rereads = False
            return True
        if self._primed:
            self._primed = False
        elif not self._advance():
            self._problem = self._problem if self._problem[0] else self._file.end_problem()
            return False
        self._index += 1 + self.lost
        if self._section is None and not self._follow_size():
            return False
        self.source_ns = self._offset_ns + self._time_ns()
        return True

    def _advance(self) -> bool:
        """Go to the next image that is not damaged; False at the end."""
        # OpenCV does not distinguish a damaged image from the end: only the end lasts.
        while not self._capture.grab():
            if self._section is None and self._is_at_change(self._index + 1 + self.lost):
                return self._decode_section()
            if self.lost >= MAX_LOST and (self._section is None or self._section.is_over):
                self.lost = 0
                return self._packets.change not in (None, self._change) and self._decode_section()
            self.lost += 1
        return True

    def _time_ns(self) -> int:
        """Return the time of the last image from the beginning of the file."""
        if self._section is not None:
            for _ in range(self.lost):
                self._section.stamp_ms()
        stamp_ms = self._stamp_ms()
        if stamp_ms is None:
            for _ in range(self.lost):
                self._clock.time_ns(None)
            return self._clock.time_ns(None)
        return self._clock.time_ns(self._stamp_from(stamp_ms))

    def _stamp_ms(self) -> float | None:
        if not self._stamped:
            return None
        return stamp_of(self._capture) if self._section is None else self._section.stamp_ms()

    def _stamp_from(self, stamp_ms: float) -> int:
        return round((stamp_ms - (self._start_ms or 0.0)) * 1e6)

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it cannot be decoded."""
        if self._turn is None:
            return super().retrieve(frame)
        try:
            done, image = self._capture.retrieve()
        except cv2.error:
            return False
        if not done or image is None:
            return False
        self._put(frame, self._turn(as_bgr(image)))
        return True

    # --- changes of size ---

    @property
    def _change(self) -> object:
        """The change of size at which the current section begins."""
        return None if self._section is None else self._section.change

    def _is_at_change(self, index: int) -> bool:
        return self._packets.change is not None and index >= self._packets.change.at

    def _follow_size(self) -> bool:
        """Follow a change of the size of the images; False: that is not possible."""
        self._packets.watch(self._index + AHEAD)
        change = self._packets.change
        if change is None or self._index < change.at - SLACK:
            return True
        if change.stamp_ms is None:
            return self._index < change.at or self._decode_section()
        if change.stamp_ms == stamp_of(self._capture):
            return self._decode_section()
        return self._index < change.at or self._refuse_size()

    def _decode_section(self) -> bool:
        """Go to the first image of another size."""
        if self._section is not None:
            self._section.close()
        self._capture.release()
        self._section = Section(self._packets)
        self._capture = self._section.capture
        if not self._capture.grab():
            return self._refuse_size()
        self._shape = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        return True

    def _refuse_size(self) -> bool:
        height, width = self._shape
        self._problem = (
            "unsupported",
            f"the size of the images changes from {width}x{height} at image {self._index}, "
            "which OpenCV cannot decode; convert the file to one size",
        )
        return False

    # --- going to other places ---

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, with the clock of so many more rounds in all."""
        round_ns = self.source_ns - self._offset_ns + round(self._clock.step_ns)
        self._offset_ns += rounds * round_ns
        self._release()
        self._open()

    def reread_last(self) -> None:
        """Make the next `grab` return the last image once more."""
        self._rereads = True

    def seek(self, count: int, source_ns: int) -> bool:
        """Skip the first so many images, if that is provably right; see `_seek`."""
        if self._seek(count, source_ns):
            return True
        self._release()
        self._open()
        return False

    def _seek(self, count: int, source_ns: int) -> bool:
        """Seek, and prove that the same images follow as when all are read.

        The timestamps of the packets, if they are unique, give the one that is displayed at this
        place. Its time must be the one before the crash; else the file is read from its beginning.
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

    def _stamps(self, limit: int) -> list[float]:
        """Return the timestamps of the first packets; [] if one lacks it or the size changes."""
        stamps: list[float] = []
        packets = self._packets
        while len(stamps) < limit and packets.grab() and packets.change is None:
            if packets.stamp_ms is None:
                return []
            stamps.append(packets.stamp_ms)
        return [] if packets.change is not None else stamps

    # --- the end ---

    def end_reason(self) -> SourceProblem:
        """Return why it ended too early; ("", ""): it did not."""
        if self._problem[0] or not self._container.missing:
            return self._problem
        return "closed", f"the file is truncated ({self._container.missing}); read to its end"

    def close(self) -> None:
        """Release it."""
        self._release()
        self._file.close()

    def _release(self) -> None:
        self._capture.release()
        if self._section is not None:
            self._section.close()
            self._section = None
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


def open_file(path: Path, fps: float | None, log: Log) -> FileReader:
    """Open a video file, an image, or a folder of images.

    Args:
        path: path of the file or folder.
        fps: images per second of a folder, or of a file that does not say; None: 10, and 25.
        log: for images that are skipped.

    Raises:
        SourceError: it cannot be read.
    """
    if path.is_dir() or path.suffix.lower() in IMAGES:
        return ImageFolder(path, fps, log)
    return VideoFile(path, fps)
