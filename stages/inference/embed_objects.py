"""Embeddings of single objects: vectors that are near each other for images of the same object."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.contract import Contract
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.memory.saved_states import ANSWER_BYTES, STATE_BYTES
from pipeline.stage import Array, Context
from stages.inference.object_crops import CropSettings, ObjectCropStage, Track, saved_tracks

ROOM_FOR_NAMES = 1024
"""Bytes of a saved answer beside the values of its arrays."""
TRACK_BYTES = 80
"""Room of a track in the saved state, beside its vector."""


class EmbedObjectsSettings(CropSettings, frozen=True, kw_only=True):
    """Settings of the embeddings of objects."""

    vectors: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Vectors of a track after which it is settled: only tried again as it grows, or after
    again_s."""


class Embedded(Track, array_like=True):
    """A tracked object and the mean of its vectors."""

    mean: bytes = b""
    """(D,) float16."""
    count: int = 0
    """Vectors in the mean."""


class EmbedObjects(ObjectCropStage[Embedded]):
    """Gives the embeddings of the objects that are tried in a frame.

    `embeddings` (M, D) float16 of length 1 is the mean of all vectors of a track so far, or the
    vector of an object without an id; `embedding_rows` (M,) the row of its box, ascending. M is 0
    in frames in which no object is tried.
    """

    Settings = EmbedObjectsSettings
    tasks = ("embed",)
    gives = (
        Array("embeddings", "float16", (None, None)),
        Array("embedding_rows", "int32", (None,)),
    )
    track = Embedded

    settings: EmbedObjectsSettings

    def __init__(self, settings: EmbedObjectsSettings, context: Context) -> None:
        """Check the labels and sizes.

        Raises:
            SetupError: the detector has no such label; or an answer is too large to be saved.
        """
        super().__init__(settings, context)
        self._length = vector_length(self._contract)
        row_bytes = 2 * self._length + 4
        if settings.max_per_frame * row_bytes > ANSWER_BYTES - ROOM_FOR_NAMES:
            raise SetupError(
                f"max_per_frame: the answer to a frame cannot be saved (found "
                f"{settings.max_per_frame} vectors of {self._length} numbers); set at most "
                f"{(ANSWER_BYTES - ROOM_FOR_NAMES) // row_bytes}"
            )

    @property
    def max_tracks(self) -> int:
        """Most tracks of a stream that are kept, so that its state can be saved."""
        return saved_tracks(TRACK_BYTES + 2 * self._length, STATE_BYTES // 4 * 3)

    def process(self, frame: Frame) -> None:
        """Add `embeddings` and `embedding_rows`."""
        assert self._family is not None
        trials = sorted(self.infer(frame), key=lambda trial: trial.row)
        vectors: dict[int, NDArray[np.float32]] = {}
        for trial in trials:
            vector = self._family.decode(trial.raw, trial.transform, 0.0).vector
            if np.isfinite(vector).all() and vector.any():
                vectors[trial.row] = vector
        tracks = self.see(frame, trials)
        for row, vector in vectors.items():
            if row in tracks:
                vectors[row] = _add(tracks[row], vector)
        rows = [row for row, vector in vectors.items() if vector.any()]
        out = np.zeros((len(rows), self._length), np.float16)
        for place, row in enumerate(rows):
            out[place] = vectors[row] / np.linalg.norm(vectors[row])
        frame.put("embeddings", out)
        frame.put("embedding_rows", np.array(rows, np.int32))

    def is_settled(self, track: Embedded) -> bool:
        """Return whether a track has enough vectors."""
        return track.count >= self.settings.vectors


def _add(track: Embedded, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add a vector to the mean of a track, and return the mean (D,) float32, not of length 1."""
    before = np.frombuffer(track.mean, np.float16).astype(np.float32) if track.count else 0
    mean = (before * track.count + vector) / np.float32(track.count + 1)
    kept = mean.astype(np.float16)
    track.mean, track.count = kept.tobytes(), track.count + 1
    # As it is after a crash, so that both give the same bytes.
    return kept.astype(np.float32)


def vector_length(contract: Contract) -> int:
    """Return the numbers of an embedding of a model.

    Raises:
        SetupError: the file does not state it.
    """
    layout = contract.layout
    columns = {} if layout is None else layout.outputs
    shapes = [
        tensor.shape for tensor in contract.outputs if columns.get(tensor.name) == ("embedding",)
    ]
    sides = [side for side in (shapes[0] or ())[1:] if side != 1] if shapes else []
    if len(sides) != 1 or sides[0] is None:
        raise SetupError(
            f"model {contract.name}: its file does not state the length of a vector; export it "
            "with a fixed one"
        )
    return sides[0]
