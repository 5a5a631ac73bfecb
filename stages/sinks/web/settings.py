"""Settings of the status page, and what is checked before the start."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from pipeline.errors import SetupError
from pipeline.stage import Settings
from stages.sinks.listen import check_bind_address, is_loopback
from stages.sinks.web.allowed_sources import AllowedSources

MIN_TOKEN_LENGTH = 8
"""Characters. A short token is enough, as wrong ones are answered slowly."""


class WebSettings(Settings, frozen=True):
    """Settings of the status page."""

    address: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """IP address to listen at; 0.0.0.0 for all interfaces. Any address but a loopback address
    needs `token`."""
    port: Annotated[int, Meta(ge=0, le=65535)] | Annotated[str, Meta(pattern=r"^[0-9]{1,5}$")] = (
        8080
    )
    """TCP port to listen at; 0 for a free one, which is logged."""
    token: str | None = None
    """Secret that a client sends to pause and remove streams, and to add those of `sources`;
    without a token no client can. At an address that is not loopback, nothing is shown without it.
    Best kept in the environment: ${EYELINE_TOKEN}."""
    sources: tuple[str, ...] = ()
    """Sources that a request may open to add a stream: addresses (rtsp://cam.lan,
    rtsp://192.168.1.*/live; with a port if it is not the usual one, :* for any), files, folders,
    and cameras of this machine (0, /dev/video0). None by default: else a client with the token
    could read files of this machine and reach its network."""
    pipelines: bool = False
    """Whether a request may contain a GStreamer `pipeline`, which can write files and reach any
    host."""
    hosts: tuple[str, ...] = ()
    """Further host names of the page, for example that of a reverse proxy."""
    width: Annotated[int, Meta(ge=64, le=3840)] = 960
    """Maximum width of the shown images, pixels; larger ones are scaled down."""
    fps: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Maximum rate of the shown images, per second and stream."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 75
    """JPEG quality of the shown images."""
    viewers: Annotated[int, Meta(ge=1, le=256)] = 32
    """Maximum number of open pages and image streams."""
    events: Annotated[int, Meta(ge=1, le=10_000)] = 200
    """Number of events that are kept for a page that opens: as many of objects, and as many of
    streams and stages."""


def check_settings(settings: WebSettings) -> None:
    """Check the address, the port, the token and the allowed sources.

    Raises:
        SetupError: one is invalid, or the page would be open to the network without a token.
    """
    if int(settings.port) > 65535:
        raise SetupError(f"port: expected a number up to 65535, found {settings.port}")
    check_bind_address(settings.address, "the token")
    token = settings.token
    if token is None and not is_loopback(settings.address):
        raise SetupError(
            f"address: {settings.address} is reachable from the network; set a token "
            "(token: ${EYELINE_TOKEN}), or use 127.0.0.1"
        )
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise SetupError(
            f"token: expected {MIN_TOKEN_LENGTH} characters or more, found {len(token)}; "
            "`openssl rand -hex 16` makes a good one"
        )
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise SetupError("token: expected printable ASCII characters without spaces")
    AllowedSources(settings.sources, settings.pipelines)  # raises SetupError for an invalid entry
