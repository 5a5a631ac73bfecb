"""Methods that judge proposals: their proposals, results, figures and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes
from models.datasets.base import LabelledImage
from models.families.rcnn import PROPOSALS
from models.proposals.cache import ProposalCache
from models.proposals.recall import recall
from models.proposals.selective_search import selective_search
from models.training.augment import View
from models.training.features import read_input
from models.training.method import Figures, Job, ModelCard, Progress
from models.training.tasks.detect import MIN_SCORE, Detects, Objects, suppressed_rows

OUTPUT = "rows"
"""Name of the output of the exported graph: (1, N, 6) x1, y1, x2, y2, score, class."""
STORED = 2000
"""Proposals of an image that are stored, at least."""
MIN_SIDE_PX = 4.0
"""Shorter side of a box that a view leaves."""
COUNTS = (10, 20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of proposals of which the report has the recall."""


class Truth(NamedTuple):
    """The objects of a view, in pixels of the input."""

    boxes: Boxes
    """(G, 4) xyxy."""
    classes: NDArray[np.intp]
    """(G,)"""
    ignored: Boxes
    """(I, 4) of objects that are neither right nor wrong."""


class Judged(NamedTuple):
    """The objects that a model finds in an image: `Objects`, and those without box regression."""

    boxes: NDArray[np.float32]
    """(N, 4) xyxy in pixels of the image."""
    scores: NDArray[np.float32]
    """(N,) from 0 to 1."""
    classes: NDArray[np.intp]
    """(N,) indices into the labels."""
    plain: Objects
    """The same where each box is its proposal."""


class JudgesRegions(Detects):
    """A method that judges the proposals of selective search; its result is `Judged`.

    Its settings have `search`, of `SearchSettings`.
    """

    held_out = 2

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # The best ones of a longer list are those of a shorter one: another number needs no search.
        most = max(STORED, job.settings.search.max_proposals)
        stored = msgspec.structs.replace(job.settings.search, max_proposals=most)
        self._stored = ProposalCache(job.cache.parent / "proposals", stored)
        self._proposals: dict[str, Boxes] = {}

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Any]) -> Figures:
        """Return average precision, and that of the proposals themselves as boxes."""
        plain = super().measure(images, [result.plain for result in results])
        return {
            **super().measure(images, results),
            "AP50 without regression": plain["AP50"],
        }

    def inputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the image and its proposals, which are computed, not read."""
        return {"images": pixels, PROPOSALS: selective_search(pixels[0], self.settings.search)}

    def card(self) -> ModelCard:
        """Return the card of a model of the family rcnn."""
        output = {
            "outputs": {OUTPUT: ["x1", "y1", "x2", "y2", "score", "class"]},
            "units": "fraction",
            "proposals": msgspec.to_builtins(self.settings.search),
        }
        return ModelCard("detect", "rcnn", output)

    def proposals(self, image: LabelledImage) -> Boxes:
        """Return the proposals of an image, (P, 4) xyxy in pixels of the input, best first.

        They are those of the pixels that the model gets, so the pipeline finds the same ones.
        """
        known = self._proposals.get(image.name)
        if known is None:
            found = self._stored.proposals(read_input(image, self.size))
            known = self._proposals[image.name] = found[: self.settings.search.max_proposals]
        return known

    def proposals_in(self, image: LabelledImage, view: View) -> Boxes:
        """Return the proposals of an image, moved as the view moves it.

        Segments of the moved pixels would differ a little; to search in each view would take a
        second each.
        """
        if view.plain:
            return self.proposals(image)
        factors = np.array(image.size * 2) / self.size
        return inside(view.boxes(self.proposals(image) * factors), self.size)

    def truth_in(self, image: LabelledImage, view: View) -> Truth:
        """Return the objects of a view."""
        boxes = np.array([item.box for item in image.objects], np.float64).reshape(-1, 4)
        seen = np.clip(view.boxes(boxes), 0, self.size)
        whole = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        whole = whole * abs(np.linalg.det(view.matrix[:, :2]))
        # An object of which most is outside of the view teaches nothing.
        kept = np.prod(seen[:, 2:] - seen[:, :2], axis=1) >= 0.25 * whole
        kept &= (seen[:, 2:] - seen[:, :2] >= MIN_SIDE_PX).all(axis=1)
        ignored = np.array([item.ignored for item in image.objects], np.bool_)
        classes = np.array([item.number for item in image.objects], np.intp)
        own = kept & ~ignored
        return Truth(seen[own], classes[own], seen[~own])

    def search(self, images: Sequence[LabelledImage]) -> None:
        """Compute the proposals of images, and report how many objects they find."""
        for number, image in enumerate(images, 1):
            self.proposals(image)
            self.job.report(Progress("proposals", number, len(images)))

    def report_recall(self) -> None:
        """Note the recall of the proposals of the validation images, and draw its curve."""
        most = self.settings.search.max_proposals
        counts = [count for count in COUNTS if count < most] + [most]
        pictures = [
            (self._true_boxes(image), self.proposals(image))
            for image in self.job.val
            if any(not item.ignored for item in image.objects)
        ]
        found = {iou: recall(pictures, counts, iou) for iou in (0.5, 0.7)}
        self.charts["Recall of proposals over log10 of their number"] = (
            [float(np.log10(count)) for count in counts],
            {f"IoU {iou}": list(map(float, values)) for iou, values in found.items()},
        )
        shown = ", ".join(
            f"{value:.3f} of {count}" for count, value in zip(counts, found[0.5], strict=True)
        )
        self.notes.append(f"recall of proposals on the validation images at IoU .5: {shown}")

    def judged(
        self, image: LabelledImage, rows: NDArray[np.float32], plain: NDArray[np.float32]
    ) -> Judged:
        """Return the result of an image from rows (N, 6), with and without box regression."""
        return Judged(*objects_of(rows, image), objects_of(plain, image))

    def _true_boxes(self, image: LabelledImage) -> Boxes:
        boxes = [item.box for item in image.objects if not item.ignored]
        factors = self.size / np.array(image.size * 2)
        return np.array(boxes, np.float32).reshape(-1, 4) * factors


def inside(boxes: Boxes, size: int) -> Boxes:
    """Return boxes (N, 4) as far as they are in the input; those that nearly vanish are dropped."""
    boxes = np.clip(boxes, 0, size)
    return boxes[(boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(axis=1)]


def objects_of(rows: NDArray[np.float32], image: LabelledImage) -> Objects:
    """Return the objects of rows (N, 6), as the pipeline does: low scores out, overlaps out."""
    rows = rows[rows[:, 4] >= MIN_SCORE]
    return suppressed_rows(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.intp), image)
