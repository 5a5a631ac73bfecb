"""Gathers detections, exactly as the stages before give them, for `run.py evaluate`.

One line of JSON per frame: {"stream", "frame", "file", "boxes", "scores", "classes", "ids"}. The
figures are worked out from the whole file by `models/evaluation/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.frame import Frame
from pipeline.stage import Context, Output, Resolved, Resources, Settings, Stage
from stages.detections import DETECTIONS, NO_TRACK_ID, Detections
from stages.sinks.files.events import printable
from stages.sinks.files.output_path import check_writable, expand_home
from stages.sinks.files.text_file import Mark, ResumableTextFile


class Scored(msgspec.Struct):
    """The detections of a frame; parallel lists."""

    stream: str
    frame: int
    """Number of the frame in its stream, from 0."""
    boxes: list[list[float]]
    """x1, y1, x2, y2 in pixels of the captured frame."""
    scores: list[float]
    classes: list[int]
    """Indices into the model's labels."""
    ids: list[int] | None = None
    """Track ids; null: none of them belongs to a track."""
    file: str = ""
    """Name of the image in its data set; empty for a frame of a clip."""


class ScoreSettings(Settings, frozen=True):
    """Settings of the sink that gathers detections."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """File to write. It is locked: two runs cannot write it."""

    def __post_init__(self) -> None:
        expand_home(self, path=self.path)


class Score(Stage):
    """Writes the detections of each frame; a crash neither loses nor repeats a line."""

    Settings = ScoreSettings
    takes = DETECTIONS
    ordered = True

    settings: ScoreSettings

    def __init__(self, settings: ScoreSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._file = ResumableTextFile(settings.path, lambda: self.beat(), context.log)
        self._encoder = msgspec.json.Encoder()
        self._marks: dict[str, Mark] = {}

    @classmethod
    def resolve(cls, settings: ScoreSettings) -> Resolved:
        """Check that the file can be written.

        Raises:
            SetupError: it cannot.
        """
        check_writable(settings.path)
        return Resolved()

    @classmethod
    def resources(cls, settings: ScoreSettings) -> Resources:
        """Declare the file."""
        return Resources(writes=(Output(Path(settings.path)),))

    def open(self) -> None:
        """Open and lock the file.

        Raises:
            SetupError: another run writes it.
        """
        self._file.open()

    def process(self, frame: Frame) -> None:
        """Write the line of a frame.

        Raises:
            RunError: the disk is full or lost.
        """
        self._file.write(self._encoder.encode(scored(frame)) + b"\n")
        self._marks[frame.stream] = self._file.mark

    def end(self, stream: str) -> None:
        """Empty the file of an earlier run, if the stream had no frame."""
        self._file.start()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def state(self, stream: str) -> bytes:
        """Return the position in the file after the stream's last line."""
        return msgspec.msgpack.encode(self._marks[stream]) if stream in self._marks else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Keep the lines up to that position."""
        if state:
            self._marks[stream] = msgspec.msgpack.decode(state, type=Mark)
            self._file.resume(self._marks[stream])


def scored(frame: Frame) -> Scored:
    """Return the detections of a frame, with the float32 values unchanged."""
    found = Detections.of(frame)
    ids = found.ids.tolist()
    return Scored(
        stream=frame.stream,
        frame=frame.seq,
        boxes=found.boxes.astype(float).tolist(),
        scores=found.scores.astype(float).tolist(),
        classes=found.classes.tolist(),
        ids=None if all(id == NO_TRACK_ID for id in ids) else ids,
        file=printable(frame.file),
    )
