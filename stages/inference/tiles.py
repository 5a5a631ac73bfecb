"""The detector for small objects in large frames: runs the model on overlapping tiles.

A model that takes 300x300 pixels sees a person of 60 px in a frame of 3840x2160 as 5 px. Cut into
tiles, the frame reaches the model at a higher resolution (Akyon et al., "Slicing Aided Hyper
Inference and Fine-tuning for Small Object Detection", ICIP 2022).

Where tiles overlap, two of them may find one object. If both see all of it, their boxes are equal,
and non-maximum suppression drops one. If one tile cuts the object, its box is a part of the other,
and the IoU is low. The paper compares the intersection with the smaller of the two areas; this also
drops an object in front of a larger one of its class. Here the boxes are compared where both tiles
see: they are of one object if they agree there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.boxes.iou import iou_pairs
from models.boxes.suppress import rivals_of, suppress_rivals
from models.contract import Contract
from models.families.base import Candidates, Detailed
from models.transform import Rect, Transform, fit
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved
from stages.inference.detector import Detector, DetectorSettings
from stages.inference.preprocess import PixelWriter
from stages.thresholds import max_iou

MAX_AGREEMENT = 0.5
"""IoU, of the parts of two boxes that both tiles see, above which they are of one object; the
threshold of the paper for its own measure."""
MAX_COMPARED = 2000
"""Number of best boxes of a frame that are compared with each other and given; limits the time."""


class TilesSettings(DetectorSettings, frozen=True):
    """Settings of the detector of tiles: those of the detector, and the tiles."""

    grid: tuple[Annotated[int, Meta(ge=1, le=32)], Annotated[int, Meta(ge=1, le=32)]] | None = None
    """Columns and rows of tiles, whatever the size of the frame; null: see `size_px`."""
    size_px: Annotated[int, Meta(ge=16)] | None = None
    """Width and height of a tile in pixels of the captured frame; there are as many tiles as the
    frame needs. null, and no grid: the size of the model's input, so that nothing is reduced."""
    overlap: Annotated[float, Meta(ge=0, le=0.9)] = 0.2
    """Smallest part of its width and height that a tile shares with the next one. An object that is
    smaller than this is in one of the two as a whole."""
    whole: bool = True
    """Whether the whole frame is one more tile, which finds the objects larger than a tile."""
    tiles_at_once: Annotated[int, Meta(ge=1, le=64)] = 1
    """Tiles in one run of a model that takes any number of images; useful on a GPU."""
    max_tiles: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Most tiles per frame; a frame that needs more fails. Limits the time and memory of a frame,
    of which each tile takes as much as a frame without tiles."""


class Tile(NamedTuple):
    """A part of the frame, and its place in the model's input."""

    left: int
    """In pixels of the captured frame, as the others."""
    top: int
    width: int
    height: int
    transform: Transform
    """From the pixels of the tile to those of the input."""
    rect: Rect
    """Place of the resized tile in the input."""

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Place in the frame, xyxy in pixels."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels of the tile, a view of the image."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


