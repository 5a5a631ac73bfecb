"""Address of an MQTT broker."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from pipeline.errors import SetupError
from pipeline.messages import display_value


class Address(NamedTuple):
    """Host, port and encryption of a broker."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(broker: str, settings_port: int | None, needs_tls: bool) -> Address:
    """Work out the address from settings.

    Args:
        broker: HOST, HOST:PORT, mqtt://HOST:PORT or mqtts://HOST:PORT.
        settings_port: None: that of `broker`, else 1883, with TLS 8883.
        needs_tls: whether other settings ask for TLS.

    Raises:
        SetupError: not an address, or one that contradicts itself; without credentials.
    """
    if "@" in broker:
        raise SetupError("broker: expected HOST or HOST:PORT; give user and password as such")
    found = re.fullmatch(
        r"(?:(mqtts?)://)?(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]#?]+))(?::(\d{1,5}))?/?",
        broker,
    )
    if found is None and _is_ip(broker):
        scheme, host, port = None, broker, None
    elif found is not None:
        scheme, host, port = found[1], found[2] or found[3], found[4]
    else:
        raise SetupError(
            f"broker: expected HOST, HOST:PORT, mqtt://HOST or mqtts://HOST, "
            f"found {display_value(broker, 'broker')}"
        )
    tls = needs_tls or scheme == "mqtts"
    if scheme == "mqtt" and tls:
        raise SetupError("broker: mqtt:// is without TLS; expected mqtts://")
    if port is not None and settings_port not in (None, int(port)):
        raise SetupError(f"port: expected {port} as in `broker`, or none, found {settings_port}")
    number = int(port) if port is not None else settings_port or (8883 if tls else 1883)
    if not 1 <= number <= 65535:
        raise SetupError(f"broker: expected a port from 1 to 65535, found {number}")
    return Address(host, number, tls)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
