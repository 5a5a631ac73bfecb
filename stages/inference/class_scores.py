"""The scores of a classifier for an image, for the stages that run one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract
from models.families.base import Family
from models.results import SCORE_TOLERANCE
from models.transform import Transform
from pipeline.context import Log
from stages.detections import label


class ClassScores:
    """Decodes the outputs of a classifier, and reports once that its scores look wrong.

    Args:
        contract: contract of the model.
        log: log of the stage.
    """

    def __init__(self, contract: Contract, log: Log) -> None:
        self._name, self._labels, self._log = contract.name, contract.labels, log
        self._reported = False

    def read(
        self, family: Family[Any], raw: Sequence[NDArray[Any]], transform: Transform
    ) -> NDArray[np.float32]:
        """Return the scores (C,) of all classes, from 0 to 1; a score that is no number is 0."""
        scores: NDArray[np.float32] = family.decode(raw, transform, 0.0).scores
        scores = np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)
        if not self._reported and len(scores):
            low, high = float(scores.min()), float(scores.max())
            if low < -SCORE_TOLERANCE or high > 1 + SCORE_TOLERANCE:
                self._reported = True
                self._log.warning(
                    "model %s: scores from %.3g to %.3g (expected 0 to 1); set `activation` under "
                    "`output` in its card",
                    self._name,
                    low,
                    high,
                )
        return scores

    def label(self, number: int) -> str:
        """Return the name of a class; its number as text where it has no name."""
        return label(self._labels, number)
