"""What a stage is. Read this file first: everything in `stages/` has this shape.

A stage is one step of the graph. It owns no socket, no process and no clock: given the same
frames it gives the same answers, so a test calls `process` directly. The worker process
(`pipeline/worker/`) does the rest: it takes frames off the edge, calls the stage, hands them on and
counts; the supervisor restarts it after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pipeline.frame import Frame
from pipeline.status import Condition, Run


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every stage's settings: immutable, and strict about unknown keys."""


class Array(msgspec.Struct, frozen=True):
    """An array that a stage takes or gives."""

    name: str
    dtype: str | None = None
    """As numpy spells it; None: any."""
    shape: tuple[int | None, ...] | None = None
    """None for a side: any length; None for the whole: any shape."""
    optional: bool = False
    """Taken if it is there."""


class Stage:
    """One step of the graph.

    The worker makes the object in the stage's own process and calls `open` once, then `restore`
    for each stream that has a saved state, then `process` for every live frame, `end` once for
    every stream that ends, and `close` once, also after an error.

    Not promised: that every `seq` arrives (a frame that was dropped or failed on the way does
    not), and, unless `ordered` is set, that frames of one stream arrive in order.
    """

    Settings: ClassVar[type[Settings]] = Settings
    takes: ClassVar[tuple[Array, ...]] = ()
    gives: ClassVar[tuple[Array, ...]] = ()
    ordered: ClassVar[bool] = False
    """Sees each stream in `seq` order, each frame once, also after a crash of any process. There
    is one worker of such a stage, and its `state` is saved after every frame."""

    apart: ClassVar[bool] = False
    """Always in a process of its own: it talks to others (a broker, a browser), whose behaviour
    no other stage should feel."""

    run: Run
    """The run it belongs to; the worker sets it before `open`. For stages that show the run."""

    def __init__(self, settings: Any, facts: Mapping[str, Any]) -> None:
        """Keep the settings; acquire nothing yet.

        Args:
            settings: an instance of the class's own `Settings`.
            facts: what the stages on the same path offer in `resolve`; `behind`, the same of those
                behind it alone; `confidence`, the run's, None if not given; and `streams`, the
                names of all streams at the start; others may be added while it runs. After a crash
                of its process also `predecessor`: what `report` gave before the crash.
        """
        self.settings = settings
        self.facts = facts

    @classmethod
    def resolve(cls, settings: Any) -> Mapping[str, Any]:
        """Check, before any process starts, what the settings point at; tell what others need.

        What is returned reaches every stage before and after this one as `facts`: the detector
        tells the model's `contract` and `labels`, NMS its `min_score`. Must start no thread.

        Raises:
            SetupError: the settings point at something that cannot work.
        """
        return {}

    @classmethod
    def reads(cls, settings: Any) -> Collection[Path]:
        """Files that the settings have it read, so that nobody is made to write them."""
        return ()

    @classmethod
    def folders(cls, settings: Any, streams: Collection[str]) -> Collection[Path]:
        """Folders that the settings have it fill with files of any name.

        None of them may be the folder of a file that is read, or that of another stage.

        Args:
            settings: an instance of the class's own `Settings`.
            streams: names of all streams.
        """
        return ()

    def effective(self) -> Mapping[str, Any]:
        """Name the values in use where the settings leave them open; `run.py check` shows them."""
        return {}

    def open(self) -> None:
        """Acquire what must live in the stage's own process: a model, a window, a file."""

    def process(self, frame: Frame) -> None:
        """Read arrays of the frame and add arrays to it.

        Raises:
            RunError: the run cannot go on (ends it, exit 1).
            DeviceFailed: the device fails, not this frame: the process is restarted within the
                budget, and the frame is sent again.
            EndRun: a person asked to end the run (exit 0).
            Exception: any other; this frame becomes `failed:STAGE` and the stage goes on.
        """
        raise NotImplementedError

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames, of any streams, at once; by default one after the other."""
        for frame in frames:
            self.process(frame)

    def beat(self) -> None:
        """Call this from work that takes long on purpose (a paused window), or be taken for hung.

        The worker puts its own in place of this one.

        Raises:
            EndRun: the run is being stopped; let it pass.
        """

    def abandon(self, reason: str) -> None:
        """End the process in which this stage opens, and the run: a library does not come back.

        For another thread than the one that is stuck. The worker puts its own in place of this one.

        Args:
            reason: the message that the run ends with.
        """

    def idle(self) -> None:
        """Called between frames, at least ten times a second: to serve a window, say."""

    def reopen(self) -> None:
        """Open files again by their names: they may have been moved (SIGHUP to a daemon)."""

    def end(self, stream: str) -> None:
        """The stream is over: no frame of it follows."""

    def close(self) -> None:
        """Release what `open` acquired. Always called, also after an error or half an `open`."""

    def state(self, stream: str) -> bytes:
        """What `restore` needs to go on after a crash as if nothing had happened.

        Ordered stages only; called after every frame and saved before the answer is handed on,
        so it must be quick.
        """
        return b""

    def restore(self, stream: str, state: bytes) -> None:
        """Take up the state that `state` gave before a crash. Called after `open`."""

    def report(self) -> Mapping[str, str]:
        """Facts worth showing to a person while it is open: the provider, an address in use.

        Asked about once a second, like `tally`, and must be quick.
        """
        return {}

    def tally(self) -> Mapping[str, int]:
        """What it counts beside frames, since its process started: messages sent, viewers.

        Shown in the status and the metrics, and in the summary as it is after `close`.
        """
        return {}


class Source(Stage):
    """The first stage: where the frames of one stream come from. One worker per stream.

    The worker offers a free slot and collects the picture. A file is read in `offer`; a camera is
    read by a thread of its own, which fills the offered slot with the next picture and counts
    those that come while none is offered.
    """

    live: bool
    """Whether pictures come at their own pace and are not waited for; known after `open`."""

    condition: Condition = Condition("live")
    """How the source is doing; asked for all the time, each change is told to the supervisor."""

    def skip(self, pictures: int, source_ns: int) -> None:
        """Go on behind the first so many pictures; after a crash, before the first `offer`.

        Args:
            pictures: how many were taken before the crash.
            source_ns: timestamp of the newest that became a frame; -1: unknown.
        """

    def start(self, notify: Callable[[], None]) -> None:
        """Begin; call `notify`, from any thread, when there is something to collect."""

    def offer(self, frame: Frame) -> None:
        """Lend a frame to be filled: `image` (height, width, 3) uint8 BGR, and its times."""
        raise NotImplementedError

    def collect(self) -> bool | None:
        """Whether the offered frame is filled; None: not yet; False: the source has ended.

        Raises:
            RunError: the source failed in a way that ends the run.
        """
        raise NotImplementedError

    def pause(self) -> None:
        """Give no pictures until `resume`; a camera is let go of meanwhile."""

    def resume(self) -> None:
        """Go on after `pause`."""

    def missed(self) -> tuple[int, int]:
        """Pictures since the last call that (found no slot, could not be decoded)."""
        return 0, 0

    def problem(self) -> str | None:
        """Why the source has ended too early, if it has: the frames are kept, the run fails."""
        return None
