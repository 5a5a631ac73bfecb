"""Raw outputs at the edges: not finite, empty, exact scores, odd shapes and dtypes, batches."""

import warnings
import zlib

import numpy as np
import pytest

from models.errors import ContractError
from tests.models.families import reference as ref
from tests.models.families.cases import CASES
from tests.models.families.model_file import assert_same, contract_of, decode
from tests.models.families.setups import Setup

SIZE = (96, 64)
XYXY = "[x1, y1, x2, y2]"


def generic(folder, outputs, columns, more="", size=SIZE, **options):
    """Contract of a card that states the columns of each output."""
    lines = "".join(f"    {name}: {names}\n" for name, names in columns.items())
    card = f"output:\n  outputs:\n{lines}{more}"
    return contract_of(folder, "generic", size, outputs, card=card, **options)


def case_of(preset, setup=Setup()):  # noqa: B008 - immutable
    return CASES[preset](np.random.default_rng(zlib.crc32(preset.encode())), setup)


def loaded(folder, preset):
    case = case_of(preset)
    more = {"card": case.card, "more_inputs": case.more_inputs}
    return contract_of(folder, preset, Setup().size, case.outputs, **more), case


def rows(*values):
    return np.array([values], np.float32)


# --- every preset ---


@pytest.mark.parametrize("preset", CASES)
def test_numbers_that_are_not_finite_give_no_warning_and_no_such_row(tmp_path, preset):
    contract, case = loaded(tmp_path, preset)
    rng = np.random.default_rng(1)
    for share in (0.02, 0.3, 1.0):
        outputs = {}
        for name, value in case.outputs.items():
            value = value.astype(np.float64 if share == 0.3 else np.float32)
            hit = rng.uniform(size=value.shape) < share
            value[hit] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e30], hit.sum())
            outputs[name] = value
        for score in (0.0, 0.3, 1.0):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = decode(contract, outputs, score)
            assert not np.isnan(found.scores).any()
            assert (found.scores >= score).all()
            assert np.isfinite(found.boxes).all()
            assert (found.boxes >= 0).all()
            assert (found.boxes <= [*SIZE, *SIZE]).all()
            assert (found.classes >= 0).all()


@pytest.mark.parametrize("preset", CASES)
def test_rows_below_the_score_do_not_change_the_others(tmp_path, preset):
    contract, case = loaded(tmp_path, preset)
    every = decode(contract, case.outputs, 0.0)
    ranked = np.sort(every.scores)
    for score in (ranked[len(ranked) // 2], ranked[len(ranked) // 4], ranked[-1]):
        score = float(score)
        kept = every.scores >= score
        found = decode(contract, case.outputs, score)
        for some, all_ in zip(found, every, strict=True):
            np.testing.assert_allclose(some, all_[kept], rtol=1e-6, atol=1e-4)


ONLY_GRIDS = ("yolo", "nanodet", "picodet", "rtmdet", "centernet", "yunet", "ssd_mobilenet")
ONLY_GRIDS += ("scrfd", "blazeface")


@pytest.mark.parametrize(
    "preset",
    [p for p in CASES if not p.startswith(ONLY_GRIDS) or p.startswith(("yolov7_end", "yolo_nas"))],
)
def test_outputs_without_rows_give_none(tmp_path, preset):
    contract, case = loaded(tmp_path, preset)
    empty = {}
    for name, value in case.outputs.items():
        if name.startswith("num"):
            empty[name] = np.zeros_like(value)
        else:
            axis = 0 if preset in ("torchvision", "mask_rcnn") else min(1, value.ndim - 1)
            axis = 0 if preset in ("paddle_nms", "yolov7_end_to_end") else axis
            axis = 2 if preset == "detection_output" else axis
            empty[name] = value[(slice(None),) * axis + (slice(0, 0),)]
    found = decode(contract, empty, 0.0)
    assert [array.shape for array in found] == [(0, 4), (0,), (0,)]


# --- scores and classes ---


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_, np.float16]
)
def test_classes_of_any_dtype_are_numbers_of_labels(tmp_path, dtype):
    outputs = {
        "b": rows([1, 2, 3, 4], [5, 6, 7, 8]),
        "s": rows(0.9, 0.8),
        "c": np.array([[1, 0]], dtype),
    }
    columns = {"b": XYXY, "s": "[score]", "c": "[class]"}
    contract = generic(tmp_path, outputs, columns)
    assert decode(contract, outputs, 0.5).classes.tolist() == [1, 0]
    contract = generic(tmp_path, outputs, columns, "  class_offset: 1\n")
    found = decode(contract, outputs, 0.5)
    assert found.classes.tolist() == [0]
    np.testing.assert_allclose(found.boxes, [[1, 2, 3, 4]])


