"""The choice of an encoder by the codec."""

from __future__ import annotations

from stages.sinks.video.opencv_encoder import JpegEncoder, OpenCVEncoder
from stages.sinks.video.packet import Encoder


def encoder_for(codec: str, width: int, height: int, fps: float) -> Encoder:
    """Return an encoder.

    Args:
        codec: codec, as in the settings of the video sink.
        width: width of the images in pixels, even.
        height: height of the images in pixels, even.
        fps: images per second.

    Raises:
        RunError: no encoder takes images of this size.
    """
    if codec == "MJPG":
        return JpegEncoder()
    if codec in ("vp09", "VP90", "VP80"):
        from stages.sinks.video import vpx

        if vpx.library() is not None:
            return vpx.VpxEncoder(codec == "VP80", width, height, fps)
    return OpenCVEncoder(codec, width, height, fps)
