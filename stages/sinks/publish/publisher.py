"""What sinks have in common that send to others: what they tell, and that they never hold back.

`process` decides what a frame means and leaves it in the outbox. A thread takes it from there to
whoever wants it, tries again for ever while they are away, and says when they went and came back.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from pipeline.errors import ConfigError, SetupError
from pipeline.frame import Frame
from pipeline.stage import Context, Resolved, Resources, Settings, Stage
from pipeline.text_files import read_text
from stages.analytics.object_events import OBJECT_EVENTS, ChangeReader, ObjectChange, Presence
from stages.capture.live_reader import Backoff
from stages.detections import DETECTIONS, Object, check_labels, labels_of
from stages.sinks.files.events import event_of, utc_ms
from stages.sinks.publish.spool import MESSAGE_BYTES, Message, Outbox, Spool, default_path

if TYPE_CHECKING:
    import ssl

CLOSE_S = 2.0
"""So long what is left may take to be sent at the end of a run; the rest waits in the spool."""
STORE_S = 1.0
"""How often messages go to the disk while nobody takes them."""
STORE_MESSAGES = 100
"""So many that are under way go to the disk also while somebody takes them."""


class DeliverySettings(Settings, frozen=True):
    """Settings of all sinks that send to others."""

    events: Literal["changes", "objects", "all"] = "changes"
    """changes: an object has appeared, or left. objects: these, and each frame with an object in
    it. all: these, and each frame."""
    labels: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Labels of interest; other objects are left out. Empty: all."""
    min_frames: Annotated[int, Meta(ge=1, le=1000)] = 3
    """An object has appeared when it was seen in so many frames."""
    leave_after_s: Annotated[float, Meta(ge=0, le=3600)] = 3.0
    """An object has left when it was not seen for longer than this."""
    spool: Annotated[str, Meta(min_length=1)] | None = "auto"
    """File that keeps what cannot be sent, also from one run to the next. auto: one for this
    destination, under ${STATE_DIRECTORY} where systemd gives one, else in runs/spool. null: none;
    it is kept in memory."""
    spool_mb: Annotated[float, Meta(ge=1, le=1_000_000)] = 64.0
    """Bound of the spool, in millions of bytes. When it is full, the oldest messages go first."""
    spool_messages: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    """The same, as a number of messages."""


class Change(msgspec.Struct, omit_defaults=True):
    """Told when an object has appeared or left."""

    event: str
    """appeared or left, or another kind that a stage before gives."""
    stream: str
    time_s: float
    """Seconds into the stream at which it was first seen, or last."""
    captured_at: str
    """Wall-clock time of that frame's capture, ISO 8601, UTC, milliseconds."""
    object: Object
    """As it was when it had appeared, or when it was last seen."""
    count: int | None
    """Objects of this label in the picture now."""
    seen_s: float | None = None
    """Of one that has left: seconds from the first frame it was seen in to the last."""
    place: str | None = None
    """Name of the zone or line, if a stage before gives it."""


class Away(Exception):  # noqa: N818 - a state of affairs
    """Nobody takes messages at present."""

    def __init__(self, reason: str, retry_s: float | None = None) -> None:
        """Say why.

        Args:
            reason: in words, without credentials.
            retry_s: when to try again, if they have told.
        """
        super().__init__(reason)
        self.retry_s = retry_s