def test_classes_are_rounded_and_impossible_ones_are_left_out(tmp_path):
    numbers = [2.9999, 3.0001, -1, np.nan, np.inf, 1e12, 0]
    outputs = {"o": np.array([[[1, 2, 3, 4, 0.9, number] for number in numbers]], np.float32)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, score, class]"})
    assert decode(contract, outputs, 0.5).classes.tolist() == [3, 3, 0]


def test_a_class_offset_without_a_column_of_classes_has_no_effect(tmp_path):
    outputs = {"o": rows([1, 2, 3, 4, 0.9])}
    columns = {"o": "[x1, y1, x2, y2, score]"}
    contract = generic(tmp_path, outputs, columns, "  class_offset: 1\n")
    assert decode(contract, outputs, 0.5).classes.tolist() == [0]


def test_scores_of_uint8_are_multiplied_without_overflow(tmp_path):
    outputs = {"o": np.array([[[1, 2, 3, 4, 20, 30]]], np.uint8)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, objectness, scores]"})
    assert decode(contract, outputs, 0.5).scores.tolist() == [600]


@pytest.mark.parametrize("score", [0.0, 0.25, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_score_at_the_limit_is_kept(tmp_path, score, dtype):
    score = float(dtype(score))
    below = float(np.nextafter(dtype(score), dtype(-1)))
    outputs = {"o": np.array([[[1, 2, 3, 4, score], [1, 2, 3, 4, below]]], dtype)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, score]"})
    assert decode(contract, outputs, score).scores.tolist() == [np.float32(score)]


def test_a_sigmoid_that_rounds_to_one_reaches_a_limit_of_one(tmp_path):
    outputs = {"o": rows([1, 2, 3, 4, 30.0], [1, 2, 3, 4, 10.0])}
    columns = {"o": "[x1, y1, x2, y2, scores]"}
    contract = generic(tmp_path, outputs, columns, "  activation: sigmoid\n")
    assert decode(contract, outputs, 1.0).scores.tolist() == [1]


# --- counts and batches ---


@pytest.mark.parametrize(
    ("count", "rows_left"),
    [(2, 2), (0, 0), (-3, 0), (99, 3), (1.9999, 2), (np.nan, 0), (np.inf, 3), (-np.inf, 0)],
)
def test_a_count_of_any_value_limits_the_rows(tmp_path, count, rows_left):
    outputs = {"o": rows(*[[1, 2, 3, 4, 0.9]] * 3), "n": np.array([[count]], np.float32)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, score]", "n": "[count]"})
    assert len(decode(contract, outputs, 0.5).scores) == rows_left


def test_an_empty_count_means_no_rows(tmp_path):
    outputs = {"o": rows([1, 2, 3, 4, 0.9]), "n": np.zeros((1, 0), np.float32)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, score]", "n": "[count]"})
    assert len(decode(contract, outputs, 0.5).scores) == 0


def test_numbers_of_images_in_an_output_of_their_own_part_the_rows(tmp_path):
    outputs = {
        "b": np.arange(20, dtype=np.float32).reshape(5, 4),
        "s": np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32),
        "i": np.array([1, 0, 1, -1, 0]),
    }
    columns = {"b": XYXY, "s": "[score]", "i": "[image]"}
    contract = generic(tmp_path, outputs, columns, images=2)
    for index, expected in enumerate([[0.6], [0.5, 0.7]]):
        found = decode(contract, outputs, 0.1, index, 2)
        np.testing.assert_allclose(found.scores, expected)
        assert len(found.boxes) == len(expected)


def test_scores_of_one_class_may_have_no_axis_of_classes(tmp_path):
    rng = np.random.default_rng(3)
    for images in (1, 3):
        boxes = rng.uniform(0, 60, (images, 5, 4)).astype(np.float32)
        scores = rng.uniform(0.2, 1, (images, 5)).astype(np.float32)
        outputs = {"b": boxes, "s": scores}
        contract = generic(tmp_path, outputs, {"b": XYXY, "s": "[scores]"}, images=images)
        for i in range(images):
            found = decode(contract, outputs, 0.1, i, images)
            np.testing.assert_array_equal(found.scores, scores[i])


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7), (1, 7, 1), (1, 1, 7)])
@pytest.mark.parametrize("boxes", [(7, 4), (1, 7, 4), (1, 7, 1, 4), (1, 1, 7, 4)])
def test_scores_and_boxes_may_have_further_axes_of_one(tmp_path, shape, boxes):
    rng = np.random.default_rng(5)
    values, scores = rng.uniform(0, 60, (7, 4)), rng.uniform(0.2, 1, 7)
    outputs = {"b": values.reshape(boxes), "s": scores.reshape(shape), "c": np.arange(7)}
    contract = generic(tmp_path, outputs, {"b": XYXY, "s": "[score]", "c": "[class]"})
    found = decode(contract, outputs, 0.1)
    np.testing.assert_allclose(found.boxes, values.astype(np.float32))
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    assert found.classes.tolist() == list(range(7))


