"""A short video and a picture of each event of interest, with the seconds before it.

An event begins when an object of interest appears, and ends when none has been seen for
`after_s`. Beside the video lies a .json that says who was seen when. The seconds before are kept in
memory, as JPEG pictures.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np
from msgspec import Meta

from pipeline.errors import EndRun, SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Output, Resolved, Resources, Settings, Stage
from stages.analytics.object_events import OBJECT_EVENTS, ChangeReader, ObjectChange, Presence
from stages.detections import DETECTIONS, Detections, Object, check_labels, labels_of
from stages.sinks.clips.recorder import Clip, ClipObject, ClipWriter, Picture, base_of, key_of
from stages.sinks.files.events import event_of
from stages.sinks.files.output_path import check_local, try_folder
from stages.sinks.video.video_file import Codec, codec_for, warn_of_codec

TOLD_LATE_S = 2.0
"""An object may have been seen for so long before it counts as having appeared; what is kept in
memory reaches back so much farther."""
GAP_S = 30.0
"""A clip does not go on behind a longer gap, or when no frame comes for so long."""
CLOSE_S = 3.0
"""At the end of a run, so long may be spent on pictures that wait."""
WAIT_S = 0.1


class ClipsSettings(Settings, frozen=True):
    """Settings of the clips sink."""

    folder: Annotated[str, Meta(min_length=1)] = "runs/clips"
    """Where the clips go; {stream} stands for the stream's name. It is made."""
    labels: tuple[str, ...] = ()
    """What is of interest: person, car; empty: everything."""
    min_frames: Annotated[int, Meta(ge=1, le=1000)] = 3
    """An object has appeared when it was seen in so many frames."""
    before_s: Annotated[float, Meta(ge=0, le=60)] = 5.0
    """Seconds of the clip before the object was first seen."""
    after_s: Annotated[float, Meta(ge=0.5, le=60)] = 5.0
    """Seconds after an object of interest was last seen. If one is seen meanwhile, the clip goes
    on."""
    longest_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    """A clip ends when it is so long. Who is still in the picture then has been recorded; the next
    clip begins when somebody else appears."""
    fps: Annotated[float, Meta(ge=1, le=60)] = 10.0
    """No more pictures per second than this."""
    width: Annotated[int, Meta(ge=64, le=7680)] = 1280
    """Wider pictures are made smaller, to a half, a third ... of their size."""
    quality: Annotated[int, Meta(ge=1, le=100)] = 85
    """Of the JPEG pictures that are kept in memory."""
    annotate: bool = True
    """Draw boxes, tags and trails."""
    snapshot: bool = True
    """Write the picture that shows an object of interest best as a .jpg beside the video."""
    container: Literal["mp4", "mov", "avi", "mkv", "webm"] = "mp4"
    """Browsers play mp4 and webm."""
    codec: Codec = "auto"
    """auto: VP9, which browsers play; mp4v in avi."""
    keep_bytes: Annotated[int, Meta(ge=10_000_000)] = 10_000_000_000
    """Of all clips together; the oldest are deleted first."""
    keep_days: Annotated[float, Meta(gt=0, le=36500)] | None = 30.0
    """Older clips are deleted; null: none for their age."""
    memory_bytes: Annotated[int, Meta(ge=1_000_000)] = 64_000_000
    """Of pictures in memory, over all streams: those before an event, and those not written yet."""


