"""Addresses that stages listen on: which are loopback, and why one is not available."""

from __future__ import annotations

import errno
import ipaddress
import os

from pipeline.errors import SetupError
from pipeline.urls import display_url


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind_address(address: str, secret: str) -> None:
    """Check that a setting is an address to listen on.

    Args:
        address: from the settings.
        secret: what clients from the network need, for the message.

    Raises:
        SetupError: it is not an IP address.
    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise SetupError(
            f"address: expected an IP address of this machine (found {display_url(address)}); "
            f"use 127.0.0.1 for this machine alone, or 0.0.0.0 for all clients that have {secret}"
        ) from None


def bind_error(error: OSError, address: str, port: int) -> str:
    """Return a message about an address or port that cannot be listened on.

    Args:
        error: that of the attempt.
        address: from the settings.
        port: from the settings.
    """
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is used by another program; set another port"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; set one from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"this machine has no address {address}; set 127.0.0.1, one of its own, or 0.0.0.0 "
            "for all"
        )
    return f"cannot listen on {address} port {port} ({os.strerror(error.errno or 0)})"
