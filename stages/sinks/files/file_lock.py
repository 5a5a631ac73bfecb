"""One writer per file: a lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import time

from pipeline.context import Log
from pipeline.errors import SetupError

PAUSE_S = 0.05


def lock_file(descriptor: int, path: str, log: Log, timeout_s: float = 0.0) -> None:
    """Keep other runs from writing a file for as long as the descriptor is open.

    The lock belongs to the file and not to its name, so that it also holds for links and other
    spellings of the path. On a file system without locks the file is used without one.

    Args:
        descriptor: descriptor of the open file or folder.
        path: name of the file or folder, for messages.
        log: logger of the stage.
        timeout_s: wait for the other run to end, in seconds.

    Raises:
        SetupError: another run has locked it.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise SetupError(
                    f"{path!r} is being written by another run; choose another path, or stop that "
                    "run"
                ) from None
        except OSError as error:
            log.warning(
                "%r cannot be locked (%s); make sure that no other run writes it",
                path,
                error.strerror,
            )
            return
        time.sleep(PAUSE_S)
