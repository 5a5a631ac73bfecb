"""Fault injection for tests: a stage that is slow, fails, exits or hangs at given frames."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

from msgspec import Meta

from pipeline.frame import Frame
from pipeline.stage import Settings, Stage


class FaultSettings(Settings, frozen=True):
    """Numbers of the frames (`seq`) at which each fault is injected."""

    delay_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Processing time added to every frame, in milliseconds."""
    raise_at: tuple[int, ...] = ()
    """Frames that fail."""
    exit_at: tuple[int, ...] = ()
    """Frames that end the process, at every attempt."""
    hang_at: tuple[int, ...] = ()
    """Frames that stop the process, so that its heartbeat is missing; at every attempt."""


class Fault(Stage):
    """Injects faults; allowed anywhere in the graph."""

    Settings = FaultSettings

    settings: FaultSettings

    def process(self, frame: Frame) -> None:
        """Inject the fault of this frame, if there is one."""
        if self.settings.delay_ms:
            time.sleep(self.settings.delay_ms / 1000)
        if frame.seq in self.settings.raise_at:
            raise ValueError(f"injected fault at frame {frame.seq}")
        if frame.seq in self.settings.exit_at:
            os._exit(1)
        if frame.seq in self.settings.hang_at:
            os.kill(os.getpid(), signal.SIGSTOP)
