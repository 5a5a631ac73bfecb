"""The contract of a stage. Read this file first: everything in `stages/` has this shape.

A stage is one step of the graph. It owns no socket, no process and no clock: given the same
frames it gives the same answers, so a test calls `process` directly. The worker process
(`pipeline/worker/`) does the rest: it takes frames off the edge, calls the stage, sends them on
and counts; the supervisor restarts it after a crash.

A stage declares what the rest needs to know about it, and nothing is guessed from the names of its
settings: the arrays it takes, gives and hides, what it offers to other stages (`resolve`), and the
files, ports and folders it uses (`resources`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from pipeline.arrays import Array as Array
from pipeline.arrays import ContractError as ContractError
from pipeline.context import ArrayOffer as ArrayOffer
from pipeline.context import Context as Context
from pipeline.context import RowLimit as RowLimit
from pipeline.context import SourceInfo as SourceInfo
from pipeline.context import StageOffer as StageOffer
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.status import RunHandle, SourceState


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every stage's settings: immutable, and strict about unknown keys."""


class BatchSettings(Settings, frozen=True):
    """Base of the settings of a stage that processes several frames at once."""

    batch: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Most frames to process at once; useful on a GPU, with a model that takes any batch size."""
    batch_wait_ms: Annotated[float, msgspec.Meta(ge=0)] = 0
    """Longest wait for a batch to fill, in milliseconds."""


class Resolved(msgspec.Struct, frozen=True):
    """Result of `Stage.resolve`: facts known from the settings before any process starts."""

    offers: tuple[object, ...] = ()
    """Facts for the other stages, each found by its type (`Context.get`). Frozen and comparable: a
    reload restarts the stages for which one of them has changed."""
    replicas: int | None = None
    """Processes that run the stage in parallel; None: a stage that is not replicated."""


class Output(msgspec.Struct, frozen=True):
    """A file, or a folder, that a stage leaves behind."""

    path: Path
    """Path, as in the settings; `{stream}` stands for the name of a stream."""
    per_stream: bool = False
    """Whether each stream has its own file: out-yard.mp4 if several streams share out.mp4."""
    parts: bool = False
    """Whether it may continue in out.part2.mp4, out.part3.mp4 and so on."""


class Listen(msgspec.Struct, frozen=True):
    """An address and a port that a stage listens on."""

    host: str
    port: int
    """Port; 0: the system chooses a free one."""
    purpose: str = ""
    """"readyz": it answers GET /readyz, which `service status` requests; empty: any other."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SetupError(f"port: expected a number from 0 to 65535 (found {self.port})")


class Resources(msgspec.Struct, frozen=True):
    """Files, folders and ports of a stage. `pipeline/graph/resources.py` refuses conflicts."""

    reads: tuple[Path, ...] = ()
    """Files that it reads; no stage may write them."""
    writes: tuple[Output, ...] = ()
    """Files and folders that it writes; no other stage may read or write them."""
    listens: tuple[Listen, ...] = ()
    """Addresses that it listens on; no other stage may use them."""
    locks: tuple[Path, ...] = ()
    """Folders and files of which the stage is the only user; `{stream}` as in `Output.path`."""

    def __post_init__(self) -> None:
        _check_items("reads", self.reads, Path)
        _check_items("writes", self.writes, Output)
        _check_items("listens", self.listens, Listen)
        _check_items("locks", self.locks, Path)


def _check_items(name: str, items: object, kind: type) -> None:
    """Refuse the mistake of a path or text in place of a tuple of items."""
    if not isinstance(items, tuple) or not all(isinstance(item, kind) for item in items):
        raise ContractError(f"{name}: expected a tuple of {kind.__name__} (found {items!r})")


NO_RESOURCES = Resources()


RENAMED = {
    "apart": "isolated",
    "facts": "context",
    "folders": "resources",
    "reads": "resources",
    "report": "info",
    "tally": "counters",
}
"""Names of an earlier contract -> their names now."""


