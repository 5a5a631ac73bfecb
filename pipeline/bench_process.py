"""A process in which the bench measures something, apart from its own."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any

from pipeline.errors import EyelineError, RunError, SetupError

MAX_SILENCE_S = 300.0
"""How long a measurement may take; a model that does not end is killed then."""

Report = Callable[[object], None]


class Forked:
    """A forked process that reports with lines of JSON."""

    def __init__(self, work: Callable[[Report], None]) -> None:
        """Start it.

        Args:
            work: what it does; is given the function that reports.
        """
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
        self._file = os.fdopen(read, "rb", 0)  # without a buffer: `select` sees all that is there

    def receive(self, timeout_s: float = MAX_SILENCE_S) -> Any:
        """Return the next report.

        Raises:
            SetupError: it cannot do what it was asked to.
            RunError: the process failed, or reports nothing in time.
        """
        if not select.select([self._file], [], [], timeout_s)[0]:
            os.kill(self._pid, signal.SIGKILL)
            self.end()
            raise RunError(f"bench: a measurement does not end within {timeout_s:g} s")
        line = self._file.readline()
        value = json.loads(line) if line else {"error": "a process died"}
        if isinstance(value, dict) and "setup" in value:
            raise SetupError(value["setup"])
        if isinstance(value, dict) and "error" in value:
            raise RunError(f"bench: {value['error']}")
        return value

    def end(self) -> None:
        """Wait for its end."""
        self._file.close()
        os.waitpid(self._pid, 0)


def _write(fd: int, value: object) -> None:
    os.write(fd, json.dumps(value).encode() + b"\n")
