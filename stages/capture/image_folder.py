"""Reading of images: one, all of a folder, or the pages of an animation or of a TIFF file."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.context import Log
from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.capture.opencv_video import as_bgr
from stages.capture.reader import FileReader
from stages.capture.source import SourceProblem

IMAGES = (".apng", ".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PAGED = (".apng", ".avif", ".png", ".tif", ".tiff", ".webp")
"""Formats of which one file may hold several images."""
ANIMATED = (".apng", ".avif", ".png", ".webp")
"""Formats whose pages have a duration."""
DEFAULT_FPS = 10.0
DEFAULT_PAGE_MS = 100
"""Duration of a page that states 0, as in browsers."""
MAX_FILE_BYTES = 1 << 30
"""Size of an image file. A larger one counts as damaged, and is not read."""
MAX_PAGES_BYTES = 64 << 20
"""Size of the pages that are decoded at once."""


class ImageFolder(FileReader):
    """A folder of images in the order of their names, or one image, each with all of its pages."""

    decoder = "OpenCV imread"
    finite = True

    def __init__(self, path: Path, fps: float | None, log: Log) -> None:
        """See that it holds an image that can be read.

        Args:
            path: path of the folder, or of the image.
            fps: images per second; None: 10, or the durations of a single animation.
            log: for images that are skipped.

        Raises:
            SourceError: it holds none.
        """
        self._paths = images_in(path) if path.is_dir() else [path]
        if all(read_image(image) is None for image in self._paths):
            text = "holds no image that can be read" if path.is_dir() else "is not an image"
            raise SourceError(text, "unsupported")
        self._log = log
        self._fps = fps or DEFAULT_FPS
        self._timed = fps is None and len(self._paths) == 1 and _has(path, ANIMATED)
        self.fps = 0.0 if self._timed else self._fps
        self.still = len(self._paths) > 1 or not _has(path, ANIMATED) or page_count(path) == 1
        self._offset_ns = 0
        self._count = self._round = 0
        """Images taken in all, and in this round."""
        self._next = 0
        self._pages = _Pages(None)
        self._rereads = False
        self.source_ns = -1

    @property
    def path(self) -> Path:
        """File of the last image."""
        return self._paths[self._next - 1]

    def grab(self) -> bool:
        """Go to the next image; False at the end."""
        if self._rereads:
            self._rereads = False
            return True
        if not self._pages.turn():
            if self._next == len(self._paths):
                return False
            self._next += 1
            self._pages = _Pages(self.path)
            self.file = self.path.name
        if self._timed:
            self.source_ns = self._offset_ns + self._pages.start_ms * 1_000_000
        else:
            self.source_ns = round(self._count / self._fps * 1e9)
        self._count += 1
        self._round += 1
        return True

    def retrieve(self, frame: Frame) -> bool:
        """Decode the last image into the frame; False: it cannot be decoded."""
        image = self._pages.decode()
        if image is None:
            reason = skip_reason(self.path)
            if reason:
                self._log.warning("%s: skipped, %s", self.path, reason)
            return False
        frame.put("image", image)
        return True

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, with the clock of so many more rounds in all."""
        self._offset_ns += rounds * self._pages.end_ms * 1_000_000
        self._count += (rounds - 1) * self._round
        self._next = self._round = 0
        self._pages = _Pages(None)

    def reread_last(self) -> None:
        """Make the next `grab` return the last image once more."""
        self._rereads = True

    def seek(self, count: int, source_ns: int) -> bool:
        """Return False: counting the images is as quick."""
        return False

    def end_reason(self) -> SourceProblem:
        """Return ("", ""): a folder never ends too early."""
        return "", ""

    def interrupt(self) -> None:
        """Do nothing: a file does not wait."""

    def close(self) -> None:
        """Release the pages in memory."""
        self._pages = _Pages(None)


class _Pages:
    """The pages of one file, a few of which are in memory at a time."""

    def __init__(self, path: Path | None) -> None:
        """Count them; a file that cannot be read has one damaged page."""
        self._path = path
        self._count = 0 if path is None else page_count(path)
        self._at = 0
        self._from, self._held = 0, list[Any]()
        self._durations: list[int] = []
        """Milliseconds of each page up to the last one in memory."""

    def turn(self) -> bool:
        """Go to the next page; False: there is none."""
        self._at += 1
        return self._at < self._count

    @property
    def start_ms(self) -> int:
        """Time of the page from the first one, in milliseconds."""
        self._hold()
        return sum(self._durations[: self._at])

    @property
    def end_ms(self) -> int:
        """End of the last page in memory, from the first one, in milliseconds."""
        return sum(self._durations)

    def decode(self) -> NDArray[np.uint8] | None:
        """Return the page; None: it cannot be decoded."""
        if self._path is None or self._count == 1:
            return None if self._path is None else read_image(self._path)
        self._hold()
        at = self._at - self._from
        return as_bgr(self._held[at]) if 0 <= at < len(self._held) else None

    def _hold(self) -> None:
        """Decode the page, and as many behind it as there is room for."""
        if self._path is None or 0 <= self._at - self._from < len(self._held):
            return
        size = self._held[0].nbytes if self._held else MAX_PAGES_BYTES
        self._from, self._held = self._at, []
        self._held, durations = read_pages(self._path, self._at, max(1, MAX_PAGES_BYTES // size))
        self._durations += durations


def page_count(path: Path) -> int:
    """Return the number of images in a file; 1 for one that cannot be read."""
    if not _has(path, PAGED) or skip_reason(path):
        return 1
    try:
        return max(1, cv2.imcount(str(path), cv2.IMREAD_COLOR))
    except cv2.error:
        return 1


def read_pages(path: Path, first: int, count: int) -> tuple[list[Any], list[int]]:
    """Return some pages of a file, and the duration of each in milliseconds.

    Args:
        path: path of the file.
        first: page to begin with, from 0.
        count: how many at most.
    """
    try:
        if _has(path, ANIMATED):
            done, animation = cv2.imreadanimation(str(path), first, count)
            pages = list(animation.frames) if done else []
            durations = [max(0, int(ms)) for ms in np.ravel(animation.durations)[: len(pages)]]
            durations += [0] * (len(pages) - len(durations))
            return pages, [ms or DEFAULT_PAGE_MS for ms in durations]
        done, found = cv2.imreadmulti(str(path), first, count, flags=cv2.IMREAD_COLOR)
        return list(found) if done else [], []
    except cv2.error:
        return [], []


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """Read an image, (H, W, 3) uint8 BGR; None: it cannot be decoded."""
    if skip_reason(path):
        return None
    try:
        return cast("NDArray[np.uint8] | None", cv2.imread(str(path), cv2.IMREAD_COLOR))
    except cv2.error:
        return None  # its header states a size that OpenCV refuses


def skip_reason(path: Path) -> str:
    """Return why a file is not even opened as an image; "" if it is.

    Reading a pipe would wait for its writer, and a device may have no end.
    """
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size > MAX_FILE_BYTES:
        return f"larger than {MAX_FILE_BYTES} bytes (found {status.st_size})"
    return ""


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [
            (int(part or 0) if part.isdecimal() else -1, part)
            for part in re.split(r"(\d+)", path.name.lower())
        ]

    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=key)


def _has(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings
