"""What happens, told to an MQTT broker: who came and who left, how many there are; Home Assistant.

Under the prefix (`eyeline`), for a stream `yard` and a label `person`:

    eyeline/availability                online, offline (retained; offline is the last will)
    eyeline/yard/availability           whether the stream gives pictures (retained)
    eyeline/yard/person/count           objects in the picture (retained)
    eyeline/yard/person/present         ON, OFF (retained)
    eyeline/yard/events                 JSON: an object has appeared, or left
    eyeline/yard/frames                 JSON of a frame, as in the events sink; see `events`

States are told as they are, events as they were: what happens while the broker is away waits in
the spool, while of a state only the newest value is told when the broker is back.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import ipaddress
import itertools
import logging
import re
import select
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.messages import display_value
from pipeline.stage import Context, Resolved
from pipeline.status import VERSION
from stages.sinks.listen import is_loopback
from stages.sinks.publish.publisher import Away, Delivery, DeliverySettings, tls_context, why_not

if TYPE_CHECKING:
    from paho.mqtt.client import Client

ONLINE, OFFLINE = "online", "offline"
ON, OFF = "ON", "OFF"

CONNECT_S = 5.0
ANSWER_S = 10.0
"""A broker that confirms nothing for so long is taken for away."""
WINDOW = 20
"""Messages that may be under way unconfirmed; brokers hang up if they are many."""
STREAMS_S = 2.0
"""How often the streams are looked after."""
SHORT_LIFE_S = 5.0
"""Connections that last no longer than this, again and again, are those of twins."""
MOST_OLD_STATES = 10_000

FileName = Annotated[str, Meta(min_length=1)]


class MqttSettings(DeliverySettings, frozen=True):
    """Settings of the MQTT sink."""

    broker: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Name or address; may be given as HOST:PORT, mqtt://HOST:PORT or mqtts://HOST:PORT (TLS)."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """null: 1883, with TLS 8883."""
    tls: bool = False
    """Needed neither with mqtts:// nor with `ca` or `certificate`, which mean it."""
    ca: FileName | None = None
    """File with the certificate that signed the broker's, if that is one of your own."""
    certificate: FileName | None = None
    """File with this client's own certificate, where the broker asks for one."""
    key: FileName | None = None
    """File with its key, if that is in another one."""
    user: str = ""
    """Empty: the broker lets in anybody, or those with a certificate."""
    password: str = ""
    """Best kept in the environment: ${MQTT_PASSWORD}."""
    client_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """null: one of this machine, prefix and spool. No two clients of a broker may share one."""
    prefix: Annotated[str, Meta(min_length=1, max_length=200)] = "eyeline"
    """What all topics begin with. Two installations at one broker need two."""
    qos: Literal[0, 1, 2] = 1
    """0: what is under way when the connection breaks is lost."""
    retain: bool = True
    """Of states: the broker tells them to whoever subscribes later."""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """Pause after which each side asks whether the other one is there; the broker tells others that
    we are not after one and a half times as long."""
    discovery: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """Topic under which Home Assistant looks for devices, `homeassistant` as a rule: each stream
    becomes a device with two entities per label. null: it is not told."""


