"""Masks as COCO writes them: lengths of runs (RLE) down the columns, and their text.

The runs of a mask alternate between outside and inside, beginning with outside, column by column
from the left, each from the top. COCO's files hold their lengths as numbers or as a text. All
results are equal to those of `pycocotools.mask`; masks are never expanded to compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError
from models.text import shown

MAX_PIXELS = 2**28
"""Limit of the area of an image, so that no mask of a file fills the memory."""
_BITS, _MORE, _SIGN, _FIRST = 5, 0x20, 0x10, 48
"""A letter holds 5 bits, a bit that says whether another letter follows, and is above `0`; the
highest of the 5 bits of the last letter is the sign."""
_MAX_LETTERS = 12
"""Letters of one number, 60 bits."""

Counts = NDArray[np.int64]
"""(R,) lengths of runs in pixels: outside, inside, outside, ..."""


class Rle(NamedTuple):
    """A mask as lengths of runs."""

    height: int
    width: int
    counts: Counts
    """See `Counts`; their sum is height * width."""


def rle_of(mask: NDArray[Any]) -> Rle:
    """Encode a mask (H, W); whatever is not 0 is inside."""
    height, width = mask.shape
    flat = np.ravel(mask != 0, order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        changes = np.concatenate([[0], changes])
    return rle_of_changes(height, width, changes)


def rle_of_part(mask: NDArray[Any], left: int, top: int, height: int, width: int) -> Rle:
    """Encode a mask that is 0 outside a part of the image.

    Args:
        mask: (h, w) values of that part; whatever is not 0 is inside.
        left: first column of the part in the image.
        top: first row of the part.
        height: height of the image in px.
        width: width of the image in px.
    """
    rows, columns = mask.shape
    framed = np.zeros((columns, rows + 2), bool)
    framed[:, 1:-1] = mask.T != 0
    column, row = np.nonzero(framed[:, 1:] != framed[:, :-1])
    places = (column + left) * height + row + top
    # A run that ends at the bottom of a column goes on if the next one begins at the top.
    again = np.flatnonzero(places[1:] == places[:-1])
    places = np.delete(places, np.concatenate([again, again + 1]))
    return rle_of_changes(height, width, places)


def rle_of_changes(height: int, width: int, changes: NDArray[np.integer]) -> Rle:
    """Make an RLE from the places down the columns where the mask changes, in order, each once."""
    changes = changes[changes < height * width]
    counts = np.diff(np.concatenate([[0], changes, [height * width]]).astype(np.int64))
    return Rle(height, width, counts)


def mask_of(rle: Rle) -> NDArray[np.uint8]:
    """Decode a mask, (H, W): 1 inside, 0 outside."""
    values = np.zeros(len(rle.counts), np.uint8)
    values[1::2] = 1
    return np.repeat(values, rle.counts).reshape((rle.height, rle.width), order="F")


def read_rle(value: object, where: str) -> Rle:
    """Read an RLE from a file of COCO: {"size": [height, width], "counts": text or numbers}.

    Args:
        value: as parsed; untrusted.
        where: place of it, for messages: "instances.json: annotation 7".

    Raises:
        DataError: it is not a valid RLE.
    """
    size = value.get("size") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(size, list | tuple) or len(size) != 2:
        raise DataError(f"{where}: not a mask as RLE (found {shown(value, 60)})")
    if any(not isinstance(side, int) or isinstance(side, bool) or side < 0 for side in size):
        raise DataError(f"{where}: the size of the mask is wrong (found {shown(size, 60)})")
    height, width = size
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{where}: the mask is too large (found {width}x{height}, at most {MAX_PIXELS:,} "
            "pixels)"
        )
    counts = _read_counts(value.get("counts"), where)
    # Each one is checked before their sum, which could overflow.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise DataError(
            f"{where}: the runs of the mask do not fill its {width}x{height} pixels; export the "
            "data set again"
        )
    return Rle(height, width, counts)


def coco_rle(rle: Rle) -> dict[str, Any]:
    """Write an RLE as files of COCO hold it; the inverse of `read_rle`."""
    return {"size": [rle.height, rle.width], "counts": text_of(rle.counts)}


def text_of(counts: Counts) -> str:
    """Write lengths of runs as COCO's text.

    From the fourth on, each is written as the difference from the one before the last. A number is
    written in groups of 5 bits, lowest first, in two's complement, like LEB128 with 7 bits.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    letters = np.zeros((len(rest), _MAX_LETTERS), np.uint8)
    open_rows = np.arange(len(rest))
    for place in range(_MAX_LETTERS):
        bits = rest[open_rows] & (_MORE - 1)
        rest[open_rows] >>= _BITS
        more = rest[open_rows] != np.where(bits & _SIGN, -1, 0)
        letters[open_rows, place] = bits + np.where(more, _MORE, 0) + _FIRST
        open_rows = open_rows[more]
    return letters[letters > 0].tobytes().decode("ascii")


