"""Each family decodes the boxes that were written into raw outputs."""

from typing import get_args

import numpy as np
import pytest

from models import families
from models.card import Task, load
from models.families.base import DetectorFamily
from models.inspect import inspect
from models.output_layout import BOX_TASKS
from models.transform import fit
from tests.models.builders import save

BOX = (64.0, 96.0, 192.0, 160.0)  # in pixels of the input; centre 128, 128, size 128 x 64


def decode(tmp_path, family, shape, outputs, min_score=0.3, image=(256, 256), **file):
    """Decode as the family of a card, for a captured image of that width and height."""
    more = file.pop("card", "")
    path = save(tmp_path / "m.onnx", shape, outputs, **file)
    card = tmp_path / "card.yaml"
    card.write_text(f"name: m\nweights: {{file: m.onnx}}\nfamily: {family}\n{more}")
    contract = inspect(path, load(card))
    by_name = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
    raw = [by_name[output.name] for output in contract.outputs]
    transform, _ = fit(*image, contract.input.size, contract.input.resize, contract.input.anchor)
    decoder = families.make(contract.family, contract.input, contract.classes, contract.layout)
    return decoder.decode(decoder.of_image(raw, 0, 1), transform, min_score)


def ssd(scores):
    boxes = np.zeros((1, len(scores), 4))
    boxes[:] = np.array(BOX) / 256
    return {"boxes": boxes, "scores": np.array([scores], float)}


def yolox(rows=()):
    """Rows for a 256 x 256 input with 2 classes: {cell: row}."""
    out = np.zeros((1, 32 * 32 + 16 * 16 + 8 * 8, 7))
    for cell, row in rows:
        out[0, cell] = row
    return {"output": out}


def yolov8(columns=()):
    out = np.zeros((1, 6, 32 * 32 + 16 * 16 + 8 * 8))
    for at, column in columns:
        out[0, :, at] = column
    return {"output0": out}


def decode_ssd(tmp_path, scores, **more):
    return decode(tmp_path, "ssd", [1, 256, 256, 3], ssd(scores), dtype="uint8", **more)


NCHW = [1, 3, 256, 256]


# --- ssd ---


def test_ssd_boxes_are_scaled_to_the_captured_image(tmp_path):
    found = decode_ssd(tmp_path, [[0, 0], [0.1, 0.9]], image=(512, 128))
    np.testing.assert_allclose(found.boxes, [[128, 48, 384, 80]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert found.classes.tolist() == [1]


def test_ssd_gives_a_box_its_best_class_only(tmp_path):
    found = decode_ssd(tmp_path, [[0.6, 0.7], [0, 0], [0.8, 0.4]])
    assert found.classes.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.7, 0.8], rtol=1e-6)


# --- yolox ---

# Stride 16: cells start at 1024; cell (7, 8) of its 16 x 16 grid.
YOLOX_BOX = (1.0, 0.0, np.log(128 / 16), np.log(64 / 16))
YOLOX_CELL = 1024 + 8 * 16 + 7


def test_yolox_adds_the_cell_and_scales_by_its_stride(tmp_path):
    rows = [(YOLOX_CELL, (*YOLOX_BOX, 0.5, 0.1, 0.8))]
    found = decode(tmp_path, "yolox", NCHW, yolox(rows), image=(512, 512))
    np.testing.assert_allclose(found.boxes, [np.array(BOX) * 2], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.4], rtol=1e-6)
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize(
    ("cell", "centre"),
    [(0, (0, 0)), (1023, (248, 248)), (1024, (0, 0)), (1279, (240, 240)), (1343, (224, 224))],
    ids=["first of 8", "last of 8", "first of 16", "last of 16", "last of 32"],
)
def test_yolox_boxes_are_at_their_grid_cells(tmp_path, cell, centre):
    found = decode(tmp_path, "yolox", NCHW, yolox([(cell, (0, 0, -20, -20, 1, 1, 0))]))
    np.testing.assert_allclose(found.boxes, [[*centre, *centre]], atol=1e-4)


