"""Annotated images: one file per frame, under the name of the image file that was read.

Each file is written under another name and renamed when it is complete, so that a crash leaves no
partial image. A frame that was in flight is written again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.context import Log
from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Output, Resolved, Resources, Settings, Stage
from stages.detections import RESULTS
from stages.drawing.annotator import annotator_of
from stages.sinks.files.file_lock import lock_file
from stages.sinks.files.output_path import check_local, expand_home, try_folder

UNFINISHED = ".eyeline.part"
"""Name of the file that is being written."""
MAX_NAME_BYTES = 255
LOCK_TIMEOUT_S = 0.5
"""Wait for the lock of a process that was killed: it is held until the process has ended."""
WRITTEN = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Formats that are kept; images of other formats become .png."""
QUALITY = {
    ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
    ".jpg": cv2.IMWRITE_JPEG_QUALITY,
    ".webp": cv2.IMWRITE_WEBP_QUALITY,
}
"""Format -> OpenCV's parameter; the WebP encoder reads only the first one it is given."""


class PicturesSettings(Settings, frozen=True):
    """Settings of the sink for images."""

    folder: Annotated[str, msgspec.Meta(min_length=1)]
    """Folder to write into; {stream} stands for the stream's name, which is added as a folder if
    there are several streams. Must not be the folder of the source."""
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90
    """Quality of JPEG and WebP files, in percent."""
    annotate: bool = True
    """Draw boxes, tags and trails."""

    def __post_init__(self) -> None:
        expand_home(self, folder=self.folder)


class Pictures(Stage):
    """Writes each frame as an image file.

    An image keeps its name and format; the second image of a file with several is NAME.page2.tif.
    Frames of other sources are named after their number.
    """

    Settings = PicturesSettings
    takes = (Array("image", "uint8", (None, None, 3)), *RESULTS)
    ordered = True

    settings: PicturesSettings

    def __init__(self, settings: PicturesSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._streams: Collection[str] = context.streams
        self._annotator = annotator_of(context)
        self._folders: dict[str, _Folder] = {}
        self._pages: dict[str, tuple[str, int]] = {}
        """Stream -> name of its newest file, and number of images of it so far."""

    @classmethod
    def resolve(cls, settings: PicturesSettings) -> Resolved:
        """Check that files can be created in the folder.

        Raises:
            SetupError: they cannot.
        """
        check_folder(settings.folder)
        return Resolved()

    @classmethod
    def resources(cls, settings: PicturesSettings) -> Resources:
        """Declare the folder, which no other stage may use, nor the folders of streams in it."""
        folder = Path(settings.folder)
        return Resources(writes=(Output(folder),), locks=(folder,))

    def open(self) -> None:
        """Create and lock the folders of the known streams.

        Raises:
            SetupError: another run writes into one.
        """
        for stream in self._streams:
            self._folder(stream)

    def process(self, frame: Frame) -> None:
        """Write the image of a frame.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        image = self._annotator.draw(frame) if self.settings.annotate else frame["image"]
        name = frame.file or f"{frame.seq:06}.jpg"
        before, page = self._pages.get(frame.stream, ("", 0))
        page = page + 1 if name == before else 1
        name, data = encode(image, name, page, self.settings.quality)
        self._folder(frame.stream).write(name, data)
        if frame.file:
            self._pages[frame.stream] = frame.file, page

    def end(self, stream: str) -> None:
        """Release the stream's folder."""
        self._annotator.forget(stream)
        self._pages.pop(stream, None)
        if stream in self._folders:
            self._folders.pop(stream).close()

    def close(self) -> None:
        """Release all folders."""
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def state(self, stream: str) -> bytes:
        """Return the name of the stream's newest file, and the number of images of it so far."""
        return msgspec.msgpack.encode(self._pages[stream]) if stream in self._pages else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Continue the numbers of images of one file."""
        if state:
            self._pages[stream] = msgspec.msgpack.decode(state, type=tuple[str, int])

    def _folder(self, stream: str) -> _Folder:
        if stream not in self._folders:
            path = stream_folder(self.settings.folder, stream, self._streams)
            self._folders[stream] = _Folder(path, self.context.log)
        return self._folders[stream]


class _Folder:
    """Folder of the images of one stream, locked for as long as it is open.

    Args:
        path: the folder.
        log: logger of the stage.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _failure(path, error) from None
        try:
            lock_file(self._descriptor, str(path), log, LOCK_TIMEOUT_S)
            (path / UNFINISHED).unlink(missing_ok=True)
        except BaseException:
            self.close()
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a file, completely or not at all; one of the same name is replaced."""
        part = self._path / UNFINISHED
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(self._path / name)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise _failure(self._path / name, error) from None

    def close(self) -> None:
        """Release the folder. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def stream_folder(folder: str, stream: str, streams: Collection[str]) -> Path:
    """Return the folder of one stream.

    `{stream}` stands for the stream's name. Without it, the name is added as a folder, unless the
    stream is the only one.

    Args:
        folder: folder, as in the settings.
        stream: name of the stream.
        streams: names of the streams at the start.
    """
    if "{stream}" in folder:
        return Path(folder.replace("{stream}", stream))
    return Path(folder) if set(streams) == {stream} else Path(folder) / stream


def check_folder(folder: str) -> None:
    """Check that files can be created in the folder; with `{stream}`, in the part before it.

    Raises:
        SetupError: it is a file, or may not be written.
    """
    check_local("folder", folder)
    path = Path(folder)
    while "{stream}" in str(path):
        path = path.parent
    try:
        try_folder(path)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "not a path"
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a file has this name"
        raise SetupError(
            f"folder: cannot write in {folder!r} ({reason}); choose another folder"
        ) from None


def encode(image: NDArray[np.uint8], name: str, page: int, quality: int) -> tuple[str, bytes]:
    """Encode an image as a file.

    Args:
        image: (H, W, 3) uint8 BGR.
        name: name of the file; its suffix chooses the format, .png if that cannot be written.
        page: number of the image in the file that it comes from, from 1.
        quality: quality of JPEG and WebP, from 1 to 100.

    Returns:
        The name of the file, and its content.
    """
    stem, ending = os.path.splitext(name)
    if page > 1:
        stem = f"{stem}.page{page}"
    kind = QUALITY.get(ending.lower())
    parameters = [] if kind is None else [kind, quality]
    if ending.lower() in WRITTEN:
        with suppress(cv2.error):  # larger than the format allows
            done, data = cv2.imencode(ending.lower(), image, parameters)
            if done:
                return _fitting(stem, ending), data.tobytes()
    _, data = cv2.imencode(".png", image)
    return _fitting(f"{stem}{ending}", ".png"), data.tobytes()


def _fitting(stem: str, ending: str) -> str:
    """Return a name, cut to the longest that a file can have."""
    while stem and len(os.fsencode(stem + ending)) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem + ending


def _failure(path: Path, error: OSError) -> RunError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space or choose another folder" if full else "choose another folder"
    return RunError(f"cannot write {str(path)!r} ({error.strerror}); {advice}")
