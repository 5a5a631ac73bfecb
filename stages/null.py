"""A sink that does nothing: for measuring the pipeline without the cost of an output."""

from __future__ import annotations

from pipeline.frame import Frame
from pipeline.stage import Stage


class Null(Stage):
    """Lets every frame end here."""

    ordered = True

    def process(self, frame: Frame) -> None:
        """Do nothing."""
