"""Every stage a settings file may name. A new stage is one file, in a folder here, and one line."""

STAGES = {
    "capture": "stages.capture.capture:Capture",
    "preprocess": "stages.inference.preprocess:Preprocess",
    "detector": "stages.inference.detector:Detector",
    "nms": "stages.inference.nms:NonMaxSuppression",
    "tracker": "stages.tracking.tracker:Tracker",
    "window": "stages.sinks.window:Window",
    "video": "stages.sinks.video.video:Video",
    "pictures": "stages.sinks.files.pictures:Pictures",
    "events": "stages.sinks.files.events:Events",
    "mot": "stages.sinks.files.mot:Mot",
    "rtsp": "stages.sinks.rtsp.rtsp:Rtsp",
    "web": "stages.sinks.web.web:Web",
    "zmq": "stages.sinks.publish.zeromq:Zmq",
    "clips": "stages.sinks.clips.clips:Clips",
    "mqtt": "stages.sinks.publish.mqtt:Mqtt",
    "webhook": "stages.sinks.publish.webhook:Webhook",
    "null": "stages.sinks.null:Null",
    "draw": "stages.sinks.null:Draw",
    "fault": "stages.fault:Fault",
}

SINKS: dict[str, str | None] = {
    "window": None,
    "video": "path",
    "pictures": "folder",
    "events": "path",
    "mot": "path",
    "rtsp": "port",
    "web": "port",
    "zmq": "address",
    "clips": "folder",
    "mqtt": "broker",
    "webhook": "url",
    "null": None,
    "draw": None,
}
"""Stages that `--sink KIND[=TARGET]` may name -> the setting that the target goes to."""

FILE_PER_STREAM = ("video", "mot")
"""Sinks whose `path` stands for a file of each stream, see `output_path.stream_path`."""