# --- lengths that do not decide ---


def yolov8_rows(table):
    named = [ref.named(row, ["cx", "cy", "w", "h", "scores"], len(row) - 4) for row in table]
    return ref.rows(named)


def test_yolov8_with_as_many_rows_as_columns_has_the_columns_first(tmp_path):
    rng = np.random.default_rng(7)
    output = rng.uniform(0, 1, (1, 84, 84)).astype(np.float32)
    outputs = {"output0": output}
    contract = contract_of(tmp_path, "yolov8", (64, 64), outputs)
    assert contract.classes == 80
    expected = ref.finish(yolov8_rows(ref.transposed(output[0].tolist())), 0.99, 64, 64)
    assert_same(decode(contract, outputs, 0.99), expected)


def test_yolov8_of_more_classes_than_rows_is_read_by_its_grids(tmp_path):
    outputs = {"output0": np.zeros((1, 369, 84), np.float32)}
    assert contract_of(tmp_path, "yolov8", (64, 64), outputs).classes == 365


def test_365_classes_of_300_queries_are_those_of_the_last_axis(tmp_path):
    rng = np.random.default_rng(11)
    output = rng.uniform(0, 1, (1, 300, 369)).astype(np.float32)
    for card in ("", "output: {classes: 365}"):
        contract = contract_of(tmp_path, "rtdetr_ultralytics", (64, 64), {"o": output}, card=card)
        assert contract.classes == 365
    named = [ref.named(row, ["cx", "cy", "w", "h", "scores"], 365) for row in output[0].tolist()]
    expected = ref.finish(ref.rows(named, (64, 64)), 0.9995, 64, 64)
    assert_same(decode(contract, {"o": output}, 0.9995), expected)


