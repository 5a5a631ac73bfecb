"""CenterNet finds the people of the demo clip; its converter agrees with plain arithmetic."""

import base64
import hashlib

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from models import families, zoo
from models.feed import feed
from models.runtime import Runtime
from models.tools import convert_centernet
from models.tools.convert_centernet import Converter
from models.transform import fit
from tests.builders import ROOT

WEIGHTS = ROOT / "models/weights"
SCORE = 0.45
PEOPLE = {
    0: [(267, 264), (515, 194), (661, 279)],
    200: [(93, 184), (235, 227), (499, 183), (631, 316), (722, 305), (687, 126), (711, 128)],
    260: [(50, 208), (173, 181), (345, 259), (496, 212), (548, 293), (631, 160), (652, 161)],
}
"""Frame of the demo clip -> centre in pixels of each person that a viewer sees in it."""
NEAR_PX = 12
CARS = (690, 70)
"""The parked van."""


@pytest.fixture(scope="module")
def contract():
    return zoo.resolve("centernet_mobilenet_v3")


@pytest.fixture(scope="module")
def detections(contract):
    """Frame of the demo clip -> its detections."""
    loaded = Runtime(contract, "cpu")
    decoder = families.make(contract.family, contract.input, contract.classes, contract.layout)
    clip = cv2.VideoCapture(str(ROOT / "tests/clips/demo.mp4"))
    found = {}
    for frame in range(max(PEOPLE) + 1):
        assert clip.grab()
        if frame in PEOPLE:
            image = clip.retrieve()[1]
            pixels, transform = prepared(contract.input, image)
            raw = loaded.run(feed(contract, pixels[None]))
            found[frame] = decoder.decode(decoder.of_image(raw, 0, 1), transform, 0.1)
    return found


def prepared(expected, image):
    """The input of a model that takes a black border and BGR, and its transform."""
    assert (expected.pad, expected.colour, expected.dtype) == (0, "bgr", "uint8")
    height, width = image.shape[:2]
    transform, (left, top, across, down) = fit(
        width, height, expected.size, expected.resize, expected.anchor
    )
    pixels = np.zeros((*expected.size[::-1], 3), np.uint8)
    pixels[top : top + down, left : left + across] = cv2.resize(image, (across, down))
    return pixels, transform


def test_the_second_embedded_model_states_its_layout(contract):
    assert (contract.family, contract.licence, contract.end_to_end) == ("end_to_end", "MIT", True)
    assert (contract.input.size, contract.input.resize) == ((512, 512), "letterbox")
    assert contract.labels[:3] == ("person", "bicycle", "car")
    assert len(contract.labels) == 80


