"""Classification with localisation: class scores and the four numbers of a box, from one network.

Loss: alpha * softmax loss + (1 - alpha) * L2 distance of the boxes. Both losses train a layer that
the two outputs have in common; without one, each output would learn alone, and alpha would change
nothing. Alpha cannot be chosen by the loss, in which it stands: the validation images decide.
Source: Sermanet et al., "OverFeat", ICLR 2014 (the box is regressed from the features that name the
class, with an L2 loss).
"""

from __future__ import annotations

import copy
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
from models.training.tasks.classify import class_weights
from models.training.tasks.localize import Located, Locates, mean_box

Alpha = Annotated[float, Meta(ge=0, le=1)]


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of classification with localisation."""

    alpha: Annotated[tuple[Alpha, ...], Meta(min_length=1, max_length=20)] = (0.02, 0.1, 0.5, 0.9)
    """Weights of the class in the loss, of which the validation images choose one; a training for
    each."""
    open: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it; 0: none."""
    channels: Annotated[int, Meta(ge=8, le=2048)] = 256
    """Channels of the layer that both outputs have in common."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.3
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 20
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 5


class Localize(Locates, GradientMethod):
    """Names the main object of an image, and puts a box around it."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("scores", "box")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        weights = class_weights(job.train, len(job.labels))
        self._weights = torch.from_numpy(weights).to(job.device)
        self._alpha: float = job.settings.alpha[0]
        self._first = copy.deepcopy(self.learner.state_dict())

    def cut(self) -> int:
        """Leave the upper blocks open, if that is wanted."""
        return self.job.backbone.cut_for(1 - self.settings.open)

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the two outputs behind the layer that they have in common."""
        side = -(-self.size // self.job.backbone.blocks[-1].stride)
        settings = self.settings
        start = corners_to_centre(mean_box(self.job.train))
        return Head(
            channels[0], settings.channels, side, len(self.job.labels), settings.dropout, start
        )

    def trainings(self) -> int:
        """Return the number of values of alpha."""
        return len(self.settings.alpha)

    def fit(self) -> None:
        """Train once for each alpha, from the same weights, and keep the best network."""
        self.compute_features()
        found = []
        for number, alpha in enumerate(self.settings.alpha):
            self._alpha = alpha
            self.learner.load_state_dict(self._first)
            self.train(self.new_loop(f"alpha-{alpha:g}"), number)
            best = self.curves[self.best_epoch]
            found.append(
                (best, self.curves, self.best_epoch, copy.deepcopy(self.learner.state_dict()))
            )
        names = [name for name in found[0][0] if not name.startswith("loss ")]
        at = max(range(len(found)), key=lambda n: [found[n][0][name] for name in names])
        self._alpha = self.settings.alpha[at]
        _, self.curves, self.best_epoch, weights = found[at]
        self.learner.load_state_dict(weights)
        shown = names[:3]
        self.charts["Figures on the validation images over alpha"] = (
            list(self.settings.alpha),
            {name: [best[name] for best, *_ in found] for name in shown},
        )
        values = ", ".join(
            f"{alpha:g}: " + " ".join(f"{best[name]:.3f}" for name in shown)
            for alpha, (best, *_) in zip(self.settings.alpha, found, strict=True)
        )
        self.notes.append(
            f"alpha is {self._alpha:g}, by the validation images ({', '.join(shown)} of {values})"
        )

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the class, and centre and size of the visible part of the box, from 0 to 1."""
        corners = view.boxes(np.array([image.objects[0].box]))[0] / view.size
        box = corners_to_centre(np.clip(corners, 0, 1))
        return {"class": np.array(image.classes[0]), "box": box.astype(np.float32)}

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the two terms, weighted by alpha."""
        logits, boxes = (output.float() for output in outputs)
        classes = torch.from_numpy(np.stack([truth["class"] for truth in truths]))
        true = torch.from_numpy(np.stack([truth["box"] for truth in truths])).to(boxes.device)
        softmax = functional.cross_entropy(logits, classes.to(logits.device), self._weights)
        distance = (boxes - true).square().sum(dim=1).mean()
        return {"softmax": self._alpha * softmax, "L2": (1 - self._alpha) * distance}

    def finish(self) -> nn.Module:
        """Make scores and corners of the outputs."""
        return Finish()

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the scores, and the box in pixels of the image."""
        scores, corners = outputs
        size = np.array(image.size * 2, np.float32)
        return Located(scores, np.asarray(corners * size, np.float32))


class Head(nn.Module):
    """A layer, and behind it the scores of the classes and the numbers of a box.

    The class is the same wherever its object is, so that it is read from the mean of the map; the
    box is not, so that each cell has its own weight.

    Args:
        channels: of the map.
        width: channels of the common layer.
        side: cells of the side of the map.
        classes: number of classes.
        dropout: part of the values that are left out in training.
        start: (4,) box with which training starts: centre and size as fractions.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        side: int,
        classes: int,
        dropout: float,
        start: NDArray[np.float64],
    ) -> None:
        super().__init__()
        self.common = _layer(channels, width)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(width, classes)
        self.narrow = _layer(width, width // 4)
        self.box = nn.Linear(width // 4 * side * side, 4)
        with torch.no_grad():
            inside = np.clip(start, 0.01, 0.99)
            self.box.bias.copy_(torch.from_numpy(np.log(inside / (1 - inside))))
            self.box.weight.mul_(0.1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, C), and centres and sizes (N, 4) as fractions."""
        common = self.common(features)
        logits = self.scores(self.dropout(common.mean(dim=(2, 3))))
        box = self.box(self.dropout(self.narrow(common).flatten(1)))
        return logits, box.sigmoid()


class Finish(nn.Module):
    """Scores (N, C) and corners (N, 4) as fractions, inside the image."""

    def forward(self, logits: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        centre, half = box[:, :2], box[:, 2:] / 2
        corners = torch.cat([centre - half, centre + half], dim=1)
        return logits.softmax(dim=1), corners.clamp(0.0, 1.0)


def corners_to_centre(box: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return cx, cy, w, h of a box x1, y1, x2, y2."""
    low, high = np.asarray(box[:2], np.float64), np.asarray(box[2:], np.float64)
    return np.concatenate([(low + high) / 2, high - low])


def _layer(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution, its normalisation, and ReLU6, which int8 holds well."""
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