class Stage:
    """One step of the graph.

    The worker makes the object in the stage's own process and calls `open` once, then `restore`
    for each stream that has a saved state, then `process` for every live frame, `end` once for
    every stream that ends, and `close` once, also after an error.

    Not promised: that every `seq` arrives (a frame that was dropped or failed on the way does
    not), and, unless `ordered` is set, that frames of one stream arrive in order.
    """

    Settings: ClassVar[type[Settings]] = Settings
    variants: ClassVar[Mapping[str, Any]] = {}
    """Values of the setting `kind` -> the settings that go with it, in place of `Settings`; the
    first is the default."""
    takes: ClassVar[tuple[Array, ...]] = ()
    gives: ClassVar[tuple[Array, ...]] = ()
    ordered: ClassVar[bool] = False
    """Sees each stream in `seq` order, each frame once, also after a crash of any process. There
    is one worker of such a stage, and its `state` is saved after every frame."""

    derived: ClassVar[tuple[str, ...]] = ()
    """Names of arrays in `gives` that `derive` adds, and not `process`: they follow from the other
    arrays of the frame. They are not saved with the answer of an ordered stage, but made again: for
    an image, which is too large to be saved after every frame."""

    hides: ClassVar[tuple[str, ...]] = ()
    """Names of arrays in `gives` that replace earlier ones which must not leave the run, as an
    image with faces. Before the start, a last stage that takes one of them is refused if it is not
    behind this stage. It hides nothing from the stages before it."""

    isolated: ClassVar[bool] = False
    """Always in a process of its own: it depends on others (a broker, a browser), whose behaviour
    must not delay another stage."""

    run: RunHandle | None = None
    """The run it belongs to; the worker sets it before `open`. For stages that show the run."""

    def __init__(self, settings: Any, context: Context) -> None:
        """Keep the settings; acquire nothing yet.

        Args:
            settings: an instance of the class's own `Settings`.
            context: the surroundings of the stage.

        Raises:
            SetupError: the settings do not fit the offers of the other stages.
        """
        self.settings = settings
        self.context = context

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        init = cls.__dict__.get("__init__")
        arguments = inspect.signature(init).parameters if init is not None else ()
        old = sorted(RENAMED.keys() & cls.__dict__.keys() | {"facts"} & set(arguments))
        if old:
            renamed = ", ".join(f"`{name}` is now called `{RENAMED[name]}`" for name in old)
            raise ContractError(f"{cls.__name__}: {renamed}; rename it")
        _check_items(f"{cls.__name__}.takes", cls.takes, Array)
        _check_items(f"{cls.__name__}.gives", cls.gives, Array)
        cls._check_names()
        if not (isinstance(cls.Settings, type) and issubclass(cls.Settings, Settings)):
            raise ContractError(
                f"{cls.__name__}: Settings must be a class derived from pipeline.stage.Settings"
            )

    @classmethod
    def _check_names(cls) -> None:
        given = {array.name for array in cls.gives}
        for key, names in (("derived", cls.derived), ("hides", cls.hides)):
            _check_items(f"{cls.__name__}.{key}", names, str)
            for name in names:
                if name not in given:
                    raise ContractError(
                        f"{cls.__name__}.{key}: {name!r} is not in `gives`; add it there"
                    )
        if bool(cls.derived) != (cls.derive is not Stage.derive):
            raise ContractError(
                f"{cls.__name__}: `derived` and `derive` belong together; declare both or none"
            )

    @classmethod
    def resolve(cls, settings: Any) -> Resolved:
        """Check, before any process starts, that the settings can work; make offers to others.

        May read files and ask devices; leaves nothing behind and starts no thread.

        Raises:
            SetupError: the settings point at something that cannot work.
            StageUnavailable: this machine cannot run the stage; a last stage is then left out.
        """
        return Resolved()

    @classmethod
    def resources(cls, settings: Any) -> Resources:
        """Declare the files, ports and folders that the settings have it use."""
        return Resources()

    def effective(self) -> Mapping[str, Any]:
        """Name the values in use where the settings leave them open; `run.py check` shows them."""
        return {}

    def open(self) -> None:
        """Acquire what must live in the stage's own process: a model, a window, a file."""

    def process(self, frame: Frame) -> None:
        """Read arrays of the frame and add arrays to it.

        Raises:
            RunError: the run cannot continue (ends it, exit 1).
            DeviceFailed: the device fails, not this frame: the process is restarted within the
                budget, and the frame is sent again.
            EndRun: a person asked to end the run (exit 0).
            Exception: any other; this frame becomes `failed:STAGE` and the stage continues.
        """
        raise NotImplementedError

    def process_batch(self, frames: Sequence[Frame]) -> None:
        """Process several frames, of any streams, at once; by default one after the other."""
        for frame in frames:
            self.process(frame)

    def derive(self, frame: Frame) -> None:
        """Add the arrays of `derived`, from the settings and the other arrays of the frame alone.

        Called after `process`. An ordered stage that has processed the frame before a crash is
        called for this alone; the frame then has the arrays that `process` added.

        Raises:
            Exception: as in `process`.
        """

    def beat(self) -> None:
        """Send a heartbeat: call it from work that takes long on purpose, such as a paused window.

        The worker puts its own in place of this one.

        Raises:
            EndRun: the run is being stopped; do not catch it.
        """

    def abandon(self, reason: str) -> None:
        """End the process in which this stage opens, and the run: a library does not return.

        For another thread than the one that is stuck. The worker puts its own in place of this one.

        Args:
            reason: the message that the run ends with.
        """

    def idle(self) -> None:
        """Serve something else, such as a window; called between frames, some 50 times a second."""

    def reopen(self) -> None:
        """Open files again by their names: they may have been moved (SIGHUP to a daemon)."""

    def end(self, stream: str) -> None:
        """Finish a stream: no frame of it follows."""

    def close(self) -> None:
        """Release what `open` acquired. Always called, also after an error or half an `open`."""

    def state(self, stream: str) -> bytes:
        """Return what `restore` needs to continue after a crash as if nothing had happened.

        Ordered stages only; called after every frame and saved before the frame is sent on, so it
        must be quick.
        """
        return b""

    def restore(self, stream: str, state: bytes) -> None:
        """Take up the state that `state` gave before a crash. Called after `open`."""

    def info(self) -> Mapping[str, str]:
        """Return facts worth showing to a person: the provider, an address in use.

        Asked about once a second while the stage is open, like `counters`; must be quick.
        """
        return {}

    def counters(self) -> Mapping[str, int]:
        """Return what it counts beside frames, since its process started: messages sent, viewers.

        Shown in the status and the metrics, and in the summary as it is after `close`.
        """
        return {}


