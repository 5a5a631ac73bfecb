"""Reading of a live source: in its own thread, opened again when it is lost, on a steady clock.

    opening -> live -> waiting -> live ...      and from anywhere: paused, ended

Only the thread touches the `Reader`. The state of the source is judged from outside the thread,
since a library may sit in a call for as long as a camera stays silent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipeline.errors import SourceError, StuckSource
from pipeline.frame import Frame, SlotFullError
from pipeline.status import SourceState, State
from stages.backoff import Backoff
from stages.capture.frame_offer import DropCounter, FrameOffer
from stages.capture.reader import Reader
from stages.capture.source import SourceProblem
from stages.capture.source_clock import LiveClock
from stages.capture.watchdog import FIRST_IMAGE_S, Watchdog

CLOSE_S = 5.0
"""Longest wait for the reading thread to end; opening cannot be interrupted, but ends by then."""
TOO_LARGE: SourceProblem = (
    "unsupported",
    "images are larger than `max_frame`; increase it in the settings",
)


class _Connection:
    """A source that is open."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.live_since_ns = 0
        """Arrival of its first image; 0: none has come."""
        self.released = False
        """Whether it will be closed on purpose: what it still gives does not count."""
        self.silent = False
        """Whether it will be closed because it has been silent for too long."""

    def silence(self, patience_s: float) -> SourceProblem:
        """Return the problem of a source that has been silent for so long."""
        if self.live_since_ns:
            return "frozen", f"no new image for {patience_s:g} s"
        hint = self.reader.silence_hint
        return "frozen", f"opened, but no image within {patience_s:g} s{hint}"