class Wake:
    """Wakes the thread that waits for it, also one that waits for a socket too."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self) -> None:
        """Acquire it."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """To be polled: readable once `set`."""
        return self._fd

    def set(self) -> None:
        """Wake it; from any thread."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Go back to sleep."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, and clear it."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        poller.poll(max(0, round(timeout_s * 1000)))
        self.clear()

    def close(self) -> None:
        """Release it. May be called twice, and before `open`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Delivery(Stage):
    """A sink that sends to others: at least once, in order per stream.

    What a subclass does in the sending thread: `step`, `hang_up`, `is_flushed`. It says `came_up`
    when its messages are taken, and raises `Away` when they are not.
    """

    takes = (*DETECTIONS, OBJECT_EVENTS)
    ordered = True
    isolated = True
    name: ClassVar[str]
    """In the log."""

    settings: DeliverySettings

    def __init__(self, settings: DeliverySettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels_of(context)
        check_labels(settings.labels, self._labels)
        presence = Presence(settings.labels, settings.min_frames, settings.leave_after_s)
        self._changes = ChangeReader(presence, self._labels, settings.labels)
        self._encoder = msgspec.json.Encoder()
        self.wake = Wake()
        self.outbox = Outbox(self.name, self._make_spool(), self.wake.set)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._close_by_s = 0.0
        self._backoff = Backoff()
        self._since_s = time.monotonic()
        """When it went up or away."""
        self._is_up = False
        self._away = ""
        """Why; empty: it is up, or was not tried yet."""
        self._left = 0
        """Messages that waited when it was closed."""
        self.sent = 0
        """Messages that have arrived."""
        self.refused = 0
        """Messages that were not wanted."""

    # --- what a subclass says ---

    @property
    def destination(self) -> str:
        """Where messages go, for people; without credentials."""
        raise NotImplementedError

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """Name of the spool's file: one for each destination."""
        raise NotImplementedError

    def topic(self, stream: str, kind: Literal["events", "frames"]) -> str:
        """Where messages of a kind go, if not all to the same place."""
        return ""

    def counted(self, stream: str, labels: Collection[str]) -> None:
        """The number of objects of these labels has changed; see `count`."""

    def step(self) -> None:
        """Send what is there; then wait for more, or for a second.

        Raises:
            Away: nobody takes it.
        """
        raise NotImplementedError

    def is_flushed(self) -> bool:
        """Whether all has been sent."""
        return not self.outbox.in_memory and not self.outbox.in_spool

    def hang_up(self) -> None:
        """Let go of the connection, if there is one."""

    def interrupt(self) -> None:
        """Make a `step` that takes long return, from another thread."""

    # --- the stage ---

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """See that the spool may be where it is said to.

        Raises:
            SetupError: it may not.
        """
        if settings.spool not in (None, "auto") and Path(settings.spool).is_dir():
            raise SetupError(
                f"spool: {settings.spool!r} is a directory; give the name of a file in it"
            )
        return Resolved()

    @classmethod
    def resources(cls, settings: Any) -> Resources:
        """Declare the spool, which is the stage's alone."""
        path = cls._spool_path(settings)
        return Resources() if path is None else Resources(locks=(path,))

    def open(self) -> None:
        """Find what an earlier run has left, and begin to send."""
        self.wake.open()
        self.outbox.open()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def process(self, frame: Frame) -> None:
        """See who came and who left, and leave what is to be told in the outbox."""
        event = event_of(frame, self._labels)
        self._tell(frame.stream, self._changes.update(frame, event.objects))
        wanted = self.settings.events
        if wanted == "changes":
            return
        if self.settings.labels:
            event.objects = [o for o in event.objects if o.label in self.settings.labels]
        if wanted == "all" or event.objects:
            self._put(frame.stream, "frames", event)

    def end(self, stream: str) -> None:
        """Whoever was in the picture has left."""
        self._tell(stream, self._changes.end(stream))

    def close(self) -> None:
        """Send what is left for a while; the rest stays in the spool."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._close_by_s = time.monotonic() + CLOSE_S
            self._closing.set()
            self.wake.set()
            thread.join(CLOSE_S)
            if thread.is_alive():
                self.interrupt()
                thread.join(0.5)
            # Looking up a name, or connecting, cannot be interrupted: such a thread is left alone,
            # and ends by itself when it finds that it is not wanted any more.
            self._left = self.outbox.in_spool + self.outbox.in_memory
            self.outbox.close()
            self._log_end(self._left)
            if thread.is_alive():
                return
        self.outbox.close()
        self.wake.close()

    def state(self, stream: str) -> bytes:
        """Who is in the picture, and what is not on disk yet."""
        return _encode_state(_State(self._changes.state(stream), self.outbox.unsaved(stream)))

    def restore(self, stream: str, state: bytes) -> None:
        """Go on with both; what was under way is sent again."""
        if not state:
            return
        saved = _decode_state(state)
        self._changes.restore(stream, saved.presence)
        self.counted(stream, self._changes.counts(stream))
        for message in saved.unsaved:
            self.outbox.put(message)

    def info(self) -> Mapping[str, str]:
        """Where messages go, and what is or was wrong with it."""
        info = {
            "to": self.destination,
            "spool": "none"
            if self.settings.spool is None
            else str(self._spool_path(self.settings)),
        }
        trouble = self.outbox.trouble or self._away
        if trouble:
            info["trouble"] = trouble
        return info

    def counters(self) -> Mapping[str, int]:
        """Messages that arrived, wait, went through the spool, and were lost, by cause."""
        outbox = self.outbox
        return {
            "sent": self.sent,
            "waiting": self._left or outbox.in_spool + outbox.in_memory,
            "spooled": outbox.spooled,
            **{f"dropped_{cause.replace(' ', '_')}": n for cause, n in self._losses().items()},
        }

    # --- for the subclass ---

    @property
    def is_closing(self) -> bool:
        """Whether the run is at its end."""
        return self._closing.is_set()

    def count(self, stream: str, label: str) -> int:
        """Objects of a label in the picture."""
        return self._changes.counts(stream).get(label, 0)

    def came_up(self) -> None:
        """Messages are taken."""
        if self._is_up:
            return
        waiting = self.outbox.in_spool
        spooled = f"; {waiting} messages from the spool" if waiting else ""
        if self._away:
            away_s = time.monotonic() - self._since_s
            logging.info(
                "%s: %s is back after %.0f s%s", self.name, self.destination, away_s, spooled
            )
        else:
            logging.info("%s: connected to %s%s", self.name, self.destination, spooled)
        self._is_up, self._away, self._since_s = True, "", time.monotonic()

    # --- the sending thread ---

    def _run(self) -> None:
        while not self._is_finished():
            try:
                self.step()
                if self.outbox.in_memory > STORE_MESSAGES or self.outbox.trouble:
                    self.outbox.store()
            except Away as away:
                self._wait(away)
            except Exception as error:  # a defect must not end the sending for good
                logging.debug("%s", self.name, exc_info=error)
                self._wait(Away(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        self.hang_up()

    def _is_finished(self) -> bool:
        # Where nothing was tried yet, as the run was so short, there is time to.
        return self.is_closing and (
            bool(self._away) or time.monotonic() > self._close_by_s or self.is_flushed()
        )

    def _wait(self, away: Away) -> None:
        """Until it is worth to try again."""
        self.hang_up()
        self.outbox.back()
        now_s, reason = time.monotonic(), str(away)
        lived_s = now_s - self._since_s if self._is_up else 0.0
        delay_s = self._backoff.delay_s(lived_s) if away.retry_s is None else away.retry_s
        if self._is_up or not self._away:
            self._since_s = now_s
        self._is_up = False
        self.outbox.store()
        if reason != self._away and not self.is_closing:
            has_disk = self.settings.spool is not None and not self.outbox.trouble
            logging.warning(
                "%s: %s is away: %s; %s, tried again in %.0f s",
                self.name,
                self.destination,
                reason,
                "spooling" if has_disk else "messages wait in memory",
                max(1, delay_s),
            )
        self._away = reason
        until_s = now_s + delay_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._closing.wait(min(left_s, STORE_S)):
                return
            self.outbox.store()

    # --- ---

    def _tell(self, stream: str, changes: Sequence[ObjectChange]) -> None:
        for change in changes:
            self._put(
                stream,
                "events",
                Change(
                    change.kind,
                    stream,
                    round(change.time_s, 6),
                    utc_ms(change.wall_ns),
                    change.object,
                    change.count,
                    change.seen_s,
                    change.place,
                ),
            )
        self.counted(stream, {change.object.label for change in changes})

    def _put(self, stream: str, kind: Literal["events", "frames"], event: Any) -> None:
        self.outbox.put(Message(stream, self.topic(stream, kind), self._encoder.encode(event)))

    @classmethod
    def _spool_path(cls, settings: Any) -> Path | None:
        if settings.spool == "auto":
            return default_path(cls.spool_name(settings))
        return None if settings.spool is None else Path(settings.spool)

    def _make_spool(self) -> Spool | None:
        settings = self.settings
        path = self._spool_path(settings)
        if path is None:
            return None
        most_bytes = max(MESSAGE_BYTES, round(settings.spool_mb * 1e6))
        return Spool(path, settings.spool_messages, most_bytes)

    def _losses(self) -> dict[str, int]:
        causes = dict(self.outbox.dropped)
        if self.refused:
            causes["refused"] = self.refused
        return causes

    def _log_end(self, left: int) -> None:
        is_kept = self.settings.spool is not None and not self.outbox.trouble
        lost = ", ".join(f"{count} {cause}" for cause, count in self._losses().items())
        logging.info(
            "%s: %d messages sent%s%s",
            self.name,
            self.sent,
            f", {left} {'wait in the spool' if is_kept else 'are lost'}" if left else "",
            f"; dropped: {lost}" if lost else "",
        )


def tls_context(
    ca: str | None, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """How to speak TLS, from settings of these names.

    Raises:
        SetupError: a file cannot be read, or is not what it should be.
    """
    import ssl

    def reason(error: OSError) -> str:
        if isinstance(error, ssl.SSLError):
            return "not in PEM format, or with a passphrase"
        return error.strerror or str(error)

    for name, file in (("ca", ca), ("certificate", certificate), ("key", key)):
        if file is not None:
            _check_readable(name, file)
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SetupError(f"ca: {ca!r}: {reason(error)}") from None
    if certificate is not None:
        try:
            # Without a password, one with a passphrase would ask for it at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise SetupError(f"certificate, key: {certificate!r}: {reason(error)}") from None
    return context


def _check_readable(name: str, file: str) -> None:
    """Refuse what is no small regular file: OpenSSL would wait for a pipe, or read a device.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        read_text(file)
    except ConfigError as error:
        # What is no file may be the key itself.
        shown = repr(file) if name != "key" or os.path.exists(file) else "the file"
        raise SetupError(f"{name}: {shown}: {error}") from None


def why_not(error: Exception, timeout_s: float) -> str:
    """Why there is no connection, in words.

    Args:
        error: what came of it.
        timeout_s: how long an answer was waited for.
    """
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); if it is one of your own, "
            "set ca"
        )
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({error.reason or error}); does it speak TLS at this port?"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]


class _State(msgspec.Struct, array_like=True):
    """Of one stream, to survive a crash."""

    presence: bytes
    unsaved: list[Message]


_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(_State).decode
