"""Every error Eyeline raises on purpose.

EyelineError
  SetupError        cannot work as asked; found before the first frame (exit 2)
    ConfigError     a settings file or option is wrong; the message names file and key
    GraphError      the stages do not join
    SourceError     a camera, file or address cannot be opened
    StageUnavailable  this machine cannot run a stage: a sink is left out
  RunError          a run that had started cannot go on (exit 1)
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
        """Say why.

        Args:
            text: in words, without credentials.
            kind: for programs, one of those of `pipeline.status.Condition`.
        """
        super().__init__(text)
        self.kind = kind


class StageUnavailable(SetupError):  # noqa: N818 - says what is missing
    """This machine cannot run a stage, a window without a display for example.

    A stage that is the last of its branch is left out with one line; any other is refused.
    """


class RunError(EyelineError):
    """A run that had started cannot go on: a full disk, a stage that keeps dying."""


class StuckSource(RunError):  # noqa: N818 - says what is the matter with the source
    """A reading thread does not come back from its library: only a new process helps."""


class DeviceFailed(RunError):  # noqa: N818 - says which part of the machine failed
    """The device that a stage works on fails, whichever frame it is given.

    The process of the stage ends and is restarted, as after a crash: its frames in flight are sent
    again, and `supervisor.restarts` bounds how often. The last message ends the run.
    """


class EndRun(EyelineError):  # noqa: N818 - a wish, not an error
    """A person asked to end the run; raised by a stage from `process`."""
