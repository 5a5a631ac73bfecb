"""Reading with GStreamer: network cameras, webcams, and pipelines that users write themselves.

    source ! decoder ! videoconvert ! appsink

A pipeline is never started again: what has ended is closed, and a new object made. GStreamer is a
package of the system, which `make gstreamer` installs; nothing of it is loaded before a source is
opened, since a process that has started it must not be forked.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SetupError, SourceError
from pipeline.frame import Frame
from pipeline.urls import display_pipeline, redact
from stages.capture.live_reader import FIRST_PICTURE_S
from stages.capture.reader import Pictures
from stages.capture.source import (
    PORTS,
    TIMED_SCHEMES,
    WEB_PAGE,
    Trouble,
    connection_trouble,
    device_path,
    device_trouble,
    host_of,
    is_device,
    network_trouble,
    normal,
    refusal,
    scheme_of,
    without_login,
)

if TYPE_CHECKING:
    from stages.capture.capture import CaptureSettings

OPEN_TIMEOUT_S = 4.0
REACH_TIMEOUT_S = 0.5
"""For finding out why a host has not been reached."""
CHECK_TIMEOUT_S = 60.0
"""For a look at a pipeline before the run; at first, GStreamer looks at all of its plugins."""
STEP_S = 0.1
"""How soon `interrupt` and errors are noticed while no picture comes."""
HEARD_EVERY = 32
"""Pictures from one look at a pipeline's messages to the next; unheard they would pile up."""
MOST_WAITING = 8
"""Pictures that wait for a reading thread that is late; it takes the newest and counts the rest."""
JITTER_MS = 200
"""Packets that come out of order, or not at all, are waited for so long; others are passed on at
once. It is also all that may wait for a decoder that is too slow."""
HARDWARE_RANK = 512
"""Above every decoder in software; of those that fit, decodebin tries the highest first."""
NTP_EPOCH_NS = 2_208_988_800 * 1_000_000_000
"""From 1900, where NTP counts from, to the Unix epoch."""

SOURCES = {
    "rtsp": "rtspsrc name=source ! decodebin",
    "http": "souphttpsrc name=source ! decodebin",
    "file": "filesrc name=source ! decodebin",
    "device": "v4l2src name=source ! capsfilter name=asked ! decodebin",
}
"""Kind of source -> how its pipeline begins; `uridecodebin` knows other addresses. What users write
never becomes part of a line of ours: it is set as a property."""
TO_APPSINK = "videoconvert ! video/x-raw,format=(string){BGRx,BGR}"
"""GStreamer is quick at making pixels of four bytes, and OpenCV at leaving one out; together they
cost less than BGR from GStreamer, and a copy."""
APPSINK = re.compile(r"!\s*(appsink\b[^!]*)$")


_RTSP_UDP, _RTSP_TCP = 3, 4
"""Of the property `protocols`: UDP to one or to many, and TCP."""
_UNSUPPORTED = {
    ("gst-core-error-quark", 12),  # missing plugin
    *(("gst-stream-error-quark", code) for code in (3, 4, 5, 6, 11)),  # type, codec, format
}
_KINDS = {3: "not_found", 15: "unauthorized"}
"""Code of a resource's error -> what it means."""


def check(settings: CaptureSettings) -> None:
    """See, before the run, that GStreamer is there and that a user's pipeline can be made.

    The pipeline is made in a process of its own: what loads GStreamer must not be forked.

    Raises:
        SetupError: it is not, or it cannot.
    """
    missing = missing_gstreamer()
    if missing:
        raise SetupError(f"backend: {missing}")
    if settings.pipeline is None:
        return
    try:
        looked = subprocess.run(
            [sys.executable, "-P", "-m", "stages.capture.gstreamer", "-"],
            input=settings.pipeline,
            capture_output=True,
            encoding="utf-8",
            timeout=CHECK_TIMEOUT_S,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"pipeline: cannot be made within {CHECK_TIMEOUT_S:.0f} s; try it with gst-launch-1.0"
        ) from None
    if looked.returncode:
        crashed = "pipeline: GStreamer ended while making it; try it with gst-launch-1.0"
        raise SetupError(looked.stdout.strip() or crashed)


