"""Figures of masks and keypoints equal pycocotools'; of rotated boxes, those of a plain loop."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boxes.masks import coco_rle, rle_of
from models.boxes.polygons import rle_of_polygons
from models.boxes.rotated import from_upright, rotated_iou_matrix, upright_around
from models.errors import EvaluationError
from models.evaluation.compare import compare_detections
from models.evaluation.matching import confidence_figures
from models.evaluation.shapes import (
    evaluate_shapes,
    sigmas_of,
    with_keypoints,
    with_masks,
    with_rotated,
)
from tests.models.evaluation.builders import LABELS, image_of, xywh

HEIGHT, WIDTH, POINTS = 60, 80, 17
NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
OF_KEYPOINTS = (
    *("ap", "ap50", "ap75", "ap_medium", "ap_large"),
    *("ar_100", "", "", "ar_medium", "ar_large"),
)


def reference(images, truth, found, kind):
    """Evaluate lists of annotations with pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {
        "images": [{"id": n, "height": HEIGHT, "width": WIDTH} for n in range(images)],
        "annotations": [{"id": n, **item} for n, item in enumerate(truth, 1)],
        "categories": [{"id": n, "name": label} for n, label in enumerate(LABELS)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        if found:
            result = coco.loadRes(found)
        else:
            result = COCO()
            result.dataset = {**coco.dataset, "annotations": []}
            result.createIndex()
        evaluation = COCOeval(coco, result, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else pytest.approx(value, abs=1e-6) for value in evaluation.stats]


def blob(rng, near=None):
    """Draw an ellipse, or another one close to it; some masks are empty or touch the border."""
    if near is None:
        near = rng.uniform((0, 0, 1, 1), (WIDTH, HEIGHT, 30, 25))
    else:
        near = near + rng.normal(0, 1.5, 4)
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    sides = np.maximum(near[2:], 0.1)
    return near, ((x - near[0]) / sides[0]) ** 2 + ((y - near[1]) / sides[1]) ** 2 < 1


def masked_image(rng, name):
    """Make an image with masks, and its annotations for pycocotools."""
    places, truth, found, true_masks, masks = [], [], [], [], []
    for _ in range(rng.integers(0, 6)):
        place, mask = blob(rng)
        places.append(place)
        true_masks.append(rle_of(mask))
        truth.append((int(rng.integers(0, 3)), (0, 0, 9, 9)))
    for _ in range(rng.integers(0, 12)):
        near = places[rng.integers(0, len(places))] if places else None
        masks.append(rle_of(blob(rng, near)[1]))
        found.append((int(rng.integers(0, 3)), float(rng.choice([0.2, 0.5, 0.9])), (0, 0, 9, 9)))
    image = image_of(name, truth, found)
    ignored = rng.random(len(truth)) < 0.2
    areas = np.array([float(rng.choice([50, 900, 5000, 20000])) for _ in truth])
    return with_masks(image, masks, true_masks, areas, ignored), true_masks, masks


def of_masks(images):
    truth, found = [], []
    for number, (image, true_masks, masks) in enumerate(images):
        for row, mask in enumerate(true_masks):
            truth.append(
                {
                    "image_id": number,
                    "category_id": int(image.truth_classes[row]),
                    "segmentation": coco_rle(mask),
                    "area": float(image.areas[row]),
                    "iscrowd": int(image.ignored[row]),
                    "bbox": [0, 0, 9, 9],
                }
            )
        for row, mask in enumerate(masks):
            found.append(
                {
                    "image_id": number,
                    "category_id": int(image.found_classes[row]),
                    "segmentation": coco_rle(mask),
                    "score": float(image.found_scores[row]),
                }
            )
    return truth, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_masks_have_the_figures_of_pycocotools(seed, count):
    rng = np.random.default_rng(seed)
    images = [masked_image(rng, str(number)) for number in range(count)]
    figures = evaluate_shapes([image for image, _, _ in images], LABELS).figures
    expected = reference(count, *of_masks(images), "segm")
    assert [getattr(figures, name) for name in NAMES] == expected


def test_polygons_have_the_mask_figures_of_pycocotools():
    true = [[10.0, 10, 50, 12, 40, 50], [60.0, 5, 75, 5, 75, 30, 60, 30]]
    near = [[12.0, 10, 52, 12, 40, 50], [60.0, 9, 75, 9, 75, 35, 60, 35]]
    masks, own = ([rle_of_polygons([p], HEIGHT, WIDTH) for p in part] for part in (true, near))
    areas = np.array([900.0, 300.0])
    image = image_of("a", [(0, (0, 0, 9, 9))] * 2, [(0, 0.9, (0, 0, 9, 9)), (0, 0.8, (0, 0, 9, 9))])
    image = with_masks(image, own, masks, areas, np.zeros(2, bool))
    shared = {"image_id": 0, "category_id": 0}
    truth = [
        {**shared, "segmentation": [p], "area": area, "iscrowd": 0, "bbox": [0, 0, 9, 9]}
        for p, area in zip(true, areas, strict=True)
    ]
    found = [
        {**shared, "segmentation": coco_rle(mask), "score": score}
        for mask, score in zip(own, (0.9, 0.8), strict=True)
    ]
    figures = evaluate_shapes([image], LABELS).figures
    assert [getattr(figures, name) for name in NAMES] == reference(1, truth, found, "segm")
    assert 0 < figures.ap < 1


def posed_image(rng, name):
    """Make an image with keypoints; more than 20 are found, and some objects have no points."""
    count, more = int(rng.integers(0, 5)), int(rng.integers(0, 40))
    corner = rng.uniform(0, 300, (count, 2))
    boxes = np.hstack([corner, corner + rng.choice([20, 60, 150], (count, 2))])
    truth = rng.uniform(0, 1, (count, POINTS, 3))
    truth[..., :2] = boxes[:, None, :2] + truth[..., :2] * (boxes[:, None, 2:] - boxes[:, None, :2])
    truth[..., 2] = rng.integers(0, 3, (count, POINTS))
    truth[rng.random(count) < 0.3, :, 2] = 0
    pick = rng.integers(0, max(count, 1), more)
    found = truth[pick] if count else rng.uniform(0, 300, (more, POINTS, 3))
    found = found + rng.normal(0, 1, found.shape) * rng.choice([1, 6, 20], (more, 1, 1))
    image = image_of(
        name,
        [(int(n), tuple(box)) for n, box in zip(rng.integers(0, 2, count), boxes, strict=True)],
        [
            (int(n), float(rng.choice([0.1, 0.4, 0.9])), (0, 0, 9, 9))
            for n in rng.integers(0, 2, more)
        ],
        np.flatnonzero(rng.random(count) < 0.2),
    )
    areas = rng.uniform(300, 15000, count)
    return image, truth, found, areas


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_keypoints_have_the_figures_of_pycocotools(seed, count):
    rng = np.random.default_rng(seed)
    truth, found, images = [], [], []
    for number in range(count):
        image, points, own, areas = posed_image(rng, str(number))
        images.append(with_keypoints(image, own, points, areas, sigmas_of(POINTS)))
        for row, of in enumerate(points):
            truth.append(
                {
                    "image_id": number,
                    "category_id": int(image.truth_classes[row]),
                    "keypoints": of.ravel().tolist(),
                    "num_keypoints": int((of[:, 2] > 0).sum()),
                    "area": float(areas[row]),
                    "iscrowd": int(image.ignored[row]),
                    "bbox": xywh(image.truth_boxes[row]),
                }
            )
        for row, of in enumerate(own):
            found.append(
                {
                    "image_id": number,
                    "category_id": int(image.found_classes[row]),
                    "keypoints": of.ravel().tolist(),
                    "score": float(image.found_scores[row]),
                }
            )
    figures = evaluate_shapes(images, LABELS).figures
    expected = reference(count, truth, found, "keypoints")
    ours = {name: getattr(figures, name) for name in OF_KEYPOINTS if name}
    assert ours == {n: value for n, value in zip(OF_KEYPOINTS, expected, strict=True) if n}


def test_points_that_are_not_17_have_a_sigma_of_1_by_their_number():
    assert sigmas_of(5).tolist() == [0.2] * 5
    assert sigmas_of(17)[[0, 11]].tolist() == [0.026, 0.107]


def turned_image(rng, name):
    """Make an image of rotated boxes, with found ones near true ones."""
    count, more = int(rng.integers(0, 6)), int(rng.integers(0, 12))
    truth = rng.uniform((0, 0, 8, 8, -3), (200, 200, 90, 60, 3), (count, 5))
    pick = rng.integers(0, max(count, 1), more)
    found = (
        truth[pick] if count else rng.uniform((0, 0, 8, 8, -3), (200, 200, 90, 60, 3), (more, 5))
    )
    found = found + rng.normal(0, 1, (more, 5)) * (3, 3, 3, 3, 0.1)
    found[:, 2:4] = np.maximum(found[:, 2:4], 1)
    of = zip(rng.integers(0, 3, count), upright_around(truth), strict=True)
    own = zip(
        rng.integers(0, 3, more), rng.permutation(more) / 50, upright_around(found), strict=True
    )
    image = image_of(name, list(of), list(own))
    return image, found, truth


def plain_ap(images, number, min_iou):
    """Average precision of a class by one plain loop; None: it has no objects."""
    rows = sorted(
        (-image.found_scores[row], at, row)
        for at, (image, _, _) in enumerate(images)
        for row in np.flatnonzero(image.found_classes == number)
    )
    objects = sum(int((image.truth_classes == number).sum()) for image, _, _ in images)
    taken, right, precision = set(), [], []
    for _, at, row in rows:
        image, found, truth = images[at]
        best, column = min_iou, None
        for n in np.flatnonzero(image.truth_classes == number):
            iou = rotated_iou_matrix(found[row : row + 1], truth[n : n + 1])[0, 0]
            if (at, n) not in taken and iou >= best:
                best, column = iou, n
        right.append(column is not None)
        taken.add((at, column))
        precision.append(sum(right) / len(right))
    if not objects:
        return None
    recall = np.cumsum(right) / objects
    values = [
        max((p for p, r in zip(precision, recall, strict=True) if r >= level), default=0)
        for level in np.linspace(0, 1, 101)
    ]
    return float(np.mean(values))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_rotated_boxes_have_the_figures_of_a_plain_loop(seed, count):
    rng = np.random.default_rng(seed)
    images = [turned_image(rng, str(number)) for number in range(count)]
    figures = evaluate_shapes([with_rotated(*image) for image in images], LABELS).figures
    for number, of in enumerate(figures.classes):
        levels = [plain_ap(images, number, min_iou) for min_iou in np.linspace(0.5, 0.95, 10)]
        if levels[0] is None:
            assert (of.ap, of.ap50) == (None, None)
        else:
            assert (of.ap, of.ap50) == pytest.approx((np.mean(levels), levels[0]), abs=1e-9)


def test_a_found_box_inside_an_ignored_rotated_one_is_not_false():
    large, small = from_upright(np.array([[0.0, 0, 100, 100], [10, 10, 30, 30]]))[:, None]
    image = image_of("a", [(0, (0, 0, 100, 100))], [(0, 0.9, (10, 10, 30, 30))], ignored=[0])
    counts = confidence_figures([with_rotated(image, small, large)], LABELS, 0.5).total
    assert (counts.right, counts.missed, counts.false) == (0, 0, 0)


def test_masks_are_compared_by_drawing_images():
    rng = np.random.default_rng(3)
    images = [masked_image(rng, str(number))[0] for number in range(8)]
    nothing = [
        image._replace(
            found_boxes=image.found_boxes[:0],
            found_scores=image.found_scores[:0],
            found_classes=image.found_classes[:0],
            overlaps=image.overlaps._replace(
                values=image.overlaps.values[:0], areas=image.overlaps.areas[:0]
            ),
        )
        for image in images
    ]
    ap = compare_detections(nothing, images, LABELS, ["ap"], resamples=50)[0]
    assert (ap.first, ap.second) == (0, evaluate_shapes(images, LABELS).figures.ap)
    assert ap.low > 0


def test_shapes_that_do_not_fit_the_boxes_are_refused():
    image = image_of("a", [(0, (0, 0, 9, 9))], [(0, 0.5, (0, 0, 9, 9))])
    one, other = rle_of(np.ones((4, 4))), rle_of(np.ones((5, 4)))
    flags, areas = np.zeros(1, bool), np.ones(1)
    with pytest.raises(EvaluationError, match=r"a: masks: .* different sizes"):
        with_masks(image, [one], [other], areas, flags)
    with pytest.raises(EvaluationError, match="a: masks: found boxes is not"):
        with_masks(image, [one, one], [one], areas, flags)
    points = np.zeros((1, 5, 3))
    with pytest.raises(EvaluationError, match="give as many points as the model has"):
        with_keypoints(image, points, np.zeros((1, 4, 3)), areas, sigmas_of(5))
