"""Pipelines of GStreamer: what they are made of, and what they report.

source ! decoder ! videoconvert ! appsink
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import SetupError
from pipeline.urls import display_pipeline
from stages.addresses import device_path, parse_source, split_login
from stages.capture.gstreamer_bindings import is_hardware, load_gstreamer
from stages.capture.gstreamer_errors import without_values
from stages.capture.settings import CaptureSettings
from stages.capture.source import is_device

OPEN_TIMEOUT_S = 4.0
MAX_WAITING = 8
"""Images that wait for a reading thread that is late; it takes the newest and counts the rest."""
JITTER_MS = 200
"""Longest wait for packets that come out of order, or not at all; others are passed on at once. It
also bounds what waits for a decoder that is too slow."""

SOURCES = {
    "rtsp": "rtspsrc name=source ! decodebin",
    "http": "souphttpsrc name=source ! decodebin",
    "file": "filesrc name=source ! decodebin",
    "device": "v4l2src name=source ! capsfilter name=requested ! decodebin",
}
"""Kind of source -> beginning of its pipeline; `uridecodebin` knows other addresses. Values of the
settings never become part of such a line: they are set as properties."""
TO_APPSINK = "videoconvert ! video/x-raw,format=(string){BGRx,BGR}"
"""GStreamer is quick at making pixels of four bytes, and OpenCV at dropping one of them; together
they cost less than BGR from GStreamer, and a copy."""
APPSINK = re.compile(r"!\s*(appsink\b[^!]*)$")

_RTSP_UDP, _RTSP_TCP = 3, 4
"""Values of the property `protocols`: UDP (unicast and multicast), and TCP."""


def kind_of_pipeline(settings: CaptureSettings) -> str:
    """Return a key of `SOURCES`, "pipeline" for a custom one, or another address's scheme."""
    source = parse_source(settings.source)
    if settings.pipeline is not None:
        return "pipeline"
    if is_device(settings.source):
        return "device"
    if isinstance(source, Path):
        return "file"
    scheme = str(source).partition("://")[0].lower()
    return {"rtsps": "rtsp", "rtspt": "rtsp", "rtspu": "rtsp", "https": "http"}.get(scheme, scheme)


