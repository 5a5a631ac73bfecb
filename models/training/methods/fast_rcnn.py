"""Fast R-CNN: one feature map for an image, from which the features of each proposal are pooled.

Source: Girshick, "Fast R-CNN", ICCV 2015. As there: selective search; pooling of regions, also of
those smaller than the grid; a softmax over K classes and the background, and K boxes; one
multi-task loss, whose box term leaves out the background; regions of few images in a step. Not as
there: a layer in front of the pooling makes fewer channels, as a CPU has to read a thousand
regions, and the mean of points is read in place of the largest value (see `pool`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.boxes.forms import from_xyxy
from models.boxes.iou import iou_matrix
from models.boxes.offsets import FASTER_RCNN, encode_offsets
from models.datasets.base import LabelledImage
from models.families.rcnn import PROPOSALS
from models.proposals.selective_search import SearchSettings
from models.training import gradient
from models.training.assign import BACKGROUND, IGNORED, ignore_inside, match_between, sample
from models.training.augment import View
from models.training.export import export
from models.training.features import Maps
from models.training.gradient import GradientMethod, Outputs
from models.training.gradient import Truth as Arrays
from models.training.learner import Learner
from models.training.method import Job, ModelCard
from models.training.onnx_net import OnnxNet
from models.training.roi import RoiGrid, roi_align, roi_max_pool
from models.training.tasks.regions import OUTPUT, Judged, JudgesRegions

STRIDE = 16
"""Stride of the map from which regions are pooled."""
GRID = 7
"""Cells of a region along each side."""
MEASURED = 300
"""Proposals of a validation image that are judged after each epoch; at the end it is all."""
MIN_IOU = 0.5
"""IoU from which a proposal is an object (section 2.3)."""


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of Fast R-CNN."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 384
    """Side in pixels to which an image is stretched, and in which regions are found."""
    search: SearchSettings = SearchSettings(max_proposals=1000)
    """Settings of selective search, also of the trained model."""
    open: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Part of the backbone's work that is in the upper blocks that are trained, where `layers`
    does not say where to cut it."""
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 24
    batch: Annotated[int, Meta(ge=1, le=1024)] = 8
    regions: Annotated[int, Meta(ge=4, le=2000)] = 64
    """Proposals of an image in a step."""
    positive: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Part of them that are objects, at most."""
    min_overlap: Annotated[float, Meta(ge=0, lt=0.5)] = 0.1
    """IoU with an object from which a proposal is taken as background: those near objects are the
    hard ones. Others fill the places that are left."""
    pool: Literal["align", "max"] = "align"
    """How a region is read: the mean of points of each cell (RoIAlign, He et al., ICCV 2017), or
    its largest value, as in the paper. On Penn-Fudan the first one was better on the validation
    images after as many steps (AP50 .76, .72), and trained in half the time."""
    channels: Annotated[int, Meta(ge=8, le=1024)] = 64
    """Channels of the map that is pooled."""
    hidden: Annotated[int, Meta(ge=8, le=4096)] = 256
    """Units of the two layers above the pooled features."""


class Regions(NamedTuple):
    """Regions of a step, of all of its images."""

    boxes: NDArray[np.float32]
    """(R, 4) xyxy in px of the input."""
    image_of: NDArray[np.intp]
    """(R,)"""
    classes: NDArray[np.intp]
    """(R,) the last number is that of the background."""
    offsets: NDArray[np.float32]
    """(R, 4) from the region to its object; 0 for the background."""


class Head(nn.Module):
    """The layers on the map, and those on each region."""

    def __init__(self, channels: int, classes: int, settings: Settings) -> None:
        super().__init__()
        self._read = {"max": roi_max_pool, "align": roi_align}[settings.pool]
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, settings.channels, 1, bias=False),
            nn.BatchNorm2d(settings.channels),
            nn.ReLU6(),
        )
        self.layers = nn.Sequential(
            nn.Linear(settings.channels * GRID * GRID, settings.hidden),
            nn.ReLU6(),
            nn.Dropout(0.3),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU6(),
        )
        self.score = nn.Linear(settings.hidden, classes + 1)
        self.move = nn.Linear(settings.hidden, classes * 4)
        # Section 2.3.
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.move.weight, std=0.001)
        nn.init.zeros_(self.score.bias)
        nn.init.zeros_(self.move.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return the map that is pooled (N, channels, H, W)."""
        reduced: Tensor = self.reduce(features)
        return reduced

    def judge(self, maps: Tensor, boxes: Tensor, image_of: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (R, K + 1) before the softmax, and offsets (R, K, 4).

        Args:
            maps: (N, channels, H, W).
            boxes: (R, 4) xyxy in px of the input.
            image_of: (R,) the map of each.
        """
        cells = self._read(maps, boxes, image_of, RoiGrid(GRID, GRID, STRIDE))
        found = self.layers(cells.flatten(1))
        offsets = self.move(found)
        return self.score(found), offsets.reshape(-1, offsets.shape[1] // 4, 4)


class Rows(nn.Module):
    """The last nodes: a row for each proposal and class, (1, P * K, 6)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def forward(self, boxes: Tensor, scores: Tensor, offsets: Tensor, move: bool = True) -> Tensor:
        """Return x1, y1, x2, y2 as fractions, score and class."""
        scores = scores.softmax(dim=1)[:, :-1]
        offsets = offsets / torch.tensor(FASTER_RCNN.scales, device=boxes.device)
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        centre = (boxes[:, 2:] + boxes[:, :2])[:, None] / 2
        corners = torch.cat([centre - sides / 2, centre + sides / 2], dim=2)
        if move:
            centre = centre + offsets[..., :2] * sides
            half = sides * offsets[..., 2:].clamp(max=FASTER_RCNN.max_log).exp() / 2
            corners = torch.cat([centre - half, centre + half], dim=2)
        inside = (corners / self._size).clamp(0, 1) + 0 * offsets
        numbers = torch.arange(scores.shape[1], device=boxes.device) + 0 * scores
        return torch.cat([inside, scores[..., None], numbers[..., None]], dim=2).reshape(1, -1, 6)


class Whole(nn.Module):
    """The network from pixels and proposals to rows."""

    def __init__(self, frozen: OnnxNet | None, learner: Learner, rows: Rows) -> None:
        super().__init__()
        self.frozen, self.learner, self.rows = frozen, learner, rows

    def forward(self, images: Tensor, proposals: Tensor) -> Tensor:
        """Return the rows of an image (1, H, W, 3) uint8 BGR and its proposals (P, 4)."""
        colours = images.permute(0, 3, 1, 2).flip(1).float()
        maps = [colours] if self.frozen is None else self.frozen(colours)
        (pooled,) = self.learner(*maps)
        image_of = (proposals[:, 0] * 0).long()
        head: Any = self.learner.head
        found: Tensor = self.rows(proposals, *head.judge(pooled, proposals, image_of))
        return found


class FastRcnn(JudgesRegions, GradientMethod):
    """Detects by a small network on the pooled features of proposals."""

    Settings = Settings
    output_names = (OUTPUT,)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._rows_of = Rows(self.size)

    def maps(self) -> tuple[str, ...]:
        """Take the last map of stride 16."""
        return (self.job.backbone.levels[STRIDE].tensor,)

    def cut(self) -> int:
        """Cut the backbone at the map, or below it where upper blocks are trained."""
        names = [block.tensor for block in self.job.backbone.blocks]
        above = names.index(self.maps()[0]) + 1
        return min(above, self.job.backbone.cut_for(1 - self.settings.open))

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the layers on the map and on the regions."""
        return Head(channels[0], len(self.job.labels), self.settings)

    def estimate_s(self) -> float:
        """Return about how many seconds `fit` takes, the search included."""
        start = time.monotonic()
        self.proposals(self.job.train[0])
        search = (time.monotonic() - start) * (len(self.job.train) + len(self.job.val))
        return search + super().estimate_s()

    def fit(self) -> None:
        """Compute proposals and features, then train."""
        self.search([*self.job.train, *self.job.val])
        self.report_recall()
        super().fit()

    def truth(self, image: LabelledImage, view: View) -> Arrays:
        """Return proposals and objects of a view, and the object of each proposal."""
        truth = self.truth_in(image, view)
        # An object is a proposal too, so that each one is learned, also if the search misses it.
        proposals = np.concatenate([truth.boxes, self.proposals_in(image, view)])
        iou = iou_matrix(proposals, truth.boxes)
        matches = match_between(iou, MIN_IOU, MIN_IOU)
        matches = ignore_inside(matches, proposals, truth.ignored)
        easy = (matches == BACKGROUND) & (iou.max(axis=1, initial=0) < self.settings.min_overlap)
        return {
            "proposals": proposals,
            "matches": matches,
            "easy": easy,
            "boxes": truth.boxes,
            "classes": truth.classes,
        }

    def loss(self, outputs: Outputs, truths: Sequence[Arrays]) -> Mapping[str, Tensor]:
        """Return the two terms of equation 1: class, and box of all regions but the background."""
        # The loop sets the seed of each step, from which this one follows.
        random = np.random.default_rng(int(torch.randint(2**31, (1,))))
        regions = self._sampled(truths, random)
        device = outputs[0].device
        boxes, image_of, classes, offsets = (torch.from_numpy(own).to(device) for own in regions)
        head: Any = self.learner.head
        scores, moves = head.judge(outputs[0], boxes, image_of)
        own = torch.nonzero(classes < len(self.job.labels))[:, 0]
        box = functional.smooth_l1_loss(moves[own, classes[own]], offsets[own], reduction="sum")
        return {
            "class": functional.cross_entropy(scores, classes),
            "box": box / len(classes),
        }

    def card(self) -> ModelCard:
        """Return the card of a model of the family rcnn."""
        return JudgesRegions.card(self)

    def outputs(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        """Return the rows of PyTorch for an input."""
        inputs = [torch.from_numpy(own).to(self.job.device) for own in self.inputs(pixels).values()]
        with torch.no_grad():
            return {OUTPUT: self._whole()(*inputs).cpu().numpy()}

    def export(self, path: Path) -> ModelCard:
        """Write the network from image and proposals to rows as ONNX."""
        example = np.array([[0, 0, self.size, self.size], [8, 8, 40, 72]], np.float32)
        whole = self._whole().cpu()
        export(whole, self.size, self.output_names, path, further={PROPOSALS: example})
        self.learner.to(self.job.device)
        return self.card()

    def _sampled(self, truths: Sequence[Arrays], random: np.random.Generator) -> Regions:
        """Draw the regions of a step."""
        settings, background = self.settings, len(self.job.labels)
        found = []
        for number, truth in enumerate(truths):
            matches = np.where(truth["easy"], IGNORED, truth["matches"])
            chosen = sample(matches, settings.regions, settings.positive, random)
            missing = settings.regions - int(chosen.sum())
            chosen[random.permutation(np.flatnonzero(truth["easy"]))[:missing]] = True
            rows = np.flatnonzero(chosen)
            own, boxes = truth["matches"][rows], truth["proposals"][rows]
            classes = np.full(len(rows), background)
            offsets = np.zeros((len(rows), 4), np.float32)
            positive = own >= 0
            classes[positive] = truth["classes"][own[positive]]
            anchors = from_xyxy(boxes[positive], "cxcywh")
            objects = truth["boxes"][own[positive]]
            offsets[positive] = encode_offsets(objects, anchors, FASTER_RCNN)
            found.append((boxes.astype(np.float32), np.full(len(rows), number), classes, offsets))
        return Regions(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _whole(self) -> Any:
        return Whole(self._frozen(), self.learner, self._rows_of).to(self.job.device).eval()

    def _cached_results(self, images: Sequence[LabelledImage]) -> list[Judged]:
        """Return the results of the validation images by their best proposals alone."""
        rows = np.arange(len(images))
        batches = (self._val_cache.rows(rows[at : at + 1]) for at in rows)
        return self._results(images, batches, MEASURED)

    def _results(
        self, images: Sequence[LabelledImage], batches: Iterator[Maps], most: int | None = None
    ) -> list[Judged]:
        """Return the result of each image from its frozen maps and its first proposals."""
        self.learner.eval()
        head: Any = self.learner.head
        results: list[Judged] = []
        with torch.no_grad():
            for batch in batches:
                (pooled,) = self.learner(
                    *(torch.from_numpy(maps).to(self.job.device) for maps in batch)
                )
                for row in range(len(pooled)):
                    image = images[len(results)]
                    boxes = torch.from_numpy(self.proposals(image)[:most]).to(self.job.device)
                    image_of = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
                    found = head.judge(pooled[row : row + 1], boxes, image_of)
                    moved, plain = (
                        self._rows_of(boxes, *found, move)[0].cpu().numpy()
                        for move in (True, False)
                    )
                    results.append(self.judged(image, moved, plain))
        return results
