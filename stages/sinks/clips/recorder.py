"""Clips on disk: written by a thread of their own, whole or not at all, and deleted when old."""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError, SetupError
from pipeline.frame import Frame
from stages.detections import Detections, Object
from stages.drawing.annotator import Annotator
from stages.sinks.files.events import utc_ms
from stages.sinks.video.rate import fps_of
from stages.sinks.video.video_file import VideoFile

NAME = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)_[A-Za-z][A-Za-z0-9_-]*\.(mp4|mov|avi|mkv|webm|jpg|json)")
"""Of a file that belongs to a clip. Nothing else in the folder is ever deleted."""
UNFINISHED = "."
"""What the name of a file begins with until its clip is whole."""
LOCK = ".clips.lock"
SNAPSHOT_QUALITY = 90
KNOWN_RATE = 12
"""Pictures from which the frame rate is worked out; a clip of fewer has the highest."""
PRUNE_S = 600.0
"""Between two looks for clips that have become too old."""


Key = tuple[str, int | None]
"""What an object is known by in a clip: its track id, or its label where it has none."""


class Picture(NamedTuple):
    """A picture that may become part of a clip."""

    jpeg: bytes
    seq: int
    time_s: float
    """Seconds into the stream."""
    wall_ns: int
    objects: Detections
    """Boxes in pixels of this picture."""
    scores: Mapping[Key, float]
    """Of the objects of interest in it."""


class Clip:
    """What is known of a clip, by the stage and then by the writer.

    Args:
        stream: its name.
        folder: it goes into.
        wall_ns: Unix time of its beginning, which names it.
        start_s: seconds into the stream at which it begins.
        size: width and height of the captured frames, pixels.
    """

    def __init__(
        self, stream: str, folder: Path, wall_ns: int, start_s: float, size: tuple[int, int]
    ) -> None:
        self.stream, self.folder, self.start_s = stream, folder, start_s
        self.stem = f"{stamp(wall_ns)}_{stream}"
        self.size = size
        self.objects: dict[Key, ClipObject] = {}
        """Those that appeared."""
        self.best: Picture | None = None
        """The one for the snapshot: where one of them is seen most surely."""
        self.best_score = -1.0
        self.lost = 0
        """Pictures for which there was no room."""
        self.cut = False
        """It had reached its longest, and the event went on."""


class ClipObject(msgspec.Struct, rename={"number": "class"}):
    """An object that appeared in a clip."""

    id: int | None
    """null: all of this label that have none."""
    label: str
    number: int
    score: float
    """The best."""
    box: tuple[float, ...]
    """Where that was: x1, y1, x2, y2 in pixels of the captured frame."""
    from_s: float
    """Seconds into the stream at which it was first seen."""
    to_s: float
    """When it was last seen in the clip."""

    @classmethod
    def of(cls, seen: Object, time_s: float) -> ClipObject:
        """An object as it was first seen."""
        return cls(seen.id, seen.label, seen.number, seen.score, seen.box, time_s, time_s)

    def see(self, seen: Object, time_s: float) -> None:
        """It is seen again."""
        self.to_s = time_s
        if seen.score > self.score:
            self.score, self.box = seen.score, seen.box


class ClipReport(msgspec.Struct):
    """What is in the .json beside a clip."""

    stream: str
    video: str
    """File beside this one."""
    snapshot: str | None
    started_at: str
    """Wall-clock time of capture of the first picture, ISO 8601, UTC."""
    ended_at: str
    """Of the last picture."""
    start_s: float
    """Seconds into the stream of the first picture."""
    end_s: float
    first_frame: int
    """Number of the frame in its stream, from 0."""
    last_frame: int
    snapshot_frame: int | None
    pictures: int
    """Of the video, at a steady rate: some stand for more than one frame, some are repeated."""
    fps: float
    lost: int
    """Frames that were to be in it, but came faster than they could be written."""
    cut: bool
    """The event went on when the clip had become as long as it may be."""
    width: int
    """Of the captured frames, pixels: what boxes are measured in."""
    height: int
    objects: list[ClipObject]


