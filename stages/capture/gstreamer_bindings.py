"""Loading of GStreamer, a package of the system, which `make gstreamer` installs.

Nothing of it is loaded before a source is opened, since a process that has started it must not be
forked.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from pipeline.errors import SetupError

HARDWARE_RANK = 512
"""Rank above every software decoder; of those that fit, decodebin tries the highest first."""


class GStreamer(NamedTuple):
    """The parts of the bindings that are used."""

    glib: Any
    gst: Any
    video: Any
    ntp: Any
    """Caps that stand for the wall clock of an RTP sender."""


def missing_gstreamer() -> str:
    """Return what is not installed, and how to install it; "" if nothing seems to be missing.

    Loads nothing, so a process that will be forked may call it.
    """
    if find_spec("gi") is None:
        return "GStreamer's Python bindings (gi) are not installed; `make gstreamer` installs them"
    return ""


@cache
def load_gstreamer() -> GStreamer:
    """Start GStreamer in this process.

    Raises:
        SetupError: it is not installed, or not all of it.
    """
    missing = missing_gstreamer()
    if missing:
        raise SetupError(missing)
    # Otherwise a thread would read the desktop's settings to find a proxy.
    os.environ.setdefault("GSETTINGS_BACKEND", "memory")
    try:
        gi = import_module("gi")
        for name in ("Gst", "GstApp", "GstVideo"):
            gi.require_version(name, "1.0")
        import_module("gi.repository.GstApp")  # gives the appsink its methods
        parts = [import_module(f"gi.repository.{name}") for name in ("GLib", "Gst", "GstVideo")]
    except (ImportError, ValueError) as error:
        raise SetupError(f"GStreamer cannot be loaded ({error}); try `make gstreamer`") from None
    glib, gst, video = parts
    gst.init(None)
    for factory in hardware_decoders(gst):
        factory.set_rank(max(factory.get_rank(), HARDWARE_RANK))
    return GStreamer(glib, gst, video, gst.Caps.from_string("timestamp/x-ntp"))


def hardware_decoders(gst: Any) -> list[Any]:
    """Return the factories of all video decoders in hardware.

    Args:
        gst: the module Gst of the bindings.
    """
    kind = gst.ELEMENT_FACTORY_TYPE_DECODER | gst.ELEMENT_FACTORY_TYPE_MEDIA_VIDEO
    factories = gst.ElementFactory.list_get_elements(kind, gst.Rank.NONE)
    return [factory for factory in factories if is_hardware(factory)]


def is_hardware(factory: Any) -> bool:
    """Return whether a factory makes elements that use hardware."""
    return "Hardware" in factory.get_metadata("klass")
