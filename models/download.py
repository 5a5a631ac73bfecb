"""Download of a model file, which is kept only if it has the expected hash."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from models.errors import CardError
from models.onnx_header import MAX_BYTES, sha256_of
from models.text import shown

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received, and the number expected, if known."""


def download(url: str, target: Path, sha256: str, progress: Progress | None = None) -> None:
    """Download a file to `target`, whose folder is made.

    Args:
        url: address of the file.
        target: path of the file; not touched before the download is complete and right.
        sha256: expected hash, in hexadecimal.
        progress: called after each chunk.

    Raises:
        CardError: no connection, too large, or another hash.
    """
    import tempfile

    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        _receive(url, Path(part), progress)
        found = sha256_of(Path(part))
        if found != sha256:
            raise CardError(
                f"{_without_secrets(url)}: wrong sha256 (found {found}, the card states {sha256}); "
                "file discarded, correct the card or its url"
            )
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)


def _receive(url: str, target: Path, progress: Progress | None) -> None:
    import urllib.request  # here, because its import takes longer than checking a model

    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, target.open("wb") as file:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            received = 0
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                received += len(chunk)
                if received > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES:,} bytes")
                if progress is not None:
                    progress(received, total)
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CardError(
            f"{_without_secrets(url)}: download failed ({shown(reason, 100)}); check the network "
            "connection and the address"
        ) from None


def _without_secrets(url: str) -> str:
    """Return the address without the parts that may be secret: user, password, parameters."""
    bare = re.sub(r"[?#].*", "", url, flags=re.DOTALL)
    return re.sub(r"(?<=//)[^/]*@", "", bare)