def counts_of(text: str | bytes) -> Counts:
    """Read lengths of runs from COCO's text; the inverse of `text_of`.

    Raises:
        ValueError: it is no such text.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    letters = np.frombuffer(data, np.uint8).astype(np.int64) - _FIRST
    if ((letters < 0) | (letters >= 2 * _MORE)).any():
        raise ValueError("a letter that is not in use")
    ends = np.flatnonzero(letters < _MORE)
    if len(letters) and (not len(ends) or ends[-1] != len(letters) - 1):
        raise ValueError("the last number is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.intp)[: len(ends)]
    lengths = ends + 1 - starts
    if (lengths > _MAX_LETTERS).any():
        raise ValueError("a number that is too large")
    places = np.arange(len(letters)) - np.repeat(starts, lengths)
    parts = (letters & (_MORE - 1)) << (_BITS * places)
    counts: Counts = np.add.reduceat(parts, starts) if len(starts) else np.zeros(0, np.int64)
    counts -= np.where(letters[ends] & _SIGN, np.int64(1) << (_BITS * lengths), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def rle_area(rle: Rle) -> int:
    """Return the number of pixels inside."""
    return int(rle.counts[1::2].sum())


def rle_box(rle: Rle) -> tuple[int, int, int, int]:
    """Return the smallest box around a mask, xyxy in px; all 0 for an empty one."""
    starts, ends = _runs(rle)
    full = ends > starts
    starts, last = starts[full], ends[full] - 1
    if not len(starts):
        return 0, 0, 0, 0
    left, right = int(starts[0] // rle.height), int(last[-1] // rle.height)
    # A run that goes on in the next column reaches the bottom of its own and the top of the next.
    on = starts // rle.height < last // rle.height
    top = 0 if on.any() else int((starts % rle.height).min())
    bottom = rle.height - 1 if on.any() else int((last % rle.height).max())
    return left, top, right + 1, bottom + 1


def rle_iou(
    a: Sequence[Rle], b: Sequence[Rle], crowd: Sequence[bool] | None = None
) -> NDArray[np.float64]:
    """Compute the IoU of each mask of `a` with each mask of `b`.

    Args:
        a: N masks, the detections.
        b: M masks of images of the same size, the true objects.
        crowd: of each mask of `b`, whether the area of the first mask takes the place of the
            union; None: of none.

    Returns:
        (N, M) values from 0 to 1.

    Raises:
        ValueError: the images differ in size.
    """
    _same_size([*a, *b])
    iou = np.zeros((len(a), len(b)))
    if not len(a) or not len(b):
        return iou
    area_a, area_b = ([rle_area(rle) for rle in part] for part in (a, b))
    p = np.array([rle_box(rle) for rle in a])[:, None]
    q = np.array([rle_box(rle) for rle in b])[None, :]
    near = np.all((p[..., :2] < q[..., 2:]) & (q[..., :2] < p[..., 2:]), axis=2)
    runs_a = [_runs(rle) for rle in a]
    for j in np.flatnonzero(near.any(axis=0)).tolist():
        runs = _runs(b[j])
        inside_before = np.concatenate([[0], np.cumsum(runs[1] - runs[0])])
        for i in np.flatnonzero(near[:, j]).tolist():
            starts, ends = runs_a[i]
            shared = _inside(ends, *runs, inside_before) - _inside(starts, *runs, inside_before)
            total = float(shared.sum())
            union = area_a[i] if crowd is not None and crowd[j] else area_a[i] + area_b[j] - total
            iou[i, j] = total / union
    return iou


def merge_rles(rles: Sequence[Rle], intersect: bool = False) -> Rle:
    """Return the union of masks of one image, or their intersection.

    Raises:
        ValueError: there is no mask, or the images differ in size.
    """
    _same_size(rles)
    if not rles:
        raise ValueError("masks: there is no mask to merge (found 0)")
    runs = [_runs(rle) for rle in rles]
    starts, ends = (np.concatenate(part) for part in zip(*runs, strict=True))
    places, where = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    steps = np.bincount(where[: len(starts)], minlength=len(places))
    steps = steps - np.bincount(where[len(starts) :], minlength=len(places))
    inside = np.cumsum(steps) >= (len(rles) if intersect else 1)
    changes = places[inside != np.concatenate([[False], inside[:-1]])] if len(places) else places
    return rle_of_changes(rles[0].height, rles[0].width, changes)


def _runs(rle: Rle) -> tuple[Counts, Counts]:
    """Return where each run inside starts and ends, as places in the columns."""
    bounds = np.cumsum(rle.counts)
    ends = bounds[1::2]
    return bounds[: 2 * len(ends) : 2], ends


def _inside(places: Counts, starts: Counts, ends: Counts, inside_before: Counts) -> Counts:
    """Return the number of pixels inside a mask before each place."""
    run = np.searchsorted(starts, places, side="right") - 1
    begun = run >= 0
    run = np.maximum(run, 0)
    part: Counts = inside_before[run] + np.minimum(places, ends[run]) - starts[run]
    return np.where(begun, part, 0)


def _same_size(rles: Sequence[Rle]) -> None:
    """Refuse masks of images of different sizes."""
    sizes = {(rle.width, rle.height) for rle in rles}
    if len(sizes) > 1:
        found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(f"masks: they are of images of different sizes (found {shown(found, 80)})")


def _read_counts(value: object, where: str) -> Counts:
    """Read lengths of runs as a file holds them: a text, or numbers."""
    if isinstance(value, str | bytes):
        try:
            return counts_of(value)
        except ValueError as error:
            raise DataError(f"{where}: the text of the mask is wrong: {error}") from None
    limit = 2**31
    if not isinstance(value, list | tuple) or any(
        not isinstance(n, int) or isinstance(n, bool) or not 0 <= n < limit for n in value
    ):
        raise DataError(f"{where}: the runs of the mask are wrong (found {shown(value, 60)})")
    return np.array(value, np.int64)
