"""A kit to test stages of your own: frames in, frames out, without processes or sockets.

    from pipeline.testing import ListSource, context, run_stages

    def test_zone_counts_people():
        stage = Zones(ZonesSettings(), context(labels=Labels(("person",))))
        frames = run_stages([stage], ListSource([image, image], fps=10.0))
        assert frames[1]["counts"].tolist() == [2]

Arrays that other stages would give are added to the frames of the source with `frame.put`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import check_given
from pipeline.frame import Frame, Status
from pipeline.stage import Context, ContractError, Settings, Stage


class ManualClock:
    """A clock that stands still until it is advanced.

    Args:
        start_s: its first time in seconds.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self.now_s = start_s

    @property
    def now_ns(self) -> int:
        """The time in nanoseconds."""
        return round(self.now_s * 1e9)

    def advance(self, s: float) -> None:
        """Go on by so many seconds."""
        self.now_s += s


class ListSource:
    """Frames made of images, one after the other at a steady rate.

    Args:
        images: (height, width, 3) uint8 BGR each.
        fps: frames per second; the first frame has the time 0.
        stream: name of their stream.
        clock: advanced with each frame, and gives the frames their times.
    """

    def __init__(
        self,
        images: Iterable[NDArray[np.uint8]],
        fps: float = 25.0,
        stream: str = "test",
        clock: ManualClock | None = None,
    ) -> None:
        self.images, self.fps, self.stream = list(images), fps, stream
        self.clock = clock or ManualClock()

    def __iter__(self) -> Iterator[Frame]:
        for seq, image in enumerate(self.images):
            frame = Frame.of(self.stream, seq, self.clock.now_s, image=image)
            frame.header.fps = self.fps
            yield frame
            self.clock.advance(1 / self.fps)


class ListSink(Stage):
    """Keeps every frame it is given in `frames`."""

    def __init__(self) -> None:
        super().__init__(Settings(), context(stage="sink"))
        self.frames: list[Frame] = []

    def process(self, frame: Frame) -> None:
        """Keep the frame."""
        self.frames.append(frame)


def context(**offers: object) -> Context:
    """Make the context of a stage that is tested alone.

    Args:
        offers: fields of `Context` by their names (`streams`, `live` ...); all others are offers
            that other stages would make, under any name.
    """
    fields = {name: offers.pop(name) for name in Context.__struct_fields__ if name in offers}
    for name, offer in offers.items():
        if type(offer).__module__ == "builtins":
            raise TypeError(
                f"{name}: no field of Context, and not an offer (found {offer!r}); correct the name"
            )
    made = tuple(offers.values())
    return Context(**{"offers": made, "offers_behind": made, **fields})  # type: ignore[arg-type]


def run_stages(stages: Sequence[Stage], frames: Iterable[Frame]) -> list[Frame]:
    """Open stages, pass frames through them in order, end the streams, and close the stages.

    A frame that a stage sets to another status than live is not given to the stages behind it.
    As in a worker, the arrays that a stage gives are compared with `gives`, and an ordered stage is
    asked for its state after each frame. An error of a stage is raised here.

    Args:
        stages: stages in the order of the graph, without a source.
        frames: frames from `ListSource`, or made with `Frame.of`.

    Returns:
        The frames, with the arrays that the stages added.
    """
    done: list[Frame] = []
    opened: list[Stage] = []
    try:
        for stage in stages:
            opened.append(stage)
            stage.open()
        for frame in frames:
            for stage in stages:
                if frame.header.status == Status.LIVE:
                    stage.process(frame)
                    stage.derive(frame)
                    _check(stage, frame)
            done.append(frame)
        for stream in dict.fromkeys(frame.stream for frame in done):
            for stage in stages:
                stage.end(stream)
        for stage in stages:
            dict(stage.info()), dict(stage.counters())
    finally:
        for stage in reversed(opened):
            stage.close()
    return done


def _check(stage: Stage, frame: Frame) -> None:
    """Check what a worker would check after a frame."""
    check_given(frame, stage.gives)
    missing = [
        array.name for array in stage.gives if not array.optional and array.name not in frame
    ]
    if missing and frame.header.status == Status.LIVE:
        raise ContractError(f"gave no array {missing[0]!r}, which it declares in `gives`")
    if stage.ordered:
        state: object = stage.state(frame.stream)
        if not isinstance(state, bytes):
            raise ContractError(f"state: expected bytes (found {type(state).__name__})")
