"""Settings of a source, and the questions that they answer."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline.stage import Settings
from pipeline.urls import display_url
from stages.addresses import STANDARD_INPUT, parse_source
from stages.capture.source import is_pipe, is_recorded


class CaptureSettings(Settings, frozen=True):
    """Source of a stream; in the settings file these keys stand under `streams`."""

    source: Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=0)]
    """Webcam index (0), device (/dev/video2), video file, image, folder of images, an address
    (rtsp://, http://), or a pipe: a FIFO, a socket, or - for standard input."""
    mode: Literal["auto", "live", "lossless"] = "auto"
    """lossless waits for a free slot and drops nothing; live never waits. auto: live for
    cameras and addresses, lossless for files and pipes. live on these plays them at their own
    pace."""
    loop: bool = False
    """Begin again when a file or folder ends; forever, or up to `frames`."""
    frames: Annotated[int, Meta(ge=1)] | None = None
    """End the stream after this number of images."""
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    """Images per second of a folder of images (default 10), or of a file or pipe that does not
    declare it; requested from a webcam; request rate for an address that returns one image per
    request (default 5)."""
    sequence: bool = False
    """The images of a folder are consecutive frames of a video, and are tracked. false: the images
    are unrelated."""
    width: Annotated[int, Meta(ge=1)] | None = None
    """Width requested from a webcam, in pixels."""
    height: Annotated[int, Meta(ge=1)] | None = None
    """Height requested from a webcam, in pixels."""
    backend: Literal["auto", "opencv", "gstreamer"] = "auto"
    """Library that reads a camera or an address; files and pipes are read by OpenCV. auto: OpenCV,
    which costs least; GStreamer for what OpenCV cannot decode, and where `pipeline` is set."""
    pipeline: Annotated[str, Meta(min_length=1)] | None = None
    """Custom GStreamer pipeline, as for gst-launch-1.0, that ends in an appsink; `source` is then
    only the name that is shown."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of the images of an rtsp:// address."""
    stall_timeout_s: Annotated[float, Meta(ge=0.5, le=600)] = 5.0
    """Seconds without a new image after which a camera counts as lost."""
    wait: bool = False
    """Retry a camera or address that cannot be opened at the start, instead of ending the run; for
    daemons."""
    reconnect: bool = True
    """Open a camera or address again when it is lost; false: the run ends."""


def source_name(settings: CaptureSettings) -> str:
    """Return the name of the source for messages, without credentials."""
    if settings.source in STANDARD_INPUT:
        return "standard input"
    source = parse_source(settings.source)
    return f"camera {source}" if isinstance(source, int) else display_url(source)


def reads_file(settings: CaptureSettings) -> bool:
    """Return whether the source is a file, or a folder of images."""
    return settings.pipeline is None and is_recorded(settings.source)


def reads_pipe(settings: CaptureSettings) -> bool:
    """Return whether the source is a FIFO, a socket or standard input."""
    return settings.pipeline is None and is_pipe(settings.source)


def has_path(settings: CaptureSettings) -> bool:
    """Return whether the source is a file, folder or pipe: it has an end, and is opened once."""
    return reads_file(settings) or reads_pipe(settings)


def is_live(settings: CaptureSettings) -> bool:
    """Return whether images come at their own pace and are not waited for."""
    return settings.mode == "live" or (settings.mode == "auto" and not has_path(settings))