class ClipWriter:
    """A thread that writes clips, several at a time, and keeps the folder within its bounds.

    A clip's files have a name that begins with a dot until all of them are whole. A clip that
    cannot be written is given up, told and counted; the next one is tried again.

    Args:
        folder: as in the settings, with or without {stream}.
        ending: of the videos, ".mp4" for example.
        codec: of the videos.
        fps: most pictures per second.
        labels: names of the classes.
        annotate: whether to draw boxes, tags and trails.
        snapshot: whether to write the best picture apart.
        keep_bytes: of all clips together; the oldest are deleted first.
        keep_days: older clips are deleted; None: none for their age.
    """

    def __init__(
        self,
        folder: str,
        ending: str,
        codec: str,
        fps: float,
        labels: Sequence[str],
        annotate: bool,
        snapshot: bool,
        keep_bytes: int,
        keep_days: float | None,
    ) -> None:
        self._folder, self._ending, self._codec, self._fps = folder, ending, codec, fps
        self._labels, self._annotate, self._snapshot = labels, annotate, snapshot
        self._keep_bytes, self._keep_days = keep_bytes, keep_days
        self._queue: queue.SimpleQueue[tuple[Clip, Picture | None] | None] = queue.SimpleQueue()
        # Each counted by one thread alone, so that no lock is needed.
        self._put_bytes = self._done_bytes = self._put = self._done = 0
        self._progress = threading.Event()
        self._jobs: dict[Clip, _Job | None] = {}
        """Those begun; None: given up."""
        self._failures = 0
        """Since the last that could be written."""
        self._written = self._lost = 0
        self._deadline_s: float | None = None
        """When waiting pictures are given up, so that the run can end."""
        self._lock = -1
        self._thread: threading.Thread | None = None

    def counts(self) -> dict[str, int]:
        """Clips that were written, and that were not."""
        return {"written": self._written, "lost": self._lost}

    @property
    def waiting_bytes(self) -> int:
        """Of the pictures that are not written yet."""
        return self._put_bytes - self._done_bytes

    @property
    def is_idle(self) -> bool:
        """All that was put is written."""
        return self._put == self._done

    def open(self) -> None:
        """Take the folder, clear up what a crash left in it, and start.

        Raises:
            SetupError: the folder cannot be written, or another run writes clips there.
        """
        base = base_of(self._folder)
        try:
            base.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(base / LOCK, flags, 0o666)
        except OSError as error:
            raise SetupError(f"clips: cannot write in {str(base)!r} ({error.strerror})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f"clips: another run or stage writes its clips into {str(base)!r}; choose another "
                "folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        self._recover()
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def put(self, clip: Clip, picture: Picture) -> None:
        """Hand over the next picture of a clip."""
        score = max((s for key, s in picture.scores.items() if key in clip.objects), default=0.0)
        if score > clip.best_score:
            clip.best, clip.best_score = picture, score
        self._put_bytes += len(picture.jpeg)
        self._put += 1
        self._queue.put((clip, picture))

    def finish(self, clip: Clip) -> None:
        """No picture of the clip follows; nobody may change it any more."""
        self._put += 1
        self._queue.put((clip, None))

    def wait(self, timeout_s: float) -> None:
        """Wait for something to be written, but no longer than this."""
        self._progress.wait(timeout_s)
        self._progress.clear()

    def close(self, timeout_s: float) -> None:
        """Write what waits, but no longer than this, and complete all clips."""
        if self._thread is not None:
            self._deadline_s = time.monotonic() + timeout_s
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- the thread ---

    def _run(self) -> None:
        prune_s = time.monotonic()
        while True:
            if time.monotonic() >= prune_s:
                self._attempt(self._prune)
                prune_s = time.monotonic() + PRUNE_S
            try:
                item = self._queue.get(timeout=max(0.0, prune_s - time.monotonic()))
            except queue.Empty:
                continue
            if item is None:
                break
            clip, picture = item
            self._take(clip, picture)
            if picture is not None:
                self._done_bytes += len(picture.jpeg)
            self._done += 1
            self._progress.set()
        for job in self._jobs.values():
            if job is not None:
                job.give_up()

    def _take(self, clip: Clip, picture: Picture | None) -> None:
        """Write a picture, or complete a clip."""
        if clip not in self._jobs:
            self._jobs[clip] = _Job(clip, self._ending, self._codec, self._fps, self._annotator())
        job = self._jobs[clip]
        if job is not None and not self._attempt(lambda: self._work(job, picture), clip):
            job.give_up()
            self._jobs[clip] = None
        if picture is None:
            del self._jobs[clip]

    def _work(self, job: _Job, picture: Picture | None) -> None:
        if picture is None:
            self._complete(job)
        elif self._deadline_s is not None and time.monotonic() > self._deadline_s:
            job.skipped += 1
        else:
            job.write(picture)

    def _annotator(self) -> Annotator | None:
        return Annotator(self._labels) if self._annotate else None

    def _attempt(self, work: Callable[[], None], clip: Clip | None = None) -> bool:
        """Whether it could be done; if not, say so."""
        try:
            work()
            return True
        except Exception as error:  # whatever it is, the next clip is tried again
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            if clip is None:
                logging.warning("clips: cannot clear up: %s", reason)
                return False
            self._failures += 1
            self._lost += 1
            if str(self._failures).rstrip("0") == "1":
                logging.warning(
                    "clips: a clip of %s is lost: %s (x%d)", clip.stream, reason, self._failures
                )
            return False

    def _complete(self, job: _Job) -> None:
        if not job.complete(self._snapshot):
            return
        if self._failures:
            logging.warning("clips: clips are written again; %d were lost", self._failures)
            self._failures = 0
        self._written += 1
        logging.info("clips: %s", job.path)
        self._attempt(self._prune)

    # --- the folder ---

    def _recover(self) -> None:
        """Complete the clips that only wanted their names, and remove what is half."""
        for folder in folders_of(self._folder):
            # The report is written last.
            for unfinished in folder.glob(f"{UNFINISHED}*.json"):
                if NAME.fullmatch(unfinished.name.removeprefix(UNFINISHED)):
                    with suppress(OSError, msgspec.DecodeError):
                        report = msgspec.json.decode(unfinished.read_bytes(), type=ClipReport)
                        names = [report.video, report.snapshot or "", unfinished.name[1:]]
                        publish(folder, [name for name in names if NAME.fullmatch(name)])
            for entry in list(os.scandir(folder)):
                if entry.name[:1] == UNFINISHED and NAME.fullmatch(entry.name[1:]):
                    with suppress(OSError):
                        os.unlink(entry.path)

    def _prune(self) -> None:
        """Delete the oldest clips until the others are within bounds."""
        clips: dict[tuple[str, str], list[os.DirEntry[str]]] = {}
        for folder in folders_of(self._folder):
            for entry in os.scandir(folder):
                if NAME.fullmatch(entry.name):
                    clips.setdefault((Path(entry.name).stem, str(folder)), []).append(entry)
        total = sum(_size(entry) for entries in clips.values() for entry in entries)
        oldest = ""
        if self._keep_days is not None:
            oldest = stamp(time.time_ns() - round(self._keep_days * 86400e9))
        for stem, place in sorted(clips):
            if total <= self._keep_bytes and stem >= oldest:
                break
            for entry in sorted(clips[stem, place], key=lambda entry: entry.name, reverse=True):
                total -= _size(entry)
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)