def test_yolox_score_is_objectness_times_class(tmp_path):
    low = (YOLOX_CELL, (*YOLOX_BOX, 0.5, 0.5, 0.1))
    assert len(decode(tmp_path, "yolox", NCHW, yolox([low]), min_score=0.3).boxes) == 0
    assert len(decode(tmp_path, "yolox", NCHW, yolox([low]), min_score=0.2).boxes) == 1


def test_yolox_clips_an_infinite_box_to_the_image(tmp_path):
    rows = [(YOLOX_CELL, (0, 0, 1000, 1000, 1, 1, 0))]
    assert decode(tmp_path, "yolox", NCHW, yolox(rows)).boxes.tolist() == [[0, 0, 256, 256]]


# --- yolov8 ---

YOLOV8_BOX = (128, 128, 128, 64)


def test_yolov8_boxes_are_centre_and_size(tmp_path):
    columns = [(7, (*YOLOV8_BOX, 0.2, 0.9)), (8, (*YOLOV8_BOX, 0.2, 0.1))]
    found = decode(tmp_path, "yolov8", NCHW, yolov8(columns))
    np.testing.assert_allclose(found.boxes, [BOX])
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert found.classes.tolist() == [1]


def test_yolov8_boxes_are_without_the_padding(tmp_path):
    # 512 x 256 is resized to half, with 64 pixels of padding above.
    found = decode(tmp_path, "yolov8", NCHW, yolov8([(0, (*YOLOV8_BOX, 1, 0))]), image=(512, 256))
    np.testing.assert_allclose(found.boxes, [[128, 64, 384, 192]])


def test_yolov8_rows_in_place_of_columns_are_decoded(tmp_path):
    rows = yolov8([(7, (*YOLOV8_BOX, 0.2, 0.9))])["output0"].transpose(0, 2, 1)
    names = {"names": "['hat', 'glove']"}
    found = decode(tmp_path, "yolov8", NCHW, {"output0": rows}, metadata=names)
    np.testing.assert_allclose(found.boxes, [BOX])
    assert found.classes.tolist() == [1]


# --- yolov5 ---


def yolov5(rows=()):
    out = np.zeros((1, 3 * (32 * 32 + 16 * 16 + 8 * 8), 7))
    for at, row in rows:
        out[0, at] = row
    return {"output": out}


def test_yolov5_boxes_are_centre_and_size(tmp_path):
    rows = [(7, (*YOLOV8_BOX, 0.5, 0.1, 0.8)), (8, (*YOLOV8_BOX, 0.5, 0.5, 0.1))]
    found = decode(tmp_path, "yolov5", NCHW, yolov5(rows))
    np.testing.assert_allclose(found.boxes, [BOX])
    np.testing.assert_allclose(found.scores, [0.4], rtol=1e-6)
    assert found.classes.tolist() == [1]


def test_yolov5_from_tensorflow_has_boxes_from_0_to_1(tmp_path):
    share = np.array(YOLOV8_BOX) / 256
    found = decode(
        tmp_path,
        "yolov5",
        [1, 256, 256, 3],
        yolov5([(7, (*share, 1, 1, 0))]),
        card="output: {units: fraction}",
    )
    np.testing.assert_allclose(found.boxes, [BOX])


# --- families with suppression in the graph ---

TWO = {"names": "['hat', 'glove']"}


def end_to_end(rows):
    return {"output0": np.array([rows + [[0] * 6] * (20 - len(rows))], float)}


def test_end_to_end_rows_are_decoded(tmp_path):
    rows = [[*BOX, 0.9, 1], [*BOX, 0.2, 0]]
    found = decode(tmp_path, "end_to_end", NCHW, end_to_end(rows), image=(512, 512), metadata=TWO)
    np.testing.assert_allclose(found.boxes, [np.array(BOX) * 2])
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert found.classes.tolist() == [1]


def detr(score):
    return {
        "labels": np.array([[3, 1]]),
        "boxes": np.array([[[0, 0, 1, 1], BOX]]),
        "scores": np.array([[0.0, score]]),
    }


