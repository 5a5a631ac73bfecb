"""A short video and an image of each event of interest, with the seconds before it.

An event begins when an object of interest appears, and ends when none has been seen for `after_s`.
A .json file beside the video lists the objects and their times. The seconds before an event are
kept in memory, as JPEG images.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import msgspec

from pipeline.errors import EndRun, SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Output, Resolved, Resources, Stage
from stages.analytics.changes import ObjectChange
from stages.analytics.object_events import OBJECT_EVENTS, ChangeReader
from stages.analytics.presence import Presence
from stages.detections import DETECTIONS, Object, check_labels, labels_of, objects_of
from stages.drawing.annotator import annotator_of
from stages.drawing.copies import copy_detections
from stages.sinks.clips.clip import Clip, ClipImage, ClipObject, key_of
from stages.sinks.clips.folder import root_of
from stages.sinks.clips.recorder import ClipRecorder
from stages.sinks.clips.settings import ClipsSettings
from stages.sinks.files.output_path import check_local, try_folder
from stages.sinks.video.video_file import codec_for, warn_of_codec

MAX_APPEARANCE_S = 2.0
"""Longest time from the first detection of an object until it counts as having appeared; so much
more than `before_s` is kept in memory."""
GAP_S = 30.0
"""Time without a frame that ends a clip."""
CLOSE_S = 3.0
"""Time to write waiting images at the end of a run."""
WAIT_S = 0.1


class Clips(Stage):
    """Keeps the last seconds of each stream, and gives them to a thread that writes clips.

    If images of a live stream cannot be written as fast as they come, some are left out and
    counted. A file waits.

    After a crash of this stage the clip in progress is lost; its event continues in a new one.
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
        self._has_warned = False
        self._codec = codec_for(f"x.{settings.container}", settings.codec)
        self._recorder = ClipRecorder(
            settings, self._codec, partial(annotator_of, context), context.log
        )

    @classmethod
    def resolve(cls, settings: ClipsSettings) -> Resolved:
        """Check that the codec fits the container, and that the folder can be written.

        Raises:
            SetupError: the codec does not fit, or the folder cannot be written.
        """
        codec_for(f"x.{settings.container}", settings.codec)
        check_local("folder", settings.folder)
        root = root_of(settings.folder)
        try:
            try_folder(root)
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "not a path"
            raise SetupError(
                f"folder: cannot write in {str(root)!r} ({reason}); choose another folder"
            ) from None
        return Resolved()

    @classmethod
    def resources(cls, settings: ClipsSettings) -> Resources:
        """Declare the folder, which no other stage may use."""
        folder = Path(settings.folder)
        return Resources(writes=(Output(folder),), locks=(folder,))

    def open(self) -> None:
        """Lock the folder, and start the recorder.

        Raises:
            SetupError: the folder cannot be written, or another run writes clips there.
        """
        warn_of_codec(self._codec, self.context.log)
        self._recorder.open()

    def process(self, frame: Frame) -> None:
        """Keep the image, if one is due, and begin or end a clip."""
        settings = self.settings
        stream = self._streams.setdefault(frame.stream, _Stream(frame.stream))
        objects = objects_of(frame, self._labels, with_masks=False)
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
        image = self._take(frame, objects) if stream.is_due(settings.fps) else None

        clip = stream.clip
        if clip is not None and frame.time_s - clip.start_s >= settings.longest_s:
            clip.cut = True
            self._finish(stream)
            clip = None
        if clip is None and (appeared or (resumes and present)):
            clip = self._begin(stream, frame, appeared, objects)
        if clip is None:
            if image is not None:
                self._keep(stream, image)
            return
        for change in appeared:
            known = ClipObject.of(change.object, round(change.time_s, 6))
            clip.objects.setdefault(key_of(change.object), known)
        for seen in objects:
            if key_of(seen) in clip.objects:
                clip.objects[key_of(seen)].see(seen, round(frame.time_s, 6))
        if image is not None:
            self._record(clip, image)
        if not present:
            self._finish(stream)

    def idle(self) -> None:
        """Complete the clips of streams without frames."""
        now_s = time.monotonic()
        for stream in self._streams.values():
            if stream.clip is not None and now_s - stream.seen_s > GAP_S:
                self._finish(stream)
                stream.resumes = True

    def end(self, stream: str) -> None:
        """Complete the stream's clip; if the streams are files, wait until it is written."""
        self._changes.end(stream)
        ended = self._streams.pop(stream, None)
        if ended is not None:
            self._finish(ended)
        if self._waits:
            self._wait_while(lambda: not self._recorder.is_idle)

    def close(self) -> None:
        """Complete all clips."""
        for stream in self._streams.values():
            self._finish(stream)
        self._recorder.close(CLOSE_S)

    def state(self, stream: str) -> bytes:
        """Return the present objects, and whether a clip is being recorded."""
        kept = self._streams.get(stream)
        recording = kept is not None and (kept.clip is not None or kept.resumes)
        return msgspec.msgpack.encode((self._changes.state(stream), recording))

    def restore(self, stream: str, state: bytes) -> None:
        """Continue an event in progress with a new clip."""
        presence, recording = msgspec.msgpack.decode(state, type=tuple[bytes, bool])
        self._changes.restore(stream, presence)
        self._streams[stream] = _Stream(stream, resumes=recording)

    def info(self) -> Mapping[str, str]:
        """Return the folder of the clips."""
        return {"folder": self.settings.folder}

    def counters(self) -> Mapping[str, int]:
        """Return the numbers of clips that were written, and that were lost."""
        return self._recorder.counts()

    def _of_interest(self, objects: Sequence[Object]) -> list[Object]:
        labels = self.settings.labels
        return [found for found in objects if not labels or found.label in labels]

    def _take(self, frame: Frame, objects: Sequence[Object]) -> ClipImage:
        """Return a small copy of a frame, at an integer fraction of its size, which is fast."""
        image = frame["image"]
        divisor = -(-image.shape[1] // self.settings.width)
        if divisor > 1:
            height, width = image.shape[0] // divisor, image.shape[1] // divisor
            if height:
                whole = image[: height * divisor, : width * divisor]
                image = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.settings.quality])[1]
        return ClipImage(
            jpeg.tobytes(),
            frame.seq,
            frame.time_s,
            frame.wall_ns,
            (frame.width, frame.height),
            copy_detections(frame, 1 / divisor, 1 / divisor),
            {key_of(seen): seen.score for seen in self._of_interest(objects)},
        )

    def _keep(self, stream: _Stream, image: ClipImage) -> None:
        """Keep an image for an event that may begin, if there is room."""
        oldest_s = image.time_s - self.settings.before_s - MAX_APPEARANCE_S
        while stream.kept and stream.kept[0].time_s < oldest_s:
            stream.drop()
        if self._has_room(image.size_bytes):
            stream.keep(image)

    def _has_room(self, size: int) -> bool:
        """Make room for an image by dropping the oldest ones, and return whether there is room."""
        room = self.settings.memory_bytes - size - self._recorder.waiting_bytes
        kept = sum(stream.kept_bytes for stream in self._streams.values())
        while kept > room:
            holders = [stream for stream in self._streams.values() if stream.kept]
            if not holders:
                return False
            stream = min(holders, key=lambda holder: holder.kept[0].wall_ns)
            kept -= stream.kept[0].size_bytes
            stream.drop()
            self._warn_of_shortage(stream)
        return room >= 0

    def _warn_of_shortage(self, stream: _Stream) -> None:
        held_s = stream.kept[-1].time_s - stream.kept[0].time_s if stream.kept else 0.0
        if held_s < self.settings.before_s and not self._has_warned:
            self._has_warned = True
            self.context.log.warning(
                "memory_bytes is too small for %g s before an event (found room for %.1f s); "
                "increase it, or reduce fps or width",
                self.settings.before_s,
                held_s,
            )

    def _begin(
        self,
        stream: _Stream,
        frame: Frame,
        appeared: Sequence[ObjectChange],
        objects: Sequence[Object],
    ) -> Clip:
        """Begin a clip with the images before the event; `appeared` is empty if one continues."""
        first_s = min((change.time_s for change in appeared), default=frame.time_s)
        start_s = first_s - self.settings.before_s
        images = [image for image in stream.kept if image.time_s >= start_s]
        stream.forget()
        folder = Path(self.settings.folder.replace("{stream}", stream.name))
        clip = stream.clip = Clip(
            stream.name,
            folder,
            images[0].wall_ns if images else frame.wall_ns,
            images[0].time_s if images else frame.time_s,
            (frame.width, frame.height),
        )
        known = [(i.object, i.time_s) for i in appeared] or [
            (found, frame.time_s) for found in self._of_interest(objects)
        ]
        for found, time_s in known:
            clip.objects[key_of(found)] = ClipObject.of(found, round(time_s, 6))
        for image in images:
            self._recorder.put(clip, image)
        return clip

    def _record(self, clip: Clip, image: ClipImage) -> None:
        if self._waits:
            most = self.settings.memory_bytes // 2
            self._wait_while(lambda: self._recorder.waiting_bytes > most)
        if self._has_room(image.size_bytes):
            self._recorder.put(clip, image)
        else:
            clip.lost += 1

    def _wait_while(self, busy: Callable[[], bool]) -> None:
        """Wait for the recorder, unless the run is being stopped."""
        try:
            while busy():
                self.beat()
                self._recorder.wait(WAIT_S)
        except EndRun:
            pass  # close() waits for CLOSE_S

    def _finish(self, stream: _Stream) -> None:
        if stream.clip is not None:
            self._recorder.finish(stream.clip)
            stream.clip = None