class Pipeline:
    """A started pipeline with its appsink. It is never started again: a new object is made."""

    def __init__(self, settings: CaptureSettings, kind: str, droppable: bool) -> None:
        """Make and start it.

        Args:
            settings: settings of the stream.
            kind: see `kind_of_pipeline`.
            droppable: whether older images may be dropped for newer ones.

        Raises:
            SetupError: GStreamer is not installed, or the line cannot be made into a pipeline.
        """
        self._gst = load_gstreamer().gst
        self._settings, self._kind = settings, kind
        line = settings.pipeline or SOURCES.get(kind, "uridecodebin name=source")
        self._pipeline, self._sink = parse_pipeline(line, custom=kind == "pipeline")
        self._bus: Any = self._pipeline.get_bus()
        self.accepted = False
        """Whether a network camera has answered the request for its stream."""
        self.ended = False
        """Whether the pipeline has ended, at the end of its source or with an error."""
        self.error: Any = None
        """The first message of the type ERROR; None: none has come."""
        self.missing_plugin = ""
        """Name of a plugin that GStreamer lacks for this source."""
        try:
            live = kind not in ("file", "pipeline")
            self._pipeline.connect("deep-element-added", partial(_set_up_element, live))
            if kind != "pipeline":
                self._set_up_source(self._pipeline.get_by_name("source"))
            self._sink.set_property("sync", False)
            self.set_droppable(droppable)
            self._pipeline.set_state(self._gst.State.PLAYING)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release it; its threads have ended when this returns. May be called twice."""
        pipeline, self._pipeline = self._pipeline, None
        self._sink = self._bus = self.error = None
        if pipeline is not None:
            pipeline.set_state(self._gst.State.NULL)

    def pull(self, timeout_s: float) -> Any:
        """Return the next sample, an image with its caps; None: none came in time."""
        return self._sink.try_pull_sample(round(timeout_s * 1e9))

    def set_droppable(self, droppable: bool) -> None:
        """Set whether older images may be dropped for newer ones."""
        self._sink.set_property("max-buffers", MAX_WAITING if droppable else 1)
        self._sink.set_property("drop", droppable)

    def play_by_timestamps(self) -> None:
        """Have images wait until they are due."""
        self._sink.set_property("sync", True)

    @property
    def has_duration(self) -> bool:
        """Whether the source has an end of its own."""
        return bool(self._pipeline.query_duration(self._gst.Format.TIME)[1] > 0)

    @property
    def is_paced(self) -> bool:
        """Whether the source gives images at its own pace, as a camera does."""
        latency = self._gst.Query.new_latency()
        answered = self._sink.get_static_pad("sink").peer_query(latency)
        return bool(answered and latency.parse_latency()[0])

    def read_messages(self) -> None:
        """Take the messages that have come, and update the attributes."""
        types = self._gst.MessageType
        wanted = types.ERROR | types.EOS | types.ELEMENT | types.PROGRESS
        while (message := self._bus.pop_filtered(wanted)) is not None:
            if message.type == types.PROGRESS:
                step, code, _ = message.parse_progress()
                if code == "request" and step == self._gst.ProgressType.COMPLETE:
                    self.accepted = True  # the answer to PLAY
            elif message.type == types.ELEMENT:
                content = message.get_structure()
                if content is not None and content.get_name() == "missing-plugin":
                    self.missing_plugin = content.get_string("name")
            elif not self.ended:  # what comes after the first error is its consequence
                self.ended = True
                self.error = None if message.type == types.EOS else message

    @property
    def decoder(self) -> str:
        """Names of the decoders in use."""
        names = [factory.get_name() for factory in self._decoders()]
        return f"GStreamer {' '.join(names) or 'raw'}"

    def disable_hardware(self) -> bool:
        """Disable the hardware decoders that are in use, in this process; False: there are none."""
        failed = [factory for factory in self._decoders() if is_hardware(factory)]
        for factory in failed:
            factory.set_rank(self._gst.Rank.NONE)
        return bool(failed)

    def _decoders(self) -> list[Any]:
        factories = [element.get_factory() for element in _elements(self._pipeline)]
        kinds = ("Codec/Decoder/Video", "Codec/Decoder/Image")
        return [f for f in factories if f.get_metadata("klass").startswith(kinds)]

    def _set_up_source(self, source: Any) -> None:
        settings, properties = self._settings, dict[str, Any]()
        parsed = parse_source(settings.source)
        address = str(parsed)
        if self._kind == "http":
            # In an RTSP address the login stays, or rtspsrc tries eight times in vain.
            address, user, password = split_login(address)
            properties |= {} if user is None else {"user-id": user, "user-pw": password}
        if self._kind == "rtsp":
            udp = settings.transport == "udp"
            properties |= {
                "protocols": _RTSP_UDP if udp else _RTSP_TCP,
                "timeout": 0,  # of UDP: the reader itself notices silence
                "tcp-timeout": round(OPEN_TIMEOUT_S * 1e6),
                "latency": JITTER_MS,
                "drop-on-latency": settings.mode != "lossless",
            }
            if source.find_property("add-reference-timestamp-meta"):  # GStreamer 1.22
                properties["add-reference-timestamp-meta"] = True
            source.connect("select-stream", partial(_is_first_video, []))
        if self._kind == "device":
            self._pipeline.get_by_name("requested").set_property("caps", self._requested_caps())
            properties["device"] = str(device_path(parsed))
        else:
            properties["location" if self._kind in SOURCES else "uri"] = address
        for name, value in properties.items():
            source.set_property(name, value)

    def _requested_caps(self) -> Any:
        """Return the formats to request from a webcam; the nearest that it has is taken."""
        settings, requested = self._settings, ""
        for name, value in (("width", settings.width), ("height", settings.height)):
            requested += f",{name}={value}" if value is not None else ""
        if settings.fps is not None:
            requested += ",framerate={}/{}".format(*settings.fps.as_integer_ratio())
        formats = "video/x-raw{0};image/jpeg{0};video/x-h264{0}"
        preferred = formats.format(requested) + ";" if requested else ""
        return self._gst.Caps.from_string(preferred + formats.format(""))


# --- called by GStreamer, from its own threads ---


def _set_up_element(live: bool, pipeline: Any, parent: Any, element: Any) -> None:
    """Make a decoder give whole images only, and each as soon as it can."""
    name = element.get_factory().get_name()
    properties: dict[str, Any] = {}
    if name.startswith("avdec_"):
        properties = {"output-corrupt": False} | ({"max-threads": 1} if live else {})
    elif name.startswith("nv") and live:
        properties = {"max-display-delay": 0}
    elif name == "multipartdemux":
        properties = {"single-stream": True}  # or it waits a while for another
    for key, value in properties.items():
        if element.find_property(key):
            element.set_property(key, value)


def _is_first_video(chosen: list[int], source: Any, number: int, caps: Any) -> bool:
    """Return whether a stream of a camera is its first video; the others are not requested."""
    if not chosen and caps.get_structure(0).get_string("media") == "video":
        chosen.append(number)
    return chosen == [number]


# --- lines ---


def parse_pipeline(line: str, custom: bool) -> tuple[Any, Any]:
    """Make a pipeline that ends in an appsink for BGR or BGRx.

    Args:
        line: as for gst-launch-1.0; an appsink at its end may be left out.
        custom: whether the user has written it.

    Returns:
        The pipeline and its appsink.

    Raises:
        SetupError: it cannot be made.
    """
    bindings = load_gstreamer()
    end = APPSINK.search(line)
    head, sink = (line[: end.start()], end[1]) if end else (line, "appsink")
    try:
        pipeline = bindings.gst.parse_launch(f"{head} ! {TO_APPSINK} ! {sink}")
    except bindings.glib.Error as error:
        properties = re.findall(r"\s([a-z][a-z0-9-]*)=", line)
        text = without_values(error.message, [*display_pipeline(line).split(" ! "), *properties])
        if not custom:
            raise SetupError(f"GStreamer is not complete ({text}); try `make gstreamer`") from None
        advice = "expected a line as for gst-launch-1.0, with `! appsink` at its end"
        if text.startswith("no element"):
            advice = "check that its plugin is installed; gst-inspect-1.0 lists all elements"
        raise SetupError(f"pipeline: {text}; {advice}") from None
    sinks = [e for e in _elements(pipeline) if e.get_factory().get_name() == "appsink"]
    if len(sinks) != 1:
        raise SetupError(f"pipeline: expected one appsink, at its end (found {len(sinks)})")
    return pipeline, sinks[0]


def _elements(pipeline: Any) -> Iterator[Any]:
    """Yield all elements of a pipeline, however deep."""
    found = pipeline.iterate_recurse()
    while (element := found.next()[1]) is not None:
        yield element
