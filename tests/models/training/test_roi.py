"""Features of regions equal those of plain Python and of onnxruntime, and have gradients."""

import io
import math
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

from models import runtime

torch = pytest.importorskip("torch")

from models.training.roi import RoiGrid, roi_align, roi_max_pool  # noqa: E402 - needs torch

GRIDS = [RoiGrid(7, 7, 16), RoiGrid(2, 3, 8, points=3), RoiGrid(1, 1, 32, points=1)]
SIDES = (9, 13)
"""Height and width of the maps."""
KINDS = {
    "inside": [(20, 15, 120, 100), (60.5, 8.25, 90.75, 130.125)],
    "smaller than the grid": [(30, 30, 34, 33), (50, 40, 51, 41)],
    "a point": [(40, 40, 40, 40)],
    "reversed": [(90, 80, 40, 30)],
    "partly outside": [(-60, -40, 70, 50), (100, 60, 400, 300)],
    "outside": [(-300, -300, -200, -250), (900, 900, 990, 950)],
    "whole": [(0, 0, 208, 144)],
    "none": [],
}
OPERATORS = {"RoiAlign": roi_align, "MaxRoiPool": roi_max_pool}


def regions(kind, rng):
    """Maps of three pictures, and the boxes of a kind, in any order of the pictures."""
    maps = rng.normal(size=(3, 5, *SIDES)).astype(np.float32)
    boxes = np.array(KINDS[kind], np.float32).reshape(-1, 4)
    return maps, boxes, rng.integers(0, 3, len(boxes))


def plain_align(image, box, grid):
    """RoIAlign of a map (C, H, W), point by point."""
    _, height, width = image.shape
    left, top, right, bottom = (side / grid.stride - 0.5 for side in box.tolist())
    cells = np.zeros((len(image), grid.height, grid.width))
    for i, j, a, b in np.ndindex(grid.height, grid.width, grid.points, grid.points):
        y = top + (bottom - top) / grid.height * (i + (a + 0.5) / grid.points)
        x = left + (right - left) / grid.width * (j + (b + 0.5) / grid.points)
        if not (-1 <= y <= height and -1 <= x <= width):
            continue
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        for row, column in np.ndindex(2, 2):
            v, u = math.floor(y) + row, math.floor(x) + column
            weight = max(0, 1 - abs(y - v)) * max(0, 1 - abs(x - u))
            if weight:
                cells[:, i, j] += image[:, v, u] * weight / grid.points**2
    return cells


def plain_max_pool(image, box, grid):
    """RoI pooling of a map (C, H, W), cell by cell."""
    _, height, width = image.shape
    left, top, right, bottom = (
        math.copysign(math.floor(abs(side / grid.stride) + 0.5), side) for side in box.tolist()
    )
    down, across = max(bottom - top + 1, 1) / grid.height, max(right - left + 1, 1) / grid.width
    cells = np.zeros((len(image), grid.height, grid.width))
    for i, j in np.ndindex(grid.height, grid.width):
        v = [min(max(top + edge, 0), height) for edge in edges(down, i)]
        u = [min(max(left + edge, 0), width) for edge in edges(across, j)]
        part = image[:, int(v[0]) : int(v[1]), int(u[0]) : int(u[1])]
        if part.size:
            cells[:, i, j] = part.max(axis=(1, 2))
    return cells


def edges(size, cell):
    # In float32, as onnxruntime and torch compute them.
    size = np.float32(size)
    return math.floor(size * np.float32(cell)), math.ceil(size * np.float32(cell + 1))


PLAIN = {"RoiAlign": plain_align, "MaxRoiPool": plain_max_pool}


def run_graph(model, inputs):
    return runtime.open_graph(model)(inputs)


