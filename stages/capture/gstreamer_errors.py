"""Errors of GStreamer, in the words that the other backends use too."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Any

from pipeline.urls import redact
from stages.addresses import PORTS, device_path, host_of, parse_source, scheme_of
from stages.capture.settings import CaptureSettings
from stages.capture.source import (
    ENDED,
    WEB_PAGE,
    SourceProblem,
    connection_problem,
    device_problem,
    http_error,
    network_problem,
)

REACH_TIMEOUT_S = 0.5
"""Timeout of a connection that is made to find out why a host was not reached."""

_UNSUPPORTED = {
    ("gst-core-error-quark", 12),  # missing plugin
    *(("gst-stream-error-quark", code) for code in (3, 4, 5, 6, 11)),  # type, codec, format
}
_KINDS = {3: "not_found", 15: "unauthorized"}
"""Code of an error of a resource -> kind of problem."""


def classify_error(
    message: Any, kind: str, settings: CaptureSettings, missing_plugin: str, has_images: bool
) -> SourceProblem:
    """Return the problem behind an error message, without addresses in its text.

    Args:
        message: message of the type ERROR.
        kind: see `gstreamer_pipeline.kind_of_pipeline`.
        settings: settings of the stream.
        missing_plugin: name of a plugin that GStreamer lacks; "": none.
        has_images: whether any image has come.
    """
    error, debug = message.parse_error()
    problem = "failed"
    if error.domain == "gst-resource-error-quark":
        problem = _KINDS.get(error.code, problem)
    if (error.domain, error.code) in _UNSUPPORTED or "not-negotiated" in debug:
        problem = "unsupported"
    source = parse_source(settings.source)
    if kind == "pipeline":
        why = debug.strip().rpartition("\n")[2]
        text = f"{message.src.get_name()}: {error.message} ({why})"
        return problem, without_values(text)
    if kind == "device":
        return device_problem(device_path(source))
    if problem == "unsupported":
        return problem, _unsupported(message, kind, settings, missing_plugin)
    if kind == "file":
        return problem, "cannot be read" if problem == "failed" else "no such file"
    status = _status(message)
    if status:
        return http_error(status, str(source))
    if has_images:
        return ENDED
    if "imeout" in debug:
        return network_problem("timeout", str(source))
    text = "cannot be opened; check that the address is one of a stream"
    return unreachable_problem(str(source)) or (problem, text)


def _unsupported(message: Any, kind: str, settings: CaptureSettings, missing_plugin: str) -> str:
    if missing_plugin.startswith("text/"):
        return WEB_PAGE
    if missing_plugin:
        return f"GStreamer has no {missing_plugin}; `make gstreamer` installs the usual plugins"
    if message.src.get_name() == "source" and kind == "rtsp":
        sent = settings.transport.upper()
        return f"the camera does not send video by {sent}; try the other `transport`"
    return "GStreamer cannot decode the stream"


def _status(message: Any) -> int:
    """Return the status with which a server has refused; 0 for other errors."""
    details = message.parse_error_details()
    if details is None:
        return 0
    answers = (details.get_uint(f"{protocol}-status-code") for protocol in ("rtsp", "http"))
    return next((status for known, status in answers if known), 0)


def unreachable_problem(address: str) -> SourceProblem | None:
    """Return why a host cannot be connected to, which GStreamer does not say; None: it can."""
    import ssl

    host, port = host_of(address)
    if scheme_of(address) not in PORTS or port is None:
        return None
    try:
        with socket.create_connection((host, port), REACH_TIMEOUT_S) as connection:
            if scheme_of(address) == "https":
                ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
    except (OSError, UnicodeError) as error:
        return connection_problem(error, address)
    return None


def without_values(text: str, names: Sequence[str] = ()) -> str:
    """Return a text of GStreamer's without what it quotes, which may be secret.

    Args:
        text: text of an error.
        names: that may be shown.
    """
    return redact(re.sub(r'"(.*?)"', lambda m: m[0] if m[1] in names else '"..."', text))
