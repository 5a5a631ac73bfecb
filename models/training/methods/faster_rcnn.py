"""Faster R-CNN: a network proposes regions on the map of features; each is classified there.

Source: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
Networks", NeurIPS 2015; trained jointly, as section 3.2 calls it, on the four losses. Other than
there, the sizes of the anchors are those of k-means on the training boxes (Redmon and Farhadi, CVPR
2017, section 2), regions are read by RoIAlign, and the layers are narrow, for a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn

from models.boxes.anchors import Shape, shape_of
from models.boxes.iou import Boxes
from models.boxes.kmeans import kmeans_anchors
from models.datasets.base import LabelledImage
from models.proposals.recall import recall
from models.training import gradient
from models.training.augment import Augmentation, View, plain_view
from models.training.gradient import GradientMethod, Outputs, Truth
from models.training.layers import convolution
from models.training.method import ModelCard, Result
from models.training.region_head import Found, RegionHead, Regions, sample_regions
from models.training.region_proposals import Proposed, RegionProposals
from models.training.tasks.default_boxes import sizes_of
from models.training.tasks.detect import (
    DETECTION,
    Detects,
    Objects,
    level_tensors,
    objects_differ,
    truth_of_view,
)
from models.transform import fit

Side = Annotated[float, Meta(gt=0, le=4096)]
SCALES, RATIOS = (0.2, 0.4, 0.8), (0.5, 1.0, 2.0)
"""Of anchors where the training images have too few boxes for k-means: scales as parts of the
input's side, and width / height. Those of the paper, for pictures of 600 px."""

COUNTS = (10, 50, 100, 200)
"""Numbers of proposals of which the report has the recall, besides that of the settings."""


class Settings(gradient.Settings, frozen=True, kw_only=True):
    """Settings of Faster R-CNN."""

    size: Annotated[int, Meta(ge=32, le=1024, multiple_of=32)] | None = 384
    augment: Augmentation = DETECTION
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 24
    batch: Annotated[int, Meta(ge=1, le=1024)] = 8
    min_steps: Annotated[int, Meta(ge=1, le=10_000)] = 12
    stride: Annotated[int, Meta(ge=2, le=64)] = 16
    """Of the backbone's map in which objects are looked for, in pixels."""
    anchors: Annotated[int, Meta(ge=1, le=60)] = 9
    """Anchors of each cell, whose sizes k-means makes of the training boxes."""
    shapes: tuple[tuple[Side, Side], ...] | None = None
    """Width and height of the anchors in pixels of the input; null: k-means."""
    proposals: Annotated[int, Meta(ge=1, le=1000)] = 300
    """Proposals of an image that are classified."""
    width: Annotated[int, Meta(ge=8, le=1024)] = 128
    """Channels of the proposal network; regions have half as many."""


