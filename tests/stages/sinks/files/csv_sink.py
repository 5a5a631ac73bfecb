"""A file sink of one's own: a table of boxes, one file per stream."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipeline.graph.resources import stream_path
from pipeline.stage import Output, Resolved, Resources, Settings, Stage
from stages import Entry
from stages.detections import DETECTIONS
from stages.sinks.files.output_path import check_writable
from stages.sinks.files.text_file import Mark, ResumableTextFile

LINE = ("csv", Entry("tests.stages.sinks.files.csv_sink:Csv", sink="path"))
"""The line in the table `STAGES`."""


class CsvSettings(Settings, frozen=True):
    """Settings of the sink."""

    path: str
    """File to write."""


class Csv(Stage):
    """Writes a line per box: frame, x1, y1, x2, y2."""

    Settings = CsvSettings
    takes = DETECTIONS
    ordered = True

    settings: CsvSettings

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.files = {}

    @classmethod
    def resolve(cls, settings):
        """Check that the file can be written."""
        check_writable(settings.path)
        return Resolved()

    @classmethod
    def resources(cls, settings):
        """Declare a file per stream."""
        return Resources(writes=(Output(Path(settings.path), per_stream=True),))

    def process(self, frame):
        """Write the boxes of a frame."""
        rows = [[frame.seq, *map(round, box)] for box in frame["boxes"].tolist()]
        self.file(frame.stream).write("".join(f"{str(row)[1:-1]}\n" for row in rows).encode())

    def end(self, stream):
        """Leave an empty file, if there was no box."""
        self.file(stream).start()

    def close(self):
        """Close all files."""
        for file in self.files.values():
            file.close()

    def state(self, stream):
        """Return the position in the stream's file."""
        return msgspec.msgpack.encode(self.file(stream).mark)

    def restore(self, stream, state):
        """Continue at the position in the stream's file."""
        self.file(stream).resume(msgspec.msgpack.decode(state, type=Mark))

    def file(self, stream):
        """Return the stream's file."""
        if stream not in self.files:
            path = stream_path(Path(self.settings.path), stream, self.context.streams)
            self.files[stream] = ResumableTextFile(str(path), log=self.context.log)
            self.files[stream].open()
        return self.files[stream]
