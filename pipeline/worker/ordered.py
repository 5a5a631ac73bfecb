"""Ordered stages: frames in order, state saved after each, answers repeated for resent frames.

An ordered stage sees every frame of a stream once and in order, whatever dies meanwhile. After
every frame the worker saves, in the arena of the stream, the stage's own state and the arrays that
it added. A frame that comes again after a death gets these arrays, and the stage is not called. Its
derived arrays are not saved: the stage makes them again from the others (`Stage.derive`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from pipeline.edge import Reorder
from pipeline.errors import RunError
from pipeline.frame import Frame, Header, Status
from pipeline.graph.graph import Node
from pipeline.memory.arena import Arena
from pipeline.memory.stream_table import StreamTableReader
from pipeline.stage import Stage
from pipeline.stage_errors import stage_error


class _Answer(msgspec.Struct, array_like=True):
    """The result of an ordered stage for one frame."""

    generation: int
    status: Status
    cause: str
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]
    """Name -> dtype, shape, data of each array that the stage added."""


class _Progress(msgspec.Struct):
    """Position of an ordered stage in a stream; saved after every frame."""

    next: int = 0
    """`seq` of the frame it expects."""
    state: bytes = b""
    """The stage's own state."""
    answers: dict[int, _Answer] = {}
    """Slot -> answer for the frame that the slot held last: the frame may come again for as long
    as it is in flight, however far the others have come meanwhile."""


def state_of(saved: bytes) -> bytes:
    """Return the stage's own part of the saved progress of an ordered stage."""
    return msgspec.msgpack.decode(saved, type=_Progress).state


def _state(stage: Stage, stream: str) -> bytes:
    """Return the state of a stage."""
    try:
        state: object = stage.state(stream)
        if not isinstance(state, bytes):
            raise TypeError(f"expected bytes (found {type(state).__name__})")
    except Exception as error:
        raise stage_error(error, stage.context.where, "state") from None
    return state


class OrderedStages:
    """Progress of the ordered stages of one worker, in every stream."""

    def __init__(self, nodes: Sequence[Node], own: Sequence[Node]) -> None:
        """Start without progress.

        Args:
            nodes: all stages of the run, by their indices.
            own: the stages of this worker.
        """
        self._nodes = nodes
        self._own = [node for node in own if node.kind.ordered]
        self._progress: dict[tuple[int, int], _Progress] = {}
        self._reorders: dict[tuple[int, int], Reorder | None] = {}

    def __bool__(self) -> bool:
        """Return whether any stage of this worker is ordered."""
        return bool(self._own)

    def restore(
        self,
        node: Node,
        stage: Stage,
        streams: StreamTableReader,
        final_states: Mapping[str, bytes],
    ) -> None:
        """Restore the saved states of a stage that has just been opened.

        Args:
            node: the stage in the graph.
            stage: the stage.
            streams: streams of the run.
            final_states: stream that has ended -> state of the stage after its last frame.
        """
        final = dict(final_states)
        for stream, entry in streams.known().items():
            arena = streams.arena(stream)
            saved = arena.states.saved(node.name) if arena is not None else None
            if saved is None:
                continue
            progress = msgspec.msgpack.decode(saved, type=_Progress)
            self._progress[node.index, stream] = progress
            stage.restore(entry.name, progress.state)
            final.pop(entry.name, None)
        for name, state in final.items():
            stage.restore(name, state)  # else a file would be cut to before what it wrote of them

    def reorder_of(self, stage: int, stream: int) -> Reorder | None:
        """Return the buffer that puts frames from a stage in order; None: any order will do.

        The order starts at the first frame that an ordered stage behind `stage` has not had.
        """
        key = stage, stream
        if key not in self._reorders:
            behind = set(self._nodes[stage].behind())
            nexts = [self._progress_of(n, stream).next for n in self._own if n in behind]
            self._reorders[key] = Reorder(min(nexts)) if nexts else None
        return self._reorders[key]

    def is_answered(self, node: Node, header: Header) -> bool:
        """Return whether the stage has had the frame already: it was resent after a death."""
        return header.seq < self._progress_of(node, header.stream).next

    def answer_again(self, node: Node, frame: Frame) -> None:
        """Repeat the answer of a stage for a frame, without its derived arrays."""
        header = frame.header
        answer = self._progress_of(node, header.stream).answers.get(header.slot)
        if answer is None or answer.generation != header.generation:
            raise RunError(
                f"stages.{node.name}: frame {header.seq} was resent, but its answer is not saved; "
                "please report this fault of Eyeline"
            )
        if answer.status in (Status.DROPPED, Status.FAILED):
            header.without_arrays(answer.status, answer.cause)
            return
        for name, (dtype, shape, data) in answer.arrays.items():
            frame.put(name, np.ndarray(shape, dtype, data))

    def save(
        self,
        node: Node,
        stage: Stage,
        frame: Frame,
        before: Mapping[str, tuple[int, str, tuple[int, ...]]],
        arena: Arena,
    ) -> None:
        """Save the answer of a stage for a frame and the state of the stage.

        Args:
            node: the stage in the graph.
            stage: the stage.
            frame: a frame that the stage has just processed.
            before: arrays of the header before that.
            arena: arena of the stream.
        """
        header = frame.header
        progress = self._progress_of(node, header.stream)
        added = {
            name: (dtype, shape, frame[name].tobytes())
            for name, (offset, dtype, shape) in header.arrays.items()
            if before.get(name) != (offset, dtype, shape) and name not in node.kind.derived
        }
        answer = _Answer(header.generation, header.status, header.cause, added)
        progress.answers[header.slot] = answer
        progress.next = header.seq + 1
        progress.state = _state(stage, frame.stream)
        arena.states.save(node.name, msgspec.msgpack.encode(progress))

    def forget(self, stream: int) -> None:
        """Drop the progress in a stream that is gone."""
        for key in [key for key in self._progress if key[1] == stream]:
            del self._progress[key]
        for key in [key for key in self._reorders if key[1] == stream]:
            del self._reorders[key]

    def _progress_of(self, node: Node, stream: int) -> _Progress:
        return self._progress.setdefault((node.index, stream), _Progress())
