"""Selective search: the boxes of a picture that may hold an object, of any class.

Source: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013. Its "fast" setting is
the default: two colour spaces, two scales of start segments and two similarities, so eight
hierarchies of regions, whose boxes are the proposals. numpy, OpenCV and scikit-image only, since it
runs at inference too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.boxes.iou import Boxes
from models.errors import ProposalError
from models.proposals.grouping import Similarity, group
from models.proposals.segments import Planes, bins_of, measure, segment

ColourSpace = Literal["hsv", "lab", "bgr", "grey"]
"""Table 1 of the paper says to which changes of light each is blind."""
Scale = Annotated[float, Meta(gt=0, le=1e4)]
VERSION = 1
"""Number of this algorithm; raised when its results change, as stored proposals are then void."""
_CODES = {"hsv": cv2.COLOR_BGR2HSV_FULL, "lab": cv2.COLOR_BGR2Lab, "grey": cv2.COLOR_BGR2GRAY}


class SearchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of selective search; every colour space goes with every scale and similarity."""

    colours: Annotated[tuple[ColourSpace, ...], Meta(min_length=1, max_length=4)] = ("hsv", "lab")
    """Colour spaces in which segments and similarities are computed."""
    scales: Annotated[tuple[Scale, ...], Meta(min_length=1, max_length=8)] = (50.0, 100.0)
    """Scales of the start segments, k in the paper: a higher one gives larger segments."""
    similarities: Annotated[tuple[Similarity, ...], Meta(min_length=1, max_length=8)] = (
        Similarity(),
        Similarity(colour=0.0),
    )
    """Weights of colour, texture, size and fill in the similarity of two regions."""
    max_side_px: Annotated[int, Meta(ge=16, le=1000)] = 400
    """Longer side of the picture that is searched; a larger picture is made smaller."""
    min_segment_px: Annotated[int, Meta(ge=20, le=10_000)] = 50
    """Area of the smallest start segment, in pixels of the smaller picture."""
    min_side_px: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Shorter side of the smallest proposal, in pixels of the smaller picture."""
    max_proposals: Annotated[int, Meta(ge=1, le=100_000)] = 2000
    """Number of proposals of a picture at most, the best ones."""
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """Seed of the random part of the order."""


def selective_search(
    image: NDArray[np.uint8],
    settings: SearchSettings | None = None,
    beat: Callable[[], object] = lambda: None,
) -> Boxes:
    """Find the boxes that may hold an object.

    The same picture and settings give the same boxes. Time and memory are bounded by
    `max_side_px`, whatever the size of the picture.

    Args:
        image: (H, W, 3) BGR.
        settings: None: the "fast" setting of the paper.
        beat: called after each hierarchy, some tenths of a second apart.

    Returns:
        (N, 4) float32 xyxy in px of the image, different from each other, best first. The whole
        picture is one of them unless `max_proposals` leaves it out.

    Raises:
        ProposalError: the image has another shape or dtype, or scikit-image is not installed.
    """
    settings = SearchSettings() if settings is None else settings
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ProposalError(
            "selective search: the picture is not (H, W, 3) uint8 (found "
            f"{image.shape} {image.dtype}); give a colour picture of at least one pixel"
        )
    small = _shrunk(image, settings.max_side_px)
    hierarchies = []
    for colour in settings.colours:
        planes = _planes(small, colour)
        bins = bins_of(planes)
        for scale in settings.scales:
            segments = measure(segment(planes, scale, settings.min_segment_px), bins)
            for own in settings.similarities:
                hierarchies.append(group(segments, own))
                beat()
    boxes = _in_order(hierarchies, settings)
    factors = np.array(image.shape[1::-1]) / small.shape[1::-1]
    return (boxes * np.tile(factors, 2)).astype(np.float32)


def _shrunk(image: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """Return the picture with a longer side of at most `max_side_px`."""
    height, width = image.shape[:2]
    factor = max_side_px / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _planes(image: NDArray[np.uint8], colour: ColourSpace) -> Planes:
    """Return the picture in a colour space, (h, w, C) with values up to 255."""
    planes = image if colour == "bgr" else cv2.cvtColor(image, _CODES[colour])
    return np.asarray(planes, np.uint8).reshape(*image.shape[:2], -1)


def _in_order(hierarchies: list[NDArray[np.int64]], settings: SearchSettings) -> NDArray[np.int64]:
    """Join the boxes of all hierarchies, best first, each box once.

    A region that was made later is better; its place, counted from the last, is multiplied by a
    random number, so that large regions do not come first alone (section 4.3 of the paper).
    """
    random = np.random.default_rng(settings.seed)
    places = np.concatenate([np.arange(len(boxes), 0, -1) for boxes in hierarchies])
    boxes = np.concatenate(hierarchies)[np.argsort(places * random.random(len(places)))]
    sides = boxes[:, 2:] - boxes[:, :2]
    # A picture may be smaller than that, and is a proposal all the same.
    smallest = np.minimum(settings.min_side_px, sides.max(axis=0))
    boxes = boxes[(sides >= smallest).all(axis=1)]
    _, first = np.unique(boxes, axis=0, return_index=True)
    best: NDArray[np.int64] = boxes[np.sort(first)[: settings.max_proposals]]
    return best
