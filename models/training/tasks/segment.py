"""Methods that find objects and their masks: their figures and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.boxes.masks import Rle, mask_of, rle_area, rle_iou
from models.datasets.base import LabelledImage
from models.datasets.shapes import rle_of_object
from models.evaluation.shapes import evaluate_shapes, with_masks
from models.families.masks import Canvas, masks_of_boxes
from models.output_layout import Masks
from models.training import drawing
from models.training.augment import Image, View
from models.training.method import Figures, Needs, Result
from models.training.tasks.detect import (
    Detects,
    Objects,
    beside_truth,
    matched_rows,
    matches,
    truth_of_view,
)
from models.transform import fit

CELLS = 28
"""Cells of a side of a mask."""
SHAPES = Masks(threshold=0.5, over="box")
"""Layout of masks that are 0 to 1 over their boxes."""


class MaskedObjects(NamedTuple):
    """The objects that a model finds in an image, with their masks."""

    objects: Objects
    masks: Sequence[Rle]
    """Mask of each in the image."""


class Segments(Detects):
    """A method the result of which is `MaskedObjects`."""

    needs: ClassVar[Needs] = "mask"

    def measure(self, images: Sequence[LabelledImage], results: Sequence[Result]) -> Figures:
        """Return the average precision of masks, their mean IoU, and the precision of boxes.

        The mean IoU is that of the masks of objects whose box is found.
        """
        boxes = super().measure(images, [result.objects for result in results])
        overlaps = [
            overlap
            for pair in zip(images, results, strict=True)
            for overlap in mask_overlaps(*pair)
        ]
        return {
            **_precision(images, results, self.job.labels),
            "mask IoU": float(np.mean(overlaps)) if overlaps else 0.0,
            "box AP50": boxes["AP50"],
            "box AP75": boxes["AP75"],
        }

    def baseline(self, images: Sequence[LabelledImage], results: Sequence[Result]) -> Figures:
        """Return the figures with one mask for all objects of a class in the boxes that are found.

        It is the mean of the masks of the training images.
        """
        shapes = mean_shapes(self.job.train, len(self.job.labels))
        pasted = [
            MaskedObjects(
                result.objects,
                masks_in(result.objects, shapes[result.objects.classes], image, SHAPES),
            )
            for image, result in zip(images, results, strict=True)
        ]
        found = self.measure(images, pasted)
        return {f"{name} of the mean shape": found[name] for name in list(found)[:4]}

    def choose_thresholds(
        self, images: Sequence[LabelledImage], results: Sequence[Result]
    ) -> Mapping[str, float]:
        """Return the thresholds of the boxes."""
        return super().choose_thresholds(images, [result.objects for result in results])

    def error(self, image: LabelledImage, result: Result) -> float:
        """Return how wrong a result is: its boxes, and what its masks lack of an overlap of 1."""
        lacking = sum(1.0 - overlap for overlap in mask_overlaps(image, result))
        return super().error(image, result.objects) + lacking

    def draw(self, pixels: Image, image: LabelledImage, result: Result) -> Image:
        """Draw found boxes and the outlines of masks, right and wrong, over the true boxes."""
        size = (pixels.shape[1], pixels.shape[0])
        right = matches(image, result.objects)
        for row in np.flatnonzero(result.objects.scores >= 0.3).tolist():
            mask = cv2.resize(mask_of(result.masks[row]), size, interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            colour = drawing.CORRECT if right[row] else drawing.WRONG
            cv2.drawContours(pixels, outlines, -1, colour, 1)
        return super().draw(pixels, image, result.objects)


def masks_of_view(image: LabelledImage, view: View) -> Mapping[str, NDArray[Any]]:
    """Return the objects of an image that are seen in a view, with their masks.

    Returns:
        `truth_of_view`, and
        masks: (G,) objects: (H, W) uint8 in the image, 1 inside; None for one without a mask.
        matrix: (2, 3) from pixels of the input to pixels of the image.
    """
    truth = truth_of_view(image, view)
    masks = np.empty(len(truth["rows"]), object)
    for place, row in enumerate(truth["rows"].tolist()):
        item = image.objects[row]
        if item.mask is not None:
            masks[place] = mask_of(rle_of_object(item, image.size))
    back = cv2.invertAffineTransform(view.matrix)
    return {**truth, "masks": masks, "matrix": np.asarray(back, np.float64)}


def mask_in_box(
    mask: NDArray[np.uint8], box: NDArray[np.floating], matrix: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the part of a mask in a box as (CELLS, CELLS), 0 or 1.

    Args:
        mask: (H, W), 1 inside.
        box: (4,) xyxy.
        matrix: (2, 3) from the pixels of the box to those of the mask.
    """
    sides = (box[2:] - box[:2]) / CELLS
    cells = matrix[:, :2] * sides
    # OpenCV counts from the centres of pixels and cells.
    first = matrix[:, :2] @ (box[:2] + sides / 2) + matrix[:, 2] - 0.5
    values = cv2.warpAffine(
        mask * np.uint8(255),
        np.concatenate([cells, first[:, None]], axis=1),
        (CELLS, CELLS),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return np.asarray(values >= 128, np.float32)


def masks_in(
    found: Objects, masks: NDArray[np.floating], image: LabelledImage, layout: Masks
) -> list[Rle]:
    """Return masks (N, CELLS, CELLS) over the boxes of objects as masks of the image."""
    transform, _ = fit(*image.size, image.size, "stretch", "centre")
    canvas = Canvas(transform, image.size)
    return masks_of_boxes(masks.astype(np.float32), found.boxes, canvas, layout)


def mean_shapes(images: Sequence[LabelledImage], classes: int) -> NDArray[np.float32]:
    """Return the mean mask (C, CELLS, CELLS) of each class in its boxes; 1 where there is none."""
    sums, counts = np.zeros((classes, CELLS, CELLS), np.float32), np.zeros(classes)
    same = np.array([[1, 0, 0], [0, 1, 0]], np.float64)
    for image in images:
        for item in image.objects:
            if item.mask is None or item.ignored:
                continue
            mask = mask_of(rle_of_object(item, image.size))
            sums[item.number] += mask_in_box(mask, np.array(item.box), same)
            counts[item.number] += 1
    shapes = sums / np.maximum(counts, 1)[:, None, None]
    shapes[counts == 0] = 1.0
    return np.asarray(shapes, np.float32)


def mask_overlaps(image: LabelledImage, result: MaskedObjects) -> list[float]:
    """Return the IoU of the masks of those objects whose box is found with the true masks."""
    rows = matched_rows(image, result.objects)
    found = []
    for own, row in zip(result.masks, rows.tolist(), strict=True):
        if row >= 0 and image.objects[row].mask is not None:
            truth = rle_of_object(image.objects[row], image.size)
            found.append(float(rle_iou([own], [truth], [False])[0, 0]))
    return found


def _precision(
    images: Sequence[LabelledImage], results: Sequence[MaskedObjects], labels: Sequence[str]
) -> dict[str, float]:
    """Return the average precision of masks: at IoU .5, at .75, and the mean over .5 to .95.

    Objects without a mask are neither right nor wrong, as in `run.py evaluate`.
    """
    pairs = []
    for image, result in zip(images, results, strict=True):
        boxes = beside_truth(image, result.objects)
        truth = [rle_of_object(item, image.size) for item in image.objects]
        areas = [
            item.area_px or float(rle_area(rle))
            for item, rle in zip(image.objects, truth, strict=True)
        ]
        without = np.array([item.mask is None for item in image.objects], np.bool_)
        pairs.append(
            with_masks(
                boxes, result.masks, truth, np.array(areas, np.float64), boxes.ignored | without
            )
        )
    figures = evaluate_shapes(pairs, labels).figures
    return {
        "mask AP50": figures.ap50 or 0.0,
        "mask AP75": figures.ap75 or 0.0,
        "mask AP": figures.ap or 0.0,
    }
