"""Check of a source before the run, and the choice of the reader that opens it."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from pipeline.context import Log
from pipeline.errors import SetupError, SourceError
from pipeline.urls import display_url, is_broken, login_advice
from stages.addresses import lacks_host, parse_source, scheme_of
from stages.capture import BACKENDS
from stages.capture.image_folder import IMAGES, images_in
from stages.capture.opencv_file import CodecError, open_file
from stages.capture.opencv_pipe import PipeVideo
from stages.capture.reader import FileReader, Reader
from stages.capture.settings import (
    CaptureSettings,
    has_path,
    reads_file,
    reads_pipe,
    source_name,
)
from stages.capture.source import is_device, kind_of, unusable_text

MAX_CAMERA_INDEX = 99
"""Highest index of a webcam; OpenCV reads the hundreds as a choice of backend."""


def check_source(settings: CaptureSettings) -> None:
    """See, before the run, that the settings agree and that a file is there.

    Raises:
        SetupError: settings that contradict each other.
        SourceError: no such file, or a folder without images.
    """
    source = parse_source(settings.source)
    if isinstance(source, int) and source > MAX_CAMERA_INDEX:
        raise SourceError(f"camera {source}: expected an index of at most {MAX_CAMERA_INDEX}")
    if settings.pipeline is None:
        _check_address(settings)
    elif settings.backend == "opencv":
        raise SetupError("pipeline: needs GStreamer; remove it, or `backend: opencv`")
    if settings.backend == "gstreamer" and has_path(settings):
        raise SetupError(
            "backend: files and pipes are read by OpenCV; remove it, or set a `pipeline`"
        )
    if settings.pipeline is not None or settings.backend == "gstreamer":
        from stages.capture.gstreamer_check import check_gstreamer

        check_gstreamer(settings)
    may_wait = settings.wait and is_device(settings.source)
    if isinstance(source, Path) and settings.pipeline is None and not may_wait:
        _check_path(source, settings)


def _check_address(settings: CaptureSettings) -> None:
    address = display_url(settings.source)
    if is_broken(str(settings.source)):
        raise SourceError(f"{address}: {login_advice(str(settings.source))}")
    if lacks_host(settings.source):
        raise SourceError(f"{address}: the host is missing; write it as in rtsp://HOST/PATH")


def _check_path(path: Path, settings: CaptureSettings) -> None:
    try:
        str(path).encode()
        path.stat()
        if kind_of(settings.source) == "unusable":
            raise SourceError(f"{source_name(settings)}: {unusable_text(str(settings.source))}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path}: no permission to read")
        if path.is_dir() and not images_in(path):
            raise SourceError(f"{path}: the folder holds no image ({', '.join(IMAGES)})")
    except FileNotFoundError:
        raise SourceError(f"{display_url(path)}: no such file, folder or device") from None
    except OSError as error:
        raise SourceError(f"{display_url(path)}: cannot be read: {error.strerror}") from None
    except ValueError:
        text = "contains characters that no path can have"
        raise SourceError(f"{display_url(path)}: {text}") from None


def open_source(settings: CaptureSettings, log: Log) -> Reader:
    """Open a source with the reader that suits it.

    Args:
        settings: settings of the stream.
        log: for files that are skipped.

    Raises:
        SourceError: it cannot be opened, or gives no image.
    """
    source = parse_source(settings.source)
    if reads_file(settings):
        assert isinstance(source, Path)
        reader = _open_file(source, settings, log)
        reader.still = reader.still and not settings.sequence
        return reader
    if reads_pipe(settings):
        assert isinstance(source, Path)
        return PipeVideo(source, settings)
    if settings.pipeline is not None or settings.backend == "gstreamer":
        return _open("gstreamer", settings)
    try:
        return _open("http" if scheme_of(source) in ("http", "https") else "opencv", settings)
    except SourceError as error:
        if settings.backend == "opencv" or error.kind != "unsupported":
            raise
        try:
            return _open("gstreamer", settings)
        except (SetupError, ImportError):
            raise error from None


def _open(backend: str, settings: CaptureSettings) -> Reader:
    module, _, name = BACKENDS[backend].partition(":")
    reader: Reader = getattr(import_module(module), name)(settings)
    return reader


def _open_file(path: Path, settings: CaptureSettings, log: Log) -> FileReader:
    """Open a file with OpenCV; with GStreamer if it is installed, and OpenCV lacks the codec."""
    try:
        return open_file(path, settings.fps, log)
    except CodecError:
        if settings.backend == "opencv":
            raise
        from stages.capture.gstreamer_bindings import missing_gstreamer

        if missing_gstreamer():
            raise
        from stages.capture.gstreamer_file import GStreamerFile

        with suppress(SetupError, ImportError):
            return GStreamerFile(settings)
        raise
