"""Small text files that a user names: settings, keys. Devices and pipes are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.errors import ConfigError

MAX_BYTES = 1 << 20
"""Largest file that is read, in bytes."""


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a regular file in UTF-8; never blocks.

    Args:
        path: the file.
        max_bytes: largest size that is accepted.

    Raises:
        ConfigError: it cannot be read; the message does not name the file.
    """
    try:
        # Without O_NONBLOCK, `open` would block on a pipe without a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    except ValueError:
        raise ConfigError("the path contains a character that no path can have") from None
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
