"""The backbone inside a classifier or detector in ONNX: its part up to the last map of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.errors import TrainingError
from models.text import shown
from models.training import graph
from models.training.architectures import NORMALISED, Normalisation, Writer
from models.training.backbone import stride_of
from models.training.graph import IMAGES, SIDE_STEP

if TYPE_CHECKING:
    import onnx

DEFAULT_SIDE = 224
"""Side of pictures in pixels where the file leaves it open."""
MAX_STRIDE = 32
"""Pixels of a picture per pixel of the last map; what detectors add behind is not kept."""
MIN_OPSET = 9
_JOINING = ("Resize", "Upsample", "ConvTranspose")
"""Operators that make maps larger: with them the part of a detector behind its backbone begins."""


def backbone_part(
    model: onnx.ModelProto, where: str, by: Normalisation, end: str | None = None
) -> tuple[onnx.ModelProto, int]:
    """Return the part of a network up to its last map, and the side of its pictures in pixels.

    The last map is the last tensor of at most stride 32 that leads to as many outputs as any, and
    does not depend on a map that was made larger. Constants are computed, so that what an
    exporter wrote for fixed padding is a number again.

    Args:
        model: its one input takes float32 pictures (N, 3, H, W).
        where: name of the file, for messages.
        by: normalisation that its input expects; the result takes pixels of 0 to 255.
        end: name of its last map; None: by the rule above.

    Raises:
        TrainingError: its input is another, an operator is unknown, or it has no map.
    """
    source, fixed = _input_of(model, where)
    if graph.opset_of(model) < MIN_OPSET:
        raise TrainingError(
            f"{where}: the operators are too old (found opset {graph.opset_of(model)}, at least "
            f"{MIN_OPSET}); export the model again"
        )
    side = fixed or DEFAULT_SIDE
    try:
        model = graph.fold(model)
        shapes = graph.shapes_of(model, side, source)
    except Exception as error:  # onnx's errors have no common base
        raise TrainingError(
            f"{where}: the graph is damaged, or its shapes cannot be worked out (found "
            f"{shown(error, 120)}); export the model again"
        ) from None
    end = end or _last_map(model, source, side, shapes, where)
    try:
        nodes = graph.nodes_between(model, [source], [end])
    except KeyError as error:
        raise TrainingError(
            f"{where}: the maps do not follow from the pictures alone (found {error.args[0]!r}); "
            "use another model"
        ) from None
    for node in nodes:
        _check_operator(node, where)
    side = max(side // SIDE_STEP, 1) * SIDE_STEP
    _write_padding(nodes, graph.shapes_of(model, side, source))
    part = _with_normalisation(model, nodes, source, end, by)
    _check_open(part, end, side, where)
    return part, side


def _input_of(model: onnx.ModelProto, where: str) -> tuple[str, int | None]:
    """Return the name of the input, and its side if the file fixes it."""
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    pictures = [value for value in inputs if len(value.type.tensor_type.shape.dim) == 4]
    advice = "use a model with one input of float32 pictures (N, 3, H, W)"
    if len(pictures) != 1:
        found = ", ".join(value.name for value in inputs)
        raise TrainingError(f"{where}: not one input takes pictures (found {found}); {advice}")
    kind = pictures[0].type.tensor_type
    sides = [d.dim_value or None for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type).lower()
        raise TrainingError(f"{where}: the input is no float32 tensor (found {found}); {advice}")
    if sides[1] not in (3, None):
        raise TrainingError(f"{where}: the input is no picture in NCHW (found {sides}); {advice}")
    fixed = [side for side in sides[2:] if side]
    return pictures[0].name, max(fixed) if fixed else None


def _last_map(
    model: onnx.ModelProto, source: str, side: int, shapes: dict[str, graph.Shape], where: str
) -> str:
    """Return the name of the last map of features."""
    reaches: dict[str, set[str]] = {value.name: {value.name} for value in model.graph.output}
    for node in reversed(model.graph.node):
        ends = set().union(*(reaches.get(name, set()) for name in node.output))
        for name in node.input:
            reaches.setdefault(name, set()).update(ends)
    depends: dict[str, bool] = {source: False}  # whether a map was made larger before it
    best: tuple[tuple[int, int], str] | None = None
    for node in model.graph.node:
        before = [depends[name] for name in node.input if name in depends]
        if not before:
            continue
        larger = any(before) or node.op_type in _JOINING
        depends.update(dict.fromkeys(node.output, larger))
        shape = shapes.get(node.output[0], ())
        if not larger and not shape and node.op_type == "Conv":
            # Without this, all that follows would be left out, and no one would notice.
            raise TrainingError(
                f"{where}: the shape of a map cannot be worked out (found the node "
                f"{shown(node.name or node.output[0], 80)}); use another model, or export it "
                "without arithmetic on shapes"
            )
        if larger or len(shape) != 4 or node.op_type not in graph.OPERATORS:
            continue
        stride = stride_of(side, shape[2])
        if stride_of(side, shape[3]) != stride or not 1 < stride <= MAX_STRIDE:
            continue
        rank = stride, len(reaches.get(node.output[0], ()))
        if min(shape[2:]) > 1 and (best is None or rank >= best[0]):
            best = rank, node.output[0]
    if best is None:
        raise TrainingError(
            f"{where}: the graph has no maps of features (N, C, h, w); use a convolutional network"
        )
    return best[1]


def _check_operator(node: onnx.NodeProto, where: str) -> None:
    """Refuse an operator that cannot be trained through."""
    if node.domain in ("", "ai.onnx") and node.op_type in graph.OPERATORS:
        return
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if "Quantize" in name or "QLinear" in name or "Integer" in name:
        raise TrainingError(
            f"{where}: the model is quantised (found the operator {name}); use the float32 model "
            "that it was made from"
        )
    raise TrainingError(
        f"{where}: a network with this operator cannot be trained here (found {name}); use "
        "another model, or export it without"
    )


def _write_padding(nodes: list[onnx.NodeProto], shapes: dict[str, graph.Shape]) -> None:
    """Replace padding of a kind (SAME) by its numbers.

    They depend on the size of a map, but not if it is a multiple of the stride, as all maps of
    pictures with sides that are multiples of 32 are down to stride 32.
    """
    from onnx import helper

    for node in nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        mode = attributes.pop("auto_pad", b"NOTSET")
        shape = shapes.get(node.input[0], ())
        if not mode.startswith(b"SAME") or len(shape) != 4:
            continue
        kernel = attributes.get("kernel_shape") or shapes[node.input[1]][2:]
        total = []
        for at, side in enumerate(shape[2:]):
            stride = attributes.get("strides", (1, 1))[at]
            reach = (kernel[at] - 1) * attributes.get("dilations", (1, 1))[at] + 1
            total.append(max((-(-side // stride) - 1) * stride + reach - side, 0))
        less, more = [n // 2 for n in total], [n - n // 2 for n in total]
        attributes["pads"] = less + more if mode == b"SAME_UPPER" else more + less
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())


def _with_normalisation(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    source: str,
    end: str,
    by: Normalisation,
) -> onnx.ModelProto:
    """Return a graph of the nodes, with the normalisation before them."""
    writer = Writer()
    writer.normalise(by)
    own = {IMAGES, *(n for node in writer.nodes for n in (*node.input, *node.output))}
    taken = {name for node in nodes for name in (*node.input, *node.output)} - {source}
    new = {name: f"{name}/inner" for name in own & taken} | {source: NORMALISED}
    for node in nodes:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    weights = list(model.graph.initializer)
    for tensor in weights:
        tensor.name = new.get(tensor.name, tensor.name)
    return graph.make_model(
        [*writer.nodes, *nodes],
        [*writer.weights, *weights],
        [new.get(end, end)],
        graph.opset_of(model),
    )


def _check_open(part: onnx.ModelProto, end: str, side: int, where: str) -> None:
    """Refuse a graph that takes pictures of one size only."""
    end = part.graph.output[0].name
    maps = []
    for at in (side, side + SIDE_STEP * 2):
        try:
            maps.append(graph.shapes_of(part, at).get(end, ()))
        except Exception:  # onnx's errors have no common base
            maps.append(())
    steps = [len(found) == 4 and found[2] for found in maps]
    if not all(steps) or steps[0] == steps[1]:
        raise TrainingError(
            f"{where}: the graph takes pictures of one size only (found maps of "
            f"{' and '.join(map(str, maps))}); export it with open height and width"
        )


def channels_swapped(model: onnx.ModelProto, kernel: str) -> None:
    """Reverse the colours that the first convolution expects, from BGR to RGB or back."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name == kernel:
            value = numpy_helper.to_array(tensor)[:, ::-1]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), kernel))
