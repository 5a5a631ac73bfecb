"""Capture: a video file, a folder of images, a webcam or an address -> frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, Resolved, Resources, Source, SourceInfo
from pipeline.status import SourceState
from pipeline.urls import display_url
from stages.addresses import parse_source
from stages.capture.frame_offer import DropCounter
from stages.capture.image_folder import images_in
from stages.capture.live_reader import LiveReader
from stages.capture.opening import check_source, open_source
from stages.capture.reader import FileReader, Reader, fill_frame
from stages.capture.settings import (
    CaptureSettings,
    has_path,
    is_live,
    reads_file,
    reads_pipe,
    source_name,
)
from stages.capture.source_clock import LiveClock

MIN_SEEK = 1000
"""Images to skip from which on a file is sought in; fewer take no time to read."""


class Capture(Source):
    """Reads one stream: a file as fast as frames are offered, a camera at its own pace."""

    gives = (Array("image", "uint8", (None, None, 3)),)

    Settings = CaptureSettings

    settings: CaptureSettings

    def __init__(self, settings: CaptureSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._name = source_name(settings)
        self._drops = DropCounter()
        self._taken = 0
        """Images taken from the source, also those that became no frame."""
        self._last_ns = -1
        """Newest time of the stream before a crash, so that its clock continues; -1: unknown."""
        self._reader: Reader | None = None
        self._live_reader: LiveReader | None = None
        self._offered: Frame | None = None
        self._filled: bool | None = None
        self._loop_error = ""
        """Why a file cannot be played once more."""
        self._paused = False

    @classmethod
    def resolve(cls, settings: CaptureSettings) -> Resolved:
        """Check the source, and offer what the pipeline needs to know about it.

        Raises:
            SetupError: settings that contradict each other.
            SourceError: no such file, or a folder without images.
        """
        check_source(settings)
        info = SourceInfo(
            display_url(settings.source),
            (settings.source, settings.pipeline),
            is_live(settings),
            settings.frames,
        )
        return Resolved((info,))

    @classmethod
    def resources(cls, settings: CaptureSettings) -> Resources:
        """Declare the file, or the images of a folder."""
        source = parse_source(settings.source)
        if not isinstance(source, Path) or not reads_file(settings):
            return Resources()
        return Resources(reads=tuple(images_in(source)) if source.is_dir() else (source,))

    def open(self) -> None:
        """Open the source and see that it gives an image.

        With `wait: true`, and after a crash, a live source is opened later, by its reading thread.

        Raises:
            SourceError: it cannot be opened, or gives none.
        """
        self.live = is_live(self.settings)
        # The writer of a pipe does not start again after a crash: the pipe is opened at once.
        reopens = self.context.restarted and not reads_pipe(self.settings)
        if not reads_file(self.settings) and (self.settings.wait or reopens):
            return
        try:
            self._reader = self._connect()
        except SourceError as error:
            raise SourceError(f"{self._name}: {error}", error.kind) from None
        if self._reader.still and not self.context.restarted:
            self.context.log.info(
                "%s holds separate images, which are not tracked (id null); set `sequence: true` "
                "if they are the frames of a video",
                self._name,
            )
        if self._reader.untimed:
            self.context.log.warning(
                "%s has no timestamps; frames get the time of their arrival, set `fps` to the "
                "rate of a recording",
                self._name,
            )

    def close(self) -> None:
        """Close the source; a reading thread ends first, or the interpreter would abort."""
        if self._live_reader is not None:
            self._live_reader.stop()
        elif self._reader is not None:
            self._reader.close()

    def skip(self, images: int, source_ns: int) -> None:
        """Continue behind the first so many images: those of a file are skipped."""
        self._taken, self._last_ns = images, source_ns
        if not reads_file(self.settings):
            return
        file = cast(FileReader, self._reader)
        # Images of a live source that became no frame may lie behind the newest frame.
        may_seek = images > MIN_SEEK and not self.settings.loop and not self.live
        if may_seek and file.seek(images, source_ns):
            return
        skipped = 0
        while skipped < images and file.grab():
            skipped += 1 + file.lost
        if skipped > images:
            file.reread_last()
        elif skipped < images and skipped and self.settings.loop:
            # The length of a round is known now: count the others instead of reading them.
            rounds, rest = divmod(images, skipped)
            file.rewind(rounds)
            for _ in range(rest):
                file.grab()

    def start(self, notify: Callable[[], None]) -> None:
        """Begin to read a camera, or a file that is played live, in a thread."""
        from_file = reads_file(self.settings)
        if from_file and not self.live:
            return
        self._live_reader = LiveReader(
            self._connect,
            self._drops,
            notify,
            first=self._reader,
            advance=self._advance,
            clock=None if from_file else LiveClock(self.context.started_ns, self._last_ns),
            newest=self.live,
            reconnect=self.settings.reconnect and not has_path(self.settings),
            stall_timeout_s=self.settings.stall_timeout_s,
        )
        self._live_reader.start()

    def offer(self, frame: Frame) -> None:
        """Fill a frame with the next image, now (a lossless file) or when it comes."""
        if self._live_reader is not None:
            self._live_reader.offer(frame)
            return
        self._offered, self._filled = frame, None
        if not self._paused:
            self._filled = self._read(frame)

    def collect(self) -> bool | None:
        """Return whether the frame is filled; None: not yet; False: the source has ended.

        Raises:
            StuckSource: the library that reads the source does not return.
        """
        if self._live_reader is not None:
            return self._live_reader.collect()
        if self._filled is None and self._offered is not None and not self._paused:
            self._filled = self._read(self._offered)
        return self._filled

    def pause(self) -> None:
        """Give no images until `resume`; a camera is released meanwhile."""
        self._paused = True
        if self._live_reader is not None:
            self._live_reader.pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._paused = False
        if self._live_reader is not None:
            self._live_reader.resume()

    @property
    def condition(self) -> SourceState:  # type: ignore[override]
        """State of the source."""
        if self._live_reader is not None:
            return self._live_reader.condition
        if self._reader is None:
            return SourceState("opening")
        return SourceState(
            "paused" if self._paused else "ended" if self._filled is False else "live"
        )

    def missed(self) -> tuple[int, int]:
        """Return how many images since the last call (found no slot, could not be decoded)."""
        return self._drops.take()

    def problem(self) -> str | None:
        """Return why the source has ended too early, if it has."""
        if self._limit_reached():
            return None
        if self._loop_error:
            text = self._loop_error
        elif self._live_reader is not None:
            text = self._live_reader.problem
        else:
            text = self._reader.end_reason()[1] if self._reader is not None else ""
        return f"{self._name}: {text}" if text else None

    def info(self) -> Mapping[str, str]:
        """Return the decoder; a camera's may change with each connection."""
        decoder = ""
        if self._live_reader is not None:
            decoder = self._live_reader.decoder
        elif self._reader is not None:
            decoder = self._reader.decoder
        return {"decoder": decoder} if decoder else {}

    def _connect(self) -> Reader:
        reader = open_source(self.settings, self.context.log)
        if not has_path(self.settings) and reader.finite:
            # After a crash: a file behind an address begins again, skip what was taken of it.
            for _ in range(self._taken):
                reader.grab()
        return reader

    def _limit_reached(self) -> bool:
        return self.settings.frames is not None and self._taken >= self.settings.frames

    def _read(self, frame: Frame) -> bool:
        """Fill a frame with the next image of a file that can be decoded; False: its end."""
        reader = self._reader
        assert reader is not None
        while self._advance(reader):
            captured_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            if fill_frame(frame, reader, captured_ns, wall_ns, reader.source_ns):
                return True
            self._drops.add(decode=1)
        return False

    def _advance(self, reader: Reader) -> bool:
        """Go to the next image; False at the end."""
        if self._limit_reached():
            return False
        more = reader.grab()
        if not more and self.settings.loop and self._taken and reads_file(self.settings):
            try:
                cast(FileReader, reader).rewind()
            except SourceError as error:  # the file was replaced or removed meanwhile
                self._loop_error = str(error)
                return False
            more = reader.grab()
        if more:
            self._taken += 1 + reader.lost + reader.skipped
            self._drops.add(busy=reader.skipped, decode=reader.lost)
        return more
