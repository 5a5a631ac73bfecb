"""The arrays of one run of a model: its batch of images, and inputs that are always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import Contract


def feed(contract: Contract, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the inputs of one run by name.

    A model with a batch of a fixed length gets the last image again in the places that are left.

    Args:
        contract: contract of the model.
        images: (n, H, W, 3) or (n, 3, H, W); n at most the batch of the model.
    """
    wanted = contract.batch
    if wanted is not None and len(images) < wanted:
        images = np.concatenate([images, np.repeat(images[-1:], wanted - len(images), axis=0)])
    inputs = {contract.input.name: images if contract.input.batched else images[0]}
    for constant in contract.constants:
        value = np.array(constant.values, constant.dtype).reshape(constant.shape)
        inputs[constant.name] = np.stack([value] * len(images)) if constant.per_image else value
    return inputs
