"""What every way of reading a source has in common; `opencv.py` and `gstreamer.py` are two."""

from __future__ import annotations

from typing import Protocol

from pipeline.frame import Frame


class Pictures(Protocol):
    """An open source, one picture after the other. To make the object is to open the source.

    A class for live sources is made with one argument, the stream's `CaptureSettings`, and lets
    making it take 5 s at most, or 15 s where a host has answered but sends no picture yet. One
    thread uses the object, but for `interrupt`. An object whose source has gone is closed and never
    used again: a new one is made.

    Raises, when made:
        SourceError: it cannot be opened, or gives no picture; its `kind` says why, and its text
            does not name the source: the caller puts the name in front.
    """

    decoder: str
    """What decodes, as a person would say it: "FFmpeg", "GStreamer avdec_h264"."""
    source_ns: int
    """Time of the last picture by the source's own clock, from 0 at the first; -1: unknown."""
    ntp_ns: int = -1
    """When the camera took the last picture by its wall clock (RTCP sender reports), nanoseconds
    since the Unix epoch; -1: it does not say."""
    fps: float = 0.0
    """Pictures per second that the source declares; 0: it does not say."""
    finite: bool = False
    """Has an end of its own, as a file has (also one behind an address): then, played live, it is
    played at its own pace, and it is not opened again when it has ended."""
    file: str = ""
    """Name of the last picture's file in its folder; "" where a picture has no file of its own."""
    still: bool = False
    """The pictures are unrelated to each other: they are not the frames of a film."""
    lost: int = 0
    """Pictures passed over by the last `grab` because they are damaged."""
    rate_known: bool = True
    """Its clock is one that a camera or a container keeps. False: nothing says so, and it may be
    invented by the library that reads it; it is compared with ours before it is believed."""
    silence_hint: str = ""
    """Words behind "no picture has come within ... s" that say what to look for."""
    skipped: int = 0
    """Pictures that had come before the one that the last `grab` took, which is the newest."""

    def grab(self) -> bool:
        """Wait for the next picture and take it. False: there is none, see `trouble`.

        A source that gives nothing for its stall timeout is given up; a picture that was left
        over in a decoder meanwhile is not given as if it were new.
        """

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last picture into the frame as `image`; False: it cannot be decoded."""

    def trouble(self) -> tuple[str, str]:
        """Why `grab` gave False: the kind (see `SourceState`), and words that do not name the
        source; ("", "") at an end that was to be expected, or when it has not given False."""

    def interrupt(self) -> None:
        """Have a `grab` that waits return soon, if that is possible; from any thread, also after
        `close`. The object is of no use afterwards."""

    def close(self) -> None:
        """Let go of the source, its threads and descriptors. May be called twice."""


class Recorded(Pictures, Protocol):
    """A file, or a folder of images: can be begun again, and gone through from any place."""

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, as if it had been played so many times in all since the last time."""

    def again(self) -> None:
        """Give the last picture once more."""

    def seek(self, count: int, source_ns: int) -> bool:
        """Go on behind the first so many pictures, if that can be proven without reading them all.

        Args:
            count: how many.
            source_ns: time of the last one of them that became a frame.

        Returns:
            False: it cannot, and the source is at its beginning.
        """
