"""A model file with given raw outputs, loaded with a card and decoded; compared with references."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models import families
from models.card import load
from models.inspect import inspect
from models.transform import Transform
from tests.models.builders import save


def contract_of(folder, family, size, outputs, **more):
    """Write a file and its card, and return the contract.

    Args:
        folder: folder of the files.
        family: family of the card.
        size: width and height of the input.
        outputs: name -> array, of any dtype, with its axis of images.
        more: `images` of a batch, `nhwc`, `dtype` of the input, `card` (further lines),
            `more_inputs`, `shapes` (name -> declared shape), `batched`, `metadata`.
    """
    width, height = size
    images = more.get("images", 1)
    shape = [height, width, 3] if more.get("nhwc") else [3, height, width]
    if more.get("batched", True):
        shape.insert(0, images)
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    path = save(
        folder / "m.onnx",
        shape,
        arrays,
        dtype=more.get("dtype", "float32"),
        more_inputs=more.get("more_inputs"),
        metadata=more.get("metadata"),
    )
    _retype(path, arrays, more.get("shapes", {}))
    card = folder / "card.yaml"
    text = f"name: m\nweights: {{file: m.onnx}}\nfamily: {family}\n{more.get('card', '')}\n"
    card.write_text(text)
    return inspect(path, load(card))


def _retype(path, arrays, shapes):
    """Give the outputs of a file their own dtypes; the builder writes float32."""
    if not shapes and all(array.dtype == np.float32 for array in arrays.values()):
        return
    model = onnx.load(path)
    by_name = {value.name: value for value in model.graph.initializer}
    for output in model.graph.output:
        array = arrays[output.name]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        by_name[f"{output.name}_value"].CopyFrom(
            numpy_helper.from_array(array, f"{output.name}_value")
        )
        shape = shapes.get(output.name, array.shape)
        output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))
    onnx.save(model, path)


def decode(contract, outputs, min_score, index=0, images=1, image=None, transform=None):
    """Decode the outputs of one image; without a transform, the image is as large as the input."""
    width, height = image or contract.input.size
    decoder = families.make(contract.family, contract.input, contract.classes, contract.layout)
    raw = [np.asarray(outputs[output.name]) for output in contract.outputs]
    own = decoder.of_image(raw, index, images)
    found = decoder.decode(
        own, Transform(*(transform or (1.0, 1.0, 0.0, 0.0)), width, height), min_score
    )
    assert (found.boxes.dtype, found.scores.dtype, found.classes.dtype) == (
        np.float32,
        np.float32,
        np.int32,
    )
    assert found.boxes.shape == (len(found.scores), 4)
    assert len(found.scores) == len(found.classes)
    return found


def quiet_score(found, share=0.6):
    """A limit that no score is near to, so that rounding does not decide."""
    scores = sorted({row.score for row in found})
    if len(scores) < 2:
        return scores[0] / 2 if scores else 0.5
    middle = int(len(scores) * share)
    near = range(max(1, middle - 10), min(len(scores), middle + 10))
    at = max(near, key=lambda i: scores[i] - scores[i - 1])
    return (scores[at] + scores[at - 1]) / 2


def assert_same(found, expected, side=100.0):
    """The same rows, in any order: boxes to 1e-5 of a side, scores to 1e-5, classes equal."""
    assert len(found.boxes) == len(expected)
    if not expected:
        return
    table = np.array([row[:5] for row in expected])
    labels = np.array([row.label for row in expected])
    boxes = np.abs(found.boxes[:, None].astype(float) - table[None, :, :4]).max(axis=2)
    scores = np.abs(found.scores[:, None].astype(float) - table[None, :, 4])
    same = (boxes <= 1e-5 * max(side, 100.0)) & (scores <= 1e-5)
    same &= found.classes[:, None] == labels
    assert same.any(axis=1).all(), f"rows {np.flatnonzero(~same.any(axis=1))[:5]} are not expected"
    assert same.any(axis=0).all(), f"rows {np.flatnonzero(~same.any(axis=0))[:5]} are missing"
