"""Reading a live source: in a thread of its own, opened again when it is lost, on a steady clock.

    opening -> live -> waiting -> live ...      and from anywhere: paused, ended

The thread alone touches what it reads. How the source is doing is judged from outside the thread,
since a library may sit in a call for as long as a camera stays silent.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from pipeline.errors import SourceError, StuckSource
from pipeline.frame import Frame, SlotFullError
from pipeline.status import SourceState, State
from stages.capture.clock_rate import RateCheck
from stages.capture.reader import Pictures
from stages.capture.source_clock import SourceClock

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
HEALTHY_S = 60.0
"""A source that has lived for so long is tried again as soon as if it had never been lost."""

FIRST_PICTURE_S = 15.0
"""Some cameras send a whole picture only every ten seconds: the first one may take so long."""
OVERDUE_S = 0.25
"""How much later than the reading thread itself its silence is noticed from outside."""
STUCK_S = 20.0
"""A library that does not return so long after it should have is given up with its process."""
STUCK_OPENING_S = 60.0
"""The same while opening: looking up a name takes half a minute where no name server answers."""
CLOSE_S = 5.0
"""Longest wait for the reading thread to end; opening cannot be interrupted, but ends by then."""


class Backoff:
    """When to try again: each time about twice as late, and never all cameras at once."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._failures = 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to the next attempt.

        Args:
            lived_s: how long the source gave pictures before it was lost; 0: it did not open.
        """
        if lived_s >= HEALTHY_S:
            self._failures = 0
        # Half of it is chance, so that cameras lost in one power cut do not come back as one.
        ceiling_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (1 + min(self._failures, 20)))
        self._failures += 1
        return ceiling_s * (1 + self._chance()) / 2


class Missed:
    """Counts pictures that became no frame; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = self._decode = 0

    def add(self, busy: int = 0, decode: int = 0) -> None:
        """Count pictures that (found no slot, could not be decoded)."""
        with self._lock:
            self._busy += busy
            self._decode += decode

    def take(self) -> tuple[int, int]:
        """Both counts since the last call."""
        with self._lock:
            counts = self._busy, self._decode
            self._busy = self._decode = 0
            return counts


def fill(frame: Frame, pictures: Pictures, came_ns: int, wall_ns: int, source_ns: int) -> bool:
    """Put the last picture and its times into a frame; False: it cannot be decoded."""
    header = frame.header
    header.captured_ns, header.wall_ns, header.source_ns = came_ns, wall_ns, source_ns
    header.ntp_ns = pictures.ntp_ns
    header.fps = pictures.fps
    header.used = 0
    header.arrays.clear()
    header.still = pictures.still
    if not pictures.retrieve(frame):
        return False
    if pictures.file:
        frame.put_file(pictures.file)
    return True