class Mqtt(Delivery):
    """Tells a broker who came and who left, and the number of objects per label.

    At least once, in order per stream; after a crash of this stage, or of the broker, an event
    may be told twice.
    """

    Settings = MqttSettings
    name = "mqtt"

    settings: MqttSettings

    def __init__(self, settings: MqttSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._address = address_of(settings)
        self._client: Client | None = None
        self._refusal: str | None = None
        """What the broker said to the wish to connect; empty: welcome; None: nothing yet."""
        self._lost = ""
        """Why the connection is gone."""
        self._connected_s = 0.0
        self._short_lives = 0
        self._flying: deque[tuple[int, int]] = deque()
        """Messages under way: as the broker knows them, and as the outbox does."""
        self._flying_states: set[int] = set()
        self._confirmed: set[int] = set()
        self._progress_s = 0.0
        """When something was confirmed last, or put on its way while nothing else was."""
        self._lock = threading.Lock()
        """Of what follows: the stage's own thread and the sending one share it."""
        self._states: dict[str, str] = {}
        """Topic -> what it is to say."""
        self._news: dict[str, None] = {}
        """Topics that do not say so yet, in order."""
        self._running: set[str] = set()
        """Streams that have given a frame and have not ended."""
        self._old: set[str] = set()
        """Topics that say something from an earlier run of which is not known whether it holds."""
        self._entities: dict[tuple[str, str], None] = {
            (stream, label): None for stream in context.streams for label in settings.labels
        }
        """Stream and label, in the order they came to be known."""
        self._announced: set[tuple[str, str]] = set()
        self._streams_due_s = 0.0

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """See that the settings can work, without asking the broker.

        Raises:
            SetupError: they cannot, or paho-mqtt is not installed.
        """
        if importlib.util.find_spec("paho") is None:
            raise SetupError("paho-mqtt is not installed: pip install 'paho-mqtt>=2'")
        address_of(settings)
        if settings.password and not settings.user:
            raise SetupError("password: needs `user` too")
        _check_topic("prefix", settings.prefix)
        if settings.discovery is not None:
            _check_topic("discovery", settings.discovery)
        if settings.key is not None and settings.certificate is None:
            raise SetupError("key: needs `certificate` too")
        if address_of(settings).tls:
            tls_context(settings.ca, settings.certificate, settings.key)
        return super().resolve(settings)

    def open(self) -> None:
        """Begin to send; a broker that is away is no error.

        Raises:
            SetupError: the model knows no such label.
        """
        if self.settings.password and not self._address.tls and not is_loopback(self._address.host):
            logging.warning(
                "mqtt: user and password go to %s for everybody on the way to read; set tls",
                self.destination,
            )
        super().open()

    def process(self, frame: Frame) -> None:
        """Leave what the frame means to the sending thread."""
        if frame.stream not in self._running:
            self._begin(frame.stream)
        super().process(frame)

    def end(self, stream: str) -> None:
        """Whoever was in the picture has left, and the stream is offline."""
        super().end(stream)
        with self._lock:
            self._running.discard(stream)
            self._say(self._topic(stream, "availability"), OFFLINE)
        self.wake.set()

    # --- what Delivery asks ---

    @property
    def destination(self) -> str:
        """Host and port of the broker."""
        return str(self._address)

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """One per broker and prefix."""
        address = address_of(settings)
        digest = hashlib.sha256(f"{address} {settings.prefix}".encode()).hexdigest()[:8]
        host = re.sub("[^A-Za-z0-9.-]", "_", address.host)
        return f"mqtt-{host}-{address.port}-{digest}.db"

    def topic(self, stream: str, kind: Literal["events", "frames"]) -> str:
        """PREFIX/STREAM/events or .../frames."""
        return self._topic(stream, kind)

    def counted(self, stream: str, labels: Collection[str]) -> None:
        """Say how many there are."""
        with self._lock:
            for label in labels:
                self._entities[stream, label] = None
                count = self.count(stream, label)
                self._say(self._topic(stream, slug(label), "count"), str(count))
                self._say(self._topic(stream, slug(label), "present"), ON if count else OFF)
        self.wake.set()

    def is_flushed(self) -> bool:
        """Whether all events and states have been confirmed."""
        return super().is_flushed() and not self._news and not self._flying_states

    def step(self) -> None:
        """Connect, or go on."""
        if self._client is None:
            self._connect()
        self._look_after_streams()
        self._announce()
        self._publish_states()
        self._publish_messages()
        self._poll(0.0 if self._confirmed else 1.0)
        self._take_confirmations()

    def hang_up(self) -> None:
        """Leave the broker; at the end of a run with a word, else as a dead client would."""
        client, self._client = self._client, None
        self._flying.clear()
        self._flying_states.clear()
        self._confirmed.clear()
        if client is None:
            return
        if self.is_closing and not self._lost:
            self._say_goodbye(client)
        connection = client.socket()
        if connection is not None:
            connection.close()

    # --- states ---

    def _begin(self, stream: str) -> None:
        """A stream has given its first frame: from here on its states are known."""
        with self._lock:
            self._running.add(stream)
            self._say(self._topic(stream, "availability"), ONLINE)
            for label in self.settings.labels:
                self._entities[stream, label] = None
                for kind, nothing in NOTHING.items():
                    topic = self._topic(stream, slug(label), kind)
                    if topic not in self._states:
                        self._say(topic, nothing)
            for topic in [t for t in self._old if self._stream_of(t) == stream]:
                self._correct(topic)
        self.wake.set()

    def _say(self, topic: str, text: str) -> None:
        """Have a topic say something; the lock is held."""
        if self._states.get(topic) != text:
            self._states[topic] = text
            self._news[topic] = None

    def _correct(self, topic: str) -> None:
        """An earlier run has left a state there; the lock is held."""
        self._old.discard(topic)
        if topic not in self._states:
            self._say(topic, NOTHING[topic.rpartition("/")[2]])

    def _look_after_streams(self) -> None:
        """Say which streams give pictures."""
        now_s = time.monotonic()
        if now_s < self._streams_due_s or not hasattr(self, "run"):
            return
        self._streams_due_s = now_s + STREAMS_S
        for stream in self.run.status().streams:
            is_live = stream.condition.state == "live"
            with self._lock:
                if is_live and stream.name not in self._running:
                    continue  # its first frame is still on the way
                self._say(self._topic(stream.name, "availability"), ONLINE if is_live else OFFLINE)

    def _publish_states(self) -> None:
        with self._lock:
            topics = list(itertools.islice(self._news, self._room()))
            news = [(topic, self._states[topic]) for topic in topics]
            for topic in topics:
                del self._news[topic]
        for topic, text in news:
            is_availability = topic.endswith("/availability")
            self._publish_state(topic, text, is_availability or self.settings.retain)

    def _announce(self) -> None:
        """Tell Home Assistant what it has not been told since it, or the broker, came up."""
        if self.settings.discovery is None:
            return
        with self._lock:
            missing = [entity for entity in self._entities if entity not in self._announced]
        for stream, label in missing[: self._room() // 2]:
            for topic, config in self._configs(self.settings.discovery, stream, label):
                self._publish_state(topic, msgspec.json.encode(config).decode(), retain=True)
            self._announced.add((stream, label))

    def _configs(
        self, discovery: str, stream: str, label: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Topic and content of the two entities of a label."""
        device = f"{slug(self.settings.prefix)}_{stream}"
        unique = f"{device}_{slug(label)}"
        title = label[:1].upper() + label[1:]
        common = {
            "availability": [
                {"topic": self._topic("availability")},
                {"topic": self._topic(stream, "availability")},
            ],
            "availability_mode": "all",
            "device": {
                "identifiers": [device],
                "name": stream,
                "manufacturer": "Eyeline",
                "model": "Video stream",
                "sw_version": VERSION,
            },
            "origin": {"name": "Eyeline", "sw_version": VERSION},
        }
        yield (
            f"{discovery}/binary_sensor/{unique}_present/config",
            {
                "name": title,
                "unique_id": f"{unique}_present",
                "state_topic": self._topic(stream, slug(label), "present"),
                "payload_on": ON,
                "payload_off": OFF,
                "device_class": "occupancy",
                **common,
            },
        )
        yield (
            f"{discovery}/sensor/{unique}_count/config",
            {
                "name": f"{title} count",
                "unique_id": f"{unique}_count",
                "state_topic": self._topic(stream, slug(label), "count"),
                "state_class": "measurement",
                "icon": "mdi:counter",
                **common,
            },
        )

    # --- the connection; all in the sending thread ---

    def _connect(self) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        client = Client(
            CallbackAPIVersion.VERSION2,
            self.settings.client_id or self._own_client_id(),
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # we see to that
        if self.settings.user:
            client.username_pw_set(self.settings.user, self.settings.password or None)
        if self._address.tls:
            files = self.settings.ca, self.settings.certificate, self.settings.key
            client.tls_set_context(tls_context(*files))
        client.will_set(self._topic("availability"), OFFLINE, self.settings.qos, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        self._refusal, self._lost = None, ""
        try:
            client.connect(self._address.host, self._address.port, self.settings.keepalive_s)
        except (OSError, ValueError) as error:
            raise Away(why_not(error, CONNECT_S)) from None
        self._client = client
        self._await_welcome()
        self._connected_s = time.monotonic()
        self._announced.clear()
        with self._lock:
            self._news = dict.fromkeys(self._states)
        self._publish_state(self._topic("availability"), ONLINE, retain=True)
        self._subscribe(client)
        self.came_up()

    def _await_welcome(self) -> None:
        until_s = time.monotonic() + CONNECT_S
        while self._refusal is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise Away(f"it takes the connection, but does not answer within {CONNECT_S:.0f} s")
            self._poll(left_s)
        if self._refusal:
            raise Away(self._refusal)

    def _subscribe(self, client: Client) -> None:
        """Listen to what concerns us; a broker may forbid it, then we go without."""
        topics = [
            self._topic("availability"),  # an old connection's last will may come late
            *(self._topic("+", "+", kind) for kind in NOTHING),
        ]
        if self.settings.discovery is not None:
            topics.append(f"{self.settings.discovery}/status")
        client.subscribe([(topic, 0) for topic in topics])

    def _publish_messages(self) -> None:
        if not self._flying:
            self._progress_s = time.monotonic()
        room = self._room()
        for number, message in self.outbox.take(room) if room else ():
            mid = self._publish(message.topic, message.body, retain=False)
            self._flying.append((mid, number))

    def _room(self) -> int:
        """How many messages more may be put on their way."""
        return max(0, WINDOW - len(self._flying) - len(self._flying_states))

    def _publish_state(self, topic: str, text: str, retain: bool) -> None:
        self._flying_states.add(self._publish(topic, text.encode(), retain))

    def _publish(self, topic: str, body: bytes, retain: bool) -> int:
        """Put a message on its way; the number under which it will be confirmed."""
        if self._client is None or self._lost:
            raise Away(self._why_lost())
        info = self._client.publish(topic, body, self.settings.qos, retain)
        if info.rc:
            raise Away(self._why_lost())
        return info.mid

    def _take_confirmations(self) -> None:
        last = 0
        if self._confirmed:
            self._progress_s = time.monotonic()
            self._flying_states -= self._confirmed
            # They come in order as a rule, but need not.
            while self._flying and self._flying[0][0] in self._confirmed:
                mid, last = self._flying.popleft()
                self._confirmed.discard(mid)
                self.sent += 1
            self._confirmed &= {mid for mid, _ in self._flying}
        if last:
            self.outbox.done(last)
        if self._flying and time.monotonic() - self._progress_s > ANSWER_S:
            raise Away(f"it confirms nothing for {ANSWER_S:.0f} s")

    def _poll(self, timeout_s: float) -> None:
        """Let the client read and write until something has happened."""
        client = self._client
        assert client is not None
        connection = client.socket()
        if connection is None:
            raise Away(self._why_lost())
        if hasattr(connection, "pending") and connection.pending():
            timeout_s = 0.0  # TLS has read more than was asked for
        poller = select.poll()
        wants = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        poller.register(connection.fileno(), wants)
        poller.register(self.wake.fileno(), select.POLLIN)
        ready = dict(poller.poll(round(timeout_s * 1000)))
        if ready.pop(self.wake.fileno(), 0):
            self.wake.clear()
        if ready or timeout_s == 0.0:
            client.loop_read()
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        if self._lost or client.socket() is None:
            raise Away(self._why_lost())

    def _why_lost(self) -> str:
        if self._refusal:
            return self._refusal
        is_short = 0 < time.monotonic() - self._connected_s < SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        twin = ""
        if self._short_lives >= 2:
            id = self.settings.client_id or self._own_client_id()
            twin = f"; does another client use the client_id {id}?"
        return (self._lost or "connection lost") + twin

    def _say_goodbye(self, client: Client) -> None:
        """Say offline, and go once that is confirmed, or when there is no more time."""
        self._client = client
        try:
            self._publish_state(self._topic("availability"), OFFLINE, retain=True)
            until_s = max(self._close_by_s, time.monotonic() + 0.2)
            while self._flying_states and time.monotonic() < until_s:
                self._poll(0.05)
                self._flying_states -= self._confirmed
            client.disconnect()
        except Away:
            pass
        finally:
            self._client = None

    # --- what the client calls, within `_poll` or `_publish` ---

    def _on_connect(self, client: Any, _: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refusal = "" if not code.is_failure else _refusal(str(code))

    def _on_disconnect(self, client: Any, _: Any, flags: Any, code: Any, properties: Any) -> None:
        reason = str(code)
        self._lost = "it fell silent" if reason == "Keep alive timeout" else "connection lost"

    def _on_publish(self, client: Any, _: Any, mid: int, code: Any, properties: Any) -> None:
        self._confirmed.add(mid)

    def _on_message(self, client: Any, _: Any, message: Any) -> None:
        topic, text = message.topic, message.payload.decode(errors="replace")
        if topic == self._topic("availability"):
            if text != ONLINE and not self.is_closing:
                self._publish_state(topic, ONLINE, retain=True)
        elif topic == f"{self.settings.discovery}/status":
            if text == ONLINE and not message.retain:
                self._announced.clear()
                if not self.settings.retain:
                    with self._lock:
                        self._news = dict.fromkeys(self._states)
        elif message.retain and text and text != NOTHING.get(topic.rpartition("/")[2]):
            with self._lock:
                if len(self._old) < MOST_OLD_STATES:
                    self._old.add(topic)
                if self._stream_of(topic) in self._running:
                    self._correct(topic)

    # --- names ---

    def _topic(self, *levels: str) -> str:
        return "/".join((self.settings.prefix, *levels))

    def _stream_of(self, topic: str) -> str:
        return topic.removeprefix(self.settings.prefix + "/").partition("/")[0]

    def _own_client_id(self) -> str:
        """The same each time, so that the broker puts this connection in the place of the last."""
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


NOTHING = {"count": "0", "present": OFF}
"""Last level of a topic -> what it says where there is no such object."""


class Address(NamedTuple):
    """Where the broker is."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(settings: MqttSettings) -> Address:
    """Where the broker is.

    Raises:
        SetupError: not an address, or one that contradicts itself; in words without credentials.
    """
    if "@" in settings.broker:
        raise SetupError("broker: expected HOST or HOST:PORT; give user and password as such")
    found = re.fullmatch(
        r"(?:(mqtts?)://)?(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]#?]+))(?::(\d{1,5}))?/?",
        settings.broker,
    )
    if found is None and _is_ip(settings.broker):
        scheme, host, port = None, settings.broker, None
    elif found is not None:
        scheme, host, port = found[1], found[2] or found[3], found[4]
    else:
        raise SetupError(
            f"broker: expected HOST, HOST:PORT, mqtt://HOST or mqtts://HOST, "
            f"found {display_value(settings.broker, 'broker')}"
        )
    tls = settings.tls or scheme == "mqtts" or bool(settings.ca or settings.certificate)
    if scheme == "mqtt" and tls:
        raise SetupError("broker: mqtt:// is without TLS; expected mqtts://")
    if port is not None and settings.port not in (None, int(port)):
        raise SetupError(f"port: expected {port} as in `broker`, or none, found {settings.port}")
    number = int(port) if port is not None else settings.port or (8883 if tls else 1883)
    if not 1 <= number <= 65535:
        raise SetupError(f"broker: expected a port from 1 to 65535, found {number}")
    return Address(host, number, tls)


@functools.lru_cache(maxsize=1000)
def slug(text: str) -> str:
    """A text as one level of a topic and part of a name: letters, digits, _ and -.

    `traffic light` becomes `traffic_light`; where more than spaces is lost, a checksum keeps apart
    what would be the same.
    """
    plain = text.replace(" ", "_")
    made = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    return made if made == plain else f"{made}_{zlib.crc32(text.encode()):08x}"


def _check_topic(key: str, topic: str) -> None:
    is_wrong = re.search(r"[+#\0\s]|^[/$]|/$|//", topic)
    if is_wrong or len(topic.encode(errors="replace")) > 200 or not topic.isprintable():
        raise SetupError(
            f"{key}: expected a topic such as home/eyeline, without + # and spaces, found "
            f"{display_value(topic)}"
        )


def _refusal(text: str) -> str:
    """Why a broker does not want us."""
    if text in ("Not authorized", "Bad user name or password"):
        return f"{text.lower()}; see user and password"
    return text[0].lower() + text[1:]


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