def missing_gstreamer() -> str:
    """What is not installed, and how to install it; "" if nothing seems to be missing.

    Loads nothing, so a process that is to be forked may ask.
    """
    if find_spec("gi") is None:
        return "GStreamer's Python bindings (gi) are not installed; `make gstreamer` installs them"
    return ""


class _GStreamer(NamedTuple):
    """The parts of the bindings that are used."""

    glib: Any
    gst: Any
    video: Any
    ntp: Any
    """Caps that stand for the wall clock of an RTP sender."""


@cache
def _load() -> _GStreamer:
    """Start GStreamer in this process.

    Raises:
        SetupError: it is not installed, or not all of it.
    """
    missing = missing_gstreamer()
    if missing:
        raise SetupError(missing)
    # Or a thread would look for the settings of a desktop, to learn of a proxy.
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
    for factory in _decoders(gst):
        if "Hardware" in factory.get_metadata("klass"):
            factory.set_rank(max(factory.get_rank(), HARDWARE_RANK))
    return _GStreamer(glib, gst, video, gst.Caps.from_string("timestamp/x-ntp"))


def _decoders(gst: Any) -> list[Any]:
    """The factories of all video decoders."""
    kind = gst.ELEMENT_FACTORY_TYPE_DECODER | gst.ELEMENT_FACTORY_TYPE_MEDIA_VIDEO
    return list(gst.ElementFactory.list_get_elements(kind, gst.Rank.NONE))


