"""The input of a model that takes images: its place in the file, and the preparation of pixels."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from models.card import Colour, InputDtype, Layout
from models.errors import ContractError
from models.onnx_header import OnnxFile, Tensor
from models.transform import Anchor, Resize

WHOLE_DTYPES = ("uint8", "int32")
"""Dtypes of an input that takes pixels from 0 to 255, in whole numbers."""
STRIDES = (8, 16, 32)
"""Strides of the usual three grids, in pixels of the input."""


class Pixels(msgspec.Struct, frozen=True, kw_only=True):
    """Conversion of an image to a model's input, except for the size."""

    resize: Resize = "letterbox"
    anchor: Anchor = "centre"
    pad: int = 114
    """Pixel value of the padding around a letterboxed image."""
    crop: float = 1.0
    """Part of the shorter side of the image that is kept, with `resize: crop`."""
    colour: Colour = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """The model gets (pixel * scale - mean) / std, per channel in the order of `colour`."""


class Input(Pixels, frozen=True, kw_only=True):
    """The input that a model expects."""

    name: str
    size: tuple[int, int]
    """Width and height in pixels."""
    dtype: InputDtype
    layout: Layout
    batched: bool = True
    """Whether the input has an axis of images."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array for one image."""
        width, height = self.size
        return (1, height, width, 3) if self.layout == "nhwc" else (1, 3, height, width)


class ImageTensor(NamedTuple):
    """The input of a model file that takes the image."""

    tensor: Tensor
    layout: Layout
    size: tuple[int | None, int | None]
    """Width and height in pixels; None: any."""
    batch: int | None
    """Images per run; None: any number."""
    batched: bool = True
    """Whether it has an axis of images."""


def image_tensor(file: OnnxFile) -> ImageTensor | None:
    """Return the first input that can take a colour image; None: there is none."""
    for tensor in file.inputs:
        shape = tensor.shape
        if shape is not None and len(shape) == 3:
            if shape[0] == 3:
                return ImageTensor(tensor, "nchw", (shape[2], shape[1]), 1, batched=False)
            if shape[2] == 3:
                return ImageTensor(tensor, "nhwc", (shape[1], shape[0]), 1, batched=False)
        if shape is None or len(shape) != 4:
            continue
        if shape[1] == 3:
            return ImageTensor(tensor, "nchw", (shape[3], shape[2]), shape[0])
        if shape[3] == 3:
            return ImageTensor(tensor, "nhwc", (shape[2], shape[1]), shape[0])
    return None


def require_image(file: OnnxFile) -> ImageTensor:
    """Return the first input that can take a colour image.

    Raises:
        ContractError: there is none.
    """
    image = image_tensor(file)
    if image is None:
        raise ContractError(
            f"{file.path}: no input takes colour images, [N,3,H,W] or [N,H,W,3] (found {file}); "
            "export the model with such an input"
        )
    return image


def grid_cells(file: OnnxFile, strides: tuple[int, ...] = STRIDES) -> int | None:
    """Count the cells of all grids over the input; None where the size of the input is open."""
    image = image_tensor(file)
    if image is None:
        return None
    width, height = image.size
    if width is None or height is None:
        return None
    return sum((width // s) * (height // s) for s in strides)
