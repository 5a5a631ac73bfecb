"""The thread that records clips, several at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from pipeline.context import Log
from pipeline.messages import passes_power_of_ten
from stages.drawing.annotator import Annotator
from stages.sinks.clips.clip import Clip, ClipImage
from stages.sinks.clips.clip_file import ClipFile
from stages.sinks.clips.folder import ClipFolder
from stages.sinks.clips.settings import ClipsSettings

PRUNE_S = 600.0
"""Interval at which clips that have become too old are deleted."""


class ClipRecorder:
    """Records clips in a thread of its own, and keeps the folder within its limits.

    A clip that cannot be written is dropped, logged and counted; the next one is attempted.

    Args:
        settings: settings of the stage.
        codec: codec of the videos.
        make_annotator: makes the annotator of a clip.
        log: logger of the stage.
    """

    def __init__(
        self,
        settings: ClipsSettings,
        codec: str,
        make_annotator: Callable[[], Annotator],
        log: Log,
    ) -> None:
        self._settings, self._codec, self._log = settings, codec, log
        self._make_annotator = make_annotator
        self._folder = ClipFolder(settings.folder, settings.keep_bytes, settings.keep_days)
        self._queue: queue.SimpleQueue[tuple[Clip, ClipImage | None] | None] = queue.SimpleQueue()
        # Each is counted by one thread only, so that no lock is needed.
        self._put_bytes = self._done_bytes = self._put = self._done = 0
        self._progress = threading.Event()
        self._files: dict[Clip, ClipFile | None] = {}
        """Clips that are being recorded; None: dropped."""
        self._failures = 0
        """Number of clips lost since the last one that could be written."""
        self._written = self._lost = 0
        self._deadline_s: float | None = None
        """Monotonic time from which waiting images are dropped, so that the run can end."""
        self._thread: threading.Thread | None = None

    def counts(self) -> dict[str, int]:
        """Return the numbers of clips that were written, and that were lost."""
        return {"written": self._written, "lost": self._lost}

    @property
    def waiting_bytes(self) -> int:
        """Size of the images that are not written yet."""
        return self._put_bytes - self._done_bytes

    @property
    def is_idle(self) -> bool:
        """Whether everything is written."""
        return self._put == self._done

    def open(self) -> None:
        """Open the folder, and start the thread.

        Raises:
            SetupError: the folder cannot be written, or another run writes clips there.
        """
        self._folder.open()
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._thread.start()

    def put(self, clip: Clip, image: ClipImage) -> None:
        """Record the next image of a clip."""
        score = max((s for key, s in image.scores.items() if key in clip.objects), default=0.0)
        if score > clip.best_score:
            clip.best, clip.best_score = image, score
        self._put_bytes += image.size_bytes
        self._put += 1
        self._queue.put((clip, image))

    def finish(self, clip: Clip) -> None:
        """Complete a clip. The caller must not change it afterwards."""
        self._put += 1
        self._queue.put((clip, None))

    def wait(self, timeout_s: float) -> None:
        """Wait until something is written, or for the timeout."""
        self._progress.wait(timeout_s)
        self._progress.clear()

    def close(self, timeout_s: float) -> None:
        """Write the waiting images within the timeout, complete all clips, and end the thread."""
        if self._thread is not None:
            self._deadline_s = time.monotonic() + timeout_s
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self._folder.close()

    # --- the thread ---

    def _run(self) -> None:
        prune_s = time.monotonic()
        while True:
            if time.monotonic() >= prune_s:
                self._attempt(self._folder.prune)
                prune_s = time.monotonic() + PRUNE_S
            try:
                item = self._queue.get(timeout=max(0.0, prune_s - time.monotonic()))
            except queue.Empty:
                continue
            if item is None:
                break
            clip, image = item
            self._take(clip, image)
            if image is not None:
                self._done_bytes += image.size_bytes
            self._done += 1
            self._progress.set()
        for file in self._files.values():
            if file is not None:
                file.discard()

    def _take(self, clip: Clip, image: ClipImage | None) -> None:
        """Write an image, or complete a clip."""
        if clip not in self._files:
            settings = self._settings
            annotator = self._make_annotator() if settings.annotate else None
            suffix = f".{settings.container}"
            self._files[clip] = ClipFile(clip, suffix, self._codec, settings.fps, annotator)
        file = self._files[clip]
        if file is not None and not self._attempt(lambda: self._write(file, image), clip):
            file.discard()
            self._files[clip] = None
        if image is None:
            del self._files[clip]

    def _write(self, file: ClipFile, image: ClipImage | None) -> None:
        if image is None:
            self._complete(file)
        elif self._deadline_s is not None and time.monotonic() > self._deadline_s:
            file.skipped += 1
        else:
            file.write(image)

    def _complete(self, file: ClipFile) -> None:
        if not file.complete(self._settings.snapshot):
            return
        if self._failures:
            self._log.warning("clips are written again; %d were lost", self._failures)
            self._failures = 0
        self._written += 1
        self._log.info("clip %s", file.path)
        self._attempt(self._folder.prune)

    def _attempt(self, work: Callable[[], None], clip: Clip | None = None) -> bool:
        """Work, and return whether it succeeded; log a failure."""
        try:
            work()
            return True
        except Exception as error:  # of any kind: the next clip is attempted
            reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
            if clip is None:
                self._log.warning("cannot delete old clips: %s", reason)
                return False
            self._failures += 1
            self._lost += 1
            if passes_power_of_ten(self._failures - 1, self._failures):
                self._log.warning(
                    "a clip of %s is lost: %s (x%d)", clip.stream, reason, self._failures
                )
            return False
