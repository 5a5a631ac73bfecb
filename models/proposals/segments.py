"""Start segments: small regions of one look, with the colour and texture of each.

The segments are those of Felzenszwalb & Huttenlocher, "Efficient Graph-Based Image Segmentation",
IJCV 2004, as scikit-image computes them. Colour and texture are the histograms of Uijlings et al.,
"Selective Search for Object Recognition", IJCV 2013, section 3.2.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import ProposalError

COLOUR_BINS = 25
TEXTURE_BINS = 10
ORIENTATIONS = 8
"""Number of directions of a derivative, at equal angles."""
SIGMA_PX = 1.0
"""Width of the Gaussian whose derivatives are the texture."""
SMOOTHING_PX = 0.8
"""Width of the Gaussian that smooths a picture before it is segmented, as in the 2004 paper."""

Planes = NDArray[np.uint8]
"""(h, w, C) a picture in one colour space."""
Labels = NDArray[np.intp]
"""(h, w) number of the segment of each pixel, from 0."""


class Segments(NamedTuple):
    """Regions that cover a picture, and what is measured of each."""

    sizes: NDArray[np.float64]
    """(R,) in px²."""
    boxes: NDArray[np.int64]
    """(R, 4) xyxy in px; right and bottom are those of the first pixel outside."""
    histograms: NDArray[np.float32]
    """(R, D) colour, then texture; each of the two has the sum 1."""
    colours: int
    """Number of columns of colour."""
    neighbours: list[set[int]]
    """Of each region, those that touch one of its sides."""


class Bins(NamedTuple):
    """The bin of each pixel in each histogram; the same for all segmentations of a picture."""

    colour: list[NDArray[np.intp]]
    """(h * w,) of each plane, from 0 to COLOUR_BINS - 1."""
    texture: list[NDArray[np.intp]]
    """(h * w,) of each plane and direction, from 0 to TEXTURE_BINS - 1."""


def segment(planes: Planes, scale: float, min_size_px: int) -> Labels:
    """Compute the start segments of a picture.

    Args:
        planes: the picture in one colour space.
        scale: k of the 2004 paper, for values up to 255; a higher one gives larger segments.
        min_size_px: area of the smallest segment in px².

    Raises:
        ProposalError: scikit-image is not installed.
    """
    labels: Labels = _scikit_image().felzenszwalb(
        planes, scale=scale, sigma=SMOOTHING_PX, min_size=min_size_px
    )
    return labels


def measure(labels: Labels, bins: Bins) -> Segments:
    """Measure each segment of a picture.

    Args:
        labels: (h, w) numbers of segments, all from 0 to the largest in use.
        bins: those of the picture in the colour space of the histograms.
    """
    flat = labels.ravel()
    count = int(flat.max()) + 1
    sizes = np.bincount(flat, minlength=count).astype(np.float64)
    colour = _histograms(flat, count, bins.colour, COLOUR_BINS)
    texture = _histograms(flat, count, bins.texture, TEXTURE_BINS)
    return Segments(
        sizes,
        _boxes(labels, count),
        np.concatenate([colour, texture], axis=1),
        colour.shape[1],
        _neighbours(labels, count),
    )


def bins_of(planes: Planes) -> Bins:
    """Compute the bins of colour and texture of each pixel.

    The texture of a pixel is its Gaussian derivative in eight directions. A derivative in any
    direction is a sum of those along x and y (Freeman & Adelson, "The Design and Use of Steerable
    Filters", PAMI 1991), so a plane is filtered twice, not eight times. Only the parts above 0
    count: the opposite direction has the others.
    """
    colour: list[NDArray[np.intp]] = []
    texture: list[NDArray[np.intp]] = []
    for plane in np.moveaxis(planes, -1, 0):
        colour.append((plane.ravel().astype(np.intp) * COLOUR_BINS) >> 8)
        across, down = _derivatives(plane)
        # The derivative of a Gaussian along an edge of height 255 is at most this.
        limit = 255 / (SIGMA_PX * math.sqrt(2 * math.pi))
        for direction in range(ORIENTATIONS):
            angle = 2 * math.pi * direction / ORIENTATIONS
            slope = math.cos(angle) * across + math.sin(angle) * down
            np.multiply(slope, TEXTURE_BINS / limit, out=slope)
            np.clip(slope, 0, TEXTURE_BINS - 1, out=slope)
            texture.append(slope.ravel().astype(np.intp))
    return Bins(colour, texture)


def _derivatives(plane: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the Gaussian derivatives of a plane along x and y, (h, w) each."""
    reach = math.ceil(3 * SIGMA_PX)
    at = np.arange(-reach, reach + 1)
    smooth = np.exp(-(at**2) / (2 * SIGMA_PX**2))
    smooth /= smooth.sum()
    slope = at * smooth
    slope /= (at * slope).sum()  # 1 on a ramp of 1
    values = np.ascontiguousarray(plane, np.float32)
    border = cv2.BORDER_REPLICATE
    across = cv2.sepFilter2D(values, cv2.CV_32F, slope, smooth, borderType=border)
    down = cv2.sepFilter2D(values, cv2.CV_32F, smooth, slope, borderType=border)
    return np.asarray(across, np.float32), np.asarray(down, np.float32)


def _histograms(
    flat: NDArray[np.intp], count: int, bins: list[NDArray[np.intp]], width: int
) -> NDArray[np.float32]:
    """Count the bins of the pixels of each segment, (R, len(bins) * width), with the sum 1."""
    first = flat * width
    parts = [np.bincount(first + own, minlength=count * width) for own in bins]
    table = np.stack([part.reshape(count, width) for part in parts], axis=1).reshape(count, -1)
    shares: NDArray[np.float32] = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _boxes(labels: Labels, count: int) -> NDArray[np.int64]:
    """Return the box of each segment, (R, 4)."""
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int64).max, 0
    for axis, lines in enumerate((labels.T, labels)):
        # Each segment of a column, or of a row, once.
        codes = np.unique(lines + np.arange(len(lines))[:, None] * count)
        place, segment = np.divmod(codes, count)
        np.minimum.at(boxes[:, axis], segment, place)
        np.maximum.at(boxes[:, axis + 2], segment, place + 1)
    return boxes


def _neighbours(labels: Labels, count: int) -> list[set[int]]:
    """Return the segments that touch each one, left, right, above or below."""
    codes = []
    for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        apart = one != other
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        codes.append(np.unique(low * count + high))
    found: list[set[int]] = [set() for _ in range(count)]
    for code in np.unique(np.concatenate(codes)).tolist():
        low, high = divmod(code, count)
        found[low].add(high)
        found[high].add(low)
    return found


def check_scikit_image() -> None:
    """Check that scikit-image is installed, without the time that its import takes.

    Raises:
        ProposalError: it is not.
    """
    if importlib.util.find_spec("skimage") is None:
        raise _missing("it is not installed")


def _scikit_image() -> ModuleType:
    """Import scikit-image's segmentation.

    Raises:
        ProposalError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("skimage.segmentation")
    except ImportError as failure:
        raise _missing(str(failure)) from None


def _missing(why: str) -> ProposalError:
    """Make the error of scikit-image that cannot be imported."""
    return ProposalError(
        f"selective search: scikit-image cannot be imported ({why}); run pip install "
        '"eyeline[rcnn]"'
    )
