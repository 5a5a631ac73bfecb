"""Events for other programs over ZeroMQ: subscribers get the event of each frame.

A message has two parts: the name of the stream, which is the topic, and the JSON of the events
sink. docs/sinks.md shows a subscriber in five lines. Events without a subscriber, or for one that
is too slow, are lost: neither ZeroMQ nor this sink waits. Once a second the topic `eyeline/alive`
has the number of published events of each stream, so that a subscriber can tell a quiet stream from
a lost connection, and count the events that it has missed.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import zmq
import zmq.utils.monitor
from msgspec import Meta

from pipeline.errors import ConfigError, SetupError
from pipeline.frame import Frame
from pipeline.messages import display_value, passes_power_of_ten
from pipeline.stage import Context, Listen, Resolved, Resources, Settings, Stage
from pipeline.text_files import read_text
from stages.detections import RESULTS, labels_of
from stages.sinks.files.events import event_of, utc_ms
from stages.sinks.files.output_path import expand_home
from stages.sinks.publish.zmq_address import is_local

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

ALIVE_TOPIC = b"eyeline/alive"
"""Cannot be the name of a stream."""

MAKE_KEYS = "python -c \"import zmq; print(b' '.join(zmq.curve_keypair()).decode())\""
"""Prints a public key and the secret one that belongs to it."""

MAX_SUBSCRIPTION_BYTES = 1024
"""A client that sends a longer one is disconnected."""
DEAD_PEER_MS = 15_000
"""Time without a heartbeat after which a subscriber is disconnected."""
LINGER_MS = 1_000
"""Time for subscribers to read the remaining messages at the end of a run."""
MAX_REFUSALS = 100
"""Refused subscribers that are counted between two frames."""


class ZmqSettings(Settings, frozen=True):
    """Settings of the ZeroMQ sink."""

    address: Annotated[str, Meta(min_length=1)] = "tcp://127.0.0.1:5556"
    """Address to publish at: tcp://ADDRESS:PORT (* for all interfaces, port 0 for a free one), or
    ipc://PATH. Beyond this machine only with CURVE: `secret_key` and `clients`."""
    secret_key: Annotated[str, Meta(min_length=1)] | None = None
    """Secret CURVE key of this sink, 40 characters. Best kept in the environment:
    ${EYELINE_ZMQ_KEY}. With it, subscribers need the public key, which is in the log."""
    secret_key_file: Annotated[str, Meta(min_length=1)] | None = None
    """File that contains the secret key only, in place of `secret_key`."""
    clients: Literal["any"] | tuple[str, ...] = ()
    """Public keys of the allowed clients; any: all that know the public key of this sink."""
    high_water: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Most messages that wait for one subscriber; further ones are lost for it."""
    alive_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    """Seconds between two messages under `eyeline/alive`."""

    def __post_init__(self) -> None:
        expand_home(self, secret_key_file=self.secret_key_file)


class Alive(msgspec.Struct):
    """The message under `eyeline/alive`."""

    now: str
    """Wall clock, ISO 8601, UTC."""
    since: str
    """Time at which the counts began; it changes when this sink is restarted."""
    events: dict[str, int]
    """Stream -> number of its published events. A stream that has ended is in one more message."""


class Zmq(Stage):
    """Publishes one message per frame, in order per stream.

    After a crash of this stage a frame may be published twice.
    """

    Settings = ZmqSettings
    takes = RESULTS
    ordered = True
    isolated = True

    settings: ZmqSettings

    def __init__(self, settings: ZmqSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels_of(context)
        self._encoder = msgspec.json.Encoder()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._keys: ThreadAuthenticator | None = None
        self._file: Path | None = None
        """Socket file of an ipc address; ZeroMQ does not remove it."""
        self._published: dict[str, int] = {}
        self._since = ""
        self._info: dict[str, str] = {}
        self._alive_due_s = 0.0
        self._count = self._overflows = self._refused = 0

    @classmethod
    def resolve(cls, settings: ZmqSettings) -> Resolved:
        """Check the address and the keys, and that access is limited.

        Raises:
            SetupError: one of them is invalid, or every client would be allowed.
        """
        local = is_local(settings.address)
        secret = secret_of(settings)
        if secret is None and settings.clients:
            raise SetupError(
                f"clients: needs `secret_key` of this sink; set it ({MAKE_KEYS} prints a public "
                "and a secret key)"
            )
        if secret is None and not local:
            raise SetupError(
                f"address: {settings.address} is reachable from other machines; set `secret_key` "
                f"and `clients` ({MAKE_KEYS} prints a public and a secret key), or use "
                "tcp://127.0.0.1:5556"
            )
        if secret is not None:
            if not zmq.has("curve"):
                raise SetupError("secret_key: this ZeroMQ has no CURVE; run pip install pyzmq")
            if not settings.clients:
                raise SetupError(
                    "clients: expected the public keys of the allowed clients, or any (found none)"
                )
        for key in settings.clients if settings.clients != "any" else ():
            if not is_key(key):
                raise SetupError(
                    "clients: expected public keys of 40 characters (found "
                    f"{display_value(key, 'key')}); {MAKE_KEYS} prints a public and a secret key"
                )
        return Resolved()

    @classmethod
    def resources(cls, settings: ZmqSettings) -> Resources:
        """Declare the address it listens on."""
        kind, _, address = settings.address.partition("://")
        if kind == "ipc":
            return Resources(locks=(Path(address),))
        host, _, port = address.rpartition(":")
        return Resources(listens=(Listen(host.strip("[]"), int(port)),))

    def open(self) -> None:
        """Listen for subscribers.

        Raises:
            SetupError: the address cannot be used.
        """
        self._context = zmq.Context(io_threads=1)
        publisher = self._publisher = self._context.socket(zmq.PUB)
        publisher.setsockopt(zmq.SNDHWM, self.settings.high_water)
        publisher.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        publisher.setsockopt(zmq.HEARTBEAT_IVL, DEAD_PEER_MS // 3)
        publisher.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_PEER_MS)
        # Without this, an IPv4 address would be shown as IPv6.
        publisher.setsockopt(zmq.IPV6, "[" in self.settings.address or "*" in self.settings.address)
        secret = secret_of(self.settings)
        if secret is not None:
            self._use_curve(publisher, secret)
        self._refusals = publisher.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        address, file = self.settings.address, None
        if address.startswith("ipc://@"):
            # Without a file there are no permissions: processes of other users are refused.
            publisher.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
        elif address.startswith("ipc://"):
            file = Path(address.removeprefix("ipc://"))
            self._prepare(file)
        try:
            publisher.bind(re.sub(r"^tcp://localhost:", "tcp://127.0.0.1:", address))
        except zmq.ZMQError as error:
            raise SetupError(self._cannot(error)) from None
        self._file = file
        self._since = utc_ms(time.time_ns())
        bound = publisher.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        self._info["address"] = bound.rstrip(b"\0").decode()
        self.context.log.info("events at %s", self._info["address"])
        if secret is not None:
            self._info["public_key"] = zmq.curve_public(secret.encode()).decode()
            self.context.log.info("subscribers need its public key: %s", self._info["public_key"])

    def process(self, frame: Frame) -> None:
        """Publish the event of a frame, to the subscribers that are fast enough."""
        self._send(frame.stream.encode(), self._encoder.encode(event_of(frame, self._labels)))
        self._published[frame.stream] = self._published.get(frame.stream, 0) + 1
        self._count += 1

    def idle(self) -> None:
        """Send the alive message when it is due; log refused subscribers."""
        now_s = time.monotonic()
        if now_s >= self._alive_due_s:
            self._alive_due_s = now_s + self.settings.alive_s
            self._send_alive()
        for _ in range(MAX_REFUSALS):
            try:
                refusal = zmq.utils.monitor.recv_monitor_message(self._refusals, zmq.NOBLOCK)
            except zmq.Again:
                break
            self._refused += 1
            if passes_power_of_ten(self._refused - 1, self._refused):
                self.context.log.warning("subscriber refused: %s", self._why(refusal))

    def end(self, stream: str) -> None:
        """Send the number of events of the stream."""
        self._published.setdefault(stream, 0)
        self._send_alive()
        del self._published[stream]

    def close(self) -> None:
        """Send the remaining messages for up to `LINGER_MS`, and close."""
        if self._context is None:
            return
        if self._keys is not None:
            self._keys.stop()
            self._keys = None
        self._context.destroy(LINGER_MS)
        self._context = None
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def info(self) -> Mapping[str, str]:
        """Return the address, and the public key that subscribers need."""
        return self._info

    def counters(self) -> Mapping[str, int]:
        """Return the numbers of published events, full queues and refused subscribers."""
        return {
            "published": self._count,
            "too_slow": self._overflows,
            "refused": self._refused,
        }

    def _use_curve(self, publisher: zmq.Socket[bytes], secret: str) -> None:
        publisher.setsockopt(zmq.CURVE_SERVER, 1)
        publisher.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
        if self.settings.clients == "any":
            return
        from zmq.auth.thread import ThreadAuthenticator

        self._keys = ThreadAuthenticator(self._context)
        self._keys.start()
        self._keys.configure_curve_callback(
            credentials_provider=_AllowedClients(self.settings.clients)
        )

    def _prepare(self, file: Path) -> None:
        """Check that no other file is removed: ZeroMQ replaces the file at the path."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            mode = file.stat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise SetupError(self._cannot(error)) from None
        if not stat.S_ISSOCK(mode):
            raise SetupError(f"{str(file)!r} exists and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(file))
            except OSError:
                return  # left by a program that has ended
        raise SetupError(f"{str(file)!r} is used by another program; set another address")

    def _send(self, topic: bytes, body: bytes) -> None:
        """Send to all subscribers whose queues have room; count when a queue becomes full.

        With XPUB_NODROP, ZeroMQ reports a full queue, and sends nothing. It reports it once: then
        the subscriber counts as slow until half of its queue is empty.
        """
        publisher, parts = self._publisher, (topic, body)
        publisher.setsockopt(zmq.XPUB_NODROP, 1)
        try:
            publisher.send_multipart(parts, zmq.NOBLOCK)
            return
        except zmq.Again:
            pass
        publisher.setsockopt(zmq.XPUB_NODROP, 0)
        publisher.send_multipart(parts, zmq.NOBLOCK)
        self._overflows += 1
        if passes_power_of_ten(self._overflows - 1, self._overflows):
            self.context.log.warning(
                "a subscriber is too slow and loses events: %d wait for it (x%d)",
                self.settings.high_water,
                self._overflows,
            )

    def _send_alive(self) -> None:
        alive = Alive(utc_ms(time.time_ns()), self._since, self._published)
        self._send(ALIVE_TOPIC, self._encoder.encode(alive))

    def _why(self, refusal: Mapping[str, Any]) -> str:
        if refusal["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            why = "its public key is not among clients"
        elif self.settings.secret_key or self.settings.secret_key_file:
            why = "it does not use CURVE, or not with the public key of this sink"
        else:
            why = "it does not speak ZeroMQ, or not without CURVE"
        return f"{why} (x{self._refused})"

    def _cannot(self, error: OSError | zmq.ZMQError) -> str:
        address = self.settings.address
        if error.errno == errno.EADDRINUSE:
            return f"{address} is used by another program; set another port"
        if error.errno == errno.EACCES:
            return f"{address} needs privileges; set a port from 1024 up, or another path"
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return (
                f"this machine has no address {address}; set 127.0.0.1, one of its "
                "own, or * for all"
            )
        return f"cannot listen on {address} ({os.strerror(error.errno or 0)})"


class _AllowedClients:
    """Answers ZeroMQ which clients are allowed."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = {key.encode() for key in keys}

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether the owner of a public key is allowed."""
        return key in self._keys


def secret_of(settings: ZmqSettings) -> str | None:
    """Return the secret key; None: no encryption.

    Raises:
        SetupError: it is no key, or cannot be read. The message does not contain it.
    """
    name, secret, file = "secret_key", settings.secret_key, settings.secret_key_file
    if secret is not None and file is not None:
        raise SetupError(
            "secret_key, secret_key_file: expected one of them (found both); remove one"
        )
    if file is not None:
        name = "secret_key_file"
        try:
            secret = read_text(file).strip()
        except ConfigError as error:
            # If there is no such file, the value may be the key itself.
            shown = repr(file) if os.path.exists(file) else "the file"
            raise SetupError(f"{name}: {shown} cannot be read ({error})") from None
    if secret is not None and not is_key(secret):
        raise SetupError(
            f"{name}: expected a key of 40 characters; {MAKE_KEYS} prints a public and a secret key"
        )
    return secret


def is_key(text: str) -> bool:
    """Return whether a text can be a CURVE key: 32 bytes in Z85."""
    try:
        zmq.curve_public(text.encode())
    except (ValueError, zmq.ZMQError):
        return False
    return True
