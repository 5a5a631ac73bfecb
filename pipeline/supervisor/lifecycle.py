"""The phases of a run on its way to its end, and the exit status."""

from __future__ import annotations

import logging
import signal
import time
from enum import IntEnum
from typing import Literal

from pipeline.memory.worker_table import WorkerTable
from pipeline.supervisor import sd_notify
from pipeline.supervisor.processes import CLOSE_S, Processes
from pipeline.supervisor.streams import RunningStreams

EXIT_OK, EXIT_FAILED, EXIT_SETUP, EXIT_INTERRUPTED = 0, 1, 2, 130


class Phase(IntEnum):
    """Phase of a run."""

    RUNNING = 0
    DRAINING = 1
    """Sources must end; frames in flight continue."""
    CLOSING = 2
    """Workers got SIGTERM and close their stages."""
    KILLING = 3
    """Workers got SIGKILL."""


class Lifecycle:
    """Phase and result of one run; ends it in good order, and by force after a timeout."""

    def __init__(
        self, worker_table: WorkerTable, streams: RunningStreams, processes: Processes
    ) -> None:
        self.phase = Phase.RUNNING
        self.exit = EXIT_OK
        self.error = ""
        """Reason of a failed run, in one line; empty if it did not fail."""
        self._worker_table, self._streams, self._processes = worker_table, streams, processes
        self._stop_timeout_s = 0.0
        self._deadline = 0.0
        """Monotonic time at which the present phase must be over."""

    @property
    def ending(self) -> bool:
        """Whether the run is ending."""
        return self.phase > Phase.RUNNING

    @property
    def public_phase(self) -> Literal["running", "draining", "closing"]:
        """Phase as the status shows it."""
        if self.phase == Phase.RUNNING:
            return "running"
        return "draining" if self.phase == Phase.DRAINING else "closing"

    def stop(self, timeout_s: float, *, restarting: bool) -> None:
        """End the sources, let the frames in flight drain, then close.

        Args:
            timeout_s: how long frames may drain.
            restarting: whether another run follows in this process.
        """
        if self.phase >= Phase.DRAINING:
            return
        self.phase = Phase.DRAINING
        self._worker_table.stop()
        self._stop_timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        if not restarting:
            sd_notify.stopping()
        for stream in self._streams:
            self._processes.abandon_if_opening(stream.child, stream.arena)

    def set_error(self, text: str, code: int) -> None:
        """Set the result of the run, unless an earlier error has set it."""
        if not self.error:
            self.error, self.exit = text, code

    def fail(self, text: str, code: int) -> None:
        """Set the result of the run and close it, without draining."""
        self.set_error(text, code)
        self.close()

    def interrupt(self) -> None:
        """Set the exit status after Ctrl-C."""
        if self.exit == EXIT_OK:
            self.exit = EXIT_INTERRUPTED

    def close(self) -> None:
        """Have all workers close their stages and end."""
        if self.phase >= Phase.CLOSING:
            return
        self.phase = Phase.CLOSING
        self._deadline = time.monotonic() + CLOSE_S
        self._processes.signal_all(signal.SIGTERM)

    def close_when_ended(self) -> None:
        """Close if no stream is left; where all were removed, others may still be added."""
        if (self._streams or self.ending) and all(s.child.done for s in self._streams):
            self.close()

    def kill_all(self) -> None:
        """Kill all workers."""
        self.phase = Phase.KILLING
        self._processes.kill_all()

    def check_deadline(self) -> None:
        """Continue to the next phase if the present one takes longer than its timeout."""
        if self.phase == Phase.RUNNING or time.monotonic() <= self._deadline:
            return
        if self.phase == Phase.DRAINING:
            timeout_s = self._stop_timeout_s
            logging.warning("frames in flight did not drain within %g s; closing", timeout_s)
            self.close()
        elif self.phase == Phase.CLOSING:
            children = self._processes.children.values()
            names = ", ".join(child.spec.name for child in children if child.alive)
            logging.warning("%s: did not close within %g s; killed", names, CLOSE_S)
            self.kill_all()
