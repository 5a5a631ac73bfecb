"""Addresses of the ZeroMQ sink."""

from __future__ import annotations

import ipaddress
import os
import re

from pipeline.errors import SetupError
from pipeline.urls import display_url

MAX_IPC_PATH_BYTES = 107
"""Longest path of a Unix socket."""


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address.

    Raises:
        SetupError: it is not an address to listen on.
    """
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if not path or path.endswith("/") or len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
            raise SetupError(
                f"address: expected ipc:// and the path of a file, of at most {MAX_IPC_PATH_BYTES} "
                f"bytes (found {display_url(address)}); choose a shorter one"
            )
        return True
    match = re.fullmatch(r"tcp://(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/]+)):([0-9]{1,5})", address)
    host = (match[1] or match[2]) if match else ""
    if not match or int(match[3]) > 65535:
        raise SetupError(
            f"address: expected tcp://ADDRESS:PORT or ipc://PATH (found {display_url(address)}); "
            "for this machine alone use tcp://127.0.0.1:5556"
        )
    if host in ("*", "localhost"):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise SetupError(
            "address: expected an IP address of this machine, or * for all (found "
            f"{display_url(host)}); choose one"
        ) from None
