"""Reads small text files that a user names: settings, keys. A device or a pipe would never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.errors import ConfigError

MAX_BYTES = 1 << 20


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a regular file, read as UTF-8, without waiting for anything.

    Raises:
        ConfigError: why it cannot be read, in words that do not name the file.
    """
    try:
        # A pipe that has no writer would block in `open`.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    except ValueError:
        raise ConfigError("the path holds a NUL or another character that no path can") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError("is a directory" if stat.S_ISDIR(mode) else "not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise ConfigError(f"larger than {max_bytes >> 10} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError("not a text file in UTF-8") from None
