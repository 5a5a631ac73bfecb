"""The saved states of ordered stages, each kept twice, so that one of the two is always whole."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import RunError
from pipeline.memory.shared import PAGE, WORD, SharedMemory

STATE_BYTES = 1 << 20
"""Room for the state of an ordered stage."""
ANSWER_BYTES = 1 << 16
"""Room for its answer to the frame of one slot, which is saved with its state."""


def checkpoint_bytes(slots: int) -> int:
    """Return the room of one half of a checkpoint in bytes: address space, not memory.

    Args:
        slots: frames that may be in flight.
    """
    return STATE_BYTES + slots * ANSWER_BYTES


class SavedStates:
    """The checkpoints of the ordered stages of one stream, written by the workers of the stages.

    Each stage has one word that counts its checkpoints and two halves. A checkpoint goes into the
    half that is not in use, then the word is raised: a writer that is killed leaves the one before.
    """

    def __init__(self, memory: SharedMemory, start: int, stages: Sequence[str], slots: int) -> None:
        """Use a part of a memory.

        Args:
            memory: memory of the stream.
            start: byte at which the part begins, a multiple of a page.
            stages: names of the ordered stages.
            slots: frames that may be in flight.
        """
        self._memory, self._words = memory, memory.words
        self._half_bytes = checkpoint_bytes(slots)
        row = PAGE + 2 * self._half_bytes
        self._starts = {stage: start + i * row for i, stage in enumerate(stages)}

    @staticmethod
    def size(stages: int, slots: int) -> int:
        """Return the bytes that such a part takes."""
        return stages * (PAGE + 2 * checkpoint_bytes(slots))

    def save(self, stage: str, checkpoint: bytes) -> None:
        """Save the checkpoint of a stage: write the idle half, then flip one word.

        Raises:
            RunError: it is larger than its room.
        """
        size, room = len(checkpoint), self._half_bytes - WORD
        if size > room:
            raise RunError(
                f"stages.{stage}: the state is too large to be saved (found {size} bytes, at most "
                f"{room})"
            )
        start = self._starts[stage]
        flips = self._words[start // WORD] + 1
        half = start + PAGE + (flips & 1) * self._half_bytes
        self._words[half // WORD] = size
        self._memory.bytes[half + WORD : half + WORD + size] = checkpoint
        self._words[start // WORD] = flips

    def saved(self, stage: str) -> bytes | None:
        """Return the newest checkpoint of a stage; None before the first."""
        start = self._starts[stage]
        flips = self._words[start // WORD]
        if not flips:
            return None
        half = start + PAGE + (flips & 1) * self._half_bytes
        size = self._words[half // WORD]
        return bytes(self._memory.bytes[half + WORD : half + WORD + size])
