"""Gathers detections, exactly as the stages before give them, for `run.py evaluate`.

One line of JSON per frame: {"stream", "frame", "file", "boxes", "scores", "classes", "ids"}. The
figures are worked out from the whole file by `models/evaluation/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.frame import Frame
from pipeline.stage import Context, Output, Resolved, Resources, Settings
from stages.detections import NO_TRACK_ID, Detections
from stages.sinks.files.events import printable
from stages.sinks.files.json_lines import JsonLines
from stages.sinks.files.output_path import check_writable, expand_home


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


class Score(JsonLines):
    """Writes the detections of each frame; a crash neither loses nor repeats a line."""

    Settings = ScoreSettings

    settings: ScoreSettings

    def __init__(self, settings: ScoreSettings, context: Context) -> None:
        super().__init__(settings, context, settings.path)

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

    def line_of(self, frame: Frame) -> Scored:
        """Return the line of a frame."""
        return scored(frame)


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
