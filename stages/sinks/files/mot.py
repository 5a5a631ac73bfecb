"""MOTChallenge text, one file per stream: the format that tools to evaluate trackers read.

Each line is `frame,id,x,y,w,h,score,class,-1,-1`: frames count from 1, x and y are the top left
corner and w and h the size in pixels, and the last two stand for a position in the world, which
is not known. Format: Dendorfer et al., "MOT20: A benchmark for multi object tracking in crowded
scenes", arXiv:2003.09003, section 4.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.graph.resources import stream_path
from pipeline.stage import Context, Output, Resolved, Resources, Settings, Stage
from stages.detections import DETECTIONS, Detections
from stages.sinks.files.output_path import (
    check_writable,
    expand_home,
    is_standard_output,
)
from stages.sinks.files.text_file import Mark, ResumableTextFile


class MotSettings(Settings, frozen=True):
    """Settings of the MOTChallenge sink."""

    path: Annotated[str, msgspec.Meta(min_length=1)]
    """File to write; {stream} stands for the stream's name, which is added if there are several
    streams. It may be rotated, and is locked: two runs cannot write one file."""

    def __post_init__(self) -> None:
        expand_home(self, path=self.path)


class Mot(Stage):
    """Writes one line per object; an object without a track has the id -1.

    A crash neither loses nor repeats a line.
    """

    Settings = MotSettings
    takes = DETECTIONS
    ordered = True

    settings: MotSettings

    def __init__(self, settings: MotSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._streams: Collection[str] = context.streams
        self._files: dict[str, ResumableTextFile] = {}
        self._ended: set[str] = set()

    @classmethod
    def resolve(cls, settings: MotSettings) -> Resolved:
        """Check that the files can be written.

        Raises:
            SetupError: they cannot.
        """
        if is_standard_output(settings.path):
            raise SetupError(
                f"path: expected the path of a file, found {settings.path!r} (MOTChallenge text "
                "needs a file per stream); write a name such as out.txt"
            )
        check_writable(settings.path)
        return Resolved()

    @classmethod
    def resources(cls, settings: MotSettings) -> Resources:
        """Declare the files."""
        return Resources(writes=(Output(Path(settings.path), per_stream=True),))

    def open(self) -> None:
        """Open and lock the files of the known streams; their content stays for now.

        Raises:
            SetupError: another run writes one, or one is a named pipe without a reader.
        """
        for stream in self._streams:
            self._file(stream)

    def process(self, frame: Frame) -> None:
        """Write the lines of a frame.

        Raises:
            RunError: the disk is full or lost.
        """
        self._file(frame.stream).write(mot_lines(frame))

    def reopen(self) -> None:
        """Continue in the files that have the names now."""
        for file in self._files.values():
            file.follow()

    def end(self, stream: str) -> None:
        """Close the stream's file; without a frame it is empty."""
        file = self._file(stream)
        file.start()
        file.close()
        self._ended.add(stream)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def state(self, stream: str) -> bytes:
        """The place in the stream's file."""
        return msgspec.msgpack.encode(self._files[stream].mark) if stream in self._files else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Keep the lines up to that position."""
        if state:
            self._file(stream).resume(msgspec.msgpack.decode(state, type=Mark))

    def _file(self, stream: str) -> ResumableTextFile:
        if stream not in self._files or stream in self._ended:
            self._ended.discard(stream)  # one of the same name was removed and added again
            path = str(stream_path(Path(self.settings.path), stream, self._streams))
            file = ResumableTextFile(path, lambda: self.beat(), self.context.log)
            file.open()
            self._files[stream] = file
        return self._files[stream]


def mot_lines(frame: Frame) -> bytes:
    """Return the objects of a frame as MOTChallenge text; empty: there are none."""
    objects = Detections.of(frame)
    return "".join(
        f"{frame.seq + 1},{id},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},"
        f"{score:.4f},{number},-1,-1\n"
        for id, (x1, y1, x2, y2), score, number in zip(
            objects.ids.tolist(),
            objects.boxes.tolist(),
            objects.scores.tolist(),
            objects.classes.tolist(),
            strict=True,
        )
    ).encode()
