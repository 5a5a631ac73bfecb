"""Sums over the scores of patches: the scores of an image, and of the cells of its score map.

Source: Oquab, Bottou, Laptev and Sivic, CVPR 2014, section 3.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.onnx_net import OnnxNet
from models.training.patches import Grid, MapForm, map_weights

CHUNK = 64
"""Patches that the exported graph runs at once, so that its memory stays small."""


class Summing(NamedTuple):
    """Settings of the sums over patches, chosen on the validation images."""

    power: float = 3.0
    """k for the scores of the image."""
    map_power: float = 3.0
    """k for the score map."""
    form: MapForm = "window"
    level: float = 0.5
    """Score of the background in the score map."""


class PowerSums(nn.Module):
    """The scores of an image and its score map, as sums of powers of the scores of patches.

    The sums are means with the root taken, so that they are from 0 to 1: the order is the same.
    """

    def __init__(self, grid: Grid, cells: int, summing: Summing) -> None:
        super().__init__()
        self.summing, self.cells = summing, cells
        weights = torch.from_numpy(map_weights(grid, cells, summing.form))
        self.register_buffer("weights", weights)

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, C) and maps (N, 1 + C, cells, cells) of patches (N, M, 1 + C)."""
        own = scores[:, :, 1:].clamp(min=1e-6)
        k, map_k = self.summing.power, self.summing.map_power
        image = (own**k).mean(1) ** (1 / k)
        maps = torch.matmul(self.weights, own**map_k) ** (1 / map_k)
        maps = maps.permute(0, 2, 1).reshape(-1, own.shape[2], self.cells, self.cells)
        background = torch.full_like(maps[:, :1], self.summing.level)
        return image, torch.cat([background, maps], 1)


class Scanner(nn.Module):
    """The network from pixels to the outputs of the exported model, by way of all patches."""

    def __init__(self, net: OnnxNet, layers: nn.Module, grid: Grid, sums: PowerSums) -> None:
        super().__init__()
        self.net, self.layers, self.grid, self.sums = net, layers, grid, sums

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs for images (N, H, W, 3) uint8 BGR."""
        colours = images.permute(0, 3, 1, 2).flip(1).float()
        found, side = [], self.grid.patch_px
        for scale in self.grid.scales:
            sides = (scale.side, scale.side)
            resized = functional.interpolate(colours, sides, mode="bilinear", align_corners=False)
            for start in range(0, len(scale.corners), CHUNK):
                corners = scale.corners[start : start + CHUNK]
                parts = [resized[:, :, y : y + side, x : x + side] for x, y in corners]
                maps = self.net(torch.stack(parts, 1).reshape(-1, 3, side, side))[0]
                scores = torch.softmax(self.layers(maps.mean((2, 3))), 1)
                found.append(scores.reshape(-1, len(corners), scores.shape[1]))
        sums: tuple[Tensor, Tensor] = self.sums(torch.cat(found, 1))
        return sums