class InferenceStage(Stage):
    """A stage that runs a model, so that `run.py bench` can measure the model alone."""

    def infer(self, frame: Frame) -> object:
        """Run the model on a frame and return its raw outputs, without what is made of them."""
        raise NotImplementedError

    @classmethod
    def single_process(cls, settings: Any) -> Sequence[Any]:
        """Return the settings that a plain script in one process might use, to compare with."""
        return (settings,)


class Source(Stage):
    """The first stage: where the frames of one stream come from. One worker per stream.

    Its `resolve` offers a `SourceInfo`. The worker offers a free slot and collects the image. A
    file is read in `offer`; a camera is read by a thread of its own, which fills the offered slot
    with the next image and counts those that come while none is offered.
    """

    live: bool = False
    """Whether images come at their own pace and are not waited for; known after `open`."""

    condition: SourceState = SourceState("live")
    """State of the source; read all the time, each change is sent to the supervisor."""

    def skip(self, images: int, source_ns: int) -> None:
        """Skip the images that were taken before a crash; called before the first `offer`.

        Args:
            images: number of images taken before the crash.
            source_ns: timestamp of the newest that became a frame; -1: unknown.
        """

    def start(self, notify: Callable[[], None]) -> None:
        """Begin; call `notify`, from any thread, when there is something to collect."""

    def offer(self, frame: Frame) -> None:
        """Lend a frame to be filled: `image` (height, width, 3) uint8 BGR, and its times."""
        raise NotImplementedError

    def collect(self) -> bool | None:
        """Return whether the offered frame is filled; None: not yet; False: the source has ended.

        Raises:
            RunError: the source failed in a way that ends the run.
        """
        raise NotImplementedError

    def pause(self) -> None:
        """Give no images until `resume`; a camera is released meanwhile."""

    def resume(self) -> None:
        """Continue after `pause`."""

    def missed(self) -> tuple[int, int]:
        """Return how many images since the last call (found no slot, could not be decoded)."""
        return 0, 0

    def problem(self) -> str | None:
        """Return why the source has ended too early, if it has: frames are kept, the run fails."""
        return None
