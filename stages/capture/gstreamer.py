"""Reading with GStreamer: network cameras, webcams, and custom pipelines.

`python -m stages.capture.gstreamer` prints whether GStreamer is complete.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.frame import Frame
from stages.addresses import device_path, parse_source, scheme_of
from stages.capture.gstreamer_bindings import load_gstreamer
from stages.capture.gstreamer_check import main
from stages.capture.gstreamer_errors import classify_error, unreachable_problem
from stages.capture.gstreamer_pipeline import OPEN_TIMEOUT_S, Pipeline, kind_of_pipeline
from stages.capture.reader import Reader
from stages.capture.settings import CaptureSettings
from stages.capture.source import (
    ENDED,
    TIMED_SCHEMES,
    UDP_HINT,
    SourceProblem,
    device_problem,
    network_problem,
)
from stages.capture.watchdog import FIRST_IMAGE_S

STEP_S = 0.1
"""How soon `interrupt` and errors are noticed while no image comes."""
MESSAGES_EVERY = 32
"""Images between two looks at a pipeline's messages, which would pile up otherwise."""
NTP_EPOCH_NS = 2_208_988_800 * 1_000_000_000
"""From 1900, where NTP counts from, to the Unix epoch."""


class GStreamerVideo(Reader):
    """A camera, a webcam, an address, a file, or a custom pipeline."""

    def __init__(self, settings: CaptureSettings) -> None:
        """Open it: up to the first image, or until a network camera has accepted the request.

        Raises:
            SetupError: GStreamer is not installed, or the `pipeline` cannot be made.
            SourceError: it cannot be opened, or gives no image.
        """
        _, self._gst, self._video, self._ntp = load_gstreamer()
        self._settings = settings
        self._kind = kind_of_pipeline(settings)
        self._sample: Any = None
        self._first_sample: Any = None
        self._problem: SourceProblem = ("", "")
        self._interrupted = False
        self._count = 0
        self._first_ns: int | None = None
        self._droppable = self._kind == "rtsp" and settings.mode != "lossless"
        self.source_ns = self.ntp_ns = -1
        scheme = "" if self._kind == "pipeline" else scheme_of(settings.source)
        self.rate_known = self._kind in ("device", "file") or scheme in TIMED_SCHEMES
        self.decoder = "GStreamer"
        self._pipeline = self._start()
        try:
            self._first_sample = self._wait(OPEN_TIMEOUT_S, opening=True)
            if self._first_sample is None and not self._pipeline.accepted:
                kind, text = self._problem
                raise SourceError(text or "ended before its first image", kind or "closed")
            self._settle()
        except BaseException:
            self.close()
            raise

    def _start(self) -> Pipeline:
        if self._kind == "device":
            kind, text = device_problem(device_path(parse_source(self._settings.source)))
            if kind == "no_device" or "permission" in text:
                raise SourceError(text, kind)
        return Pipeline(self._settings, self._kind, self._droppable)

    def _settle(self) -> None:
        """Find out, once it is open, whether it has an end, and whether images may be dropped."""
        pipeline = self._pipeline
        self.finite = self._kind == "file" or pipeline.has_duration
        self._droppable = not self.finite and self._settings.mode != "lossless"
        pipeline.set_droppable(self._droppable)
        if self._kind == "pipeline":
            self.rate_known = pipeline.is_paced
            if self._droppable and not self.rate_known:
                # Neither live nor with an end, as a test image: played by its timestamps.
                pipeline.play_by_timestamps()

    def grab(self) -> bool:
        """Take the next image; False: there is none, or none has come in time."""
        sample, self._first_sample = self._first_sample, None
        if sample is None:
            patience_s = self._settings.stall_timeout_s
            if not self._count:
                patience_s = max(FIRST_IMAGE_S, patience_s)
            sample = self._wait(patience_s)
        if self._interrupted or sample is None:
            return False
        self.skipped = 0
        while self._droppable and (newer := self._pipeline.pull(0)) is not None:
            sample, self.skipped = newer, self.skipped + 1
        self._sample = sample
        if not self._count:
            self.decoder = self._pipeline.decoder
        self._count += 1
        if self._count % MESSAGES_EVERY == 0:
            self._read_messages()
        buffer = sample.get_buffer()
        self.source_ns = self._since_first_ns(buffer.pts)
        meta = buffer.get_reference_timestamp_meta(self._ntp)
        self.ntp_ns = -1 if meta is None else meta.timestamp - NTP_EPOCH_NS
        return True

    def _since_first_ns(self, pts: int) -> int:
        if pts == self._gst.CLOCK_TIME_NONE:
            return -1
        if self._first_ns is None:
            self._first_ns = pts
        return max(0, pts - self._first_ns)

    def retrieve(self, frame: Frame) -> bool:
        """Write the last image into the frame; False: it cannot be read."""
        caps = self._sample.get_caps().get_structure(0)
        width, height = caps.get_int("width")[1], caps.get_int("height")[1]
        buffer = self._sample.get_buffer()
        layout = self._video.buffer_get_video_meta(buffer)
        channels = len(caps.get_string("format"))  # BGR or BGRx: a letter for each byte
        # Rows end at a multiple of four bytes, unless the buffer says otherwise.
        start, stride = 0, -(-width * channels // 4) * 4
        if layout is not None:
            start, stride = layout.offset[0], layout.stride[0]
        readable, memory = buffer.map(self._gst.MapFlags.READ)
        if not readable:
            return False
        try:
            image: NDArray[np.uint8] = np.ndarray(
                (height, width, channels), np.uint8, memory.data, start, (stride, channels, 1)
            )
            target = frame.empty("image", (height, width, 3), np.uint8)
            if channels == 3:
                target[...] = image
            else:
                cv2.cvtColor(image, cv2.COLOR_BGRA2BGR, dst=target)
        finally:
            buffer.unmap(memory)
        return True

    def end_reason(self) -> SourceProblem:
        """Return why it ended too early; ("", ""): it did not."""
        return self._problem

    def interrupt(self) -> None:
        """Make a waiting `grab` return within a tenth of a second."""
        self._interrupted = True

    def close(self) -> None:
        """Release it; its threads have ended when this returns."""
        self._sample = self._first_sample = None
        self._pipeline.close()

    def _wait(self, patience_s: float, opening: bool = False) -> Any:
        """Return the next sample; None: there is none, and `_problem` says why.

        Args:
            patience_s: how long to wait for it.
            opening: the acceptance of the request is enough.
        """
        # A little less than the watchdog waits, which cannot say as well why nothing comes.
        until = time.monotonic() + patience_s - STEP_S
        while not self._interrupted:
            left_s = until - time.monotonic()
            sample = self._pipeline.pull(min(max(left_s, 0.0), STEP_S))
            if sample is not None or (opening and self._pipeline.accepted):
                return sample
            self._read_messages()
            if self._pipeline.ended or left_s <= 0:
                if not self._pipeline.ended:
                    self._problem = self._silence(patience_s, opening)
                if not self._disable_hardware() or left_s <= 0:
                    return None
                self.close()
                self._pipeline = self._start()
        return None

    def _silence(self, patience_s: float, opening: bool) -> SourceProblem:
        if opening and self._kind not in ("device", "pipeline", "file"):
            address = str(self._settings.source)
            return unreachable_problem(address) or network_problem("timeout", address)
        text = f"no new image for {patience_s:g} s"
        if not self._count:
            text = f"no image within {patience_s:g} s"
            if self._kind == "rtsp" and self._settings.transport == "udp":
                text += UDP_HINT
        return "frozen", text

    def _read_messages(self) -> None:
        """Read the pipeline's messages; if it has ended, note why."""
        pipeline = self._pipeline
        had_ended = pipeline.ended
        pipeline.read_messages()
        if not pipeline.ended or had_ended:
            return
        if pipeline.error is None:
            self._problem = self._end()
        else:
            self._problem = classify_error(
                pipeline.error,
                self._kind,
                self._settings,
                pipeline.missing_plugin,
                self._count > 0,
            )

    def _end(self) -> SourceProblem:
        if self.finite and self._count:
            return "", ""
        if self._kind == "pipeline":
            return "closed", "the pipeline has ended"
        if self._kind == "http" and self._count == 1:
            text = "the address returns one image; remove `backend: gstreamer` to poll it"
            return "unsupported", text
        return ENDED

    def _disable_hardware(self) -> bool:
        """Disable hardware decoders that are there but fail; True: another attempt is worth it."""
        if self._count or self._problem[0] not in ("unsupported", "failed", "frozen"):
            return False
        return self._pipeline.disable_hardware()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
