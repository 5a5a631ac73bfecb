"""Gathers detections, exactly as the stages before give them, for `run.py evaluate`.

One line of JSON per frame: {"stream", "frame", "file", "boxes", "scores", "classes", "ids"}, and
"masks", "keypoints", "rotated", "labels" and "semantic" where a stage gives them. The figures are
worked out from the whole file by `models/evaluation/`.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame
from pipeline.stage import Context, Output, Resolved, Resources, Settings
from stages.details import FRAME_LABELS, FrameLabel, ObjectDetails, frame_labels_of
from stages.detections import DETECTIONS, NO_TRACK_ID, Detections
from stages.sinks.files.events import printable
from stages.sinks.files.json_lines import JsonLines
from stages.sinks.files.output_path import check_writable, expand_home


class Masks(msgspec.Struct, frozen=True):
    """The masks of the boxes of a frame, as COCO writes them."""

    size: tuple[int, int]
    """Height and width of the frame in pixels."""
    counts: list[str]
    """Runs of the whole frame, compressed, of each."""


class SemanticMap(msgspec.Struct, frozen=True):
    """The class of each cell of a grid over the whole frame."""

    size: tuple[int, int]
    """Rows and columns of the grid."""
    data: bytes
    """Its uint8 values, row by row, compressed with zlib."""

    @classmethod
    def of(cls, classes: NDArray[np.uint8]) -> SemanticMap:
        """Compress a map (h, w)."""
        rows, columns = classes.shape
        return cls((rows, columns), zlib.compress(classes.tobytes(), 1))

    def classes(self) -> NDArray[np.uint8]:
        """Return the map (h, w)."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.size)


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
    masks: Masks | msgspec.UnsetType = msgspec.UNSET
    keypoints: list[list[list[float]]] | msgspec.UnsetType = msgspec.UNSET
    """Of each box: x, y in pixels and score of each point."""
    rotated: list[list[float]] | msgspec.UnsetType = msgspec.UNSET
    """Of each box: cx, cy, w, h in pixels, angle in radians."""
    labels: list[FrameLabel] | msgspec.UnsetType = msgspec.UNSET
    """Classes of the whole frame, best first."""
    semantic: SemanticMap | msgspec.UnsetType = msgspec.UNSET


class ScoreSettings(Settings, frozen=True):
    """Settings of the sink that gathers detections."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """File to write. It is locked: two runs cannot write it."""

    def __post_init__(self) -> None:
        expand_home(self, path=self.path)


class Score(JsonLines):
    """Writes the detections of each frame; a crash neither loses nor repeats a line."""

    Settings = ScoreSettings
    # A graph that classifies whole frames, or their pixels, gives no boxes.
    takes = tuple(msgspec.structs.replace(array, optional=True) for array in DETECTIONS)

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
    line = Scored(frame.stream, frame.seq, [], [], [], file=printable(frame.file))
    if "boxes" in frame:
        _add_objects(line, frame)
    if FRAME_LABELS.name in frame:
        line.labels = frame_labels_of(frame)
    if "semantic_map" in frame:
        line.semantic = SemanticMap.of(frame["semantic_map"])
    return line


def _add_objects(line: Scored, frame: Frame) -> None:
    found, details = Detections.of(frame), ObjectDetails.of(frame)
    ids = found.ids.tolist()
    line.boxes = found.boxes.astype(float).tolist()
    line.scores = found.scores.astype(float).tolist()
    line.classes = found.classes.tolist()
    line.ids = None if all(id == NO_TRACK_ID for id in ids) else ids
    if details.masks is not None:
        counts = [text.decode("ascii") for text in details.masks]
        line.masks = Masks((frame.height, frame.width), counts)
    if details.keypoints is not None:
        line.keypoints = details.keypoints.astype(float).tolist()
    if details.rotated is not None:
        line.rotated = details.rotated.astype(float).tolist()
