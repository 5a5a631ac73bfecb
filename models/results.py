"""Counts of a model's results, which look odd where its card is wrong, and only there.

Rows that no detector gives (a score above 1, a corner before the other, an unknown class) are not
handed on. They are counted, as are boxes of sizes and places that show wrong units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.transform import Transform

SCORE_TOLERANCE = 1e-3
"""Rounding of a score above 1, or below 0, in float16 and in int8 models."""
SIDE_TOLERANCE = 1e-3
"""Rounding of an empty box, as a part of the input's side, whose corners may be inverted."""
MIN_SIDE_PX = 3.0
"""Sides in pixels of the captured image below which a box is tiny."""
BEYOND = 2.0
"""A box that ends behind so many widths or heights of the image is beyond it."""
MIN_ROWS = 20
"""Rows from which on a share says something."""
MIN_FRAMES = 3
"""Frames from which on always as many objects say something."""
MANY_OBJECTS, MANY_CANDIDATES = 300, 1000
"""Rows of a frame that are more than a scene has: of a model that suppresses overlaps itself, and
of one that does not."""
MIN_CONFIDENCE = 0.25
"""Lowest score of a row that counts: weak ones are many in right results too."""
MOST = 0.5


class Odd(NamedTuple):
    """Something odd about the results."""

    text: str
    """Description, with numbers."""
    keys: str
    """Keys of a card that decide it."""


class Results:
    """Counts what a detector gives.

    Args:
        classes: number of classes that the model has, or that have labels; None: unknown.
        confidence: score from which on a row is an object.
        end_to_end: whether the model itself suppresses overlapping boxes.
    """

    def __init__(self, classes: int | None, confidence: float, end_to_end: bool = True) -> None:
        self._classes, self._confidence = classes, max(confidence, MIN_CONFIDENCE)
        self._many = MANY_OBJECTS if end_to_end else MANY_CANDIDATES
        self.frames = 0
        self.rows = 0
        """Rows that reach the confidence."""
        self.wrong_scores = self.inverted = self.unknown = self.tiny = self.beyond = 0
        self.full_frames = 0
        """Frames with more rows than a scene has."""
        self._largest_score = 0.0
        self._largest_class = 0

    @property
    def failed(self) -> int:
        """Rows that were not handed on."""
        return self.wrong_scores + self.inverted + self.unknown

    def check(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
        transform: Transform,
        size: tuple[int, int],
    ) -> NDArray[np.bool_]:
        """Count the rows of a frame, and return those that may be handed on.

        Args:
            boxes: (N, 4) xyxy in pixels of the input, not clipped.
            scores: (N,).
            classes: (N,).
            transform: from the captured image to the input.
            size: width and height of the input in pixels.

        Returns:
            (N,) whether a row is one that a detector can give.
        """
        self.frames += 1
        wrong = (scores > 1 + SCORE_TOLERANCE) | (scores < -SCORE_TOLERANCE)
        sides = boxes[:, 2:] - boxes[:, :2]
        inverted = (sides < -SIDE_TOLERANCE * np.array(size, np.float32)).any(axis=1)
        unknown = classes < 0
        if self._classes is not None:
            unknown |= classes >= self._classes
        good: NDArray[np.bool_] = ~(wrong | inverted | unknown)
        objects = scores >= self._confidence
        count = int(objects.sum())
        if count == 0:
            return good
        self.rows += count
        self.full_frames += count >= self._many
        self.wrong_scores += int((wrong & objects).sum())
        self.inverted += int((inverted & objects & ~wrong).sum())
        self.unknown += int((unknown & objects & ~wrong & ~inverted).sum())
        scale = np.array([transform.scale_x, transform.scale_y], np.float32)
        own = sides[objects] / scale
        self.tiny += int((np.abs(own) < MIN_SIDE_PX).all(axis=1).sum())
        ends = boxes[objects, 2:] / scale
        limit = np.array([transform.width, transform.height], np.float32) * BEYOND
        self.beyond += int((ends > limit).any(axis=1).sum())
        self._largest_score = max(self._largest_score, float(scores[objects].max()))
        self._largest_class = max(self._largest_class, int(classes[objects].max()))
        return good

    def odd(self) -> list[Odd]:
        """Return what is odd so far, the strongest evidence first; empty: nothing is."""
        found: list[Odd] = []
        rows = self.rows
        if rows >= MIN_ROWS:
            found += [
                Odd(f"{100 * count / rows:.0f} % of the {text}", keys)
                for count, text, keys in self._shares()
                if count / rows > MOST
            ]
        if not found and self.failed and self.failed / max(1, rows) > 0.01:
            text = f"{self.failed} of {rows} rows have a score beyond 0 to 1, an inverted box or an"
            found.append(Odd(f"{text} unknown class", "output.outputs, output.class_offset"))
        if self.frames >= MIN_FRAMES and self.full_frames / self.frames > MOST:
            text = f"{self._many} objects or more in {self.full_frames} of {self.frames} frames"
            found.append(Odd(text, "output.activation, output.background, input.scale"))
        return found

    def _shares(self) -> tuple[tuple[int, str, str], ...]:
        """Return the number of rows of each fault, its description, and the keys that decide it."""
        return (
            (
                self.wrong_scores,
                f"scores are not from 0 to 1 (largest {self._largest_score:.4g})",
                "output.activation, output.outputs",
            ),
            (self.inverted, "boxes are inverted", "output.outputs (order of the columns)"),
            (
                self.unknown,
                f"class numbers are unknown (largest {self._largest_class}, the model has "
                f"{self._classes})",
                "output.class_offset, labels, output.outputs",
            ),
            (
                self.tiny,
                f"boxes are under {MIN_SIDE_PX:g} px",
                "output.units (fraction), output.outputs",
            ),
            (
                self.beyond,
                "boxes end far beyond the image",
                "output.units (pixels), output.outputs",
            ),
        )


def describe(found: list[Odd]) -> str:
    """Return one line about odd results, with the keys that decide them."""
    texts = "; ".join(odd.text for odd in found)
    keys = ", ".join(dict.fromkeys(odd.keys for odd in found))
    return f"the results look wrong: {texts}; check {keys} in the card"
