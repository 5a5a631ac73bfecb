"""Fault injection: a stage that is late, fails, dies or hangs at given frames. For tests."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

from msgspec import Meta

from pipeline.frame import Frame
from pipeline.stage import Settings, Stage


class FaultSettings(Settings, frozen=True):
    """At which frames (`seq`) what happens; delays at every frame."""

    delay_ms: Annotated[float, Meta(ge=0)] = 0.0
    """Sleep so long over every frame."""
    raise_at: tuple[int, ...] = ()
    """Fail the frame."""
    exit_at: tuple[int, ...] = ()
    """End the process, at every attempt: such a frame is poison."""
    hang_at: tuple[int, ...] = ()
    """Stop the process, so that it gives no sign of life; at every attempt."""


class Fault(Stage):
    """Does nothing to frames but what it is told; stands anywhere in the graph."""

    Settings = FaultSettings

    settings: FaultSettings

    def process(self, frame: Frame) -> None:
        """Do what is due at this frame."""
        if self.settings.delay_ms:
            time.sleep(self.settings.delay_ms / 1000)
        if frame.seq in self.settings.raise_at:
            raise ValueError(f"told to fail at frame {frame.seq}")
        if frame.seq in self.settings.exit_at:
            os._exit(1)
        if frame.seq in self.settings.hang_at:
            os.kill(os.getpid(), signal.SIGSTOP)