def of_onnxruntime(name, maps, boxes, image_of, grid):
    """The operator of onnxruntime."""
    inputs = {"maps": maps, "boxes": boxes}
    scale = 1 / grid.stride
    if name == "RoiAlign":
        inputs["image_of"] = image_of.astype(np.int64)
        shape = {"output_height": grid.height, "output_width": grid.width}
        more = {**shape, "sampling_ratio": grid.points, "spatial_scale": scale}
    else:
        inputs["boxes"] = np.concatenate([image_of[:, None], boxes], 1).astype(np.float32)
        more = {"pooled_shape": [grid.height, grid.width], "spatial_scale": scale}
    node = helper.make_node(name, list(inputs), ["cells"], **more)
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        "one operator",
        [helper.make_tensor_value_info(k, types[v.dtype], v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, None)],
    )
    opset = [helper.make_opsetid("", 16)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return run_graph(model.SerializeToString(), inputs)[0]


def of_torch(name, maps, boxes, image_of, grid):
    tensors = (torch.from_numpy(array) for array in (maps, boxes, image_of))
    return OPERATORS[name](*tensors, grid).numpy()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_cells_equal_plain_python_and_onnxruntime(name, kind, grid, rng):
    maps, boxes, image_of = regions(kind, rng)
    found = of_torch(name, maps, boxes, image_of, grid)
    assert found.dtype == np.float32
    assert found.shape == (len(boxes), 5, grid.height, grid.width)
    plain = [PLAIN[name](maps[n], box, grid) for n, box in zip(image_of, boxes, strict=True)]
    np.testing.assert_allclose(found, np.reshape(plain, found.shape), atol=1e-5)
    if len(boxes):  # onnxruntime refuses none for MaxRoiPool
        np.testing.assert_allclose(
            found, of_onnxruntime(name, maps, boxes, image_of, grid), atol=1e-6
        )


@pytest.mark.parametrize("name", OPERATORS)
def test_many_random_boxes_equal_onnxruntime(name, rng):
    maps = rng.normal(size=(2, 3, 31, 40)).astype(np.float32)
    corners = rng.uniform(-100, 740, (2000, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    image_of = rng.integers(0, 2, len(boxes))
    found = of_torch(name, maps, boxes, image_of, GRIDS[0])
    expected = of_onnxruntime(name, maps, boxes, image_of, GRIDS[0])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_reach_the_maps_and_not_the_boxes(name, rng):
    grid = RoiGrid(2, 2, 1)
    # All values differ, so that the largest of a cell stays the largest.
    maps = torch.from_numpy(rng.permutation(2 * 2 * 5 * 6).reshape(2, 2, 5, 6) / 10.0)
    maps.requires_grad_()
    boxes = torch.tensor([(0.5, 1.0, 4.0, 3.5), (2.0, 0.0, 9.0, 4.0)], requires_grad=True)
    image_of = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(
        lambda maps: OPERATORS[name](maps, boxes, image_of, grid), (maps,), atol=1e-6
    )
    OPERATORS[name](maps, boxes, image_of, grid).sum().backward()
    assert maps.grad.abs().sum() > 0
    assert boxes.grad is None


class Both(torch.nn.Module):
    """Both kinds of features, between other operators."""

    def forward(self, maps, boxes, image_of):
        maps = maps * 2
        return [own(maps, boxes, image_of, GRIDS[0]) + 1 for own in OPERATORS.values()]


def exported(dynamo):
    """Export both kinds of features for any number of boxes."""
    maps = torch.zeros(3, 5, *SIDES)
    inputs = (maps, torch.tensor([(0.0, 0.0, 9.0, 9.0)] * 3), torch.tensor([0, 1, 2]))
    names = ["maps", "boxes", "image_of"]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of deprecated parts
        if dynamo:
            some = torch.export.Dim("K")
            shapes = ({}, {0: some}, {0: some})
            program = torch.onnx.export(
                *(Both(), inputs),
                dynamo=True,
                opset_version=18,
                input_names=names,
                dynamic_shapes=shapes,
                verbose=False,
            )
            return program.model_proto.SerializeToString()
        axes = {"boxes": {0: "K"}, "image_of": {0: "K"}}
        torch.onnx.export(
            *(Both(), inputs, file),
            dynamo=False,
            opset_version=17,
            input_names=names,
            dynamic_axes=axes,
        )
    return file.getvalue()


@pytest.mark.parametrize(
    "dynamo",
    [pytest.param(True, marks=pytest.mark.soak, id="dynamo"), pytest.param(False, id="traced")],
)
def test_an_exported_model_has_the_operators_and_equals_torch(dynamo, rng):
    model = exported(dynamo)
    assert all(name.encode() in model for name in OPERATORS)
    for kind in KINDS:
        maps, boxes, image_of = regions(kind, rng)
        inputs = {"maps": maps, "boxes": boxes, "image_of": image_of}
        expected = Both()(*(torch.from_numpy(array) for array in inputs.values()))
        for cells, own in zip(run_graph(model, inputs), expected, strict=True):
            np.testing.assert_allclose(cells, own.numpy(), atol=1e-6)
