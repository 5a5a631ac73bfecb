"""Masks, points and angles are those of independent decoders in plain Python."""

import zlib

import numpy as np
import pytest

from models import families
from models.boxes.masks import mask_of, rle_of, rle_of_part
from models.families.masks import Canvas, masks_of_boxes, masks_of_prototypes
from models.output_layout import Masks
from models.transform import Transform
from tests.models.families.detail_cases import DETAILED, SIZE
from tests.models.families.model_file import contract_of

WITH_PROTOTYPES = ("yolov8_seg", "yolov5_seg", "end_to_end_seg")
TRANSFORMS = {
    "same": Transform(1.0, 1.0, 0.0, 0.0, 96, 64),
    "letterbox": Transform(0.5, 0.5, 0.0, 7.0, 192, 100),
    "stretched": Transform(0.5, 0.8, 0.0, 0.0, 192, 80),
}


def decoded(tmp_path, preset, transform, turned=False):
    case = DETAILED[preset](np.random.default_rng(zlib.crc32(preset.encode())))
    outputs = dict(reversed(case.outputs.items())) if turned else case.outputs
    contract = contract_of(tmp_path, preset, SIZE, outputs, card=case.card)
    family = families.make(contract.family, contract.input, contract.classes, contract.layout)
    raw = [outputs[tensor.name] for tensor in contract.outputs]
    found = family.decode_detailed(family.of_image(raw, 0, 1), transform, 0.05)
    order = np.argsort(-found.candidates.scores)
    rows = sorted((row for row in case.rows if row.score >= 0.05), key=lambda row: -row.score)
    assert len(order) == len(rows)
    return contract, found, order, rows


def to_captured(x, y, transform):
    return (x - transform.pad_x) / transform.scale_x, (y - transform.pad_y) / transform.scale_y


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("preset", DETAILED)
def test_boxes_scores_points_and_angles_are_those_of_the_reference(tmp_path, preset, kind):
    transform = TRANSFORMS[kind]
    _, found, order, rows = decoded(tmp_path, preset, transform)
    boxes, scores, classes = (array[order] for array in found.candidates)
    details = found.details.take(order)
    np.testing.assert_allclose(scores, [row.score for row in rows], atol=1e-5)
    assert classes.tolist() == [row.number for row in rows]
    for i, row in enumerate(rows):
        if row.rotated is None or kind != "stretched":
            corners = [to_captured(*row.box[at : at + 2], transform) for at in (0, 2)]
            limit = transform.width, transform.height
            expected = [min(max(v, 0), limit[j % 2]) for j, v in enumerate(np.ravel(corners))]
            np.testing.assert_allclose(boxes[i], expected, atol=2e-3)
        if row.points is not None:
            expected = [(*to_captured(x, y, transform), score) for x, y, score in row.points]
            np.testing.assert_allclose(details.keypoints[i], expected, atol=2e-3)
        if row.rotated is not None and kind != "stretched":
            cx, cy, w, h, angle = row.rotated
            scale = transform.scale_x
            expected = (*to_captured(cx, cy, transform), w / scale, h / scale, angle)
            np.testing.assert_allclose(details.rotated[i], expected, atol=2e-3)


@pytest.mark.parametrize(
    "preset",
    WITH_PROTOTYPES,
)
def test_the_order_of_outputs_has_no_effect_on_details(tmp_path, preset):
    _, found, *_ = decoded(tmp_path, preset, TRANSFORMS["same"])
    _, other, *_ = decoded(tmp_path, preset, TRANSFORMS["same"], turned=True)
    np.testing.assert_array_equal(found.details.coefficients, other.details.coefficients)
    np.testing.assert_array_equal(found.prototypes, other.prototypes)


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("preset", WITH_PROTOTYPES)
def test_masks_of_prototypes_are_those_of_the_reference(tmp_path, preset, kind):
    transform = TRANSFORMS[kind]
    contract, found, order, rows = decoded(tmp_path, preset, transform)
    details = found.details.take(order)
    boxes = found.candidates.boxes[order]
    masks = masks_of_prototypes(
        details.coefficients,
        found.prototypes,
        boxes,
        Canvas(transform, SIZE),
        contract.layout.masks,
    )
    for rle, row, box in zip(masks, rows, boxes.tolist(), strict=True):
        mask = mask_of(rle)
        assert mask.shape == (transform.height, transform.width)
        differing = inside = 0
        for y in range(transform.height):
            for x in range(transform.width):
                in_box = box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
                if not in_box:
                    assert not mask[y, x]
                    continue
                inside += 1
                u = (x + 0.5) * transform.scale_x + transform.pad_x
                v = (y + 0.5) * transform.scale_y + transform.pad_y
                differing += bool(mask[y, x]) != (row.mask(u, v) > 0)
        # OpenCV interpolates at 32 places between two cells.
        assert differing <= 0.02 * inside + 2


@pytest.mark.parametrize(
    ("over", "size"), [("box", (5, 7)), ("auto", (5, 7)), ("auto", SIZE[::-1])]
)
def test_small_masks_are_placed_over_their_boxes_or_the_input(over, size):
    rng = np.random.default_rng(3)
    values = rng.uniform(0, 1, (2, *size)).astype(np.float32)
    boxes = np.float32([[20.5, 30, 120, 90], [0, 0, 1, 1]])
    transform = TRANSFORMS["letterbox"]
    masks = masks_of_boxes(values, boxes, Canvas(transform, SIZE), Masks(over=over))
    rows, columns = size
    over_image = (columns, rows) == SIZE
    mask = mask_of(masks[0])
    wrong = 0
    for y in range(30, 90):
        for x in range(21, 120):
            u, v = (x + 0.5 - 20.5) / 99.5 * columns, (y + 0.5 - 30) / 60 * rows
            if over_image:
                u, v = (x + 0.5) * 0.5, (y + 0.5) * 0.5 + 7
            left, top = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
            total = 0.0
            for dy in (0, 1):
                for dx in (0, 1):
                    value = values[
                        0, min(max(top + dy, 0), rows - 1), min(max(left + dx, 0), columns - 1)
                    ]
                    total += value * (1 - abs(u - 0.5 - left - dx)) * (1 - abs(v - 0.5 - top - dy))
            wrong += bool(mask[y, x]) != (total > 0.5)
    assert wrong <= 0.02 * 60 * 99
    assert not mask[:, :20].any()
    assert mask_of(masks[1]).sum() <= 1


@pytest.mark.parametrize(
    "place",
    [(0, 0, 5, 7), (2, 3, 5, 7), (0, 0, 9, 3), (3, 0, 9, 2), (0, 6, 1, 5)],
)
def test_a_part_of_a_mask_is_encoded_as_the_whole(place):
    top, left, rows, columns = place
    rng = np.random.default_rng(sum(place))
    for share in (0.0, 0.3, 0.9, 1.0):
        whole = np.zeros((9, 11), bool)
        part = rng.uniform(size=(rows, columns)) < share
        whole[top : top + rows, left : left + columns] = part[: 9 - top]
        part = whole[top : top + rows, left : left + columns]
        found = rle_of_part(part, left, top, 9, 11)
        assert found.counts.tolist() == rle_of(whole).counts.tolist()
