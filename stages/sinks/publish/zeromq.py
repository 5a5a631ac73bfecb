"""Events for other programs over ZeroMQ: whoever subscribes gets each frame's as it comes.

A message has two parts: the stream's name, which is the topic, and the JSON that the events sink
writes. docs/sinks.md shows a subscriber in five lines. What is published while nobody listens is
gone, and so is what a subscriber is too slow for: ZeroMQ does not wait, and neither does this
sink. Once a second it tells, under the topic `eyeline/alive`, how many events of each stream it has
published, so that a subscriber knows silence from a dead line, and what it has missed.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
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
from pipeline.messages import display_value
from pipeline.stage import Context, Listen, Resolved, Resources, Settings, Stage
from pipeline.text_files import read_text
from pipeline.urls import display_url
from stages.detections import DETECTIONS, labels_of
from stages.sinks.files.events import event_of, utc_ms

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

ALIVE_TOPIC = b"eyeline/alive"
"""No stream can be called so."""

MAKE_KEYS = "python -c \"import zmq; print(b' '.join(zmq.curve_keypair()).decode())\""
"""Prints a public key and the secret one that belongs to it."""

LARGEST_SUBSCRIPTION_BYTES = 1024
"""Nobody needs a longer one; who sends it is disconnected."""
DEAD_PEER_MS = 15_000
"""A subscriber whose machine has gone without a word is disconnected after this long."""
LINGER_MS = 1_000
"""At the end of a run, so long may subscribers take to fetch what is left."""
IPC_PATH_BYTES = 107
MOST_REFUSALS = 100
"""Looked at between two frames."""


class ZmqSettings(Settings, frozen=True):
    """Settings of the ZeroMQ sink."""

    address: Annotated[str, Meta(min_length=1)] = "tcp://127.0.0.1:5556"
    """Where to publish: tcp://ADDRESS:PORT (* for all interfaces, port 0 for a free one), or
    ipc://PATH. Beyond this machine only with CURVE: `secret_key` and `clients`."""
    secret_key: Annotated[str, Meta(min_length=1)] | None = None
    """Secret CURVE key of this sink, 40 characters. Best kept in the environment:
    ${EYELINE_ZMQ_KEY}. With it, subscribers need its public half, which the log tells."""
    secret_key_file: Annotated[str, Meta(min_length=1)] | None = None
    """The same, from a file that holds nothing else."""
    clients: Literal["any"] | tuple[str, ...] = ()
    """Public keys of those who may subscribe; any: whoever knows the public key of this sink."""
    high_water: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Messages that wait for one subscriber; what comes while so many do is lost to it."""
    alive_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    """Seconds between two messages under `eyeline/alive`."""


class Alive(msgspec.Struct):
    """What is told under `eyeline/alive`."""

    now: str
    """Wall clock, ISO 8601, UTC."""
    since: str
    """When the counts began; another one: this sink was started again."""
    events: dict[str, int]
    """Stream -> how many of its events were published. Of a stream that has ended, told once."""


class Zmq(Stage):
    """Publishes one message per frame, in order per stream.

    After a crash of this stage a frame may be published twice.
    """

    Settings = ZmqSettings
    takes = DETECTIONS
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
        """Of an ipc address; ZeroMQ leaves it behind."""
        self._published: dict[str, int] = {}
        self._since = ""
        self._told: dict[str, str] = {}
        self._alive_due_s = 0.0
        self._count = self._overflows = self._refused = 0

    @classmethod
    def resolve(cls, settings: ZmqSettings) -> Resolved:
        """See that the address is one, the keys are, and that not everybody may listen.

        Raises:
            SetupError: they are not, or everybody may.
        """
        local = is_local(settings.address)
        secret = secret_of(settings)
        if secret is None and settings.clients:
            raise SetupError(
                f"clients: needs secret_key, the one of this sink; {MAKE_KEYS} prints a public and "
                "a secret key"
            )
        if secret is None and not local:
            raise SetupError(
                f"address: {settings.address} lets others listen: set secret_key and clients "
                f"({MAKE_KEYS} prints a public and a secret key), or use tcp://127.0.0.1:5556"
            )
        if secret is not None:
            if not zmq.has("curve"):
                raise SetupError("secret_key: this build of ZeroMQ has no CURVE: pip install pyzmq")
            if not settings.clients:
                raise SetupError(
                    "clients: expected the public keys of those who may subscribe, or any; found "
                    "none"
                )
        for key in settings.clients if settings.clients != "any" else ():
            if not is_key(key):
                raise SetupError(
                    "clients: expected public keys of 40 characters, found "
                    f"{display_value(key, 'key')}; {MAKE_KEYS} prints a public and a secret key"
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
            SetupError: the address cannot be had.
        """
        self._context = zmq.Context(io_threads=1)
        publisher = self._publisher = self._context.socket(zmq.PUB)
        publisher.setsockopt(zmq.SNDHWM, self.settings.high_water)
        publisher.setsockopt(zmq.MAXMSGSIZE, LARGEST_SUBSCRIPTION_BYTES)
        publisher.setsockopt(zmq.HEARTBEAT_IVL, DEAD_PEER_MS // 3)
        publisher.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_PEER_MS)
        # Else an IPv4 address is told as IPv6 does.
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
            # Has no file, and so no rights: peers of other users are refused.
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
        self._told["address"] = bound.rstrip(b"\0").decode()
        logging.info("zmq: events at %s", self._told["address"])
        if secret is not None:
            self._told["public_key"] = zmq.curve_public(secret.encode()).decode()
            logging.info("zmq: subscribers need its public key: %s", self._told["public_key"])

    def process(self, frame: Frame) -> None:
        """Publish the event of a frame, to whoever is fast enough."""
        self._send(frame.stream.encode(), self._encoder.encode(event_of(frame, self._labels)))
        self._published[frame.stream] = self._published.get(frame.stream, 0) + 1
        self._count += 1

    def idle(self) -> None:
        """Tell that it is alive, when it is time; log who was refused."""
        now_s = time.monotonic()
        if now_s >= self._alive_due_s:
            self._alive_due_s = now_s + self.settings.alive_s
            self._tell_alive()
        for _ in range(MOST_REFUSALS):
            try:
                refusal = zmq.utils.monitor.recv_monitor_message(self._refusals, zmq.NOBLOCK)
            except zmq.Again:
                break
            self._refused += 1
            if is_worth_a_line(self._refused):
                logging.warning("zmq: a subscriber was refused: %s", self._why(refusal))

    def end(self, stream: str) -> None:
        """Tell how many events there were."""
        self._published.setdefault(stream, 0)
        self._tell_alive()
        del self._published[stream]

    def close(self) -> None:
        """Give subscribers a moment to fetch what is left."""
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
        """Where the events are published, and what a subscriber needs."""
        return self._told

    def counters(self) -> Mapping[str, int]:
        """Events that were published, and how often a subscriber was too slow or was refused."""
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
        self._keys.configure_curve_callback(credentials_provider=_Known(self.settings.clients))

    def _prepare(self, file: Path) -> None:
        """See that nothing is taken away from anybody: ZeroMQ removes whatever is in its way."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            mode = file.stat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise SetupError(self._cannot(error)) from None
        if not stat.S_ISSOCK(mode):
            raise SetupError(f"zmq: {str(file)!r} exists and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(file))
            except OSError:
                return  # left behind by one that is gone
        raise SetupError(f"zmq: {str(file)!r} is taken by another program; set another address")

    def _send(self, topic: bytes, body: bytes) -> None:
        """Send to all subscribers who have room; note when one has none any more.

        Asked not to drop, ZeroMQ tells that a queue is full, and sends nothing. It tells that
        once: then the subscriber counts as slow, until half of its queue is empty.
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
        if is_worth_a_line(self._overflows):
            logging.warning(
                "zmq: a subscriber is too slow and loses events: %d wait for it already (x%d)",
                self.settings.high_water,
                self._overflows,
            )

    def _tell_alive(self) -> None:
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
            return f"zmq: {address} is taken by another program; set another port"
        if error.errno == errno.EACCES:
            return f"zmq: {address} may not be used; set a port from 1024 up, or another path"
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return (
                f"zmq: this machine has no such address as {address}; set 127.0.0.1, one of its "
                "own, or * for all"
            )
        return f"zmq: cannot listen at {address} ({os.strerror(error.errno or 0)})"


