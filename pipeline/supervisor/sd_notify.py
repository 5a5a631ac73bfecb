"""Notifications to systemd about the state of the service: sd_notify, without its library.

Each call sends one datagram to the socket that systemd names in NOTIFY_SOCKET. No call raises or
blocks, and outside systemd they do nothing, so that a loop may call them at any time. They return
whether that is settled: False means that systemd could not take it now; retry.
"""

from __future__ import annotations

import os
import socket
import time

from pipeline.messages import one_line


def ready(status: str = "") -> bool:
    """Report that the service is ready, at first or after `reloading`, with a line of status."""
    return _send("READY=1", *_status(status))


def status(text: str) -> bool:
    """Send a line for `systemctl status`; credentials in URLs are hidden."""
    return _send(*_status(text))


def reloading() -> bool:
    """Report that the settings are read again; `ready` must follow, also if they are refused."""
    return _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str = "") -> bool:
    """Report that the service ends."""
    return _send("STOPPING=1", *_status(status))


def watchdog() -> bool:
    """Send a heartbeat, due at least every `watchdog_s()`; twice as often is the custom."""
    return _send("WATCHDOG=1")


def watchdog_s() -> float | None:
    """Return the timeout in s after which systemd kills this process; None: it does not."""
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None  # meant for a parent process, whose environment was inherited
    interval = os.environ.get("WATCHDOG_USEC", "")
    return int(interval) / 1e6 if interval.isdecimal() and int(interval) else None


def _status(text: str) -> tuple[str, ...]:
    line = one_line(text)
    return (f"STATUS={line}",) if line else ()


def _send(*lines: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not lines or address[:1] not in ("/", "@"):
        return True  # nothing to send, or no systemd
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    message = "\n".join(lines).encode(errors="replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto(message, address)
    except OSError:
        return False
    return True
