"""Changes and numbers of objects, published to an MQTT broker; Home Assistant discovery.

Under the prefix (`eyeline`), for a stream `yard` and a label `person`:

    eyeline/availability                online, offline (retained; offline is the last will)
    eyeline/yard/availability           whether the stream gives frames (retained)
    eyeline/yard/person/count           number of objects that are present (retained)
    eyeline/yard/person/present         ON, OFF (retained)
    eyeline/yard/events                 JSON: an object has appeared, or left
    eyeline/yard/frames                 JSON of a frame, as in the events sink; see `events`

While the broker is unreachable, events wait in the spool; of a state only the newest text is
published when it is reachable again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import msgspec

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context, Resolved
from stages.sinks.listen import is_loopback
from stages.sinks.publish.broker_connection import BrokerConnection
from stages.sinks.publish.home_assistant import entity_configs
from stages.sinks.publish.mqtt_settings import MqttSettings
from stages.sinks.publish.publisher import Publisher
from stages.sinks.publish.state_topics import StateTopics
from stages.sinks.publish.tls import tls_context
from stages.sinks.publish.topics import ABSENT, OFF, OFFLINE, ON, ONLINE, Topics, check_topic, slug

STREAMS_S = 2.0
"""Interval at which the states of the streams are read."""
GOODBYE_S = 0.2
"""Least time for the last message at the end of a run."""


class Mqtt(Publisher):
    """Publishes changes of objects, and the number of objects per label.

    At least once, in order per stream: after a crash of this stage, or of the broker, an event may
    be published twice.
    """

    Settings = MqttSettings

    settings: MqttSettings

    def __init__(self, settings: MqttSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._address = settings.address
        self._topics = Topics(settings.prefix)
        self._states = StateTopics(self._topics, settings.labels)
        self._entities: dict[tuple[str, str], None] = {
            (stream, label): None for stream in context.streams for label in settings.labels
        }
        """Stream and label, in the order in which they became known."""
        self._announced: set[tuple[str, str]] = set()
        self._streams_due_s = 0.0
        self._connection = BrokerConnection(
            settings,
            self._address,
            settings.client_id or self._own_client_id(),
            self._topics.of("availability"),
            self.wake,
            self._on_message,
        )

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """Check the settings, without a connection to the broker.

        Raises:
            SetupError: they cannot work, or paho-mqtt is not installed.
        """
        if importlib.util.find_spec("paho") is None:
            raise SetupError("paho-mqtt is not installed; run pip install 'paho-mqtt>=2'")
        address = settings.address
        if settings.password and not settings.user:
            raise SetupError("password: needs `user` too; set it")
        check_topic("prefix", settings.prefix)
        if settings.discovery is not None:
            check_topic("discovery", settings.discovery)
        if settings.key is not None and settings.certificate is None:
            raise SetupError("key: needs `certificate` too; set it")
        if address.tls:
            tls_context(settings.ca, settings.certificate, settings.key)
        return super().resolve(settings)

    def open(self) -> None:
        """Begin to send; an unreachable broker is no error."""
        if self.settings.password and not self._address.tls and not is_loopback(self._address.host):
            self.context.log.warning(
                "username and password are sent to %s unencrypted; set `tls: true`",
                self.destination,
            )
        super().open()

    def process(self, frame: Frame) -> None:
        """Put the messages of a frame into the outbox."""
        if not self._states.is_running(frame.stream):
            for label in self.settings.labels:
                self._entities[frame.stream, label] = None
            self._states.begin(frame.stream)
            self.wake.set()
        super().process(frame)

    def end(self, stream: str) -> None:
        """Report the objects that were present as left, and the stream as offline."""
        super().end(stream)
        self._states.end(stream, OFFLINE)
        self.wake.set()

    # --- for the base class ---

    @property
    def destination(self) -> str:
        """Host and port of the broker."""
        return str(self._address)

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """Return the name of the spool: one per broker and prefix."""
        address = settings.address
        digest = hashlib.sha256(f"{address} {settings.prefix}".encode()).hexdigest()[:8]
        host = re.sub("[^A-Za-z0-9.-]", "_", address.host)
        return f"mqtt-{host}-{address.port}-{digest}.db"

    def topic(self, stream: str, kind: Literal["events", "frames"]) -> str:
        """Return PREFIX/STREAM/events or .../frames."""
        return self._topics.of(stream, kind)

    def counted(self, stream: str, labels: Collection[str]) -> None:
        """Set the states of the labels."""
        for label in labels:
            self._entities[stream, label] = None
            count = self.count(stream, label)
            self._states.set(self._topics.of(stream, slug(label), "count"), str(count))
            present = ON if count else OFF
            self._states.set(self._topics.of(stream, slug(label), "present"), present)
        self.wake.set()

    def is_flushed(self) -> bool:
        """Return whether all events and states are confirmed."""
        has_states = self._states.has_unpublished or self._connection.has_states_in_flight
        return super().is_flushed() and not has_states

    def send_pending(self) -> None:
        """Connect if necessary, and send waiting messages.

        Raises:
            Unreachable: the broker is.
        """
        connection = self._connection
        if not connection.is_open:
            self._connect()
        self._read_streams()
        self._announce()
        for topic, text in self._states.take(connection.room):
            is_availability = topic.endswith("/availability")
            connection.publish_state(topic, text, is_availability or self.settings.retain)
        room = connection.room
        for number, message in self.outbox.take(room) if room else ():
            connection.publish_message(number, message.topic, message.body)
        connection.poll(0.0 if connection.has_confirmations else 1.0)
        count, last = connection.take_confirmations()
        self.sent += count
        if last:
            self.outbox.done(last)

    def disconnect(self) -> None:
        """Close the connection; at the end of a run with a last message."""
        goodbye_by_s = max(self._close_by_s, time.monotonic() + GOODBYE_S)
        self._connection.close(goodbye_by_s if self.is_closing else None)

    # --- in the sending thread ---

    def _connect(self) -> None:
        self._connection.open()
        self._announced.clear()
        self._states.republish()
        self._connection.publish_state(self._topics.of("availability"), ONLINE, retain=True)
        topics = [
            self._topics.of("availability"),  # the last will of an old connection may come late
            *(self._topics.of("+", "+", kind) for kind in ABSENT),
        ]
        if self.settings.discovery is not None:
            topics.append(f"{self.settings.discovery}/status")
        self._connection.subscribe(topics)
        self.connected()

    def _read_streams(self) -> None:
        """Set the availability of each stream."""
        now_s = time.monotonic()
        if now_s < self._streams_due_s or self.run is None:
            return
        self._streams_due_s = now_s + STREAMS_S
        for stream in self.run.status().streams:
            is_live = stream.condition.state == "live"
            self._states.set_availability(stream.name, ONLINE if is_live else OFFLINE)

    def _announce(self) -> None:
        """Publish the entities that Home Assistant has not got since it, or the broker, started."""
        discovery = self.settings.discovery
        if discovery is None:
            return
        missing = [entity for entity in list(self._entities) if entity not in self._announced]
        for stream, label in missing[: self._connection.room // 2]:
            for topic, config in entity_configs(discovery, self._topics, stream, label):
                text = msgspec.json.encode(config).decode()
                self._connection.publish_state(topic, text, retain=True)
            self._announced.add((stream, label))

    def _on_message(self, topic: str, text: str, retained: bool) -> None:
        if topic == self._topics.of("availability"):
            if text != ONLINE and not self.is_closing:
                self._connection.publish_state(topic, ONLINE, retain=True)
        elif topic == f"{self.settings.discovery}/status":
            if text == ONLINE and not retained:
                self._announced.clear()
                if not self.settings.retain:
                    self._states.republish()
        elif retained:
            self._states.note_retained(topic, text)

    def _own_client_id(self) -> str:
        """Return the same id each time, so that the broker replaces the previous connection."""
        try:
            machine = Path("/etc/machine-id").read_text("utf-8").strip()
        except OSError:
            machine = ""
        identity = (
            machine,
            socket.gethostname(),
            self.settings.prefix,
            str(self._spool_path(self.settings) or "."),
        )
        return "eyeline-" + hashlib.sha256("\0".join(identity).encode()).hexdigest()[:12]
