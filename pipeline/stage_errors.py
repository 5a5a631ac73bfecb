"""Errors that the code of a stage raises: the message names the stage, and the line at fault."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import EyelineError, GraphError, RunError

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
_OWN = (f"{ROOT / 'pipeline'}{os.sep}", str(ROOT / "run.py"))
"""Beginnings of the names of files that call stages."""
_LIBRARIES = ("site-packages", f"{os.path.dirname(os.__file__)}{os.sep}", "<")
"""Parts of the names of files that stages call."""


def call_stage(where: str, method: str, call: Callable[..., T], *args: Any) -> T:
    """Call a method of a stage before the run.

    Args:
        where: place of the stage in the settings, the start of the message of an error.
        method: name of the method, for the message of an unexpected error.
        call: the method.
        args: its arguments.

    Raises:
        EyelineError: an error raised on purpose, with `where` in front.
        GraphError: any other.
    """
    try:
        return call(*args)
    except Exception as error:
        raise stage_error(error, where, method, GraphError) from None


def stage_error(
    error: Exception, where: str, method: str, kind: type[EyelineError] = RunError
) -> EyelineError:
    """Return the error to raise in place of one that a stage raised.

    Args:
        error: error that was raised.
        where: place of the stage in the settings, the start of the message.
        method: name of the method that raised it.
        kind: class of the result, unless the error was raised on purpose.
    """
    if isinstance(error, EyelineError):
        return error.at(where)
    logging.debug("%s", "".join(traceback.format_exception(error)))
    return kind(f"{where}: {method}: {error_line(error)} ({place_of(error)}); correct the stage")


def error_line(error: BaseException) -> str:
    """Return an unexpected exception in one line, with its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def place_of(error: BaseException) -> str:
    """Return the file and line that raised an error: of a stage rather than of a library."""
    steps = traceback.extract_tb(error.__traceback__)
    ours = [step for step in steps if not any(part in step.filename for part in _LIBRARIES)]
    stages = [step for step in ours if not step.filename.startswith(_OWN)]
    if not steps:
        return "run.py"
    step = (stages or ours or steps)[-1]
    file = Path(step.filename).resolve()
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}:{step.lineno}"
