"""Mask R-CNN: Faster R-CNN, and a mask of each object that it finds.

Source: He et al., "Mask R-CNN", ICCV 2017. The mask of a region is learned from regions that are
objects; when the model runs, masks are computed for the boxes that are found, after suppression.
Masks are read from a finer map than boxes: that of the boxes, made twice as large, and one of half
the stride are added (Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.datasets.base import LabelledImage
from models.errors import TrainingError
from models.output_layout import Masks as Layout
from models.training.augment import View
from models.training.backbone import Backbone
from models.training.gradient import Outputs, Truth
from models.training.layers import convolution
from models.training.mask_head import MaskHead, mask_loss, mask_targets
from models.training.method import ModelCard, Result
from models.training.methods import faster_rcnn
from models.training.methods.faster_rcnn import FasterRcnn, Finish
from models.training.tasks.segment import MaskedObjects, Segments, masks_in, masks_of_view


class Settings(faster_rcnn.Settings, frozen=True, kw_only=True):
    """Settings of Mask R-CNN."""

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 16
    mask_width: Annotated[int, Meta(ge=8, le=1024)] = 48
    """Channels of the mask head."""
    mask_layers: Annotated[int, Meta(ge=0, le=8)] = 2
    """Convolutions of the mask head."""
    mask_regions: Annotated[int, Meta(ge=1, le=100)] = 6
    """Regions of an image whose masks are learned in a step, at most."""


class Head(nn.Module):
    """The head of Faster R-CNN, and the map that masks are read from.

    Args:
        detector: the head of Faster R-CNN.
        masks: the mask head.
        channels: of the maps of the backbone, the finer last.
        width: channels of the map of masks.
    """

    def __init__(
        self, detector: nn.Module, masks: MaskHead, channels: Sequence[int], width: int
    ) -> None:
        super().__init__()
        self.detector, self.masks = detector, masks
        self.coarse = convolution(channels[0], width, 1)
        self.fine = convolution(channels[1], width, 1)

    def forward(self, features: Tensor, fine: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the detector, and the map of masks."""
        wide = functional.interpolate(self.coarse(features), scale_factor=2.0, mode="nearest")
        return (*self.detector(features), wide + self.fine(fine))


class FinishMasks(nn.Module):
    """The end of the exported graph: objects, then a mask for each."""

    def __init__(self, objects: Finish, masks: MaskHead) -> None:
        super().__init__()
        self.objects, self.masks = objects, masks

    def forward(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Return boxes, scores, classes and masks (M, CELLS, CELLS) of an image."""
        found = self.objects(*outputs[:3])
        image_of = torch.zeros_like(found.classes)
        masks = self.masks(outputs[3], found.boxes, image_of, found.classes)
        return (*found, masks.sigmoid())


class Masks(Segments, FasterRcnn):
    """Finds objects and their masks."""

    Settings = Settings
    output_names: ClassVar[tuple[str, ...]] = ("boxes", "scores", "classes", "masks")

    def maps(self) -> tuple[str, ...]:
        """Return the map of the detector, and one that is finer and has few channels."""
        stride = self.settings.stride // 2
        return (*super().maps(), narrowest(self.job.backbone, stride))

    def head(self, channels: Sequence[int]) -> nn.Module:
        """Return the head of the detector with a mask head."""
        settings = self.settings
        masks = MaskHead(
            settings.mask_width, len(self.job.labels), settings.stride / 2, settings.mask_layers
        )
        return Head(super().head(channels), masks, channels, settings.mask_width)

    def truth(self, image: LabelledImage, view: View) -> Truth:
        """Return the boxes that are seen, with their masks."""
        return masks_of_view(image, view)

    def loss(self, outputs: Outputs, truths: Sequence[Truth]) -> Mapping[str, Tensor]:
        """Return the losses of the detector, and that of the masks."""
        terms, regions = self._losses(outputs, truths)
        rows, targets = mask_targets(regions, truths, self.settings.mask_regions)
        masks = self.learner.head.masks(
            outputs[3].float(),
            regions.boxes[rows],
            regions.image_of[rows],
            regions.classes[rows] - 1,
        )
        return {**terms, "mask": mask_loss(masks.float(), targets)}

    def finish(self) -> nn.Module:
        """Return what makes objects with masks of the outputs of the head."""
        return FinishMasks(super().finish(), self.learner.head.masks)

    def result(self, outputs: Sequence[NDArray[Any]], image: LabelledImage) -> Result:
        """Return the objects with their masks."""
        objects = super().result(outputs[:3], image)
        return MaskedObjects(objects, masks_in(objects, outputs[3], image, Layout(over="box")))

    def card(self) -> ModelCard:
        """Return the card of a detector that gives masks."""
        own = super().card()
        outputs = {**own.output["outputs"], "masks": ["masks"]}
        return own._replace(
            task="segment", output={**own.output, "outputs": outputs, "masks": {"over": "box"}}
        )

    @property
    def _detector(self) -> Any:
        return self.learner.head.detector


def narrowest(backbone: Backbone, stride: int) -> str:
    """Return the tensor of a stride with the fewest channels, the last of these: it is small.

    Raises:
        TrainingError: the backbone has none of this stride.
    """
    own = [block for block in backbone.blocks if block.stride == stride]
    if not own:
        raise TrainingError(
            f"stride: the backbone {backbone.name} has no map of stride {stride} for masks (found "
            f"the strides {', '.join(map(str, backbone.levels))}); set a higher stride"
        )
    return min(reversed(own), key=lambda block: block.channels).tensor