class Live(threading.Thread):
    """Reads a live source without a pause, so that no old picture waits anywhere.

    The picture that comes while a frame is offered goes into it; the others are gone and counted.
    A source that is lost is opened again, unless it has an end of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Pictures],
        missed: Missed,
        notify: Callable[[], None],
        *,
        first: Pictures | None = None,
        advance: Callable[[Pictures], bool] = lambda pictures: pictures.grab(),
        clock: SourceClock | None = None,
        newest: bool = True,
        reconnect: bool = True,
        stall_timeout_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        """Get ready; `start` begins to read.

        Args:
            connect: opens the source.
            missed: where to count pictures that become no frame.
            notify: called from this thread when there is something to collect.
            first: the source, if it is open already.
            advance: goes to the next picture; False: there is none.
            clock: tells the time of a picture; None: the source's own stamp.
            newest: pictures are not waited for; False: none is read before a frame is offered.
            reconnect: whether a source that is lost is opened again.
            stall_timeout_s: silence that counts as death.
            backoff: when to try again.
        """
        super().__init__(name="pump", daemon=True)
        self._connect, self._advance, self._notify = connect, advance, notify
        self._missed, self._clock, self._newest = missed, clock, newest
        self._rate = RateCheck()
        self._reconnect, self._stall_s = reconnect, stall_timeout_s
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._roused = threading.Event()
        """Set when the thread is to look what is wanted of it instead of waiting on."""
        self._offers = threading.Event()
        self._pictures = first
        self._stopped = self._paused = False
        self._let_go = self._silent = False
        """What is open now is to be closed, on purpose or because it has gone silent: nothing
        that it still gives counts."""
        self._called_ns = 0
        """When the thread went into the library; 0: it is not there."""
        self._patience_s = 0.0
        """How long it may stay there; 0: what it does there has a timeout of its own."""
        self._lived_from_ns = 0
        """When the first picture of this connection came; 0: none has."""
        self._condition = SourceState("opening")
        self._offered: Frame | None = None
        self._filled = self._over = False
        self._stuck = False
        self._error: Exception | None = None
        self.problem = ""
        """Why the source has ended, if that was not to be expected."""

    # --- for the stage, in its own thread ---

    def offer(self, frame: Frame) -> None:
        """Lend a frame for the next picture."""
        with self._lock:
            self._offered, self._filled = frame, False
        self._offers.set()

    def collect(self) -> bool | None:
        """Whether the frame is filled; None: not yet; False: the source has ended.

        Raises:
            StuckSource: the library does not return.
            Exception: whatever ended the reading thread.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._filled or self._over:
                return self._filled
        silent_s, allowed_s = self._judge()
        if silent_s > allowed_s:
            self._stuck = True
            raise StuckSource(f"the library that reads it has not returned for {silent_s:.0f} s")
        return None

    @property
    def condition(self) -> SourceState:
        """How the source is doing, as seen from outside the reading thread."""
        self._judge()
        with self._lock:
            return self._condition

    @property
    def decoder(self) -> str:
        """What decodes; empty while the source is not open."""
        pictures = self._pictures
        return pictures.decoder if pictures is not None else ""

    def pause(self) -> None:
        """Let go of the source until `resume`; one that has an end of its own is kept."""
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
            self.join(0.0 if self._stuck else CLOSE_S)

    def _order(self, paused: bool, stopped: bool) -> None:
        with self._lock:
            self._paused, self._stopped = paused, stopped
            pictures = self._pictures
            held = pictures is None or pictures.finite
            if not self._over and not stopped:
                going_on: State = "live" if pictures is not None and held else "opening"
                self._condition = SourceState("paused" if paused else going_on)
            if pictures is not None and (stopped or (paused and not held)):
                self._let_go = True
        if self._let_go and pictures is not None:
            pictures.interrupt()
        self._roused.set()
        self._offers.set()

    def _judge(self) -> tuple[float, float]:
        """See how long the thread has been in the library, and call it back from a silent source.

        Returns:
            Seconds it is there, and seconds from which on it will never come back.
        """
        with self._lock:
            patience_s, pictures = self._patience_s, self._pictures
            if not self._called_ns or self._paused:
                return 0.0, STUCK_S
            silent_s = (time.monotonic_ns() - self._called_ns) / 1e9
            frozen = 0 < patience_s < silent_s - OVERDUE_S and not self._silent
            if frozen:
                self._silent = True
                self._condition = SourceState("waiting", *self._frozen())
        if frozen and pictures is not None:
            pictures.interrupt()
        return silent_s, patience_s + STUCK_S if patience_s else STUCK_OPENING_S

    # --- the reading thread ---

    def run(self) -> None:
        """Read until the source ends for good, or `stop`."""
        try:
            while not self._stopped:
                if self._let_go:
                    self._close()
                if self._paused:
                    self._rest()
                elif self._pictures is not None or self._open():
                    end = self._read()
                    if end is not None and self._lose(*end):
                        break
        except Exception as error:
            self._error = error
        finally:
            self._close()
            with self._lock:
                self._over = True
        self._tell(SourceState("ended", text=self.problem))
        if not self._stopped:
            self._notify()

    def _wanted_elsewhere(self) -> bool:
        return self._stopped or self._paused or self._let_go

    def _open(self) -> bool:
        self._call(0.0)
        try:
            pictures = self._connect()
        except SourceError as error:
            self._return()
            self._wait_for_next(error.kind, str(error))
            return False
        self._return()
        with self._lock:
            self._pictures = pictures
        return True

    def _close(self) -> None:
        with self._lock:
            pictures, self._pictures = self._pictures, None
            self._let_go = self._silent = False
            self._lived_from_ns = 0
        if pictures is not None:
            self._call(0.0)
            pictures.close()
            self._return()

    def _rest(self) -> None:
        pictures = self._pictures
        if pictures is not None and not pictures.finite:
            self._close()
        self._roused.clear()
        if self._paused:
            self._roused.wait()

    def _lose(self, kind: str, text: str) -> bool:
        """Close what has ended, and wait for the next attempt; whether there is to be none."""
        pictures = self._pictures
        assert pictures is not None
        if not kind or pictures.finite or not self._reconnect:
            self.problem = text
            return True
        lived_s = (time.monotonic_ns() - self._lived_from_ns) / 1e9 if self._lived_from_ns else 0.0
        self._wait_for_next(kind, text, lived_s)
        return False

    def _wait_for_next(self, kind: str, text: str, lived_s: float = 0.0) -> None:
        delay_s = self._backoff.delay_s(lived_s)
        self._roused.clear()
        self._tell(SourceState("waiting", kind, text, round(delay_s, 3)))
        self._close()  # after it is told: a webcam that hangs may take long to let go of
        if not self._wanted_elsewhere():
            self._roused.wait(delay_s)

    def _tell(self, condition: SourceState) -> None:
        """Say how the source is doing, unless it rests or is closed."""
        with self._lock:
            if self._stopped or (self._paused and not self._over):
                return
            self._condition = condition

    def _call(self, patience_s: float) -> None:
        with self._lock:
            self._patience_s, self._called_ns = patience_s, time.monotonic_ns()

    def _return(self) -> float:
        """The thread is back from the library; seconds it was there."""
        with self._lock:
            took_ns, self._called_ns = time.monotonic_ns() - self._called_ns, 0
            return took_ns / 1e9

    def _frozen(self) -> tuple[str, str]:
        if not self._lived_from_ns:
            hint = self._pictures.silence_hint if self._pictures is not None else ""
            text = f"opened, but no picture has come within {self._patience_s:g} s{hint}"
            return "frozen", text
        return "frozen", f"no new picture has come for {self._stall_s:g} s"

    def _read(self) -> tuple[str, str] | None:
        """Read to the end of this connection.

        Returns:
            Why it has ended, as `Pictures.trouble` says it; None: the thread is wanted elsewhere.
        """
        pictures = self._pictures
        assert pictures is not None
        if self._clock is not None and not self._lived_from_ns:
            self._clock.connect()
            self._rate.connect(pictures.rate_known)
        first_s = max(FIRST_PICTURE_S, self._stall_s)
        ahead_ns: int | None = None
        while not self._wanted_elsewhere():
            if not self._newest and self._offered is None:
                self._offers.wait()
                self._offers.clear()
                continue
            patience_s = self._stall_s if self._lived_from_ns else first_s
            self._call(0.0 if pictures.finite else patience_s)
            more = self._advance(pictures)
            came_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            took_s = self._return()
            if self._let_go:
                return None
            if self._silent or 0 < self._patience_s < took_s:
                return self._frozen()  # what came after all is as old as the silence
            if not more:
                return pictures.trouble()
            if not self._lived_from_ns:
                self._lived_from_ns = came_ns
                self._tell(SourceState("live"))
            if self._newest and pictures.finite:
                if ahead_ns is None:  # after a crash or a pause, it is not that of the file
                    ahead_ns = pictures.source_ns - came_ns
                self._roused.clear()
                due_s = (pictures.source_ns - ahead_ns - time.monotonic_ns()) / 1e9
                if self._wanted_elsewhere() or self._roused.wait(max(0.0, due_s)):
                    if not self._stopped:
                        self._missed.add(busy=1)
                    return None
                came_ns, wall_ns = time.monotonic_ns(), time.time_ns()
            try:
                self._take(pictures, came_ns, wall_ns)
            except SlotFullError:
                if pictures.finite:
                    raise
                return (
                    "unsupported",
                    "its pictures are larger than max_frame: set it in the settings",
                )
        return None

    def _take(self, pictures: Pictures, came_ns: int, wall_ns: int) -> None:
        """Put the picture into the offered frame, if there is one."""
        source_ns = self._time_ns(pictures, came_ns)
        with self._lock:
            frame, self._offered = self._offered, None
        try:
            filled = frame is not None and fill(frame, pictures, came_ns, wall_ns, source_ns)
        except SlotFullError:
            self._missed.add(decode=1)
            with self._lock:
                self._offered = frame
            raise
        if frame is None:
            self._missed.add(busy=1)
        elif filled:
            with self._lock:
                self._filled = True
            if not self._stopped:
                self._notify()
        else:
            self._missed.add(decode=1)
            with self._lock:
                self._offered = frame

    def _time_ns(self, pictures: Pictures, came_ns: int) -> int:
        """The time of a picture."""
        stamp_ns = pictures.source_ns
        if self._clock is None:
            return stamp_ns
        if pictures.finite and stamp_ns >= 0:
            return stamp_ns  # when its pictures came says only how fast they were wanted
        return self._clock.time_ns(self._rate.checked_ns(stamp_ns, came_ns), came_ns)
