"""The mask head of Mask R-CNN: a small mask for each region and class.

Source: He et al., "Mask R-CNN", ICCV 2017, section 3: 14 x 14 cells of RoIAlign, convolutions,
twice as many cells, one mask for each class, so that classes do not compete. Fewer convolutions
than there, for a CPU. With batch normalisation, since onnxruntime fails in group normalisation
where an image has no region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.training.layers import convolution, predictor
from models.training.region_head import Regions
from models.training.roi import RoiGrid, roi_align
from models.training.tasks.segment import CELLS, mask_in_box


class MaskHead(nn.Module):
    """The masks of regions.

    Args:
        channels: of the map.
        classes: number of classes.
        stride: pixels of the input for each cell of the map.
        depth: convolutions.
    """

    def __init__(self, channels: int, classes: int, stride: float, depth: int) -> None:
        super().__init__()
        self.grid = RoiGrid(CELLS // 2, CELLS // 2, stride)
        self.layers = nn.Sequential(
            *(convolution(channels, channels) for _ in range(depth)),
            nn.ConvTranspose2d(channels, channels, 2, 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
            predictor(channels, classes),
        )

    def forward(self, features: Tensor, boxes: Tensor, image_of: Tensor, classes: Tensor) -> Tensor:
        """Return the logits (R, CELLS, CELLS) of the mask of each region's class.

        Args:
            features: (N, C, H, W) map of each image.
            boxes: (R, 4) xyxy in pixels of the input.
            image_of: (R,) int64.
            classes: (R,) int64.
        """
        masks = self.layers(roi_align(features, boxes, image_of, self.grid))
        places = classes[:, None, None, None].expand(-1, 1, CELLS, CELLS)
        return masks.gather(1, places)[:, 0]


def mask_targets(
    regions: Regions, truths: Sequence[Mapping[str, NDArray[Any]]], count: int
) -> tuple[Tensor, Tensor]:
    """Return the regions that have a mask, and their true masks.

    Args:
        regions: of some images.
        truths: `masks` and `matrix` of each image, as `masks_of_view` gives them.
        count: regions of an image that have a loss, at most.

    Returns:
        rows (M,) of the regions; masks (M, CELLS, CELLS), 0 or 1.
    """
    boxes, images = regions.boxes.cpu().numpy().astype(np.float64), regions.image_of.cpu().numpy()
    chosen: list[int] = []
    masks: list[NDArray[np.float32]] = [np.zeros((0, CELLS, CELLS), np.float32)]
    for number, truth in enumerate(truths):
        objects = np.flatnonzero((images == number) & (regions.rows >= 0)).tolist()
        own = [row for row in objects if truth["masks"][regions.rows[row]] is not None]
        own = own[:: max(1, -(-len(own) // count))]
        for row in own:
            mask = truth["masks"][regions.rows[row]]
            masks.append(mask_in_box(mask, boxes[row], truth["matrix"])[None])
        chosen.extend(own)
    device = regions.boxes.device
    rows = torch.tensor(chosen, dtype=torch.int64, device=device)
    return rows, torch.from_numpy(np.concatenate(masks)).to(device)


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return L_mask: the mean cross entropy of the cells; 0 without a mask."""
    total = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return total / max(1, targets.numel())
