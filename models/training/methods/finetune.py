"""Fine-tuning: a new last layer, and the upper blocks of the backbone trained along, more slowly.

Sources: Girshick et al., CVPR 2014, section 2.3 (a small rate, so that training does not undo what
the backbone has learned); Yosinski et al., NeurIPS 2014 (which layers transfer); Howard and Ruder,
ACL 2018, section 3.2 (discriminative rates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.datasets.base import LabelledImage
from models.training import gradient
from models.training.augment import View
from models.training.gradient import GradientMethod, Outputs, Truth
from models.training.method import Job, Result
from models.training.tasks.classify import Classifies, class_weights


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of fine-tuning."""

    open: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Part of the truth that is spread over all classes (Szegedy et al., CVPR 2016)."""


class Finetune(Classifies, GradientMethod):
    """Classifies whole images: pooled last map, dropout, one linear layer."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        weights = class_weights(job.train, len(job.labels))
        self._weights = torch.from_numpy(weights).to(job.device)

    def cut(self) -> int:
        """Leave the upper blocks open."""
        return self.job.backbone.cut_for(1 - self.settings.open)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the new last layer."""
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(self.settings.dropout),
            nn.Linear(channels[0], len(self.job.labels)),
        )

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the class."""
        return {"class": np.array(image.classes[0])}

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the cross entropy, rare classes weighted."""
        classes = torch.from_numpy(np.stack([truth["class"] for truth in truths]))
        return {
            "class": functional.cross_entropy(
                outputs[0],
                classes.to(outputs[0].device),
                self._weights,
                label_smoothing=self.settings.smoothing,
            )
        }

    def finish(self) -> nn.Module:
        """Make scores of the logits."""
        return nn.Softmax(dim=1)

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the scores (C,)."""
        return outputs[0]