def test_origin_and_licence_lie_beside_every_embedded_file():
    text = (WEIGHTS / "ORIGIN.md").read_text()
    for path in WEIGHTS.glob("*.onnx"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "MIT License" in (WEIGHTS / "LICENSE.centernet_mobilenet_v3").read_text()


@pytest.mark.parametrize("frame", PEOPLE)
def test_each_person_of_a_frame_is_found_once_and_nothing_else(detections, frame):
    boxes, scores, classes = detections[frame]
    boxes = boxes[(classes == 0) & (scores >= SCORE)]
    assert len(boxes) == len(PEOPLE[frame])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = np.linalg.norm(centres[:, None] - np.array(PEOPLE[frame])[None], axis=2)
    assert (distances.min(axis=0) < NEAR_PX).all()
    assert len(set(distances.argmin(axis=0))) == len(boxes)


def test_vehicles_are_labelled_as_vehicles(detections, contract):
    for boxes, _, classes in detections.values():
        inside = (boxes[:, :2] < CARS).all(axis=1) & (boxes[:, 2:] > CARS).all(axis=1)
        best = contract.labels[classes[inside][0]]
        assert best in {"car", "truck", "bus"}


# --- the converter ---


def run(converter, inputs, outputs):
    """Evaluate the written nodes without a runtime.

    Args:
        converter: after its nodes were written.
        inputs: name -> array.
        outputs: names of the values to return.
    """
    types = {np.dtype(np.float32): TensorProto.FLOAT}
    graph = helper.make_graph(
        converter.nodes,
        "part",
        [helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        converter.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return ReferenceEvaluator(model).run(outputs, inputs)


def test_rows_are_the_best_peaks_of_the_map(monkeypatch):
    side, classes, rows = 8, 3, 12
    monkeypatch.setattr(convert_centernet, "SIDE", side)
    monkeypatch.setattr(convert_centernet, "ROWS", rows)
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (1, classes, side, side)).astype(np.float32)
    distances = random.uniform(0, 2, (1, 4, side, side)).astype(np.float32)
    c = Converter({}, {"tower_0/mul/y": np.array(16, np.float16)})
    convert_centernet._decode(c, "logits", "wh")
    (found,) = run(c, {"logits": logits, "wh": distances}, ["detections"])
    expected = []
    for label, y, x in np.ndindex(classes, side, side):
        around = logits[0, label, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        if logits[0, label, y, x] == around.max():
            left, top, right, bottom = distances[0, :, y, x] * 16
            score = 1 / (1 + np.exp(-logits[0, label, y, x]))
            box = (4 * x - left, 4 * y - top, 4 * x + right, 4 * y + bottom)
            expected.append((*box, score, label))
    expected.sort(key=lambda row: -row[4])
    np.testing.assert_allclose(found[0], expected[:rows], rtol=1e-4, atol=1e-4)


def op(kind, name, *inputs, stride=1, fused=(), **attributes):
    """A node of a TensorFlow.js graph."""
    encoded = [base64.b64encode(text.encode()).decode() for text in fused]
    attr = {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "fused_ops": {"list": {"s": encoded}},
        **attributes,
    }
    return name, {"op": kind, "name": name, "input": list(inputs), "attr": attr}


def same(image, weights, stride, depthwise):
    """A convolution of TensorFlow with padding SAME, by its definition; (h, w, channels)."""
    kernel, (height, width, channels) = weights.shape[0], image.shape
    down, across = -(-height // stride), -(-width // stride)
    pad = max((down - 1) * stride + kernel - height, 0)
    padded = np.pad(image, ((pad // 2, pad), (pad // 2, pad), (0, 0)))
    out = np.zeros((down, across, channels if depthwise else weights.shape[3]))
    for y, x in np.ndindex(down, across):
        part = padded[y * stride : y * stride + kernel, x * stride : x * stride + kernel]
        if depthwise:
            out[y, x] = np.einsum("hwc,hwc->c", part, weights[..., 0])
        else:
            out[y, x] = np.einsum("hwc,hwco->o", part, weights)
    return out


def hard_sigmoid(values):
    return np.clip(values + 3, 0, 6) / 6


def test_operators_are_converted_as_tensorflow_computes_them():
    random = np.random.default_rng(6)
    image = random.normal(0, 2, (8, 8, 3)).astype(np.float32)
    consts = {
        "w1": random.normal(0, 1, (3, 3, 3, 4)).astype(np.float16),
        "b1": random.normal(0, 1, 4).astype(np.float16),
        "w2": random.normal(0, 1, (5, 5, 4, 1)).astype(np.float16),
        "b2": random.normal(0, 1, 4).astype(np.float16),
        "w3": random.normal(0, 1, (1, 1, 4, 4)).astype(np.float16),
        "sixth": np.array(1 / 6, np.float16),
        "three": np.array(3, np.float16),
        "size": np.array([8, 8], np.int32),
        "axes": np.array([1, 2], np.int32),
    }
    no = {"b": False}
    ops = dict(
        [
            op("_FusedConv2D", "conv", "image", "w1", "b1", stride=2, fused=["BiasAdd"]),
            op("Mul", "scaled", "sixth", "conv"),
            op("Add", "shifted", "conv", "three"),
            op("Relu6", "clipped", "shifted"),
            op("Mul", "swish", "scaled", "clipped"),
            op(
                "FusedDepthwiseConv2dNative",
                "depthwise",
                "swish",
                "w2",
                "b2",
                fused=["BiasAdd", "Relu"],
            ),
            op("Mean", "mean", "depthwise", "axes"),
            op("Conv2D", "squeezed", "mean", "w3"),
            op("Add", "gate+3", "squeezed", "three"),
            op("Relu6", "gate6", "gate+3"),
            op("Mul", "gate", "sixth", "gate6"),
            op("Mul", "gated", "gate", "depthwise"),
            op("ResizeBilinear", "up", "gated", "size", half_pixel_centers=no, align_corners=no),
        ]
    )
    c = Converter(ops, consts, sides={"image": 8}, made={"image": "image"})
    c.const("twice", np.array([1, 1, 2, 2], np.float32))
    planes = {"image": image.transpose(2, 0, 1)[None]}
    name = c.value("up")
    gated, up = (value[0].transpose(1, 2, 0) for value in run(c, planes, [c.made["gated"], name]))
    real = {key: value.astype(float) for key, value in consts.items()}
    first = same(image, real["w1"], 2, depthwise=False) + real["b1"]
    swish = first * hard_sigmoid(first)
    depthwise = np.maximum(same(swish, real["w2"], 1, depthwise=True) + real["b2"], 0)
    expected = depthwise * hard_sigmoid(depthwise.mean(axis=(0, 1)) @ real["w3"][0, 0])
    np.testing.assert_allclose(gated, expected, rtol=1e-4, atol=1e-4)
    # Output pixel i lies at i / 2 of the input, and the last input pixel is repeated.
    at = np.minimum(np.arange(8) / 2, 3)
    low, part = at.astype(int), at % 1
    high = np.minimum(low + 1, 3)
    rows = expected[low] * (1 - part)[:, None, None] + expected[high] * part[:, None, None]
    whole = rows[:, low] * (1 - part)[:, None] + rows[:, high] * part[:, None]
    np.testing.assert_allclose(up, whole, rtol=1e-4, atol=1e-4)


def test_an_unknown_operator_ends_the_conversion():
    c = Converter(dict([op("Erf", "x", "image")]), {}, sides={"image": 8}, made={"image": "image"})
    with pytest.raises(SystemExit, match=r"x: unsupported operator \(found Erf\)"):
        c.value("x")
