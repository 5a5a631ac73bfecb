"""Proposals on disk: computed once for each picture and settings, then read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.boxes.iou import Boxes
from models.errors import CacheError
from models.proposals.selective_search import VERSION, SearchSettings, selective_search


class ProposalCache:
    """A folder with a file of proposals for each picture and settings.

    The name of a file is a hash of the pixels, the settings and the version of the algorithm, so
    that a picture may be moved or renamed, and a file is never of another picture.
    """

    def __init__(self, folder: Path, settings: SearchSettings | None = None) -> None:
        self._folder = folder
        self._settings = SearchSettings() if settings is None else settings

    def proposals(self, image: NDArray[np.uint8]) -> Boxes:
        """Return the proposals of a picture, and store them if they are not stored yet.

        Args:
            image: (H, W, 3) BGR.

        Returns:
            (N, 4) float32, as `selective_search` gives them.

        Raises:
            ProposalError: see `selective_search`.
            CacheError: the folder cannot be written.
        """
        path = self.path_of(image)
        boxes = _read(path)
        if boxes is None:
            boxes = selective_search(image, self._settings)
            _write(path, boxes)
        return boxes

    def path_of(self, image: NDArray[np.uint8]) -> Path:
        """Return the path of the file of a picture, whether it exists or not."""
        key = hashlib.sha256(msgspec.json.encode([VERSION, image.shape, self._settings]))
        key.update(np.ascontiguousarray(image).data)
        return self._folder / f"{key.hexdigest()}.npy"


def _read(path: Path) -> Boxes | None:
    """Read a file of proposals; None: there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            # Not np.load, which takes zip archives too.
            read: Callable[..., Boxes] = np.lib.format.read_array
            boxes = read(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = boxes.dtype == np.float32 and boxes.ndim == 2 and boxes.shape[1] == 4
    return boxes if whole else None


def _write(path: Path, boxes: Boxes) -> None:
    """Write a file of proposals; a reader never sees a part of it.

    Raises:
        CacheError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    except OSError as failure:
        raise _unwritable(path, failure) from None
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, boxes, allow_pickle=False)
        os.replace(name, path)
    except OSError as failure:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(path, failure) from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _unwritable(path: Path, failure: OSError) -> CacheError:
    """Make the error of a folder that cannot be written."""
    return CacheError(
        f"{path.parent}: proposals cannot be stored ({failure.strerror}); choose a folder that can "
        "be written"
    )