class GStreamerVideo(Pictures):
    """A camera, a webcam, an address, a file, or a pipeline of the user's own."""

    skipped = 0
    """Pictures that had come before the one that the last `grab` took, which is the newest."""

    def __init__(self, settings: CaptureSettings) -> None:
        """Open it: until the first picture, or until a network camera has promised some.

        Raises:
            SetupError: GStreamer is not installed, or the `pipeline` cannot be made.
            SourceError: it cannot be opened, or gives no picture.
        """
        _, self._gst, self._video, self._ntp = _load()
        self._settings = settings
        self._source = normal(settings.source)
        self._kind = _kind_of(settings)
        self._pipeline: Any = None
        self._sink: Any = None
        self._bus: Any = None
        self._sample: Any = None
        self._primed: Any = None
        self._trouble = ("", "")
        self._lacking = ""
        self._over = self._interrupted = False
        self._count = 0
        self._first_ns: int | None = None
        self._droppable = self._kind == "rtsp" and settings.mode != "lossless"
        self.source_ns = self.ntp_ns = -1
        self.rate_known = self._kind in ("device", "file") or self._scheme() in TIMED_SCHEMES
        self.decoder = "GStreamer"
        try:
            self._start()
            self._primed = self._wait(OPEN_TIMEOUT_S, opening=True)
            if self._primed is None and not self._promised:
                kind, text = self._trouble
                raise SourceError(text or "ends before its first picture", kind or "closed")
            self._settle()
        except BaseException:
            self.close()
            raise

    # --- as every way of reading ---

    def grab(self) -> bool:
        """Take the next picture; False: there is none, or none has come in time."""
        sample, self._primed = self._primed, None
        if sample is None:
            patience_s = self._settings.stall_timeout_s
            if not self._count:
                patience_s = max(FIRST_PICTURE_S, patience_s)
            sample = self._wait(patience_s)
        if self._interrupted or sample is None:
            return False
        self.skipped = 0
        while self._droppable and (newer := self._sink.try_pull_sample(0)) is not None:
            sample, self.skipped = newer, self.skipped + 1
        self._sample = sample
        if not self._count:
            self.decoder = self._decoder()
        self._count += 1
        if self._count % HEARD_EVERY == 0:
            self._listen()
        buffer = sample.get_buffer()
        self.source_ns = self._since_first_ns(buffer.pts)
        told = buffer.get_reference_timestamp_meta(self._ntp)
        self.ntp_ns = -1 if told is None else told.timestamp - NTP_EPOCH_NS
        return True

    def _since_first_ns(self, pts: int) -> int:
        if pts == self._gst.CLOCK_TIME_NONE:
            return -1
        if self._first_ns is None:
            self._first_ns = pts
        return max(0, pts - self._first_ns)

    def retrieve(self, frame: Frame) -> bool:
        """Write the last picture into the frame; False: it cannot be read."""
        caps = self._sample.get_caps().get_structure(0)
        width, height = caps.get_int("width")[1], caps.get_int("height")[1]
        buffer = self._sample.get_buffer()
        layout = self._video.buffer_get_video_meta(buffer)
        bytes_each = len(caps.get_string("format"))  # BGR or BGRx: a letter for each
        # Rows end at a multiple of four bytes, unless the buffer says otherwise.
        start, stride = 0, -(-width * bytes_each // 4) * 4
        if layout is not None:
            start, stride = layout.offset[0], layout.stride[0]
        readable, memory = buffer.map(self._gst.MapFlags.READ)
        if not readable:
            return False
        try:
            picture: NDArray[np.uint8] = np.ndarray(
                (height, width, bytes_each), np.uint8, memory.data, start, (stride, bytes_each, 1)
            )
            target = frame.empty("image", (height, width, 3), np.uint8)
            if bytes_each == 3:
                target[...] = picture
            else:
                cv2.cvtColor(picture, cv2.COLOR_BGRA2BGR, dst=target)
        finally:
            buffer.unmap(memory)
        return True

    def trouble(self) -> tuple[str, str]:
        """Kind and words of what ended it too early."""
        return self._trouble

    def interrupt(self) -> None:
        """Have a `grab` that waits return within a tenth of a second."""
        self._interrupted = True

    def close(self) -> None:
        """Let go of it; its threads have ended when this returns."""
        pipeline, self._pipeline = self._pipeline, None
        self._sample = self._primed = self._sink = self._bus = None
        if pipeline is not None:
            pipeline.set_state(self._gst.State.NULL)

    # --- the pipeline ---

    def _start(self) -> None:
        """Make a pipeline and have it begin."""
        gst, settings = self._gst, self._settings
        if self._kind == "device":
            self._look_at_device()
        line = settings.pipeline or SOURCES.get(self._kind, "uridecodebin name=source")
        self._pipeline, self._sink = _parse(line, own=self._kind == "pipeline")
        self._bus = self._pipeline.get_bus()
        self._pipeline.connect(
            "deep-element-added", partial(_set_up_element, self._kind not in ("file", "pipeline"))
        )
        if self._kind != "pipeline":
            self._set_up_source(self._pipeline.get_by_name("source"))
        self._promised = self._over = False
        self._sink.set_property("sync", False)
        self._sink.set_property("max-buffers", MOST_WAITING if self._droppable else 1)
        self._sink.set_property("drop", self._droppable)
        self._pipeline.set_state(gst.State.PLAYING)

    def _scheme(self) -> str:
        return "" if self._kind == "pipeline" else scheme_of(self._source)

    def _set_up_source(self, source: Any) -> None:
        settings = self._settings
        address, told = str(self._source), dict[str, Any]()
        if self._kind == "http":
            # Of an RTSP address it stays where it is, or is tried eight times in vain.
            address, user, password = without_login(address)
            told |= {} if user is None else {"user-id": user, "user-pw": password}
        if self._kind == "rtsp":
            udp = settings.transport == "udp"
            told |= {
                "protocols": _RTSP_UDP if udp else _RTSP_TCP,
                "timeout": 0,  # of UDP: silence is ours to notice
                "tcp-timeout": round(OPEN_TIMEOUT_S * 1e6),
                "latency": JITTER_MS,
                "drop-on-latency": settings.mode != "lossless",
            }
            if source.find_property("add-reference-timestamp-meta"):  # GStreamer 1.22
                told["add-reference-timestamp-meta"] = True
            source.connect("select-stream", partial(_is_first_video, []))
        if self._kind == "device":
            self._pipeline.get_by_name("asked").set_property("caps", self._asked())
            told["device"] = str(device_path(self._source))
        else:
            told["location" if self._kind in SOURCES else "uri"] = address
        for name, value in told.items():
            source.set_property(name, value)

    def _asked(self) -> Any:
        """What a webcam should give: of what it can, the nearest is taken."""
        settings, asked = self._settings, ""
        for name, value in (("width", settings.width), ("height", settings.height)):
            asked += f",{name}={value}" if value is not None else ""
        if settings.fps is not None:
            asked += ",framerate={}/{}".format(*settings.fps.as_integer_ratio())
        some = "video/x-raw{0};image/jpeg{0};video/x-h264{0}"
        wanted = some.format(asked) + ";" if asked else ""
        return self._gst.Caps.from_string(wanted + some.format(""))

    def _settle(self) -> None:
        """Now that it is open, see whether it has an end, and whether pictures may be dropped."""
        duration_ns = self._pipeline.query_duration(self._gst.Format.TIME)[1]
        self.finite = self._kind == "file" or duration_ns > 0
        self._droppable = not self.finite and self._settings.mode != "lossless"
        self._sink.set_property("max-buffers", MOST_WAITING if self._droppable else 1)
        self._sink.set_property("drop", self._droppable)
        latency = self._gst.Query.new_latency()
        asked = self._sink.get_static_pad("sink").peer_query(latency)
        paced = asked and latency.parse_latency()[0]
        if self._kind == "pipeline":
            self.rate_known = bool(paced)
        if self._kind == "pipeline" and self._droppable and not paced:
            # Neither live nor with an end, as a test picture: it is played by its timestamps.
            self._sink.set_property("sync", True)

    def _wait(self, patience_s: float, opening: bool = False) -> Any:
        """The next picture; None: there is none, and `_trouble` says why.

        Args:
            patience_s: how long to wait for it.
            opening: a promise of pictures is enough.
        """
        # A little less, as who watches from outside cannot say as well why.
        until = time.monotonic() + patience_s - STEP_S
        while not self._interrupted:
            left_s = until - time.monotonic()
            wait_ns = round(min(max(left_s, 0.0), STEP_S) * 1e9)
            sample = self._sink.try_pull_sample(wait_ns)
            if sample is not None or (opening and self._promised):
                return sample
            self._listen()
            if self._over or left_s <= 0:
                if not self._over:
                    self._trouble = self._silence(patience_s, opening)
                if not self._gave_up_hardware() or left_s <= 0:
                    return None
                self.close()
                self._start()
        return None

    def _silence(self, patience_s: float, opening: bool) -> tuple[str, str]:
        if opening and self._kind not in ("device", "pipeline", "file"):
            address = str(self._source)
            return _unreached(address) or network_trouble("timeout", address)
        text = f"no new picture has come for {patience_s:g} s"
        if not self._count:
            text = f"no picture has come within {patience_s:g} s"
            if self._kind == "rtsp" and self._settings.transport == "udp":
                text += ": does a firewall let UDP in? Or try `transport: tcp`"
        return "frozen", text

    def _listen(self) -> None:
        """Take note of what the pipeline has said."""
        types = self._gst.MessageType
        heard = types.ERROR | types.EOS | types.ELEMENT | types.PROGRESS
        while (message := self._bus.pop_filtered(heard)) is not None:
            if message.type == types.PROGRESS:
                step, code, _ = message.parse_progress()
                if code == "request" and step == self._gst.ProgressType.COMPLETE:
                    self._promised = True  # the answer to PLAY
            elif message.type == types.ELEMENT:
                said = message.get_structure()
                if said is not None and said.get_name() == "missing-plugin":
                    self._lacking = said.get_string("name")
            elif not self._over:  # what comes after the first error is its consequence
                self._over = True
                ended = message.type == types.EOS
                self._trouble = self._end() if ended else self._told_apart(message)

    def _end(self) -> tuple[str, str]:
        if self.finite and self._count:
            return "", ""
        if self._kind == "pipeline":
            return "closed", "the pipeline has ended"
        if self._kind == "http" and self._count == 1:
            text = "answers with one picture; remove `backend: gstreamer` to have it asked again"
            return "unsupported", text
        return "closed", "the other side has ended the stream"

    def _told_apart(self, message: Any) -> tuple[str, str]:
        """Kind and words of an error; without what GStreamer says of addresses."""
        error, debug = message.parse_error()
        kind = "failed"
        if error.domain == "gst-resource-error-quark":
            kind = _KINDS.get(error.code, kind)
        if (error.domain, error.code) in _UNSUPPORTED or "not-negotiated" in debug:
            kind = "unsupported"
        address = str(self._source)
        if self._kind == "pipeline":
            why = debug.strip().rpartition("\n")[2]
            text = f"{message.src.get_name()}: {error.message} ({why})"
            return kind, _without_values(text)
        if self._kind == "device":
            return device_trouble(device_path(self._source))
        if kind == "unsupported":
            return kind, self._unsupported(message)
        if self._kind == "file":
            return kind, "cannot be read" if kind == "failed" else "no such file"
        status = _status(message)
        if status:
            return refusal(status, address)
        if self._count:
            return "closed", "the other side has ended the stream"
        if "imeout" in debug:
            return network_trouble("timeout", address)
        return _unreached(address) or (kind, "cannot be opened: no stream at this address?")

    def _unsupported(self, message: Any) -> str:
        if self._lacking.startswith("text/"):
            return WEB_PAGE
        if self._lacking:
            return f"GStreamer has no {self._lacking}; `make gstreamer` installs the usual ones"
        if message.src.get_name() == "source" and self._kind == "rtsp":
            sent = self._settings.transport.upper()
            return f"there is no video that is sent by {sent}: try the other `transport`"
        return "GStreamer cannot decode what comes"

    def _look_at_device(self) -> None:
        kind, text = device_trouble(device_path(self._source))
        if kind == "no_device" or "permission" in text:
            raise SourceError(text, kind)

    def _decoding(self) -> list[Any]:
        """The factories of the decoders in the pipeline."""
        factories = [element.get_factory() for element in _elements(self._pipeline)]
        kinds = ("Codec/Decoder/Video", "Codec/Decoder/Image")
        return [f for f in factories if f.get_metadata("klass").startswith(kinds)]

    def _decoder(self) -> str:
        names = [factory.get_name() for factory in self._decoding()]
        return f"GStreamer {' '.join(names) or 'raw'}"

    def _gave_up_hardware(self) -> bool:
        """Whether it is worth another try, without decoders in hardware that are there but fail.

        They are not tried again in this process.
        """
        if self._count or self._trouble[0] not in ("unsupported", "failed", "frozen"):
            return False
        failed = [f for f in self._decoding() if "Hardware" in f.get_metadata("klass")]
        for factory in failed:
            factory.set_rank(self._gst.Rank.NONE)
        return bool(failed)


# --- what GStreamer calls, from its own threads ---


def _set_up_element(live: bool, pipeline: Any, parent: Any, element: Any) -> None:
    """Have a decoder give whole pictures only, and each as soon as it can."""
    name = element.get_factory().get_name()
    wanted: dict[str, Any] = {}
    if name.startswith("avdec_"):
        wanted = {"output-corrupt": False} | ({"max-threads": 1} if live else {})
    elif name.startswith("nv") and live:
        wanted = {"max-display-delay": 0}
    elif name == "multipartdemux":
        wanted = {"single-stream": True}  # or it waits a while for another
    for key, value in wanted.items():
        if element.find_property(key):
            element.set_property(key, value)


def _is_first_video(chosen: list[int], source: Any, number: int, caps: Any) -> bool:
    """Whether a stream of a camera is the one to ask for; sound is not."""
    if not chosen and caps.get_structure(0).get_string("media") == "video":
        chosen.append(number)
    return chosen == [number]


# --- pipelines, devices and hosts ---


def _parse(line: str, own: bool) -> tuple[Any, Any]:
    """Make a pipeline, and have it end in an appsink that gets BGR or BGRx.

    Args:
        line: as for gst-launch-1.0; an appsink at its end may be left out.
        own: the user has written it.

    Returns:
        The pipeline and its appsink.

    Raises:
        SetupError: it cannot be made.
    """
    bindings = _load()
    end = APPSINK.search(line)
    head, sink = (line[: end.start()], end[1]) if end else (line, "appsink")
    try:
        pipeline = bindings.gst.parse_launch(f"{head} ! {TO_APPSINK} ! {sink}")
    except bindings.glib.Error as error:
        properties = re.findall(r"\s([a-z][a-z0-9-]*)=", line)
        text = _without_values(error.message, [*display_pipeline(line).split(" ! "), *properties])
        if not own:
            raise SetupError(f"GStreamer is not complete ({text}); try `make gstreamer`") from None
        advice = "expected a line as for gst-launch-1.0, with `! appsink` at its end"
        if text.startswith("no element"):
            advice = "is its plugin installed? gst-inspect-1.0 lists what there is"
        raise SetupError(f"pipeline: {text}; {advice}") from None
    sinks = [e for e in _elements(pipeline) if e.get_factory().get_name() == "appsink"]
    if len(sinks) != 1:
        raise SetupError(f"pipeline: has {len(sinks)} appsinks; expected one, at its end")
    return pipeline, sinks[0]


def _elements(pipeline: Any) -> Iterator[Any]:
    """Everything in a pipeline, however deep."""
    found = pipeline.iterate_recurse()
    while (element := found.next()[1]) is not None:
        yield element


def _kind_of(settings: CaptureSettings) -> str:
    """What begins the pipeline: a key of `SOURCES`, "pipeline", or another address's scheme."""
    source = normal(settings.source)
    if settings.pipeline is not None:
        return "pipeline"
    if is_device(settings.source):
        return "device"
    if isinstance(source, Path):
        return "file"
    scheme = str(source).partition("://")[0].lower()
    return {"rtsps": "rtsp", "rtspt": "rtsp", "rtspu": "rtsp", "https": "http"}.get(scheme, scheme)


def _unreached(address: str) -> Trouble | None:
    """Why a host cannot be connected to, which GStreamer does not say; None: it can."""
    import ssl

    host, port = host_of(address)
    if address.partition("://")[0].lower() not in PORTS or port is None:
        return None
    try:
        with socket.create_connection((host, port), REACH_TIMEOUT_S) as connection:
            if address.lower().startswith("https:"):
                ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
    except (OSError, UnicodeError) as error:
        return connection_trouble(error, address)
    return None


def _without_values(text: str, names: Sequence[str] = ()) -> str:
    """A text of GStreamer's without what it quotes, unless that is one of these names."""
    return redact(re.sub(r'"(.*?)"', lambda m: m[0] if m[1] in names else '"..."', text))


def _status(message: Any) -> int:
    """The status with which a server has refused; 0: it is not that."""
    details = message.parse_error_details()
    if details is None:
        return 0
    answers = (details.get_uint(f"{protocol}-status-code") for protocol in ("rtsp", "http"))
    return next((status for known, status in answers if known), 0)


# --- asked from outside ---

NEEDED = ("appsink", "decodebin", "videoconvert", "rtspsrc", "v4l2src", "h264parse", "avdec_h264")


def main(arguments: list[str]) -> int:
    """Say whether GStreamer is complete; with "-", whether the pipeline on standard input is."""
    try:
        if arguments == ["-"]:
            _parse(sys.stdin.read(), own=True)
            return 0
        gst = _load().gst
        lacking = [name for name in NEEDED if gst.ElementFactory.find(name) is None]
        if lacking:
            raise SetupError(f"GStreamer lacks {', '.join(lacking)}; try `make gstreamer`")
        names = [f.get_name() for f in _decoders(gst) if "Hardware" in f.get_metadata("klass")]
        hardware = ", ".join(names) or "none"
        sys.stdout.write(f"{gst.version_string()} is ready; decoders in hardware: {hardware}\n")
        return 0
    except SetupError as error:
        sys.stdout.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