@dataclass(eq=False)
class _Job:
    """A clip that is being written."""

    clip: Clip
    ending: str
    codec: str
    most_fps: float
    annotator: Annotator | None
    fps: float = 0.0
    skipped: int = 0
    """Pictures that the writer had no time for."""
    _waiting: list[Picture] = field(default_factory=list)
    _file: VideoFile | None = None
    _shape: tuple[int, int] = (0, 0)
    """Height and width of the video."""
    _first: Picture | None = None
    _last: Picture | None = None
    _snapshot: tuple[Picture, NDArray[np.uint8]] | None = None

    @property
    def path(self) -> Path:
        """Of the video, when it is whole."""
        return self.clip.folder / (self.clip.stem + self.ending)

    def write(self, picture: Picture) -> None:
        """Write a picture where it belongs in time, the one before it being shown till then.

        Raises:
            RunError: the disk is full, or the file cannot be made.
        """
        self._waiting.append(picture)
        if self._file is not None or len(self._waiting) >= KNOWN_RATE:
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._first is None and waiting:
            self._first = waiting[0]
            self.fps = self.most_fps
            if len(waiting) >= KNOWN_RATE:
                self.fps = min(self.fps, fps_of([picture.time_s for picture in waiting]))
        for picture in waiting:
            self._write_one(picture)

    def _write_one(self, picture: Picture) -> None:
        assert self._first is not None
        image = self._drawn(picture)
        if self._file is None:
            height, width = image.shape[:2]
            self._shape = height, width
            path = self._unfinished(self.path.name)
            self._file = VideoFile(path, self.codec, self.fps, width, height)
        elif image.shape[:2] != self._shape:
            image = cv2.resize(image, self._shape[::-1]).astype(np.uint8, copy=False)
        due = round((picture.time_s - self._first.time_s) * self.fps)
        image = image.copy()  # the annotator draws the next one in the same place
        if picture is self.clip.best:
            self._snapshot = picture, image
        if self._file.written <= due:
            self._file.write(image, due - self._file.written)
        self._last = picture

    def _drawn(self, picture: Picture) -> NDArray[np.uint8]:
        jpeg = np.frombuffer(picture.jpeg, np.uint8)
        image: Any = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        if self.annotator is None:
            return image  # type: ignore[no-any-return]
        objects = picture.objects._asdict()
        return self.annotator.draw(
            Frame.of(self.clip.stream, picture.seq, picture.time_s, image=image, **objects)
        )

    def complete(self, snapshot: bool) -> bool:
        """Complete the clip; False if it holds no picture.

        Raises:
            RunError: it is not whole.
            OSError: the disk is full.
        """
        self._write_waiting()
        if self._file is None or self._first is None or self._last is None:
            return False
        self._file.close()
        if not is_whole(self._file.path, self._file.written):
            raise RunError(
                f"cannot write {str(self.path)!r}: what was written cannot be read back; the disk "
                "may be full"
            )
        clip, names = self.clip, [self.path.name]
        best = clip.best if snapshot else None
        if best is not None:
            names.append(f"{clip.stem}.jpg")
            kept = self._snapshot
            image = kept[1] if kept is not None and kept[0] is best else self._drawn(best)
            quality = [cv2.IMWRITE_JPEG_QUALITY, SNAPSHOT_QUALITY]
            self._save(names[-1], cv2.imencode(".jpg", image, quality)[1].tobytes())
        report = ClipReport(
            stream=clip.stream,
            video=self.path.name,
            snapshot=names[-1] if best is not None else None,
            started_at=utc_ms(self._first.wall_ns),
            ended_at=utc_ms(self._last.wall_ns),
            start_s=round(self._first.time_s, 6),
            end_s=round(self._last.time_s, 6),
            first_frame=self._first.seq,
            last_frame=self._last.seq,
            snapshot_frame=best.seq if best is not None else None,
            pictures=self._file.written,
            fps=self.fps,
            lost=clip.lost + self.skipped,
            cut=clip.cut,
            width=clip.size[0],
            height=clip.size[1],
            objects=list(clip.objects.values()),
        )
        names.append(f"{clip.stem}.json")
        self._save(names[-1], msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        publish(clip.folder, names)
        return True

    def _save(self, name: str, data: bytes) -> None:
        path = self._unfinished(name)
        path.write_bytes(data)
        if path.stat().st_size != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def give_up(self) -> None:
        """Leave nothing behind."""
        with suppress(RunError):
            if self._file is not None:
                self._file.close()
        for ending in (self.ending, ".jpg", ".json"):
            with suppress(OSError):
                self._unfinished(self.clip.stem + ending).unlink()

    def _unfinished(self, name: str) -> Path:
        return self.clip.folder / (UNFINISHED + name)


def publish(folder: Path, names: Sequence[str]) -> None:
    """Give the files of a whole clip their names, the report last, once they are safe on disk."""
    for name in names:
        with suppress(FileNotFoundError):  # its name it has already, and then there was a crash
            descriptor = os.open(folder / (UNFINISHED + name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for name in names:
        with suppress(FileNotFoundError):
            os.replace(folder / (UNFINISHED + name), folder / name)


def is_whole(path: Path, pictures: int) -> bool:
    """Whether a video that was just written can be read to its end.

    OpenCV does not tell when writing fails.
    """
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not capture.isOpened() or capture.get(cv2.CAP_PROP_FRAME_COUNT) < pictures - 1:
            return False
        capture.set(cv2.CAP_PROP_POS_FRAMES, pictures - 1)
        return bool(capture.grab())
    finally:
        capture.release()


def key_of(seen: Object) -> Key:
    """What an object is known by in a clip."""
    return ("", seen.id) if seen.id is not None else (seen.label, None)


def stamp(unix_ns: int) -> str:
    """A time as in the names of clips, 20261121T080000.123Z: by name they are in order."""
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{rest_ns // 1_000_000:03d}Z"


def base_of(folder: str) -> Path:
    """The folder itself, or of one with {stream} in it the part before that."""
    base = Path(folder)
    while "{stream}" in str(base):
        base = base.parent
    return base


def folders_of(folder: str) -> Iterator[Path]:
    """Every folder that a stream, past or present, may have clips in."""
    base = base_of(folder)
    rest = str(Path(folder).relative_to(base)) if Path(folder) != base else ""
    if not rest:
        yield base
        return
    for found in base.glob(glob.escape(rest).replace("{stream}", "*")):
        if found.is_dir():
            yield found


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0