class Tiles(Detector):
    """Runs the model on overlapping tiles of the frame, and gives the candidate boxes of all.

    It takes the place of `preprocess` and `detector`. The tiles are views of the image, and are
    resized one after the other into the same memory, so a frame needs no more of its slot than
    without tiles. The arrays that it gives are those of `Detector`.

    Of an object that a tile cuts, the part is dropped where another tile has the whole. Two boxes
    of different tiles around the same whole object are left to the NMS that follows, as two boxes
    of one tile are; for a model that suppresses overlaps itself, one is dropped here.
    """

    Settings = TilesSettings
    takes = (Array("image", "uint8", (None, None, 3)),)  # type: ignore[assignment]

    settings: TilesSettings

    def __init__(self, settings: TilesSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._at_once = self._contract.batch or settings.tiles_at_once
        self._max_iou = max_iou(None, context)
        # The whole frame has another shape than a tile, and each keeps memory of its own shape.
        self._pixels = {whole: PixelWriter(self._contract.input) for whole in (False, True)}
        self._inputs: NDArray[Any] = np.empty(0)
        self._tiles = functools.lru_cache(maxsize=16)(self._tiles_of)

    @classmethod
    def resolve(cls, settings: DetectorSettings) -> Resolved:  # type: ignore[override]
        """Make the offers of the detector, and check the tiles.

        Raises:
            SetupError: see `Detector.resolve`; or the tiles contradict each other or the model.
        """
        resolved = super().resolve(settings)
        assert isinstance(settings, TilesSettings)
        contract = next(offer for offer in resolved.offers if isinstance(offer, Contract))
        if settings.grid is not None and settings.size_px is not None:
            raise SetupError("grid, size_px: both are given; leave out one of the two")
        if settings.grid is not None:
            count = settings.grid[0] * settings.grid[1] + settings.whole
            if count > settings.max_tiles:
                raise SetupError(
                    f"grid: expected at most max_tiles ({settings.max_tiles}) tiles, found {count} "
                    "with the whole frame; change one of the two"
                )
        if contract.input.resize in ("none", "crop"):
            raise SetupError(
                f"model {contract.name} does not take all of an image of any size (resize: "
                f"{contract.input.resize}); set another `resize` in its card"
            )
        return resolved

    def effective(self) -> Mapping[str, Any]:
        """Return the size of a tile that is that of the model's input."""
        if self.settings.grid is not None or self.settings.size_px is not None:
            return {}
        width, height = self._contract.input.size
        return {"size_px": f"{width}x{height}"}

    def open(self) -> None:
        """Load the model, and allocate the input of one run.

        Raises:
            SetupError: the device or the model does not load.
            DeviceFailed: the device that ran the model before a crash does not load.
        """
        super().open()
        expected = self._contract.input
        self._inputs = np.zeros((self._at_once, *expected.shape[1:]), expected.dtype)
        if self._at_once > 1 and self._runtime is not None and self._runtime.on_gpu:
            self.run_model(self._inputs)  # the first run of each size takes seconds on a GPU

    def process(self, frame: Frame) -> None:
        """Add `boxes`, `scores` and `classes`."""
        tiles = self._tiles(frame.width, frame.height)
        outputs = self.infer(frame)
        per_run = len(self._contract.outputs)
        found = []
        for number, tile in enumerate(tiles):
            run, index = divmod(number, self._at_once)
            images = self._contract.batch or min(self._at_once, len(tiles) - run * self._at_once)
            of_run = outputs[run * per_run : (run + 1) * per_run]
            found.append(self._decode(of_run, index, images, tile.transform).candidates)
        self._put(frame, Detailed(self._merged(found, tiles)))

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames one after the other: a run never has tiles of two frames."""
        for frame in frames:
            self.process(frame)

    def infer(self, frame: Frame) -> Sequence[NDArray[Any]]:
        """Return the model's raw outputs for all tiles, one run after the other.

        The bench measures it as bare inference: the limit counts the model once per tile.

        Raises:
            DeviceFailed: the provider failed, and would for every frame.
        """
        image = frame["image"]
        tiles = self._tiles(frame.width, frame.height)
        outputs: list[NDArray[Any]] = []
        for start in range(0, len(tiles), self._at_once):
            some = tiles[start : start + self._at_once]
            for i, tile in enumerate(some):
                whole = (tile.width, tile.height) == (frame.width, frame.height)
                self._pixels[whole].write(tile.of(image), tile.rect, self._inputs[i : i + 1])
            outputs += self.run_model(self._inputs[: len(some)])
            self.beat()  # many tiles take long on purpose
        return outputs

    def _tiles_of(self, width: int, height: int) -> Sequence[Tile]:
        """Return the tiles of a frame.

        Raises:
            ValueError: there are more than `max_tiles`.
        """
        settings, expected = self.settings, self._contract.input
        columns, rows = settings.grid or (None, None)
        sizes = (settings.size_px,) * 2 if settings.size_px is not None else expected.size
        across = _sides(width, columns, sizes[0], settings.overlap)
        down = _sides(height, rows, sizes[1], settings.overlap)
        places = [
            Rect(left, top, across.side, down.side) for top in down.starts for left in across.starts
        ]
        if settings.whole and len(places) > 1:
            places.append(Rect(0, 0, width, height))
        if len(places) > settings.max_tiles:
            raise ValueError(
                f"a frame of {width}x{height} needs more tiles than max_tiles (found "
                f"{len(places)}, at most {settings.max_tiles}); set a larger size_px, or max_tiles"
            )
        return [
            Tile(*place, *fit(*place[2:], expected.size, expected.resize, expected.anchor))
            for place in places
        ]

    def _merged(self, found: Sequence[Candidates], tiles: Sequence[Tile]) -> Candidates:
        """Return the candidates of all tiles in pixels of the frame, best first, none repeated."""
        counts = [len(own.scores) for own in found]
        places = np.array([tile.place for tile in tiles], np.float32)
        shift = np.repeat(places[:, [0, 1, 0, 1]], counts, axis=0)
        boxes = np.concatenate([own.boxes for own in found]) + shift
        scores = np.concatenate([own.scores for own in found])
        classes = np.concatenate([own.classes for own in found])
        rows = np.flatnonzero(np.isfinite(scores) & np.isfinite(boxes).all(axis=1))
        rows = rows[np.argsort(-scores[rows], kind="stable")][:MAX_COMPARED]
        numbers = np.repeat(np.arange(len(tiles)), counts)[rows]
        limit = self._max_iou if self._contract.end_to_end else None
        rows = rows[without_repeats(boxes[rows], classes[rows], numbers, places, limit)]
        return Candidates(boxes[rows], scores[rows], classes[rows])


class Sides(NamedTuple):
    """The tiles along one axis, in pixels."""

    side: int
    """Length of each."""
    starts: Sequence[int]
    """Ascending; the first is 0, the last tile ends with the frame."""


def _sides(length: int, count: int | None, side: int, overlap: float) -> Sides:
    """Divide an axis into `count` tiles; None: into as many tiles of length `side` as it needs."""
    if count is None:
        side = min(side, length)
        count = math.ceil((length - side) / max(1.0, side * (1 - overlap)) - 1e-9) + 1
    else:
        side = min(length, math.ceil(length / (count - (count - 1) * overlap) - 1e-9))
    if count == 1:
        return Sides(length, (0,))
    # Evenly spread, so that no two tiles overlap much more than others. Fewer pixels than tiles
    # give equal starts.
    places = {round(i * (length - side) / (count - 1)) for i in range(count)}
    return Sides(side, sorted(places))


def without_repeats(
    boxes: NDArray[np.float32],
    classes: NDArray[np.int32],
    numbers: NDArray[np.integer],
    places: NDArray[np.floating],
    max_iou: float | None,
) -> NDArray[np.intp]:
    """Return the rows that remain, in their order.

    A box is dropped if a better one of its class, of another tile, is at least as large and agrees
    with it where both tiles see.

    Args:
        boxes: (N, 4) xyxy in pixels of the frame, best first, finite.
        classes: (N,)
        numbers: (N,) number of the tile that each box is of.
        places: (T, 4) xyxy of the tiles in pixels of the frame.
        max_iou: a box is also dropped if its IoU with a better one of another tile is above this;
            None: that is left to the NMS that follows.
    """
    rivals = rivals_of(boxes, classes)
    better, worse = rivals.first, rivals.second
    a, b = places[numbers[better]], places[numbers[worse]]
    seen = np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], axis=1)
    agreement = iou_pairs(_inside(boxes[better], seen), _inside(boxes[worse], seen))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    repeated = (agreement > MAX_AGREEMENT) & (area[better] >= area[worse])
    if max_iou is not None:
        repeated |= rivals.overlaps > max_iou
    repeated &= numbers[better] != numbers[worse]
    return suppress_rivals(len(boxes), rivals._replace(overlaps=repeated.astype(np.float64)), 0.5)


def _inside(boxes: NDArray[np.float32], places: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the parts of boxes in other boxes, row by row; without area where there is none."""
    low = np.maximum(boxes[:, :2], places[:, :2])
    return np.concatenate([low, np.minimum(boxes[:, 2:], places[:, 2:])], axis=1)
