"""Reading video files with GStreamer: those whose codec OpenCV does not decode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.frame import Frame
from stages.capture.gstreamer import GStreamerVideo
from stages.capture.reader import Recorded
from stages.capture.source_clock import FileClock

if TYPE_CHECKING:
    from stages.capture.capture import CaptureSettings

DEFAULT_FPS = 25.0


class GStreamerFile(Recorded):
    """A video file."""

    finite = True

    def __init__(self, settings: CaptureSettings) -> None:
        """Open it.

        Raises:
            SetupError: GStreamer is not installed.
            SourceError: it cannot be opened, or gives no picture.
        """
        self._settings = settings
        self._offset_ns = 0
        self._repeated = False
        self.source_ns = -1
        self._open()

    def _open(self) -> None:
        self._video = GStreamerVideo(self._settings)
        self._clock = FileClock(self._settings.fps or DEFAULT_FPS, joined=False)
        self.decoder = self._video.decoder

    def grab(self) -> bool:
        """Go to the next picture; False at the end."""
        if self._repeated:
            self._repeated = False
            return True
        if not self._video.grab():
            return False
        self.decoder = self._video.decoder
        stamp_ns = self._video.source_ns
        time_ns = self._clock.time_ns(stamp_ns if stamp_ns >= 0 else None)
        self.source_ns = self._offset_ns + time_ns
        return True

    def retrieve(self, frame: Frame) -> bool:
        """Write the last picture into the frame; False: it cannot be read."""
        return self._video.retrieve(frame)

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, as if it had been played so many times in all since the last time."""
        round_ns = self.source_ns - self._offset_ns + round(self._clock.step_ns)
        self._offset_ns += rounds * round_ns
        self._video.close()
        self._open()

    def again(self) -> None:
        """Give the last picture once more."""
        self._repeated = True

    def seek(self, count: int, source_ns: int) -> bool:
        """No place in it is known without reading up to it."""
        return False

    def trouble(self) -> tuple[str, str]:
        """Kind and words of what ended it too early."""
        return self._video.trouble()

    def interrupt(self) -> None:
        """Have a `grab` that waits return."""
        self._video.interrupt()

    def close(self) -> None:
        """Let go of it."""
        self._video.close()
