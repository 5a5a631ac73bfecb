"""Several streams in one image, in rows of equal tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_SIZE_PX = (1920, 1080)
"""Largest width and height of the whole, in pixels."""


class Mosaic:
    """One image of the newest images of all streams.

    Args:
        streams: names of the streams, in the order of the tiles.
    """

    def __init__(self, streams: tuple[str, ...]) -> None:
        self._whole: NDArray[np.uint8] | None = None
        self._tile = (0, 0)
        self._lay_out(streams)

    def _lay_out(self, streams: Sequence[str]) -> None:
        self._streams = {stream: index for index, stream in enumerate(streams)}
        self._columns = math.ceil(math.sqrt(max(1, len(streams))))
        self._rows = math.ceil(max(1, len(streams)) / self._columns)

    def _change(self, streams: Sequence[str]) -> None:
        """Change the layout for other streams, and keep the images."""
        images: dict[str, NDArray[np.uint8]] = {}
        if self._whole is not None:
            images = {of: self._whole[self._area(of)].copy() for of in self._streams}
        self._whole = None
        self._lay_out(streams)
        for stream, image in images.items():
            if stream in self._streams:
                self.put(stream, image)

    def _area(self, stream: str) -> tuple[slice, slice]:
        row, column = divmod(self._streams[stream], self._columns)
        width, height = self._tile
        return (
            slice(row * height, (row + 1) * height),
            slice(column * width, (column + 1) * width),
        )

    def forget(self, stream: str, shown: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Remove the tile of a stream, unless it is the last one.

        Args:
            stream: one of the names.
            shown: (H, W, 3) uint8, the current image; None: none yet.

        Returns:
            (H, W, 3) uint8, the image to show from now on.
        """
        if stream not in self._streams or len(self._streams) < 2:
            return shown
        self._change([other for other in self._streams if other != stream])
        return shown if self._whole is None else self._whole

    def put(self, stream: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Put the newest image of a stream into its tile.

        The first image sets the shape of the tiles; others are fitted in with black edges.

        Args:
            stream: name of the stream, which may be new.
            image: (H, W, 3) uint8.

        Returns:
            (H, W, 3) uint8, the same array in every call; with a single stream, its own image.
        """
        if stream not in self._streams:
            self._change([*self._streams, stream])
        if len(self._streams) < 2:
            return image
        height, width = image.shape[:2]
        if self._whole is None:
            shrink = min(
                1.0, MAX_SIZE_PX[0] / self._columns / width, MAX_SIZE_PX[1] / self._rows / height
            )
            self._tile = max(1, round(width * shrink)), max(1, round(height * shrink))
            shape = self._rows * self._tile[1], self._columns * self._tile[0], 3
            self._whole = np.zeros(shape, np.uint8)
        tile_width, tile_height = self._tile
        tile = self._whole[self._area(stream)]
        scale = min(tile_width / width, tile_height / height)
        fitted = (
            min(tile_width, max(1, round(width * scale))),
            min(tile_height, max(1, round(height * scale))),
        )
        if fitted != self._tile:
            tile[...] = 0
        top, left = (tile_height - fitted[1]) // 2, (tile_width - fitted[0]) // 2
        tile[top : top + fitted[1], left : left + fitted[0]] = cv2.resize(image, fitted)
        return self._whole