def test_queries_of_an_open_number_are_rows(tmp_path):
    rng = np.random.default_rng(13)
    logits = rng.normal(size=(1, 30, 37)).astype(np.float32)
    boxes = rng.uniform(0, 1, (1, 30, 4)).astype(np.float32)
    outputs = {"logits": logits, "boxes": boxes}
    shapes = {"logits": (1, "queries", "classes"), "boxes": (1, "queries", 4)}
    contract = contract_of(tmp_path, "detr_softmax", (64, 64), outputs, shapes=shapes)
    assert contract.classes is None
    table = [
        {"scores": row, **dict(zip(("cx", "cy", "w", "h"), box, strict=True))}
        for row, box in zip(logits[0].tolist(), boxes[0].tolist(), strict=True)
    ]
    expected = ref.rows(table, (64, 64), activation="softmax", background=-1)
    assert_same(decode(contract, outputs, 0.0), ref.finish(expected, 0.0, 64, 64))


@pytest.mark.parametrize("nhwc", [False, True])
def test_a_map_of_as_many_channels_as_cells_is_read_as_the_images_are(tmp_path, nhwc):
    rng = np.random.default_rng(17)
    values = rng.uniform(0, 1, (1, 6, 6, 6)).astype(np.float32)
    card = (
        "  coding: yolox\n  strides: [16]\n",
        {"o": "[dx, dy, dw, dh, scores]"},
    )
    outputs = {"o": values}
    contract = generic(tmp_path, outputs, card[1], card[0], size=(96, 96), nhwc=nhwc)
    read = ref.map_channels_last if nhwc else ref.map_channels_first
    grid = read(values[0].tolist(), 1, 6, 6)
    rows_ = {at: ref.named(row, ["dx", "dy", "dw", "dh", "scores"], 2) for at, row in grid.items()}
    expected = ref.finish(ref.yolo([(16, [], rows_)], "yolox"), 0.0, 96, 96)
    assert_same(decode(contract, outputs, 0.0), expected)


def test_joined_rows_with_an_axis_of_one_are_not_a_map(tmp_path):
    rng = np.random.default_rng(19)
    cells = [(12, 8), (6, 4)]
    n = sum(a * b for a, b in cells)
    values = rng.uniform(0, 1, (n, 6)).astype(np.float32)
    names = ["left", "top", "right", "bottom", "scores"]
    grids = [
        (stride, {at: ref.named(row, names, 2) for at, row in found.items()})
        for stride, found in (
            (8, ref.rows_of_cells(values[:96].tolist(), 1, 12, 8)),
            (16, ref.rows_of_cells(values[96:].tolist(), 1, 6, 4)),
        )
    ]
    expected = ref.finish(ref.distances(grids), 0.0, *SIZE)
    more = "  strides: [8, 16]\n  units: strides\n"
    columns = {"o": f"[{', '.join(names)}]"}
    for output in (values[None], values[None, None], values.T[None], values.T[None, :, None]):
        contract = generic(tmp_path, {"o": output}, columns, more)
        assert_same(decode(contract, {"o": output}, 0.0), expected)


# --- outputs of a run that are not those of the file ---


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 7, 9), "expected 6 numbers in a row"),
        ((1, 2, 7, 9), "expected an axis of 6 numbers"),
        ((1, 2, 2, 7, 9), "expected an axis of 6 numbers"),
        ((1, 2, 2, 2, 7, 9), "expected rows, or a map of rows"),
    ],
)
def test_outputs_of_another_width_are_refused_with_their_shape(tmp_path, shape, message):
    outputs = {"o": np.zeros((1, 9, 6), np.float32)}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, scores]"})
    with pytest.raises(ValueError, match=message):
        decode(contract, {"o": np.ones(shape, np.float32)}, 0.5)


def test_rows_of_another_number_than_the_priors_are_refused(tmp_path):
    contract, case = loaded(tmp_path, "ssd_mobilenet")
    for change in (lambda v: v[:, :-1], lambda v: np.concatenate([v, v], axis=1)):
        outputs = {name: change(value) for name, value in case.outputs.items()}
        with pytest.raises(ValueError, match="other rows than priors"):
            decode(contract, outputs, 0.5)


