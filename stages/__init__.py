"""Every stage a settings file may name. A new stage is one file, in a folder here, and one line.

Read `detections.py` first (the arrays that stages exchange), then a stage: `inference/nms.py` is a
short one. A folder is a role: capture, inference, tracking, analytics, drawing, sinks.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A stage in the table."""

    location: str
    """"module:Class"."""
    sink: str | None = None
    """For a stage that `--sink KIND[=TARGET]` may add: the setting of the target; "": it has no
    target. None: the stage is no sink."""
    options: tuple[str, ...] = ()
    """Options of the command line that are settings of this stage: --model, --device, and
    --min-score of evaluate, which also leaves out `streams`, rules of single streams."""


STAGES = {
    "capture": Entry("stages.capture.capture:Capture"),
    "dataset": Entry("stages.capture.dataset:Dataset"),
    "preprocess": Entry("stages.inference.preprocess:Preprocess"),
    "detector": Entry("stages.inference.detector:Detector", options=("model", "device")),
    "tiles": Entry("stages.inference.tiles:Tiles", options=("model", "device")),
    "nms": Entry("stages.inference.nms:NonMaxSuppression", options=("min_score", "streams")),
    "classify": Entry("stages.inference.classify:Classify", options=("model", "device")),
    "classify_objects": Entry(
        "stages.inference.classify_objects:ClassifyObjects", options=("model", "device")
    ),
    "embed_objects": Entry(
        "stages.inference.embed_objects:EmbedObjects", options=("model", "device")
    ),
    "semantic": Entry("stages.inference.semantic:Semantic", options=("model", "device")),
    "tracker": Entry("stages.tracking.tracker:TrackerStage"),
    "object_events": Entry("stages.analytics.object_events:ObjectEvents"),
    "blur": Entry("stages.drawing.blur:Blur", options=("streams",)),
    "window": Entry("stages.sinks.window:Window", sink=""),
    "video": Entry("stages.sinks.video.video:Video", sink="path"),
    "pictures": Entry("stages.sinks.files.pictures:Pictures", sink="folder"),
    "events": Entry("stages.sinks.files.events:Events", sink="path"),
    "mot": Entry("stages.sinks.files.mot:Mot", sink="path"),
    "rtsp": Entry("stages.sinks.rtsp.rtsp:Rtsp", sink="port"),
    "web": Entry("stages.sinks.web.web:Web", sink="port"),
    "zmq": Entry("stages.sinks.publish.zeromq:Zmq", sink="address"),
    "clips": Entry("stages.sinks.clips.clips:Clips", sink="folder"),
    "mqtt": Entry("stages.sinks.publish.mqtt:Mqtt", sink="broker"),
    "webhook": Entry("stages.sinks.publish.webhook:Webhook", sink="url"),
    "score": Entry("stages.sinks.score:Score", sink="path"),
    "null": Entry("stages.sinks.null:Null", sink=""),
    "draw": Entry("stages.sinks.null:Draw", sink=""),
    "fault": Entry("stages.fault:Fault"),
}

for _use, _entry in STAGES.items():
    if not isinstance(_entry, Entry):
        raise TypeError(f"stages/__init__.py: {_use!r} is not an Entry (found {_entry!r})")

LOCATIONS = {use: entry.location for use, entry in STAGES.items()}
"""Name -> "module:Class"."""
SINKS = {use: entry.sink for use, entry in STAGES.items() if entry.sink is not None}
"""Stages that `--sink KIND[=TARGET]` may add -> the setting of the target; "": it has none."""