@dataclass(eq=False)
class _Stream:
    """State of a stream."""

    name: str
    resumes: bool = False
    """Whether an event continues in a new clip with the next frame."""
    clip: Clip | None = None
    time_s: float = float("-inf")
    """Time of the newest frame, in seconds into the stream."""
    seen_s: float = 0.0
    """Monotonic time at which it came."""
    due_s: float = 0.0
    """Time from which on the next image is taken, in seconds into the stream."""
    kept: deque[ClipImage] = field(default_factory=deque)
    """Images of the last seconds, while there is no clip."""
    kept_bytes: int = 0

    def is_due(self, fps: float) -> bool:
        """Return whether to take an image of the newest frame, and count it as taken."""
        # A frame a little early is taken: if the rate of the stream is the limit, or a multiple of
        # it, its jitter must not cost every second image.
        if self.time_s < self.due_s - 0.25 / fps:
            return False
        self.due_s = max(self.due_s + 1 / fps, self.time_s)
        return True

    def keep(self, image: ClipImage) -> None:
        self.kept.append(image)
        self.kept_bytes += image.size_bytes

    def drop(self) -> None:
        self.kept_bytes -= self.kept.popleft().size_bytes

    def forget(self) -> None:
        self.kept.clear()
        self.kept_bytes = 0
