"""Sources: cameras, addresses, pipes, video files and images.

Read `reader.py` first (what every way of reading has in common), then `capture.py` (the stage) and
`opening.py` (which reader is used for which source).
"""

BACKENDS = {
    "opencv": "stages.capture.opencv_live:OpenCVVideo",
    "http": "stages.capture.http_snapshot:open_http",
    "gstreamer": "stages.capture.gstreamer:GStreamerVideo",
}
"""Name of a way to read a camera or an address -> "module:callable", imported when it is used. Each
is called with the `CaptureSettings` of the stream and returns an open `Reader`. "http" is the part
of OpenCV's backend for http:// and https://."""
