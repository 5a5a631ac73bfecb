"""Reports of a worker to its supervisor: lines of JSON on one pipe, log records among them.

The exit status of a worker is its last report; the three values that are not 0 are here too.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import msgspec

from pipeline.messages import lines
from pipeline.status import SourceState

MAX_TEXT_BYTES = 1500
"""A longer text is shortened, since only short writes to a pipe are atomic."""

# Unusual numbers: a library or a stage that ends the process with 1, 2 or 3 is a crash.
EXIT_FATAL = 113
"""Exit status of a worker that has reported why the run must end."""
EXIT_RENEW = 114
"""Exit status of a worker that asks for a restart."""
EXIT_DEVICE = 115
"""Exit status of a worker that has reported a failed device: to the supervisor, a crash."""


class Report(msgspec.Struct, omit_defaults=True):
    """One report, a line of JSON on the pipe."""

    worker: int
    kind: str
    """"ready", "counts" (info or counters of the stages have changed), "log", "fatal" (a
    RunError), "setup" (a SetupError), "broken" (a source that ended too early: the run drains and
    fails), "end" (a person's request), "condition" (of a source), "renew" (the process must
    restart, through no fault of its own), "failure" (why it is about to end as after a crash),
    "frame_failed" (why a stage failed on a frame, the first time that it did for this reason),
    "request"."""
    text: str = ""
    level: int = logging.INFO
    info: dict[str, dict[str, str]] = {}
    """Stage -> `Stage.info`."""
    counts: dict[str, dict[str, int]] = {}
    """Stage -> `Stage.counters`."""
    condition: SourceState | None = None
    """State of a source."""
    request: str = ""
    """Name of a request, under which its answer is published."""


class Reporter:
    """The sending end of one worker."""

    def __init__(self, fd: int, worker: int) -> None:
        """Start without a report.

        Args:
            fd: writing end of the pipe to the supervisor; does not block.
            worker: index of the worker.
        """
        self._fd, self._worker = fd, worker

    def send(self, kind: str, text: str = "", **fields: Any) -> None:
        """Send a report; the arguments are the fields of `Report`."""
        send_report(self._fd, Report(self._worker, kind, text, **fields))


class ReportPipe:
    """The pipe from all workers to the supervisor."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self.write_fd, False)
        self._partial = b""

    def read(self) -> list[Report]:
        """Return the reports that have arrived."""
        while True:
            try:
                data = os.read(self.read_fd, 1 << 16)
            except BlockingIOError:
                break
            self._partial += data
        *received, self._partial = self._partial.split(b"\n")
        reports = []
        for line in received:
            try:
                reports.append(msgspec.json.decode(line, type=Report))
            except msgspec.DecodeError:
                logging.warning("report of a worker cut off: %s", line.decode(errors="replace"))
        return reports

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_fd)
        os.close(self.write_fd)


class PipeLog(logging.Handler):
    """Handler that sends log records to the supervisor, which owns the terminal."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._reporter.send("log", record.getMessage(), level=record.levelno)


def send_report(fd: int, report: Report) -> None:
    """Write a line to the supervisor's pipe, shortened where it is too long."""
    if report.kind != "request":
        report.text = lines(report.text)  # also as control characters grow when they are encoded
    text = report.text.encode(errors="replace")
    report.text = (
        text.decode()
        if len(text) <= MAX_TEXT_BYTES
        else text[:MAX_TEXT_BYTES].decode(errors="ignore") + " ..."
    )
    try:
        os.write(fd, msgspec.json.encode(report) + b"\n")
    except (BlockingIOError, BrokenPipeError):
        pass  # the supervisor is stopped or dead: better no log line than a stage that waits
