"""Sinks without an output: to end a graph, and to measure it without the cost of an output."""

from __future__ import annotations

from pipeline.frame import Frame
from pipeline.stage import Array, Stage
from stages.detections import RESULTS
from stages.drawing.annotator import annotator_of


class Null(Stage):
    """Does nothing; the graph ends here."""

    ordered = True

    def process(self, frame: Frame) -> None:
        """Do nothing."""


class Draw(Stage):
    """Draws each frame as the window and the video do, and discards the image."""

    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS)
    ordered = True

    def open(self) -> None:
        """Create the annotator."""
        self._annotator = annotator_of(self.context)

    def process(self, frame: Frame) -> None:
        """Draw the frame."""
        self._annotator.draw(frame)

    def end(self, stream: str) -> None:
        """Forget the trails of the stream."""
        self._annotator.forget(stream)
