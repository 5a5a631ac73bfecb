"""Reading video files with GStreamer: those whose codec OpenCV does not decode."""

from __future__ import annotations

from pipeline.frame import Frame
from stages.capture.gstreamer import GStreamerVideo
from stages.capture.reader import FileReader
from stages.capture.settings import CaptureSettings
from stages.capture.source import SourceProblem
from stages.capture.source_clock import FileClock

DEFAULT_FPS = 25.0


class GStreamerFile(FileReader):
    """A video file."""

    finite = True

    def __init__(self, settings: CaptureSettings) -> None:
        """Open it.

        Raises:
            SetupError: GStreamer is not installed.
            SourceError: it cannot be opened, or gives no image.
        """
        self._settings = settings
        self._offset_ns = 0
        self._rereads = False
        self.source_ns = -1
        self._video, self._clock = self._open()
        self.decoder = self._video.decoder

    def _open(self) -> tuple[GStreamerVideo, FileClock]:
        clock = FileClock(self._settings.fps or DEFAULT_FPS, joined=False)
        return GStreamerVideo(self._settings), clock

    def grab(self) -> bool:
        """Go to the next image; False at the end."""
        if self._rereads:
            self._rereads = False
            return True
        if not self._video.grab():
            return False
        self.decoder = self._video.decoder
        stamp_ns = self._video.source_ns
        time_ns = self._clock.time_ns(stamp_ns if stamp_ns >= 0 else None)
        self.source_ns = self._offset_ns + time_ns
        return True

    def retrieve(self, frame: Frame) -> bool:
        """Write the last image into the frame; False: it cannot be read."""
        return self._video.retrieve(frame)

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, with the clock of so many more rounds in all."""
        round_ns = self.source_ns - self._offset_ns + round(self._clock.step_ns)
        self._offset_ns += rounds * round_ns
        self._video.close()
        self._video, self._clock = self._open()
        self.decoder = self._video.decoder

    def reread_last(self) -> None:
        """Make the next `grab` return the last image once more."""
        self._rereads = True

    def seek(self, count: int, source_ns: int) -> bool:
        """Return False: no place in the file is known without reading up to it."""
        return False

    def end_reason(self) -> SourceProblem:
        """Return why it ended too early; ("", ""): it did not."""
        return self._video.end_reason()

    def interrupt(self) -> None:
        """Make a waiting `grab` return."""
        self._video.interrupt()

    def close(self) -> None:
        """Release it."""
        self._video.close()
