"""Who can reach an address that a stage listens at, or sends to."""

from __future__ import annotations

import ipaddress

from pipeline.errors import SetupError
from pipeline.urls import display_url


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, so that nobody else sees what is sent."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_own(address: str, others: str) -> None:
    """See that an address can be listened at.

    Args:
        address: as the settings have it.
        others: who may come when it is open to all.

    Raises:
        SetupError: not an IP address.
    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise SetupError(
            f"address: expected an IP address of this machine, found {display_url(address)}; "
            f"127.0.0.1 is for this machine alone, 0.0.0.0 for all who have {others}"
        ) from None
