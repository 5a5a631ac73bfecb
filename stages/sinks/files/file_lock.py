"""One writer per file: a lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import logging
import time

from pipeline.errors import SetupError

PAUSE_S = 0.05


def lock_file(descriptor: int, path: str, patience_s: float = 0.0) -> None:
    """Keep other runs from writing a file for as long as the descriptor is open.

    The lock belongs to the file and not to its name, so that it holds for links and other
    spellings of the path too. A file system that knows no locks is used without one.

    Args:
        descriptor: of the open file or folder.
        path: its name, for messages.
        patience_s: how long to wait for the other run to end.

    Raises:
        SetupError: another run has locked it.
    """
    until_s = time.monotonic() + patience_s
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
            logging.warning(
                "%r: cannot be locked (%s); make sure that no other run writes it",
                path,
                error.strerror,
            )
            return
        time.sleep(PAUSE_S)
