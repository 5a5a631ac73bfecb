"""The graph of R-CNN: regions are warped with context, any number of them, and decoded."""

import numpy as np
import pytest

from models import runtime
from models.training.augment import PAD
from models.training.methods.codes import pooling_matrix
from models.training.region_graph import AT_ONCE, Cut, Linear, region_graph, with_context
from tests.models.training.tiny import tiny_backbone

pytest.importorskip("onnx")
SIZE, CROP = 64, 32


def cut_of(tensor="r5", channels=32, cells=1):
    piece = tiny_backbone().piece([tensor])
    return Cut(piece, tensor, pooling_matrix(cells, cells, 1), channels, SIZE, CROP)


def run(model, pixels, boxes):
    found = runtime.open_graph(model.SerializeToString())({"images": pixels, "proposals": boxes})
    return found[0]


def warped(pixels, box):
    """The region of one box by single points: (3, CROP, CROP) RGB."""
    left, top, right, bottom = box
    at = (np.arange(CROP) + 0.5) / CROP
    x, y = left + at * (right - left) - 0.5, top + at * (bottom - top) - 0.5
    image = np.pad(pixels[0, :, :, ::-1].astype(float), ((80, 80), (80, 80), (0, 0)))
    image[:80] = image[-80:] = image[:, :80] = image[:, -80:] = PAD
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[None, :, None], (y - y0)[:, None, None]
    rows, columns = y0[:, None] + 80, x0[None] + 80
    upper = image[rows, columns] * (1 - fx) + image[rows, columns + 1] * fx
    lower = image[rows + 1, columns] * (1 - fx) + image[rows + 1, columns + 1] * fx
    return (upper * (1 - fy) + lower * fy).transpose(2, 0, 1)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


def test_codes_are_those_of_warped_regions_with_context(pixels):
    boxes = np.array([[20, 16, 44, 52], [18, 18, 46, 30]], np.float32)  # context stays inside
    codes = run(region_graph(cut_of(), None, "codes"), pixels, boxes)
    backbone = runtime.open_graph(tiny_backbone().piece(["r5"]).SerializeToString())
    for box, code in zip(with_context(boxes, CROP), codes, strict=True):
        own = backbone({"images": warped(pixels, box)[None].astype(np.float32)})[0].ravel()
        np.testing.assert_allclose(code, own / np.linalg.norm(own), atol=1e-4)


def test_context_is_16_of_227_pixels_on_each_side():
    [box] = with_context(np.array([[100, 100, 295, 490]], np.float32), CROP)
    np.testing.assert_allclose(box, [84, 68, 311, 522], atol=1e-3)


def test_what_is_outside_of_the_image_is_grey():
    grey = np.full((1, SIZE, SIZE, 3), PAD, np.uint8)
    boxes = np.array([[10, 10, 50, 50], [-60, -60, 30, 40], [200, 200, 260, 300]], np.float32)
    codes = run(region_graph(cut_of(), None, "codes"), grey, boxes)
    np.testing.assert_allclose(codes, codes[[0, 0, 0]], atol=1e-5)


@pytest.mark.parametrize("count", [1, AT_ONCE, AT_ONCE + 1])
def test_any_number_of_regions_gives_as_many_rows_as_numpy(pixels, rng, count):
    boxes = rng.uniform(0, 40, (count, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2] + 4
    linear = Linear(
        rng.normal(size=(32, 15)).astype(np.float32), rng.normal(size=15).astype(np.float32)
    )
    codes = run(region_graph(cut_of(), None, "codes"), pixels, boxes)
    rows = run(region_graph(cut_of(), linear, "rows"), pixels, boxes)
    assert rows.shape == (1, count * 3, 6)
    np.testing.assert_allclose(rows[0], linear.rows(codes, boxes, SIZE), atol=1e-5)
    assert rows[0, :3, 5].tolist() == [0, 1, 2]