DETR = {"more_inputs": {"orig_target_sizes": (1, 2)}}


def test_detr_boxes_are_in_pixels_of_the_input(tmp_path):
    found = decode(tmp_path, "detr", NCHW, detr(0.9), image=(512, 128), **DETR)
    np.testing.assert_allclose(found.boxes, [[128, 48, 384, 80]])
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    assert found.classes.tolist() == [1]


def ssd_nms(scores, number):
    x1, y1, x2, y2 = np.array(BOX) / 256
    return {
        "boxes": np.array([[[y1, x1, y2, x2]] * len(scores)]),
        "classes": np.array([range(len(scores))]),
        "scores": np.array([scores]),
        "number": np.array([number]),
    }


def test_ssd_nms_boxes_are_read_as_y_x_y_x(tmp_path):
    outputs = ssd_nms([0.1, 0.9], 2)
    found = decode(tmp_path, "ssd_nms", [1, 256, 256, 3], outputs, image=(512, 128), dtype="uint8")
    np.testing.assert_allclose(found.boxes, [[128, 48, 384, 80]])
    assert found.classes.tolist() == [1]


def test_ssd_nms_rows_beyond_the_number_are_left_out(tmp_path):
    outputs = ssd_nms([0.9, 0.8, 0.7], 2)
    found = decode(tmp_path, "ssd_nms", [1, 256, 256, 3], outputs, dtype="uint8")
    np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-6)


# --- all families ---

MAKERS = {
    "ssd": lambda p, score: decode_ssd(p, [[score, 0.0]], min_score=0.5),
    "yolox": lambda p, score: decode(
        p, "yolox", NCHW, yolox([(0, (0, 0, 0, 0, 1, score, 0))]), min_score=0.5
    ),
    "yolov8": lambda p, score: decode(
        p, "yolov8", NCHW, yolov8([(0, (9, 9, 9, 9, score, 0))]), min_score=0.5
    ),
    "yolov5": lambda p, score: decode(
        p, "yolov5", NCHW, yolov5([(0, (9, 9, 9, 9, 1, score, 0))]), min_score=0.5
    ),
    "detr": lambda p, score: decode(p, "detr", NCHW, detr(score), min_score=0.5, **DETR),
    "end_to_end": lambda p, score: decode(
        p, "end_to_end", NCHW, end_to_end([[0, 0, 9, 9, score, 1]]), min_score=0.5, metadata=TWO
    ),
    "ssd_nms": lambda p, score: decode(
        p, "ssd_nms", [1, 256, 256, 3], ssd_nms([score], 1), min_score=0.5, dtype="uint8"
    ),
}


@pytest.mark.parametrize("family", MAKERS)
def test_a_score_at_min_score_is_kept_and_one_below_is_left_out(tmp_path, family):
    assert len(MAKERS[family](tmp_path, 0.5).boxes) == 1
    assert len(MAKERS[family](tmp_path, 0.4999).boxes) == 0


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("score", [0.0, 1.0, np.nan], ids=["nothing", "something", "not a number"])
def test_results_have_the_declared_names_dtypes_and_shapes(tmp_path, family, score):
    found = MAKERS[family](tmp_path, score)
    n = int(score == 1)
    assert (found.boxes.shape, found.boxes.dtype) == ((n, 4), np.float32)
    assert (found.scores.shape, found.scores.dtype) == ((n,), np.float32)
    assert (found.classes.shape, found.classes.dtype) == ((n,), np.int32)
    declared = families.load(family).outputs
    assert found._fields == tuple(output.name for output in declared)
    for output, array in zip(declared, found, strict=True):
        assert array.dtype == output.dtype
        assert array.shape == tuple(side or n for side in output.shape)


def test_every_family_in_the_table_says_its_task_and_its_outputs():
    for name in families.FAMILIES:
        family = families.load(name)
        assert family.task in get_args(Task)
        assert issubclass(family, DetectorFamily) == (family.task in BOX_TASKS)
        assert family.raw