class LiveReader(threading.Thread):
    """Reads a live source without a pause, so that no old image waits anywhere.

    An image that comes while a frame is offered fills it; the others are dropped and counted. A
    source that is lost is opened again, unless it has an end of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        drops: DropCounter,
        notify: Callable[[], None],
        *,
        first: Reader | None = None,
        advance: Callable[[Reader], bool] = lambda reader: reader.grab(),
        clock: LiveClock | None = None,
        newest: bool = True,
        reconnect: bool = True,
        stall_timeout_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        """Get ready; `start` begins to read.

        Args:
            connect: opens the source.
            drops: counts images that become no frame.
            notify: called from this thread when there is something to collect.
            first: the source, if it is open already.
            advance: goes to the next image; False: there is none.
            clock: times the images; None: the source's own timestamp does.
            newest: images are not waited for; False: none is read before a frame is offered.
            reconnect: whether a source that is lost is opened again.
            stall_timeout_s: seconds of silence after which a source counts as lost.
            backoff: delays between attempts.
        """
        super().__init__(name="pump", daemon=True)
        self._connect, self._advance, self._notify = connect, advance, notify
        self._drops, self._clock, self._newest = drops, clock, newest
        self._reconnect, self._stall_s = reconnect, stall_timeout_s
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        """Set when the thread must look at its orders instead of waiting on."""
        self._offer = FrameOffer(drops)
        self._connection = None if first is None else _Connection(first)
        self._watchdog = Watchdog()
        self._stopped = self._paused = self._over = False
        self._condition = SourceState("opening")
        self._error: Exception | None = None
        self.problem = ""
        """Why the source has ended, if that was not expected."""

    # --- for the stage, in its own thread ---

    def offer(self, frame: Frame) -> None:
        """Lend a frame for the next image."""
        self._offer.offer(frame)

    def collect(self) -> bool | None:
        """Return whether the frame is filled; None: not yet; False: the source has ended.

        Raises:
            StuckSource: the library does not return.
            Exception: the error that ended the reading thread.
        """
        over = self._over  # read first: nothing is filled after the end
        if self._error is not None:
            raise self._error
        if over or self._offer.filled:
            return self._offer.filled
        silent_s, max_silent_s = self.check_stalled()
        if silent_s > max_silent_s:
            self._watchdog.is_stuck = True
            raise StuckSource(
                f"the library that reads the source has not returned for {silent_s:.0f} s"
            )
        return None

    @property
    def condition(self) -> SourceState:
        """State of the source, as seen from outside the reading thread."""
        self.check_stalled()
        with self._lock:
            return self._condition

    @property
    def decoder(self) -> str:
        """Name of the decoder; empty while the source is not open."""
        connection = self._connection
        return connection.reader.decoder if connection is not None else ""

    def pause(self) -> None:
        """Release the source until `resume`; one that has an end of its own is kept."""
        self._order(paused=True, stopped=self._stopped)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._order(paused=False, stopped=self._stopped)

    def stop(self) -> None:
        """End the thread and close the source; a thread that is stuck in a library is left."""
        self._order(paused=False, stopped=True)
        if self.ident is None:
            self._close()
        else:
            self.join(0.0 if self._watchdog.is_stuck else CLOSE_S)

    def _order(self, paused: bool, stopped: bool) -> None:
        with self._lock:
            self._paused, self._stopped = paused, stopped
            connection = self._connection
            kept = connection is None or connection.reader.finite
            if not self._over and not stopped:
                going_on: State = "live" if connection is not None and kept else "opening"
                self._condition = SourceState("paused" if paused else going_on)
            if connection is not None and (stopped or (paused and not kept)):
                connection.released = True
        if connection is not None and connection.released:
            connection.reader.interrupt()
        self._wake.set()
        self._offer.wake()

    def check_stalled(self) -> tuple[float, float]:
        """Interrupt the thread if its source has been silent for too long.

        Returns:
            Seconds that the thread has been in the library, and seconds from which on it will
            never return.
        """
        with self._lock:
            silent_s, connection = self._watchdog.silent_s, self._connection
            if not silent_s or self._paused:
                return 0.0, self._watchdog.max_silent_s
            stalled = connection is not None and self._watchdog.is_overdue and not connection.silent
            if stalled and connection is not None:
                connection.silent = True
                self._condition = SourceState(
                    "waiting", *connection.silence(self._watchdog.patience_s)
                )
        if stalled and connection is not None:
            connection.reader.interrupt()
        return silent_s, self._watchdog.max_silent_s

    # --- the reading thread ---

    def run(self) -> None:
        """Read until the source ends for good, or `stop`."""
        try:
            while not self._stopped:
                if self._connection is not None and self._connection.released:
                    self._close()
                if self._paused:
                    self._wait_paused()
                elif self._connection is not None or self._open():
                    end = self._read()
                    if end is not None and self._on_lost(*end):
                        break
        except Exception as error:
            self._error = error
        finally:
            self._close()
            with self._lock:
                self._over = True
        self._set_condition(SourceState("ended", text=self.problem))
        if not self._stopped:
            self._notify()

    def _should_stop_reading(self) -> bool:
        connection = self._connection
        released = connection is not None and connection.released
        return self._stopped or self._paused or released

    def _open(self) -> bool:
        self._enter_library(0.0)
        try:
            reader = self._connect()
        except SourceError as error:
            self._leave_library()
            self._wait_for_retry(error.kind, str(error))
            return False
        self._leave_library()
        with self._lock:
            self._connection = _Connection(reader)
        return True

    def _close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            self._enter_library(0.0)
            connection.reader.close()
            self._leave_library()

    def _wait_paused(self) -> None:
        connection = self._connection
        if connection is not None and not connection.reader.finite:
            self._close()
        self._wake.clear()
        if self._paused:
            self._wake.wait()

    def _on_lost(self, kind: str, text: str) -> bool:
        """Close what has ended, and wait for the next attempt; return whether there is none."""
        connection = self._connection
        assert connection is not None
        if not kind or connection.reader.finite or not self._reconnect:
            self.problem = text
            return True
        since_ns = connection.live_since_ns
        lived_s = (time.monotonic_ns() - since_ns) / 1e9 if since_ns else 0.0
        self._wait_for_retry(kind, text, lived_s)
        return False

    def _wait_for_retry(self, kind: str, text: str, lived_s: float = 0.0) -> None:
        delay_s = self._backoff.delay_s(lived_s)
        self._wake.clear()
        self._set_condition(SourceState("waiting", kind, text, round(delay_s, 3)))
        self._close()  # after the condition: closing a webcam that hangs may take long
        if not self._should_stop_reading():
            self._wake.wait(delay_s)

    def _set_condition(self, condition: SourceState) -> None:
        """Set the state of the source, unless it is paused or stopped."""
        with self._lock:
            if self._stopped or (self._paused and not self._over):
                return
            self._condition = condition

    def _enter_library(self, patience_s: float) -> None:
        with self._lock:
            self._watchdog.enter(patience_s)

    def _leave_library(self) -> float:
        with self._lock:
            return self._watchdog.leave()

    def _read(self) -> SourceProblem | None:
        """Read to the end of this connection.

        Returns:
            Reason of its end, see `Reader.end_reason`; None: the thread has other orders.
        """
        connection = self._connection
        assert connection is not None
        reader = connection.reader
        if self._clock is not None and not connection.live_since_ns:
            self._clock.connect(reader.rate_known)
        first_s = max(FIRST_IMAGE_S, self._stall_s)
        ahead_ns: int | None = None
        while not self._should_stop_reading():
            if not self._newest and not self._offer.is_open:
                self._offer.wait()
                continue
            patience_s = self._stall_s if connection.live_since_ns else first_s
            if reader.finite:
                patience_s = 0.0
            self._enter_library(patience_s)
            more = self._advance(reader)
            captured_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            took_s = self._leave_library()
            if connection.released:
                return None
            if connection.silent or 0 < patience_s < took_s:
                return connection.silence(patience_s)  # an image that came after all is old
            if not more:
                return reader.end_reason()
            if not connection.live_since_ns:
                connection.live_since_ns = captured_ns
                self._set_condition(SourceState("live"))
            if self._newest and reader.finite:
                if ahead_ns is None:  # measured here, as a crash or a pause may have come before
                    ahead_ns = reader.source_ns - captured_ns
                if not self._wait_until_due(reader.source_ns - ahead_ns):
                    return None
                captured_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            source_ns = reader.source_ns
            # The images of a finite source come as fast as they are read: arrival means nothing.
            if self._clock is not None and not (reader.finite and source_ns >= 0):
                source_ns = self._clock.time_ns(source_ns, captured_ns)
            try:
                filled = self._offer.fill(reader, captured_ns, wall_ns, source_ns)
            except SlotFullError:
                if reader.finite:
                    raise
                return TOO_LARGE
            if filled and not self._stopped:
                self._notify()
        return None

    def _wait_until_due(self, due_ns: int) -> bool:
        """Wait until an image of a file is due; False: there are other orders, it is dropped."""
        self._wake.clear()
        due_s = (due_ns - time.monotonic_ns()) / 1e9
        if not self._should_stop_reading() and not self._wake.wait(max(0.0, due_s)):
            return True
        if not self._stopped:
            self._drops.add(busy=1)
        return False
