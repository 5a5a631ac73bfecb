"""Settings of the MQTT sink."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from stages.sinks.files.output_path import expand_home
from stages.sinks.publish.broker_address import Address, address_of
from stages.sinks.publish.publisher import PublisherSettings

FileName = Annotated[str, Meta(min_length=1)]


class MqttSettings(PublisherSettings, frozen=True):
    """Settings of the MQTT sink."""

    broker: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Address of the broker: HOST, HOST:PORT, mqtt://HOST:PORT or mqtts://HOST:PORT (TLS)."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of the broker; null: 1883, with TLS 8883."""
    tls: bool = False
    """Use TLS; mqtts://, `ca` and `certificate` imply it."""
    ca: FileName | None = None
    """File with the certificate that signed that of the broker, if it is your own."""
    certificate: FileName | None = None
    """File with the certificate of this client, if the broker asks for one."""
    key: FileName | None = None
    """File with the key of `certificate`, if that is another file."""
    user: str = ""
    """User name; empty: none."""
    password: str = ""
    """Password; best kept in the environment: ${MQTT_PASSWORD}."""
    client_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """Client id, unique at the broker; null: made of the machine, prefix and spool."""
    prefix: Annotated[str, Meta(min_length=1, max_length=200)] = "eyeline"
    """First levels of all topics. Two installations at one broker need different ones."""
    qos: Literal[0, 1, 2] = 1
    """Quality of service; 0: messages in flight are lost when the connection is lost."""
    retain: bool = True
    """Whether the broker keeps states, for clients that subscribe later."""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """Keepalive interval in seconds; after one and a half times as long without a sign of life, the
    broker publishes `offline`."""
    discovery: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Topic under which Home Assistant looks for devices, usually `homeassistant`: each stream
    becomes a device with two entities per label. null: no discovery."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, ca=self.ca, certificate=self.certificate, key=self.key)

    @property
    def address(self) -> Address:
        """Address of the broker.

        Raises:
            SetupError: the settings contradict each other.
        """
        needs_tls = self.tls or bool(self.ca or self.certificate)
        return address_of(self.broker, self.port, needs_tls)
