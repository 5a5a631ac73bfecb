"""Processes of commands: the bench measures in them, and `models inspect` tries models."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import EyelineError, RunError, SetupError

MAX_SILENCE_S = 300.0
"""Seconds that a measurement may take; its process is killed then."""

START_TIMEOUT_S = 60.0
"""Seconds that a command may take until it detects its first object."""

Report = Callable[[object], None]


class Forked:
    """A forked process that reports with lines of JSON."""

    def __init__(
        self, work: Callable[[Report], None], command: str = "bench", task: str = "a measurement"
    ) -> None:
        """Start the process.

        Args:
            work: function to run in it; its argument is a function that sends a report.
            command: name of the command, for messages.
            task: name of the work, for messages.
        """
        self._command, self._task = command, task
        read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(read)
                if "cv2" in sys.modules:
                    sys.modules["cv2"].setNumThreads(1)
                work(lambda value: _write(write, value))
                code = 0
            except SetupError as error:
                _write(write, {"setup": str(error)})
            except EyelineError as error:
                _write(write, {"error": str(error)})
            except Exception as error:
                _write(write, {"error": f"{type(error).__name__}: {error}"})
            finally:
                os._exit(code)
        os.close(write)
        self._file = os.fdopen(read, "rb", 0)  # no buffer, so that `select` sees all data

    def receive(self, timeout_s: float = MAX_SILENCE_S) -> Any:
        """Return the next report.

        Raises:
            SetupError: the measurement cannot work.
            RunError: the process failed, or sent no report in time.
        """
        if not select.select([self._file], [], [], timeout_s)[0]:
            os.kill(self._pid, signal.SIGKILL)
            self.end()
            raise RunError(
                f"{self._command}: {self._task} did not end within {timeout_s:g} s; killed"
            )
        line = self._file.readline()
        value = json.loads(line) if line else {"error": f"the process of {self._task} died"}
        if isinstance(value, dict) and "setup" in value:
            raise SetupError(value["setup"])
        if isinstance(value, dict) and "error" in value:
            raise RunError(f"{self._command}: {value['error']}")
        return value

    def end(self) -> None:
        """Wait until the process has ended."""
        self._file.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0


def _write(fd: int, value: object) -> None:
    os.write(fd, json.dumps(value).encode() + b"\n")


def time_to_first_object(command: Sequence[str]) -> float:
    """Return the seconds from the start of a command to its first event with an object.

    Args:
        command: writes events to standard output.

    Raises:
        RunError: it wrote no such event in time.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seconds = None
    try:
        while seconds is None and time.monotonic() - begin < START_TIMEOUT_S:
            # The pipe has no buffer, so `select` sees all that there is to read.
            left_s = START_TIMEOUT_S - (time.monotonic() - begin)
            if not select.select([process.stdout], [], [], max(0.0, left_s))[0]:
                break
            line = process.stdout.readline()
            if not line:
                break
            if json.loads(line)["objects"]:
                seconds = time.monotonic() - begin
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=START_TIMEOUT_S)
    if seconds is None:
        raise RunError(f"bench: no object was detected; {errors.decode().strip()}")
    return seconds
