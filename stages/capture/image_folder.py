"""Reading pictures: one, all of a folder, or the pages of an animation or of a TIFF file."""

from __future__ import annotations

import logging
import re
import stat
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.capture.opencv_video import as_bgr
from stages.capture.reader import Recorded

IMAGES = (".apng", ".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PAGED = (".apng", ".avif", ".png", ".tif", ".tiff", ".webp")
"""Those of which one file may hold several pictures."""
ANIMATED = (".apng", ".avif", ".png", ".webp")
"""Those whose pages say how long each is shown."""
DEFAULT_FPS = 10.0
DEFAULT_PAGE_MS = 100
"""Of a page that says it is shown for no time, as browsers have it."""
MAX_FILE_BYTES = 1 << 30
"""Of a picture's file. A larger one is taken for damaged, before it is read."""
MAX_PAGES_BYTES = 64 << 20
"""Of the pages that are decoded at once."""


class ImageFolder(Recorded):
    """A folder of images in the order of their names, or one image, each with all of its pages."""

    decoder = "OpenCV imread"
    finite = True

    def __init__(self, path: Path, fps: float | None) -> None:
        """See that it holds an image that can be read.

        Args:
            path: of the folder, or of the image.
            fps: pictures per second; None: 10, or what a single animation says.
        """
        self._paths = images_in(path) if path.is_dir() else [path]
        if all(read_image(image) is None for image in self._paths):
            what = "holds no image that can be read" if path.is_dir() else "is no image"
            raise SourceError(what, "unsupported")
        self._fps = fps or DEFAULT_FPS
        self._timed = fps is None and len(self._paths) == 1 and _has(path, ANIMATED)
        self.fps = 0.0 if self._timed else self._fps
        self.still = len(self._paths) > 1 or not _has(path, ANIMATED) or page_count(path) == 1
        self._offset_ns = 0
        self._count = self._round = 0
        """Pictures taken in all, and in this round."""
        self._next = 0
        self._pages = _Pages(None)
        self._repeated = False
        self.source_ns = -1

    @property
    def path(self) -> Path:
        """The file of the last picture."""
        return self._paths[self._next - 1]

    def grab(self) -> bool:
        """Go to the next picture; False at the end."""
        if self._repeated:
            self._repeated = False
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
        """Decode the last picture into the frame; False: it cannot be decoded."""
        picture = self._pages.picture()
        if picture is None:
            reason = why_not_read(self.path)
            if reason:
                logging.warning("%s: not read as a picture: %s", self.path, reason)
            return False
        frame.put("image", picture)
        return True

    def rewind(self, rounds: int = 1) -> None:
        """Begin again, as if it had been played so many times in all since the last time."""
        self._offset_ns += rounds * self._pages.end_ms * 1_000_000
        self._count += (rounds - 1) * self._round
        self._next = self._round = 0
        self._pages = _Pages(None)

    def again(self) -> None:
        """Give the last picture once more."""
        self._repeated = True

    def seek(self, count: int, source_ns: int) -> bool:
        """Images are found as quickly by counting."""
        return False

    def trouble(self) -> tuple[str, str]:
        """Kind and words of what ended it too early."""
        return "", ""

    def interrupt(self) -> None:
        """A file does not wait."""

    def close(self) -> None:
        """Let go of the pages that are held."""
        self._pages = _Pages(None)


class _Pages:
    """The pages of one file, a few of which are held at a time."""

    def __init__(self, path: Path | None) -> None:
        """Count them; a file that cannot be read has one, which is damaged."""
        self._path = path
        self._count = 0 if path is None else page_count(path)
        self._at = 0
        self._from, self._held = 0, list[Any]()
        self._durations: list[int] = []
        """In milliseconds, of the pages up to the last one held."""

    def turn(self) -> bool:
        """Go to the next page; False: there is none."""
        self._at += 1
        return self._at < self._count

    @property
    def start_ms(self) -> int:
        """When the page is shown, from the first one."""
        self._hold()
        return sum(self._durations[: self._at])

    @property
    def end_ms(self) -> int:
        """When the last page held has been shown."""
        return sum(self._durations)

    def picture(self) -> NDArray[np.uint8] | None:
        """The page; None: it cannot be decoded."""
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
    """How many pictures a file holds; 1 of one that cannot be read."""
    if not _has(path, PAGED) or why_not_read(path):
        return 1
    try:
        return max(1, cv2.imcount(str(path), cv2.IMREAD_COLOR))
    except cv2.error:
        return 1


def read_pages(path: Path, first: int, count: int) -> tuple[list[Any], list[int]]:
    """Some pages of a file, and for how many milliseconds each is shown.

    Args:
        path: of the file.
        first: page to begin with, from 0.
        count: how many at most.
    """
    try:
        if _has(path, ANIMATED):
            done, animation = cv2.imreadanimation(str(path), first, count)
            pages = list(animation.frames) if done else []
            shown = [max(0, int(ms)) for ms in np.ravel(animation.durations)[: len(pages)]]
            shown += [0] * (len(pages) - len(shown))
            return pages, [ms or DEFAULT_PAGE_MS for ms in shown]
        done, found = cv2.imreadmulti(str(path), first, count, flags=cv2.IMREAD_COLOR)
        return list(found) if done else [], []
    except cv2.error:
        return [], []


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """A picture, (H, W, 3) uint8 BGR; None: it cannot be decoded."""
    if why_not_read(path):
        return None
    try:
        return cast("NDArray[np.uint8] | None", cv2.imread(str(path), cv2.IMREAD_COLOR))
    except cv2.error:
        return None  # it says that it is larger than any OpenCV takes


def why_not_read(path: Path) -> str:
    """Why a picture is not even tried to be read; "": it is tried.

    A pipe would be waited for, and a device may have no end.
    """
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_size > MAX_FILE_BYTES:
        return f"it has {status.st_size} bytes; {MAX_FILE_BYTES} at most are read"
    return ""


def images_in(folder: Path) -> list[Path]:
    """Its images, in the order a person expects: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [
            (int(part or 0) if part.isdecimal() else -1, part)
            for part in re.split(r"(\d+)", path.name.lower())
        ]

    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGES), key=key)


def _has(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings
