"""The base of sinks that send messages over the network: store and forward.

`process` turns a frame into messages and puts them into the outbox. A thread sends them, retries
without an end while the destination is unreachable, and logs when it is lost and when it returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context, Resolved, Resources, Settings, Stage
from stages.analytics.changes import ObjectChange
from stages.analytics.object_events import OBJECT_EVENTS, ChangeReader
from stages.analytics.presence import Presence
from stages.backoff import Backoff
from stages.detections import RESULTS, Object, check_labels, labels_of
from stages.sinks.files.events import event_of, utc_ms
from stages.sinks.files.output_path import expand_home
from stages.sinks.publish.outbox import Outbox
from stages.sinks.publish.reachability import Reachability
from stages.sinks.publish.spool import MAX_MESSAGE_BYTES, Message, Spool, default_path
from stages.sinks.publish.wake import Wake

CLOSE_S = 2.0
"""Time to send the remaining messages at the end of a run; the rest stays in the spool."""
STORE_S = 1.0
"""Interval at which messages are written to disk while the destination is unreachable."""
MAX_UNSTORED_MESSAGES = 100
"""More messages in memory are written to disk also while the destination is reachable."""


class PublisherSettings(Settings, frozen=True):
    """Settings of all publishers."""

    events: Literal["changes", "objects", "all"] = "changes"
    """changes: an object has appeared, or left. objects: these, and each frame with an object in
    it. all: these, and each frame."""
    labels: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Labels of interest; other objects are left out. Empty: all."""
    min_frames: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Number of frames in which an object must be seen to have appeared."""
    leave_after_s: Annotated[float, Meta(ge=0, le=3600)] = 3.0
    """Time without a detection after which an object has left, in seconds."""
    spool: Annotated[str, Meta(min_length=1)] | None = "auto"
    """File that keeps the messages that cannot be sent, also from one run to the next. auto: one
    for this destination, under ${STATE_DIRECTORY} of systemd, else in runs/spool. null: no file;
    they are kept in memory."""
    spool_mb: Annotated[float, Meta(ge=1, le=1_000_000)] = 64.0
    """Limit of the spool, in millions of bytes; the oldest messages are dropped beyond it."""
    spool_messages: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    """Limit of the spool, as a number of messages."""

    def __post_init__(self) -> None:
        expand_home(self, spool=self.spool)


class Change(msgspec.Struct, omit_defaults=True):
    """The message about a change of an object."""

    event: str
    """appeared or left, or another kind that a stage before gives."""
    stream: str
    time_s: float
    """Seconds into the stream: the first time it was seen, or the last."""
    captured_at: str
    """Wall-clock time of that frame's capture, ISO 8601, UTC, milliseconds."""
    object: Object
    """The object when it had appeared, or when it was last seen."""
    count: int | None
    """Objects of this label that are present now."""
    seen_s: float | None = None
    """For an object that has left: seconds from the first frame it was seen in to the last."""
    place: str | None = None
    """Name of the zone or line, if a stage before gives it."""


class Unreachable(Exception):  # noqa: N818 - a state, which ends
    """The destination takes no messages at present."""

    def __init__(self, reason: str, retry_s: float | None = None) -> None:
        """Keep the reason.

        Args:
            reason: text without credentials.
            retry_s: delay of the next attempt, if the destination asks for one.
        """
        super().__init__(reason)
        self.retry_s = retry_s


