"""Events: one line of JSON per frame, all streams in one file.

{"stream": "demo", "frame": 17, "time_s": 1.7, "captured_at": "2026-11-21T08:00:00.123Z",
 "objects": [{"id": 3, "label": "person", "class": 0, "score": 0.91, "box": [x1, y1, x2, y2]}]}

If the source is an image or a folder of images, "file" follows "frame". Models of other tasks
add "labels" and "semantic" to the line, and "attributes", "mask", "keypoints" and "rotated" to an
object.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.frame import Frame
from pipeline.stage import Context, Output, Resolved, Resources, Settings
from stages.details import FrameLabel, SemanticCounts, frame_labels_of, semantic_of
from stages.detections import Object, labels_of, objects_of
from stages.sinks.files.json_lines import JsonLines
from stages.sinks.files.output_path import check_writable, expand_home, is_standard_output


class Event(msgspec.Struct, kw_only=True):
    """One line of the file."""

    stream: str
    frame: int
    """Number of the frame in its stream, from 0."""
    file: str | msgspec.UnsetType = msgspec.UNSET
    """Name of the image in its folder; left out if the source is no image."""
    time_s: float
    """Seconds into the stream."""
    captured_at: str
    """Wall-clock time of capture, ISO 8601, UTC, milliseconds."""
    labels: list[FrameLabel] | msgspec.UnsetType = msgspec.UNSET
    """Classes of the whole frame, best first; left out where no stage gives any."""
    semantic: SemanticCounts | msgspec.UnsetType = msgspec.UNSET
    """Pixels of each class; left out where no stage counts them."""
    objects: list[Object]


class EventsSettings(Settings, frozen=True):
    """Settings of the events sink."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """File to write; '-' is standard output. Starts empty, may be rotated, and is locked: two
    runs cannot write one file."""

    def __post_init__(self) -> None:
        expand_home(self, path=self.path)


class Events(JsonLines):
    """Writes one line per frame, in order per stream.

    Lines are written immediately, so that a reader can follow the file. A crash neither loses nor
    repeats a line in a file; on standard output a line may occur twice.
    """

    Settings = EventsSettings

    settings: EventsSettings

    def __init__(self, settings: EventsSettings, context: Context) -> None:
        super().__init__(settings, context, settings.path)
        self._labels = labels_of(context)

    @classmethod
    def resolve(cls, settings: EventsSettings) -> Resolved:
        """Check that the file can be written.

        Raises:
            SetupError: it cannot.
        """
        if not is_standard_output(settings.path):
            check_writable(settings.path)
        return Resolved()

    @classmethod
    def resources(cls, settings: EventsSettings) -> Resources:
        """Declare the file, unless that is standard output."""
        if is_standard_output(settings.path):
            return Resources()
        return Resources(writes=(Output(Path(settings.path)),))

    def line_of(self, frame: Frame) -> Event:
        """Return the line of a frame."""
        return event_of(frame, self._labels)

    def reopen(self) -> None:
        """Continue in the file that has the name now."""
        self._file.follow()


def event_of(frame: Frame, labels: Sequence[str], with_masks: bool = True) -> Event:
    """Return the line of a frame.

    Args:
        frame: a frame with the arrays of `RESULTS`.
        labels: names of the model's classes, by number.
        with_masks: False leaves out the masks, which are most of the text.
    """
    return Event(
        stream=frame.stream,
        frame=frame.seq,
        file=printable(frame.file) if frame.file else msgspec.UNSET,
        time_s=round(frame.time_s, 6),
        captured_at=utc_ms(frame.wall_ns),
        labels=frame_labels_of(frame) or msgspec.UNSET,
        semantic=semantic_of(frame) or msgspec.UNSET,
        objects=objects_of(frame, labels, with_masks),
    )


def printable(name: str) -> str:
    """Return the name of a file, which may be any bytes, as text that can be encoded."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def utc_ms(unix_ns: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds, truncated and not rounded."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1_000_000:03d}Z"
