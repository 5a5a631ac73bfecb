"""The graph of R-CNN: from an image and its proposals to the codes of all regions, and their rows.

A region is cut out of the image with some context and warped to a square (Girshick et al., CVPR
2014, appendix A: "warp with context"), whatever its shape; what is outside of the image is grey.
The backbone runs on a few regions at a time (Scan), so that memory does not grow with their number.
No PyTorch is needed, and training runs the same nodes as the pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.boxes.forms import from_xyxy
from models.boxes.iou import Boxes
from models.boxes.offsets import RPN, decode_offsets
from models.training.augment import PAD
from models.training.graph import IMAGES
from models.training.packages import package

if TYPE_CHECKING:
    from onnx import ModelProto

AT_ONCE = 32
"""Regions for which the backbone runs at once."""
NETWORK_SIDE, CONTEXT = 227, 16
"""Side of a warped region in the paper, and the pixels of it that are context, on each side."""


class Cut(NamedTuple):
    """A backbone up to the tensor that describes a region."""

    piece: ModelProto
    """Graph from `IMAGES` to `tensor`."""
    tensor: str
    """Name of a map (N, K, h, w)."""
    pooling: NDArray[np.float32]
    """(h * w, P) that makes the code of a map, (K * P,), which gets unit length."""
    channels: int
    """K."""
    size: int
    """Side of the image in pixels."""
    crop: int
    """Side of a warped region in pixels."""


class Linear(NamedTuple):
    """A support vector machine and a box regressor for each class, on codes of unit length."""

    weight: NDArray[np.float32]
    """(D, C + 4 * C): scores before the sigmoid, then tx, ty, tw, th of each class."""
    bias: NDArray[np.float32]
    """(C + 4 * C,)"""

    @property
    def classes(self) -> int:
        """Return C."""
        return len(self.bias) // 5

    def rows(self, codes: NDArray[np.float32], proposals: Boxes, size: int) -> NDArray[np.float32]:
        """Return what the exported graph gives: (P * C, 6) x1, y1, x2, y2, score, class."""
        return rows_of(codes @ self.weight + self.bias, proposals, size)


def rows_of(
    values: NDArray[np.float32], proposals: Boxes, size: int, move: bool = True
) -> NDArray[np.float32]:
    """Return a row for each proposal and class, (P * C, 6): a box as fractions, score, class.

    Args:
        values: (P, C + 4 * C) of a `Linear`.
        proposals: (P, 4) xyxy in px.
        size: side of the image in px.
        move: whether the regressors move the boxes.
    """
    count, classes = len(values), values.shape[1] // 5
    offsets = values[:, classes:].reshape(count, classes, 4) * np.float32(move)
    boxes = decode_offsets(offsets, from_xyxy(proposals, "cxcywh")[:, None], RPN) / size
    scores = 1 / (1 + np.exp(-np.clip(values[:, :classes], -60, 60)))
    numbers = np.broadcast_to(np.arange(classes), scores.shape)
    rows = np.concatenate([np.clip(boxes, 0, 1), np.stack([scores, numbers], axis=2)], axis=2)
    return np.asarray(rows.reshape(-1, 6), np.float32)


def region_graph(cut: Cut, linear: Linear | None, end: str) -> ModelProto:
    """Return the graph from `images` (1, size, size, 3) uint8 BGR and `proposals` (P, 4) in px.

    Args:
        cut: the backbone.
        linear: the classifiers and regressors; None: none, for `codes`.
        end: its output: `codes` (P, D), `values` (P, C + 4 * C), or `rows` (1, P * C, 6).
    """
    onnx = package("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    width = cut.pooling.shape[1] * cut.channels if linear is None else len(linear.bias)
    nodes = [*_before(cut), *_scan(cut, linear)]
    constants = _constants(cut, linear)
    shape: list[Any] = ["proposals", width]
    if end == "rows":
        assert linear is not None
        nodes += _rows(linear.classes)
        constants |= _row_constants(linear.classes, cut.size)
        shape = [1, "rows", 6]
    nodes[-1].output[0] = end
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "rcnn",
        [
            info("images", types.UINT8, [1, cut.size, cut.size, 3]),
            info("proposals", types.FLOAT, ["proposals", 4]),
        ],
        [info(end, types.FLOAT, shape)],
        [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opsets = list(cut.piece.opset_import)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=cut.piece.ir_version)
    onnx.checker.check_model(model)
    return model


def with_context(boxes: Boxes, crop: int) -> Boxes:
    """Return boxes (N, 4) with their context, as the graph warps them to a square of `crop` px."""
    return boxes @ _context(crop)


def _context(crop: int) -> NDArray[np.float32]:
    """Return the matrix (4, 4) from boxes to boxes with context."""
    side = NETWORK_SIDE / (NETWORK_SIDE - 2 * CONTEXT)
    near, far = (side + 1) / 2, (1 - side) / 2
    axis = np.array([[near, far], [far, near]])
    return np.asarray(np.kron(axis, np.eye(2)), np.float32)


def _constants(cut: Cut, linear: Linear | None) -> dict[str, NDArray[Any]]:
    length = cut.pooling.shape[1] * cut.channels
    found: dict[str, NDArray[Any]] = {
        "bgr": np.array([2, 1, 0], np.int64),
        "grey": np.array(PAD, np.float32),
        "context": _context(cut.crop),
        # RoiAlign takes pixels with their centres at whole numbers.
        "centre": np.array(0.5, np.float32),
        "at_once": np.array([AT_ONCE], np.int64),
        "zero": np.array([0], np.int64),
        "before": np.zeros(2, np.int64),
        "as_parts": np.array([-1, AT_ONCE, 4], np.int64),
        "image_of": np.zeros(AT_ONCE, np.int64),
        "pooling": cut.pooling,
        "as_map": np.array([0, cut.channels, -1], np.int64),
        "as_codes": np.array([0, -1], np.int64),
        "shortest": np.array(1e-6, np.float32),
        "ones": np.ones((length, 1), np.float32),
        "as_values": np.array([-1, length if linear is None else len(linear.bias)], np.int64),
    }
    if linear is not None:
        found |= {"weight": linear.weight, "bias": linear.bias}
    return found


def _before(cut: Cut) -> list[Any]:
    """Return the nodes that make the image (1, 3, H, W) less grey, and the boxes in parts."""
    onnx = package("onnx")
    node = onnx.helper.make_node
    return [
        node("Transpose", ["images"], ["channels"], perm=[0, 3, 1, 2]),
        node("Gather", ["channels", "bgr"], ["rgb"], axis=1),
        node("Cast", ["rgb"], ["pixels"], to=onnx.TensorProto.FLOAT),
        # RoiAlign gives 0 outside of the image.
        node("Sub", ["pixels", "grey"], ["centred"]),
        node("MatMul", ["proposals", "context"], ["wide"]),
        node("Sub", ["wide", "centre"], ["boxes"]),
        node("Shape", ["proposals"], ["shape"]),
        node("Gather", ["shape", "zero"], ["count"]),
        node("Neg", ["count"], ["negative"]),
        node("Mod", ["negative", "at_once"], ["missing"]),
        node("Concat", ["before", "missing", "zero"], ["pads"], axis=0),
        node("Pad", ["boxes", "pads"], ["whole_parts"]),
        node("Reshape", ["whole_parts", "as_parts"], ["parts"]),
    ]


def _scan(cut: Cut, linear: Linear | None) -> list[Any]:
    """Return the nodes that run the backbone on each part: (P, D) codes or (P, V) values."""
    onnx = package("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node
    align: dict[str, Any] = {"mode": "avg", "sampling_ratio": 1, "spatial_scale": 1.0}
    align |= {"output_height": cut.crop, "output_width": cut.crop}
    if any(own.domain in ("", "ai.onnx") and own.version >= 16 for own in cut.piece.opset_import):
        align["coordinate_transformation_mode"] = "output_half_pixel"
    body = [
        node("RoiAlign", ["centred", "part", "image_of"], ["warped"], **align),
        node("Add", ["warped", "grey"], ["regions"]),
    ]
    for own in cut.piece.graph.node:
        copy = type(own)()
        copy.CopyFrom(own)
        copy.input[:] = map(_inner, own.input)
        copy.output[:] = map(_inner, own.output)
        body.append(copy)
    weights = []
    for weight in cut.piece.graph.initializer:
        renamed = type(weight)()
        renamed.CopyFrom(weight)
        renamed.name = _inner(weight.name)
        weights.append(renamed)
    body += [
        node("Reshape", [_inner(cut.tensor), "as_map"], ["map_rows"]),
        node("MatMul", ["map_rows", "pooling"], ["pooled"]),
        node("Reshape", ["pooled", "as_codes"], ["plain_codes"]),
        node("Mul", ["plain_codes", "plain_codes"], ["squares"]),
        node("MatMul", ["squares", "ones"], ["sum_of_squares"]),
        node("Sqrt", ["sum_of_squares"], ["length"]),
        node("Max", ["length", "shortest"], ["safe_length"]),
        node("Div", ["plain_codes", "safe_length"], ["part_codes"]),
    ]
    if linear is not None:
        body.append(node("Gemm", ["part_codes", "weight", "bias"], ["part_values"]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        body,
        "regions",
        [info("part", float32, [AT_ONCE, 4])],
        [info(body[-1].output[0], float32, [AT_ONCE, None])],
        # Here, since onnxruntime joins layers only with the weights of the same graph.
        weights,
    )
    return [
        node("Scan", ["parts"], ["all_parts"], body=graph, num_scan_inputs=1),
        node("Reshape", ["all_parts", "as_values"], ["padded"]),
        node("Slice", ["padded", "zero", "count", "zero"], ["values"]),
    ]


def _inner(name: str) -> str:
    """Return the name of a tensor of the backbone in the graph, which may have its name for
    another one; an input that is left out has no name."""
    if name == IMAGES:
        return "regions"
    return f"backbone/{name}" if name else name


def _row_constants(classes: int, size: int) -> dict[str, NDArray[Any]]:
    """Return the constants of `_rows`."""
    middle = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])
    assert RPN.max_log is not None
    return {
        # x1, y1, x2, y2 -> cx, cy, w, h
        "to_centre": middle.astype(np.float32),
        "score_columns": np.arange(classes),
        "offset_columns": np.arange(classes, 5 * classes),
        "as_offsets": np.array([-1, classes, 4], np.int64),
        "as_scores": np.array([-1, classes, 1], np.int64),
        "as_anchors": np.array([-1, 1, 4], np.int64),
        "first_two": np.array([0, 1]),
        "last_two": np.array([2, 3]),
        "max_log": np.array(RPN.max_log, np.float32),
        "half": np.array(0.5, np.float32),
        "side": np.array(size, np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(1, np.float32),
        "numbers": np.arange(classes, dtype=np.float32).reshape(1, classes, 1),
        "as_rows": np.array([1, -1, 6], np.int64),
    }


def _rows(classes: int) -> list[Any]:
    """Return the nodes from `values` to rows (1, P * C, 6), as `rows_of` computes them."""
    node = package("onnx").helper.make_node
    return [
        node("Gather", ["values", "score_columns"], ["logits"], axis=1),
        node("Reshape", ["logits", "as_scores"], ["logit_rows"]),
        node("Sigmoid", ["logit_rows"], ["scores"]),
        node("Gather", ["values", "offset_columns"], ["flat_offsets"], axis=1),
        node("Reshape", ["flat_offsets", "as_offsets"], ["offsets"]),
        node("MatMul", ["proposals", "to_centre"], ["flat_anchors"]),
        node("Reshape", ["flat_anchors", "as_anchors"], ["anchors"]),
        node("Gather", ["anchors", "first_two"], ["centres"], axis=2),
        node("Gather", ["anchors", "last_two"], ["sides"], axis=2),
        node("Gather", ["offsets", "first_two"], ["shift"], axis=2),
        node("Gather", ["offsets", "last_two"], ["growth"], axis=2),
        node("Mul", ["shift", "sides"], ["moved"]),
        node("Add", ["centres", "moved"], ["middles"]),
        node("Min", ["growth", "max_log"], ["bounded"]),
        node("Exp", ["bounded"], ["factors"]),
        node("Mul", ["factors", "sides"], ["new_sides"]),
        node("Mul", ["new_sides", "half"], ["halves"]),
        node("Sub", ["middles", "halves"], ["near"]),
        node("Add", ["middles", "halves"], ["far"]),
        node("Concat", ["near", "far"], ["corners"], axis=2),
        node("Div", ["corners", "side"], ["fractions"]),
        node("Clip", ["fractions", "low", "high"], ["inside"]),
        node("Mul", ["scores", "low"], ["nothing"]),
        node("Add", ["nothing", "numbers"], ["classes"]),
        node("Concat", ["inside", "scores", "classes"], ["region_rows"], axis=2),
        node("Reshape", ["region_rows", "as_rows"], ["rows"]),
    ]
