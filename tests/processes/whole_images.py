"""Stages that classify images, and their pixels, by the colour; run by the tests of evaluate."""

from __future__ import annotations

import msgspec
import numpy as np

from pipeline.frame import Frame
from pipeline.stage import Array, ArrayOffer, Resolved, Settings, Stage
from stages.details import FRAME_LABELS, SEMANTIC, FrameLabel, SemanticLabels

COLOURS = ("blue", "green", "red", "grey")


class Names(ArrayOffer, frozen=True):
    """Names of the classes of frames."""

    array = "frame_labels"

    names: tuple[str, ...]


class ColourSettings(Settings, frozen=True):
    """Settings of a classifier by colour."""

    top: int = 1
    min_score: float = 0.5


class Colour(Stage):
    """Gives the strongest colours of an image."""

    Settings = ColourSettings
    takes = (Array("image", "uint8", (None, None, 3)),)
    gives = (FRAME_LABELS,)

    @classmethod
    def resolve(cls, settings: Settings) -> Resolved:
        """Offer the names."""
        return Resolved((Names(COLOURS),))

    def process(self, frame: Frame) -> None:
        """Add the classes."""
        means = np.append(frame["image"].mean(axis=(0, 1)), 1)
        scores = means / means.sum()
        order = np.argsort(-scores, kind="stable")[: self.settings.top].tolist()
        labels = [
            FrameLabel(COLOURS[n], n, float(scores[n]))
            for n in order
            if scores[n] >= self.settings.min_score
        ]
        frame.put("frame_labels", np.frombuffer(msgspec.json.encode(labels), np.uint8))


class ColourMap(Stage):
    """Gives the strongest colour of every second pixel."""

    takes = (Array("image", "uint8", (None, None, 3)),)
    gives = SEMANTIC[:1]

    @classmethod
    def resolve(cls, settings: Settings) -> Resolved:
        """Offer the names."""
        return Resolved((SemanticLabels(COLOURS),))

    def process(self, frame: Frame) -> None:
        """Add the map."""
        frame.put("semantic_map", frame["image"][::2, ::2].argmax(axis=2).astype(np.uint8))
