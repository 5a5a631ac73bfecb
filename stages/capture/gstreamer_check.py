"""Check, before the run, that GStreamer is installed and that a custom pipeline can be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipeline.errors import SetupError
from stages.capture.gstreamer_bindings import (
    hardware_decoders,
    load_gstreamer,
    missing_gstreamer,
)
from stages.capture.gstreamer_pipeline import parse_pipeline
from stages.capture.settings import CaptureSettings

CHECK_TIMEOUT_S = 60.0
"""Timeout of the check of a pipeline; the first time, GStreamer examines all of its plugins."""
NEEDED = ("appsink", "decodebin", "videoconvert", "rtspsrc", "v4l2src", "h264parse", "avdec_h264")


def check_gstreamer(settings: CaptureSettings) -> None:
    """See that GStreamer is installed and that a custom pipeline can be made.

    The pipeline is made in a process of its own: one that has loaded GStreamer must not be forked.

    Raises:
        SetupError: it is not, or it cannot.
    """
    missing = missing_gstreamer()
    if missing:
        raise SetupError(f"backend: {missing}")
    if settings.pipeline is None:
        return
    try:
        checked = subprocess.run(
            [sys.executable, "-P", "-m", "stages.capture.gstreamer", "-"],
            input=settings.pipeline,
            capture_output=True,
            encoding="utf-8",
            timeout=CHECK_TIMEOUT_S,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"pipeline: not ready within {CHECK_TIMEOUT_S:.0f} s; try it with gst-launch-1.0"
        ) from None
    if checked.returncode:
        crashed = "pipeline: GStreamer crashed while making it; try it with gst-launch-1.0"
        raise SetupError(checked.stdout.strip() or crashed)


def main(arguments: list[str]) -> int:
    """Print whether GStreamer is complete.

    Args:
        arguments: ["-"]: check the pipeline on standard input instead.

    Returns:
        Exit status.
    """
    try:
        if arguments == ["-"]:
            parse_pipeline(sys.stdin.read(), custom=True)
            return 0
        gst = load_gstreamer().gst
        lacking = [name for name in NEEDED if gst.ElementFactory.find(name) is None]
        if lacking:
            raise SetupError(f"GStreamer lacks {', '.join(lacking)}; try `make gstreamer`")
        hardware = ", ".join(f.get_name() for f in hardware_decoders(gst)) or "none"
        sys.stdout.write(f"{gst.version_string()} is ready; hardware decoders: {hardware}\n")
        return 0
    except SetupError as error:
        sys.stdout.write(f"{error}\n")
        return 1