class Clips(Stage):
    """Keeps the last seconds of each stream, and hands them to a thread that writes clips.

    Of a live stream pictures are left out when they cannot be written as fast as they come; they
    are counted. A recorded one waits.

    After a crash of this stage the clip that was being written is lost; an event in progress goes
    on as a new one.
    """

    Settings = ClipsSettings
    takes = (Array("image", "uint8", (None, None, 3)), *DETECTIONS, OBJECT_EVENTS)
    ordered = True
    isolated = True

    settings: ClipsSettings

    def __init__(self, settings: ClipsSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels = labels_of(context)
        check_labels(settings.labels, labels)
        self._waits = not context.live
        presence = Presence(settings.labels, settings.min_frames, settings.after_s)
        self._changes = ChangeReader(presence, labels, settings.labels)
        self._streams: dict[str, _Stream] = {}
        self._memory_told = False
        ending = f".{settings.container}"
        self._writer = ClipWriter(
            settings.folder,
            ending,
            codec_for(f"x{ending}", settings.codec),
            settings.fps,
            labels,
            settings.annotate,
            settings.snapshot,
            settings.keep_bytes,
            settings.keep_days,
        )

    @classmethod
    def resolve(cls, settings: ClipsSettings) -> Resolved:
        """See that the codec fits, and that the folder can be written.

        Raises:
            SetupError: it does not, or cannot.
        """
        codec_for(f"x.{settings.container}", settings.codec)
        check_local("folder", settings.folder)
        base = base_of(settings.folder)
        try:
            try_folder(base)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            raise SetupError(
                f"folder: cannot write in {str(base)!r} ({reason}); choose a place where you may "
                "write"
            ) from None
        return Resolved()

    @classmethod
    def resources(cls, settings: ClipsSettings) -> Resources:
        """Declare the folder, which is the stage's alone."""
        folder = Path(settings.folder)
        return Resources(writes=(Output(folder),), locks=(folder,))

    def open(self) -> None:
        """Take the folder and start the writer.

        Raises:
            SetupError: the folder cannot be had.
        """
        warn_of_codec("clips", codec_for(f"x.{self.settings.container}", self.settings.codec))
        self._writer.open()

    def process(self, frame: Frame) -> None:
        """Keep the picture, if it is time for one, and see whether a clip begins or ends."""
        settings = self.settings
        stream = self._streams.setdefault(frame.stream, _Stream(frame.stream))
        objects = event_of(frame, self._labels).objects
        resumes, stream.resumes = stream.resumes, False
        if not 0 <= frame.time_s - stream.time_s <= GAP_S:
            resumes = resumes or stream.clip is not None
            self._finish(stream)
            stream.due_s = frame.time_s
            stream.forget()
        stream.time_s, stream.seen_s = frame.time_s, time.monotonic()
        changes = self._changes.update(frame, objects)
        appeared = [change for change in changes if change.begins]
        present = bool(self._changes.counts(frame.stream))
        picture = self._take(frame, objects) if stream.is_due(settings.fps) else None

        clip = stream.clip
        if clip is not None and frame.time_s - clip.start_s >= settings.longest_s:
            clip.cut = True
            self._finish(stream)
            clip = None
        if clip is None and (appeared or (resumes and present)):
            clip = self._begin(stream, frame, appeared, objects)
        if clip is None:
            if picture is not None:
                self._keep(stream, picture)
            return
        for change in appeared:
            known = ClipObject.of(change.object, round(change.time_s, 6))
            clip.objects.setdefault(key_of(change.object), known)
        for seen in objects:
            if key_of(seen) in clip.objects:
                clip.objects[key_of(seen)].see(seen, round(frame.time_s, 6))
        if picture is not None:
            self._hand_over(clip, picture)
        if not present:
            self._finish(stream)

    def idle(self) -> None:
        """Complete clips whose stream has fallen silent."""
        now_s = time.monotonic()
        for stream in self._streams.values():
            if stream.clip is not None and now_s - stream.seen_s > GAP_S:
                self._finish(stream)
                stream.resumes = True

    def end(self, stream: str) -> None:
        """Complete the stream's clip; of a recorded one, wait until it is written."""
        self._changes.end(stream)
        ended = self._streams.pop(stream, None)
        if ended is not None:
            self._finish(ended)
        if self._waits:
            self._wait_while(lambda: not self._writer.is_idle)

    def close(self) -> None:
        """Complete all clips."""
        for stream in self._streams.values():
            self._finish(stream)
        self._writer.close(CLOSE_S)

    def state(self, stream: str) -> bytes:
        """Who is in the picture, and whether a clip is being written."""
        kept = self._streams.get(stream)
        recording = kept is not None and (kept.clip is not None or kept.resumes)
        return msgspec.msgpack.encode((self._changes.state(stream), recording))

    def restore(self, stream: str, state: bytes) -> None:
        """Go on with an event in progress as a new clip."""
        presence, recording = msgspec.msgpack.decode(state, type=tuple[bytes, bool])
        self._changes.restore(stream, presence)
        self._streams[stream] = _Stream(stream, resumes=recording)

    def info(self) -> Mapping[str, str]:
        """Where the clips are."""
        return {"folder": self.settings.folder}

    def counters(self) -> Mapping[str, int]:
        """Clips that were written, and that were not."""
        return self._writer.counts()

    def _of_interest(self, objects: Sequence[Object]) -> list[Object]:
        labels = self.settings.labels
        return [found for found in objects if not labels or found.label in labels]

    def _take(self, frame: Frame, objects: Sequence[Object]) -> Picture:
        """A small copy of a frame; every whole part of its size is cheap to make."""
        image = frame["image"]
        part = -(-image.shape[1] // self.settings.width)
        if part > 1:
            tall, wide = image.shape[0] // part, image.shape[1] // part
            if tall:
                whole = image[: tall * part, : wide * part]
                image = cv2.resize(whole, (wide, tall), interpolation=cv2.INTER_AREA)
        found = Detections.of(frame)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality])[1]
        return Picture(
            jpeg.tobytes(),
            frame.seq,
            frame.time_s,
            frame.wall_ns,
            Detections(
                (found.boxes / part).astype(np.float32),
                found.scores.copy(),
                found.classes.copy(),
                found.ids.copy(),
            ),
            {key_of(seen): seen.score for seen in self._of_interest(objects)},
        )

    def _keep(self, stream: _Stream, picture: Picture) -> None:
        """Keep a picture for an event that may begin, as long as there is room."""
        oldest_s = picture.time_s - self.settings.before_s - TOLD_LATE_S
        while stream.kept and stream.kept[0].time_s < oldest_s:
            stream.drop()
        if self._has_room(len(picture.jpeg)):
            stream.keep(picture)

    def _has_room(self, size: int) -> bool:
        """Whether a picture has room in memory, when the oldest have gone."""
        room = self.settings.memory_bytes - size - self._writer.waiting_bytes
        kept = sum(stream.kept_bytes for stream in self._streams.values())
        while kept > room:
            holders = [stream for stream in self._streams.values() if stream.kept]
            if not holders:
                return False
            stream = min(holders, key=lambda holder: holder.kept[0].wall_ns)
            kept -= len(stream.kept[0].jpeg)
            stream.drop()
            self._tell_shortage(stream)
        return room >= 0

    def _tell_shortage(self, stream: _Stream) -> None:
        held_s = stream.kept[-1].time_s - stream.kept[0].time_s if stream.kept else 0.0
        if held_s < self.settings.before_s and not self._memory_told:
            self._memory_told = True
            logging.warning(
                "clips: memory_bytes has room for %.1f s before an event, not for %g s: raise it, "
                "or lower fps or width",
                held_s,
                self.settings.before_s,
            )

    def _begin(
        self,
        stream: _Stream,
        frame: Frame,
        appeared: Sequence[ObjectChange],
        objects: Sequence[Object],
    ) -> Clip:
        """Begin a clip with the pictures before the event; without one, an event goes on."""
        first_s = min((change.time_s for change in appeared), default=frame.time_s)
        start_s = first_s - self.settings.before_s
        pictures = [picture for picture in stream.kept if picture.time_s >= start_s]
        stream.forget()
        folder = Path(self.settings.folder.replace("{stream}", stream.name))
        clip = stream.clip = Clip(
            stream.name,
            folder,
            pictures[0].wall_ns if pictures else frame.wall_ns,
            pictures[0].time_s if pictures else frame.time_s,
            (frame.width, frame.height),
        )
        known = [(i.object, i.time_s) for i in appeared] or [
            (found, frame.time_s) for found in self._of_interest(objects)
        ]
        for found, time_s in known:
            clip.objects[key_of(found)] = ClipObject.of(found, round(time_s, 6))
        for picture in pictures:
            self._writer.put(clip, picture)
        return clip

    def _hand_over(self, clip: Clip, picture: Picture) -> None:
        if self._waits:
            most = self.settings.memory_bytes // 2
            self._wait_while(lambda: self._writer.waiting_bytes > most)
        if self._has_room(len(picture.jpeg)):
            self._writer.put(clip, picture)
        else:
            clip.lost += 1

    def _wait_while(self, busy: Callable[[], bool]) -> None:
        """Wait for the writer, unless the run is to end."""
        try:
            while busy():
                self.beat()
                self._writer.wait(WAIT_S)
        except EndRun:
            pass  # close() gives it a moment

    def _finish(self, stream: _Stream) -> None:
        if stream.clip is not None:
            self._writer.finish(stream.clip)
            stream.clip = None


@dataclass(eq=False)
class _Stream:
    """What is kept of a stream."""

    name: str
    resumes: bool = False
    """A clip was being written, and goes on with the next frame."""
    clip: Clip | None = None
    time_s: float = float("-inf")
    """Of the newest frame."""
    seen_s: float = 0.0
    """When it came, monotonic."""
    due_s: float = 0.0
    """When the next picture is to be taken, in seconds into the stream."""
    kept: deque[Picture] = field(default_factory=deque)
    """The last seconds, while there is no clip."""
    kept_bytes: int = 0

    def is_due(self, fps: float) -> bool:
        """Whether a picture of the newest frame is to be taken."""
        # A little early is taken too: where the stream's own rate is the limit, or a multiple of
        # it, its jitter must not cost every second picture.
        if self.time_s < self.due_s - 0.25 / fps:
            return False
        self.due_s = max(self.due_s + 1 / fps, self.time_s)
        return True

    def keep(self, picture: Picture) -> None:
        self.kept.append(picture)
        self.kept_bytes += len(picture.jpeg)

    def drop(self) -> None:
        self.kept_bytes -= len(self.kept.popleft().jpeg)

    def forget(self) -> None:
        self.kept.clear()
        self.kept_bytes = 0