def test_priors_of_several_outputs_go_on_from_level_to_level(tmp_path):
    contract, case = loaded(tmp_path, "ssd_mobilenet")
    expected = decode(contract, case.outputs, 0.3)
    counts = [19 * 19 * 3, 10 * 10 * 6, 5 * 5 * 6, 3 * 3 * 6, 2 * 2 * 6, 6]
    outputs, columns = {}, {}
    for name, names in (("raw_boxes", "[dy, dx, dh, dw]"), ("raw_scores", "[scores]")):
        for i, part in enumerate(np.split(case.outputs[name], np.cumsum(counts)[:-1], axis=1)):
            outputs[f"{name}_{i}"], columns[f"{name}_{i}"] = part, names
    more = (
        "  coding: ssd\n  background: 0\n  activation: sigmoid\n"
        "  priors: {kind: ssd, ratios: [1, 2, 0.5, 3, 0.3333333], "
        "grids: [[19, 19], [10, 10], [5, 5], [3, 3], [2, 2], [1, 1]]}\n"
    )
    contract = generic(tmp_path, outputs, columns, more)
    for some, other in zip(decode(contract, outputs, 0.3), expected, strict=True):
        np.testing.assert_array_equal(some, other)


def test_peaks_of_rows_are_those_of_their_grid(tmp_path):
    contract, case = loaded(tmp_path, "centernet_heads")
    expected = decode(contract, case.outputs, 0.3)
    outputs = {
        name: value.reshape(1, value.shape[1], -1).transpose(0, 2, 1)
        for name, value in case.outputs.items()
    }
    columns = {"hm": "[scores]", "wh": "[dw, dh]", "reg": "[dx, dy]"}
    more = "  coding: cells\n  strides: [4]\n  peaks: true\n  activation: sigmoid\n"
    contract = generic(tmp_path, outputs, columns, more)
    for some, other in zip(decode(contract, outputs, 0.3), expected, strict=True):
        np.testing.assert_array_equal(some, other)
    with pytest.raises(ValueError, match="peaks: expected a map of scores"):
        decode(contract, {name: value[:, :-1] for name, value in outputs.items()}, 0.3)


def test_raw_outputs_are_not_changed(tmp_path):
    for preset in CASES:
        contract, case = loaded(tmp_path, preset)
        before = {name: value.copy() for name, value in case.outputs.items()}
        decode(contract, case.outputs, 0.1)
        for name, value in before.items():
            np.testing.assert_array_equal(case.outputs[name], value)


def test_an_unbatched_model_has_no_axis_of_images(tmp_path):
    values = np.random.default_rng(23).uniform(0, 1, (3, 9, 6)).astype(np.float32)[0]
    outputs = {"o": values}
    contract = generic(tmp_path, outputs, {"o": "[x1, y1, x2, y2, scores]"}, batched=False)
    assert contract.classes == 2
    named = [ref.named(row, ["x1", "y1", "x2", "y2", "scores"], 2) for row in values.tolist()]
    assert_same(decode(contract, outputs, 0.0), ref.finish(ref.rows(named), 0.0, *SIZE))


def test_the_number_of_classes_beside_bins_comes_from_labels(tmp_path):
    case = case_of("yolov8_heads")
    card = "labels: [a, b, c]"
    contract = contract_of(tmp_path, "yolov8_heads", SIZE, case.outputs, card=card)
    assert contract.classes == 3
    expected = ref.finish(case.expected[0], 0.0, *SIZE)
    assert_same(decode(contract, case.outputs, 0.0), expected)
    with pytest.raises(ContractError, match=r"output\.classes is missing in its card"):
        contract_of(tmp_path, "yolov8_heads", SIZE, case.outputs)