class Head(nn.Module):
    """The proposal network and the region head, each on its reduction of the map.

    Args:
        channels: of the map of the backbone.
        proposals: the proposal network, on a map of `width` channels.
        regions: the region head, on a map of half as many.
        width: see `Settings.width`.
    """

    def __init__(
        self, channels: int, proposals: RegionProposals, regions: RegionHead, width: int
    ) -> None:
        super().__init__()
        self.to_proposals = convolution(channels, width, 1)
        self.to_regions = convolution(channels, width // 2, 1)
        self.proposals, self.regions = proposals, regions

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return objectness (N, A), offsets (N, A, 4), and the map that regions are read from."""
        found = self.proposals(self.to_proposals(features))
        return found.objectness, found.offsets, self.to_regions(features)


class Finish(nn.Module):
    """The end of the exported graph: proposals, their classes and boxes, overlaps suppressed."""

    def __init__(self, proposals: RegionProposals, regions: RegionHead, count: int) -> None:
        super().__init__()
        self.proposals, self.regions, self.count = proposals, regions, count

    def forward(self, objectness: Tensor, offsets: Tensor, features: Tensor) -> Found:
        """Return the objects of an image, from the outputs of the head with a batch of 1."""
        boxes = self.proposals.proposals(objectness[0], offsets[0], self.count)
        image_of = torch.zeros_like(boxes[:, 0], dtype=torch.int64)
        logits, moves = self.regions(features, boxes, image_of)
        return self.regions.found(logits, moves, boxes, self.proposals.size)


class FasterRcnn(Detects, GradientMethod):
    """Finds objects by proposals of a network, each of which is classified."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("boxes", "scores", "classes")
    batched = False

    def maps(self) -> tuple[str, ...]:
        """Return the map of the stride."""
        return level_tensors(self.job.backbone, (self.settings.stride,))

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the proposal network and the region head."""
        settings = self.settings
        cells = -(-self.size // settings.stride)
        proposals = RegionProposals(settings.width, self._shapes(), cells, self.size)
        regions = RegionHead(settings.width // 2, len(self.job.labels), settings.stride)
        return Head(channels[0], proposals, regions, settings.width)

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the boxes that are seen, their classes, and those that do not count."""
        return truth_of_view(image, view)

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the losses of the proposal network and of the region head, class and box each."""
        return self._losses(outputs, truths)[0]

    def finish(self) -> nn.Module:
        """Return what makes objects of the outputs of the head."""
        head = self._detector
        return Finish(head.proposals, head.regions, self.settings.proposals)

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the objects."""
        transform, _ = fit(*image.size, (self.size, self.size), "stretch", "centre")
        boxes, scores, classes = outputs
        return Objects(transform.invert(boxes), scores, classes.astype(np.intp))

    def difference(
        self, own: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]
    ) -> float:
        """Return how much the objects differ; rounding may change which weak ones there are."""
        return objects_differ(own, other, self.size)

    def card(self) -> ModelCard:
        """Return the card of a detector that suppresses overlaps itself."""
        outputs = {"boxes": ["x1", "y1", "x2", "y2"], "scores": ["score"], "classes": ["class"]}
        return ModelCard("detect", "generic", {"outputs": outputs, "end_to_end": True})

    def fit(self) -> None:
        """Train, then measure how many objects have a proposal: no other can be found."""
        super().fit()
        counts = sorted(
            {n for n in COUNTS if n < self.settings.proposals} | {self.settings.proposals}
        )
        pictures = [own for own in self._proposals_of_val(counts[-1]) if len(own[0])]
        if not pictures:
            return
        found = {iou: recall(pictures, counts, iou) for iou in (0.5, 0.7)}
        self.charts["Recall over the number of proposals"] = (
            [float(count) for count in counts],
            {f"IoU {iou:g}": values.tolist() for iou, values in found.items()},
        )
        shown = ", ".join(f"{n}: {part:.2f}" for n, part in zip(counts, found[0.5], strict=True))
        self.notes.append(f"recall of proposals on the validation images at IoU .5: {shown}")

    @property
    def _detector(self) -> Any:
        """Return the proposal network and the region head, a `Head`."""
        return self.learner.head

    def _losses(
        self, outputs: Outputs, truths: Sequence[Truth]
    ) -> tuple[dict[str, Tensor], Regions]:
        """Return the losses, named as in the paper, and the regions that have one."""
        # Of the generator that the loop sets in each step, so that a step draws the same in a run
        # that is continued.
        random = np.random.default_rng(int(torch.randint(2**31, (1,))))
        network, head = self._detector.proposals, self._detector.regions
        found = Proposed(outputs[0].float(), outputs[1].float())
        objectness, moves = network.loss(found, truths, random)
        count = self.settings.proposals
        with torch.no_grad():
            proposals = [
                network.proposals(*own, count).cpu().numpy() for own in zip(*found, strict=True)
            ]
        regions = sample_regions(proposals, truths, random, outputs[0].device)
        logits, offsets = head(outputs[2].float(), regions.boxes, regions.image_of)
        classes, boxes = head.loss(logits.float(), offsets.float(), regions)
        terms = {"RPN cls": objectness, "RPN reg": moves, "cls": classes, "loc": boxes}
        return terms, regions

    def _proposals_of_val(self, count: int) -> Iterator[tuple[Boxes, Boxes]]:
        """Yield the true boxes and the proposals of each validation image, xyxy in its input."""
        self.learner.eval()
        for row, image in enumerate(self.job.val):
            maps = [torch.from_numpy(maps) for maps in self._val_cache.rows(np.array([row]))]
            with torch.no_grad():
                found = self.learner(*(own.to(self.job.device) for own in maps))
                boxes = self._detector.proposals.proposals(found[0][0], found[1][0], count)
            truth = truth_of_view(image, plain_view(*image.size, self.size))
            yield truth["boxes"], boxes.cpu().numpy()

    def _shapes(self) -> list[Shape]:
        """Return width and height of the anchors, in pixels of the input."""
        if self.settings.shapes is not None:
            return list(self.settings.shapes)
        sizes, count = sizes_of(self._train), self.settings.anchors
        if len(np.unique(sizes, axis=0)) < count:
            self.notes.append("anchors are those of the paper: too few boxes for k-means")
            return [shape_of(scale * self.size, ratio) for scale in SCALES for ratio in RATIOS]
        found = kmeans_anchors(sizes, count)
        shown = ", ".join(f"{width:.0f} x {height:.0f}" for width, height in found.sizes)
        self.notes.append(
            f"anchors in pixels: {shown}; by k-means on the training boxes, mean IoU with the best "
            f"{found.mean_iou:.2f}"
        )
        return [(width, height) for width, height in found.sizes.tolist()]
