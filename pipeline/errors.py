"""Every error that Eyeline raises on purpose.

EyelineError
  SetupError        cannot work as asked; found before the first frame (exit 2)
    ConfigError     a settings file or option is wrong; the message names file and key
    GraphError      the stages do not join
    SourceError     a camera, file or address cannot be opened
    StageUnavailable  this machine cannot run a stage: a sink is left out
  RunError          a run that had started cannot continue (exit 1)
    StuckSource     a source's thread is stuck in a library: its process is restarted
    DeviceFailed    the device of a stage fails: its process is restarted within the budget
  EndRun            a person asked to end the run, at the window for example (exit 0)

`models` knows nothing of this package and has a tree of its own (`models/errors.py`); the
detector stage turns its errors into SetupError.
"""

from __future__ import annotations

from typing import Self


class EyelineError(Exception):
    """Base of all errors raised on purpose; shown as one line, without a traceback."""

    def at(self, where: str) -> Self:
        """Put a place in front of the message, and return the same error."""
        self.args = (f"{where}: {self}", *self.args[1:])
        return self


class SetupError(EyelineError):
    """The command, config, model or source cannot work."""


class ConfigError(SetupError):
    """A settings file, or an option that replaces part of it, is wrong."""


class GraphError(SetupError):
    """The stages do not join."""


class SourceError(SetupError):
    """A camera, file or address cannot be opened."""

    def __init__(self, text: str, kind: str = "failed") -> None:
        """Give the reason.

        Args:
            text: reason in words, without credentials.
            kind: reason for programs, a `kind` of `pipeline.status.SourceState`.
        """
        super().__init__(text)
        self.kind = kind


class StageUnavailable(SetupError):  # noqa: N818 - says what is missing
    """This machine cannot run a stage, a window without a display for example.

    A stage that is the last of its branch is left out with one line; any other is refused.
    """


class RunError(EyelineError):
    """A run that had started cannot continue: a full disk, a stage that keeps dying."""


class StuckSource(RunError):  # noqa: N818 - names the state of the source
    """The reading thread of a source hangs in a library: its process must be restarted."""


class DeviceFailed(RunError):  # noqa: N818 - names the part that failed
    """The device that a stage uses fails with every frame.

    The process of the stage ends and is restarted, as after a crash: its frames in flight are
    resent, and `supervisor.restarts` bounds the restarts. Beyond that, the message ends the run.
    """


class EndRun(EyelineError):  # noqa: N818 - a request, not an error
    """A person asked to end the run; raised by a stage from `process`."""