class Publisher(Stage):
    """A sink that sends messages: at least once, in order per stream.

    A subclass implements `send_pending`, `disconnect` and `is_flushed`, which the sending thread
    calls. It calls `connected` once its messages are taken, and raises `Unreachable` when they are
    not.
    """

    takes = (*RESULTS, OBJECT_EVENTS)
    ordered = True
    isolated = True

    settings: PublisherSettings

    def __init__(self, settings: PublisherSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._labels = labels_of(context)
        check_labels(settings.labels, self._labels)
        presence = Presence(settings.labels, settings.min_frames, settings.leave_after_s)
        self._changes = ChangeReader(presence, self._labels, settings.labels)
        self._encoder = msgspec.json.Encoder()
        self.wake = Wake()
        self.outbox = Outbox(context.log, self._make_spool(), self.wake.set)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._close_by_s = 0.0
        self._backoff = Backoff()
        self._reachability = Reachability(context.log)
        self._left = 0
        """Number of messages that waited when it was closed."""
        self.sent = 0
        """Number of messages that have arrived."""
        self.refused = 0
        """Number of messages that the destination refused."""

    # --- for a subclass to implement ---

    @property
    def destination(self) -> str:
        """The destination, without credentials."""
        raise NotImplementedError

    @classmethod
    def spool_name(cls, settings: Any) -> str:
        """Return the name of the spool file: one for each destination."""
        raise NotImplementedError

    def topic(self, stream: str, kind: Literal["events", "frames"]) -> str:
        """Return the topic of messages of a kind; empty if there are none."""
        return ""

    def counted(self, stream: str, labels: Collection[str]) -> None:
        """Take note that the numbers of objects of these labels have changed; see `count`."""

    def send_pending(self) -> None:
        """Send the waiting messages; then wait for more, for a second at most.

        Raises:
            Unreachable: the destination takes no messages.
        """
        raise NotImplementedError

    def is_flushed(self) -> bool:
        """Return whether all messages were sent."""
        return not self.outbox.in_memory and not self.outbox.in_spool

    def disconnect(self) -> None:
        """Close the connection, if there is one."""

    def interrupt(self) -> None:
        """Make a long `send_pending` return; from another thread."""

    # --- the stage ---

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """Check the path of the spool.

        Raises:
            SetupError: it is a directory.
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
        """Open the spool, and start the sending thread."""
        self.wake.open()
        self.outbox.open()
        self._thread = threading.Thread(target=self._run, name=self.context.stage, daemon=True)
        self._thread.start()

    def process(self, frame: Frame) -> None:
        """Put the messages of a frame into the outbox."""
        event = event_of(frame, self._labels, with_masks=False)
        self._put_changes(frame.stream, self._changes.update(frame, event.objects))
        wanted = self.settings.events
        if wanted == "changes":
            return
        if self.settings.labels:
            event.objects = [o for o in event.objects if o.label in self.settings.labels]
        if wanted == "all" or event.objects:
            self._put(frame.stream, "frames", event)

    def end(self, stream: str) -> None:
        """Report the objects that were present as left."""
        self._put_changes(stream, self._changes.end(stream))

    def close(self) -> None:
        """Send the remaining messages for a while; the rest stays in the spool."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._close_by_s = time.monotonic() + CLOSE_S
            self._closing.set()
            self.wake.set()
            thread.join(CLOSE_S)
            if thread.is_alive():
                self.interrupt()
                thread.join(0.5)
            # A name lookup, or a connect, cannot be interrupted: such a thread is not waited for,
            # and ends by itself when it returns.
            self._left = self.outbox.in_spool + self.outbox.in_memory
            self.outbox.close()
            self._log_end(self._left)
            if thread.is_alive():
                return
        self.outbox.close()
        self.wake.close()

    def state(self, stream: str) -> bytes:
        """Return the present objects, and the messages that are not on disk."""
        return _encode_state(_State(self._changes.state(stream), self.outbox.unsaved(stream)))

    def restore(self, stream: str, state: bytes) -> None:
        """Continue with both; messages that were in flight are sent again."""
        if not state:
            return
        saved = _decode_state(state)
        self._changes.restore(stream, saved.presence)
        self.counted(stream, self._changes.counts(stream))
        for message in saved.unsaved:
            self.outbox.put(message)

    def info(self) -> Mapping[str, str]:
        """Return the destination, the spool, and why one of them cannot be used."""
        info = {
            "to": self.destination,
            "spool": "none"
            if self.settings.spool is None
            else str(self._spool_path(self.settings)),
        }
        trouble = self.outbox.trouble or self._reachability.reason
        if trouble:
            info["trouble"] = trouble
        return info

    def counters(self) -> Mapping[str, int]:
        """Return the numbers of messages: sent, waiting, spooled, dropped by cause."""
        outbox = self.outbox
        return {
            "sent": self.sent,
            "waiting": self._left or outbox.in_spool + outbox.in_memory,
            "spooled": outbox.spooled,
            **{f"dropped_{cause.replace(' ', '_')}": n for cause, n in self._losses().items()},
        }

    # --- for a subclass to call ---

    @property
    def is_closing(self) -> bool:
        """Whether the stage is being closed."""
        return self._closing.is_set()

    def count(self, stream: str, label: str) -> int:
        """Return the number of objects of a label that are present."""
        return self._changes.counts(stream).get(label, 0)

    def connected(self) -> None:
        """Note, and log, that the destination takes messages."""
        self._reachability.connected(self.destination, self.outbox.in_spool)

    # --- the sending thread ---

    def _run(self) -> None:
        while not self._is_finished():
            try:
                self.send_pending()
                if self.outbox.in_memory > MAX_UNSTORED_MESSAGES or self.outbox.trouble:
                    self.outbox.store()
            except Unreachable as error:
                self._wait(error)
            except Exception as error:  # a defect must not end the sending for good
                self.context.log.debug("sending failed", exc_info=error)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._wait(Unreachable(reason))
        self.disconnect()

    def _is_finished(self) -> bool:
        # In a run so short that no attempt was made yet, there is time for one.
        return self.is_closing and (
            bool(self._reachability.reason)
            or time.monotonic() > self._close_by_s
            or self.is_flushed()
        )

    def _wait(self, error: Unreachable) -> None:
        """Disconnect, and wait until the next attempt."""
        self.disconnect()
        self.outbox.back()
        lived_s = self._reachability.connected_s()
        delay_s = self._backoff.delay_s(lived_s) if error.retry_s is None else error.retry_s
        self.outbox.store()
        if self._reachability.lost(str(error)) and not self.is_closing:
            has_disk = self.settings.spool is not None and not self.outbox.trouble
            self.context.log.warning(
                "%s unreachable: %s; %s, retrying in %.0f s",
                self.destination,
                error,
                "spooling to disk" if has_disk else "keeping messages in memory",
                max(1, delay_s),
            )
        until_s = time.monotonic() + delay_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._closing.wait(min(left_s, STORE_S)):
                return
            self.outbox.store()

    # --- messages ---

    def _put_changes(self, stream: str, changes: Sequence[ObjectChange]) -> None:
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
        max_bytes = max(MAX_MESSAGE_BYTES, round(settings.spool_mb * 1e6))
        return Spool(path, settings.spool_messages, max_bytes, self.context.log)

    def _losses(self) -> dict[str, int]:
        causes = dict(self.outbox.dropped)
        if self.refused:
            causes["refused"] = self.refused
        return causes

    def _log_end(self, left: int) -> None:
        is_kept = self.settings.spool is not None and not self.outbox.trouble
        lost = ", ".join(f"{count} {cause}" for cause, count in self._losses().items())
        self.context.log.info(
            "%d messages sent%s%s",
            self.sent,
            f", {left} {'wait in the spool' if is_kept else 'are lost'}" if left else "",
            f"; dropped: {lost}" if lost else "",
        )


class _State(msgspec.Struct, array_like=True):
    """State of one stream, which survives a crash."""

    presence: bytes
    unsaved: list[Message]


_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(_State).decode
