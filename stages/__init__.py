"""Every stage a settings file may name. A new stage is one file here and one line in this table."""

STAGES = {
    "capture": "stages.capture:Capture",
    "preprocess": "stages.preprocess:Preprocess",
    "detector": "stages.detector:Detector",
    "nms": "stages.nms:NonMaxSuppression",
    "tracker": "stages.tracker:Tracker",
    "window": "stages.window:Window",
    "video": "stages.video:Video",
    "pictures": "stages.pictures:Pictures",
    "events": "stages.events:Events",
    "mot": "stages.mot:Mot",
    "rtsp": "stages.rtsp:Rtsp",
    "web": "stages.web:Web",
    "zmq": "stages.zeromq:Zmq",
    "clips": "stages.clips:Clips",
    "mqtt": "stages.mqtt:Mqtt",
    "webhook": "stages.webhook:Webhook",
    "null": "stages.null:Null",
    "draw": "stages.null:Draw",
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
"""Sinks whose `path` stands for a file of each stream, see `stages.lines.stream_path`."""
