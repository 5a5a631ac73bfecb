"""Layers that the heads of several methods have in common.

ReLU6 and batch normalisation, as in the backbones: their ranges are known, so that the network can
be quantised to int8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def convolution(
    channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make a convolution with batch normalisation and ReLU6.

    Args:
        channels: of its input.
        out: channels of its output.
        kernel: side of the kernel, odd; the map keeps its size.
        stride: step; 2 halves the map, rounded up.
        groups: parts of the channels that are convolved apart.
    """
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(inplace=True),
    )


def predictor(channels: int, numbers: int, bias: float | Tensor = 0.0) -> nn.Conv2d:
    """Make the last convolution of a head, 1 x 1, which starts near its bias.

    Args:
        channels: of its input.
        numbers: channels of its output.
        bias: value, or one for each number, that it gives at the start.
    """
    layer = nn.Conv2d(channels, numbers, 1)
    nn.init.normal_(layer.weight, std=0.01)
    with torch.no_grad():
        layer.bias.copy_(torch.as_tensor(bias).expand(numbers))
    return layer


def rows_of(maps: Tensor, numbers: int) -> Tensor:
    """Return a map (N, K * numbers, H, W) as rows (N, H * W * K, numbers), cell by cell."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, numbers)