class _Known:
    """Tells ZeroMQ who may subscribe."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = {key.encode() for key in keys}

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the owner of this public key may."""
        return key in self._keys


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address.

    Raises:
        SetupError: it is none that can be listened at.
    """
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if not path or path.endswith("/") or len(os.fsencode(path)) > IPC_PATH_BYTES:
            raise SetupError(
                f"address: expected ipc:// and the path of a file, of at most {IPC_PATH_BYTES} "
                f"bytes, found {display_url(address)}"
            )
        return True
    match = re.fullmatch(r"tcp://(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/]+)):([0-9]{1,5})", address)
    host = (match[1] or match[2]) if match else ""
    if not match or int(match[3]) > 65535:
        raise SetupError(
            f"address: expected tcp://ADDRESS:PORT or ipc://PATH, found {display_url(address)}; "
            "for this machine alone: tcp://127.0.0.1:5556"
        )
    if host in ("*", "localhost"):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise SetupError(
            "address: expected an IP address of this machine, or * for all, found "
            f"{display_url(host)}"
        ) from None


def secret_of(settings: ZmqSettings) -> str | None:
    """The secret key; None if there is to be no encryption.

    Raises:
        SetupError: it is none, or is not where it should be. The message does not hold it.
    """
    name, secret, file = "secret_key", settings.secret_key, settings.secret_key_file
    if secret is not None and file is not None:
        raise SetupError("secret_key, secret_key_file: expected one of them, found both")
    if file is not None:
        name = "secret_key_file"
        try:
            secret = read_text(file).strip()
        except ConfigError as error:
            # What is no file may be the key itself.
            shown = repr(file) if os.path.exists(file) else "the file"
            raise SetupError(f"{name}: {shown} cannot be read ({error})") from None
    if secret is not None and not is_key(secret):
        raise SetupError(
            f"{name}: expected a key of 40 characters; {MAKE_KEYS} prints a public and a secret key"
        )
    return secret


def is_key(text: str) -> bool:
    """Whether a text can be a CURVE key: 32 bytes in Z85."""
    try:
        zmq.curve_public(text.encode())
    except (ValueError, zmq.ZMQError):
        return False
    return True


def is_worth_a_line(times: int) -> bool:
    """Whether what has happened so many times is logged: the 1st, 10th, 100th ... time."""
    return str(times).rstrip("0") == "1"
