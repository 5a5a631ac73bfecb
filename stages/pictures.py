"""What every way of reading a source has in common; `opencv.py` and `gstreamer.py` are two."""

from __future__ import annotations

from typing import Protocol

from pipeline.frame import Frame


class Pictures(Protocol):
    """An open source, one picture after the other. To make the object is to open the source.

    One thread uses it, but for `interrupt`. An object whose source has gone is closed and never
    used again: a new one is made.

    Raises, when made:
        SourceError: it cannot be opened, or gives no picture; its `kind` says why.
    """

    decoder: str
    """What decodes, as a person would say it: "FFmpeg", "GStreamer avdec_h264"."""
    source_ns: int
    """Time of the last picture by the source's own clock, from 0 at the first; -1: unknown."""
    ntp_ns: int
    """When the camera took the last picture by its wall clock (RTCP sender reports), nanoseconds
    since the Unix epoch; -1: it does not say."""

    def grab(self) -> bool:
        """Wait for the next picture and take it. False: there is none, see `trouble`.

        A source that gives nothing for its stall timeout is given up; a picture that was left
        over in a decoder meanwhile is not given as if it were new.
        """

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last picture into the frame as `image`; False: it cannot be decoded."""

    def trouble(self) -> tuple[str, str]:
        """Why `grab` gave False: the kind (see `Condition`), and words; ("", "") at an end that
        was to be expected."""

    def interrupt(self) -> None:
        """Have a `grab` that waits return soon, if that is possible; from any thread."""

    def close(self) -> None:
        """Let go of the source, its threads and descriptors."""
