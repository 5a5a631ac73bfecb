"""Interface of all readers of a source, and the filling of a frame from one."""

from __future__ import annotations

from typing import Protocol

from pipeline.frame import Frame
from stages.capture.source import SourceProblem


class Reader(Protocol):
    """An open source, one image after the other. Making the object opens the source.

    A class for live sources is made with one argument, the stream's `CaptureSettings`. Making it
    takes 5 s at most, or 15 s where a host has answered but sends no image yet. One thread uses
    the object, except for `interrupt`. An object whose source is gone is closed and never used
    again: a new one is made.

    Raises, when made:
        SourceError: the source cannot be opened, or gives no image; its `kind` says why, and its
            text does not name the source: the caller puts the name in front.
    """

    decoder: str
    """Name of the decoder for people: "OpenCV FFmpeg h264", "GStreamer avdec_h264"."""
    source_ns: int
    """Time of the last image by the source's own clock, from 0 at the first, in nanoseconds; -1:
    unknown."""
    ntp_ns: int = -1
    """Wall clock of the camera at the last image (RTCP sender reports), nanoseconds since the Unix
    epoch; -1: unknown."""
    fps: float = 0.0
    """Images per second that the source declares; 0: unknown."""
    finite: bool = False
    """Whether the source has an end of its own, as a file has (also one behind an address): then,
    played live, it is played at its own pace, and not opened again when it has ended."""
    file: str = ""
    """Name of the last image's file in its folder; "" where an image has no file of its own."""
    still: bool = False
    """Whether the images are unrelated to each other: not the frames of a video."""
    lost: int = 0
    """Damaged images that the last `grab` skipped."""
    skipped: int = 0
    """Good images that the last `grab` skipped because a newer one had come."""
    rate_known: bool = True
    """Whether the clock is one that a camera or a container keeps. False: the library that reads
    the source may have invented it; it is compared with ours before it is trusted."""
    untimed: bool = False
    """Whether neither the source nor the settings say when images were taken."""
    silence_hint: str = ""
    """Advice that follows "no image within ... s"."""

    def grab(self) -> bool:
        """Wait for the next image and take it; False: there is none, see `end_reason`.

        Returns False after the stall timeout of the source. An image that was left over in a
        decoder meanwhile is not returned as if it were new.
        """

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame as `image`; False: it cannot be decoded."""

    def end_reason(self) -> SourceProblem:
        """Return why `grab` returned False; ("", ""): an expected end, or it did not."""

    def interrupt(self) -> None:
        """Make a waiting `grab` return soon, if that is possible.

        For any thread, also after `close`. The object is of no use afterwards.
        """

    def close(self) -> None:
        """Release the source, its threads and descriptors. May be called twice."""


class FileReader(Reader, Protocol):
    """A file, or a folder of images: can be read again, and from any place."""

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, with the clock of so many more rounds in all."""

    def reread_last(self) -> None:
        """Make the next `grab` return the last image once more."""

    def seek(self, count: int, source_ns: int) -> bool:
        """Skip the first so many images, if that is provably right without reading them all.

        Args:
            count: how many.
            source_ns: time of the last of them that became a frame.

        Returns:
            False: it is not, and the source is at its beginning.
        """


def fill_frame(
    frame: Frame, reader: Reader, captured_ns: int, wall_ns: int, source_ns: int
) -> bool:
    """Put the last image of a reader and its times into a frame.

    Args:
        frame: that was lent.
        reader: whose last image is wanted.
        captured_ns: arrival of the image, monotonic clock.
        wall_ns: the same, nanoseconds since the Unix epoch.
        source_ns: time of the image by the stream's clock.

    Returns:
        False: the image cannot be decoded.

    Raises:
        SlotFullError: it does not fit into the slot.
    """
    header = frame.header
    header.captured_ns, header.wall_ns, header.source_ns = captured_ns, wall_ns, source_ns
    header.ntp_ns = reader.ntp_ns
    header.fps = reader.fps
    header.used = 0
    header.arrays.clear()
    header.still = reader.still
    if not reader.retrieve(frame):
        return False
    if reader.file:
        frame.put_file(reader.file)
    return True
