"""Settings of the clips sink."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline.stage import Settings
from stages.sinks.files.output_path import expand_home
from stages.sinks.video.video_file import Codec


class ClipsSettings(Settings, frozen=True):
    """Settings of the clips sink."""

    folder: Annotated[str, Meta(min_length=1)] = "runs/clips"
    """Folder of the clips, created if missing; {stream} stands for the stream's name."""
    labels: tuple[str, ...] = ()
    """Labels of interest, such as person, car; empty: all."""
    min_frames: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Number of frames in which an object must be seen to have appeared."""
    before_s: Annotated[float, Meta(ge=0, le=60)] = 5.0
    """Seconds of the clip before the object was first seen."""
    after_s: Annotated[float, Meta(ge=0.5, le=60)] = 5.0
    """Seconds of the clip after an object of interest was last seen. If one is seen meanwhile, the
    clip continues."""
    longest_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    """Longest duration of a clip, in seconds. Objects that are present at its end have been
    recorded; the next clip begins when another one appears."""
    fps: Annotated[float, Meta(ge=1, le=60)] = 10.0
    """Most images per second."""
    width: Annotated[int, Meta(ge=64, le=7680)] = 1280
    """Largest width of the images, in pixels; wider ones are reduced to a half, a third, and so
    on."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 85
    """Quality of the JPEG images that are kept in memory, in percent."""
    annotate: bool = True
    """Draw boxes, tags and trails."""
    snapshot: bool = True
    """Write the image with the best score of an object of interest as a .jpg beside the video."""
    container: Literal["mp4", "mov", "avi", "mkv", "webm"] = "mp4"
    """Container of the videos. Browsers play mp4 and webm."""
    codec: Codec = "auto"
    """Codec of the videos. auto: VP9, which browsers play; mp4v in avi."""
    keep_bytes: Annotated[int, Meta(ge=10_000_000)] = 10_000_000_000
    """Limit of the size of all clips together; the oldest are deleted first."""
    keep_days: Annotated[float, Meta(gt=0, le=36500)] | None = 30.0
    """Age in days at which a clip is deleted; null: no limit."""
    memory_bytes: Annotated[int, Meta(ge=1_000_000)] = 64_000_000
    """Limit of the images in memory, over all streams: those before an event, and those that wait
    to be written."""

    def __post_init__(self) -> None:
        expand_home(self, folder=self.folder)
