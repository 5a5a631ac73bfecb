"""Base of sinks that write one line of JSON per frame, all streams in one file."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from pipeline.frame import Frame
from pipeline.stage import Array, Context, Settings, Stage
from stages.detections import RESULTS
from stages.sinks.files.text_file import Mark, ResumableTextFile


class JsonLines(Stage):
    """Writes one line per frame, in order per stream.

    Lines are written immediately, so that a reader can follow the file. A crash neither loses nor
    repeats a line in a file; on standard output a line may occur twice.

    Args:
        settings: settings of the stage.
        context: context of the stage.
        path: file to write.
    """

    takes: ClassVar[tuple[Array, ...]] = RESULTS
    ordered = True

    def __init__(self, settings: Settings, context: Context, path: str) -> None:
        super().__init__(settings, context)
        self._file = ResumableTextFile(path, lambda: self.beat(), context.log)
        self._encoder = msgspec.json.Encoder()
        self._marks: dict[str, Mark] = {}

    def line_of(self, frame: Frame) -> msgspec.Struct:
        """Return the line of a frame."""
        raise NotImplementedError

    def open(self) -> None:
        """Open and lock the file; its content stays until the first frame.

        Raises:
            SetupError: another run writes it, or it is a named pipe without a reader.
        """
        self._file.open()

    def process(self, frame: Frame) -> None:
        """Write the line of a frame.

        Raises:
            RunError: the disk is full or lost.
            EndRun: the reader of standard output has closed it.
        """
        self._file.write(self._encoder.encode(self.line_of(frame)) + b"\n")
        self._marks[frame.stream] = self._file.mark

    def end(self, stream: str) -> None:
        """Empty the file of an earlier run, if the stream had no frame."""
        self._file.start()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def state(self, stream: str) -> bytes:
        """Return the position in the file after the stream's last line."""
        return msgspec.msgpack.encode(self._marks[stream]) if stream in self._marks else b""

    def restore(self, stream: str, state: bytes) -> None:
        """Keep the lines up to that position."""
        if state:
            self._marks[stream] = msgspec.msgpack.decode(state, type=Mark)
            self._file.resume(self._marks[stream])
