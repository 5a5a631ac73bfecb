"""Each method of suppression keeps the boxes that plain Python keeps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.nms import NmsOptions, nms
from tests.models.boxes.test_iou import true_overlap
from tests.models.boxes.test_rotated import true_iou

BOX = (0, 0, 10, 10)
NEAR = (0, 0, 10, 9)  # IoU with BOX: 0.9
FAR = (50, 50, 60, 60)
METHODS = ("greedy", "diou", "soft_linear", "soft_gaussian", "fusion")


def run(boxes, scores, classes=None, **options):
    boxes = np.asarray(boxes, np.float32)
    classes = np.zeros(len(boxes), np.int32) if classes is None else np.asarray(classes, np.int32)
    return nms(boxes, np.asarray(scores, np.float32), classes, NmsOptions(**options))


def candidates(scores, classes, options):
    """Rows that reach the score of their class, best first."""
    limits = {**dict.fromkeys(classes, options.min_score), **(options.class_scores or {})}
    rows = [row for row, score in enumerate(scores) if score >= limits[classes[row]]]
    rows.sort(key=lambda row: (-scores[row], row))
    return rows[: options.max_candidates], limits


def true_greedy(boxes, scores, classes, options, overlap):
    kept = []
    for row in candidates(scores, classes, options)[0]:
        for better in kept:
            same = options.class_agnostic or classes[row] == classes[better]
            if same and overlap(boxes[better], boxes[row]) > options.max_iou:
                break
        else:
            kept.append(row)
    return [(row, *boxes[row], scores[row], classes[row]) for row in kept]


def true_soft(boxes, scores, classes, options, overlap):
    rows, limits = candidates(scores, classes, options)
    left, found = {row: scores[row] for row in sorted(rows)}, []
    while left:
        best = max(left, key=lambda row: (left[row], -row))
        score = left.pop(best)
        if score < limits[classes[best]]:
            continue
        found.append((best, *boxes[best], score, classes[best]))
        for row in left:
            iou = overlap(boxes[min(best, row)], boxes[max(best, row)])
            if not options.class_agnostic and classes[row] != classes[best]:
                continue
            if options.method == "soft_gaussian":
                left[row] *= float(np.exp(np.array([-(iou**2) / options.sigma]))[0])
            elif iou > options.max_iou:
                left[row] *= 1 - iou
    return found


def true_fusion(boxes, scores, classes, options, overlap):
    clusters = []  # class, members, fused box

    def mean(members):
        weights = [max(scores[row], 1e-12) for row in members]
        total = sum(weights)
        sides = zip(*(boxes[row] for row in members), strict=True)
        pairs = [sum(w * x for w, x in zip(weights, side, strict=True)) for side in sides]
        return [x / total for x in pairs]

    for row in candidates(scores, classes, options)[0]:
        own = [c for c in clusters if options.class_agnostic or c[0] == classes[row]]
        best = max(own, key=lambda c: overlap(boxes[row], c[2]), default=None)
        if best is not None and overlap(boxes[row], best[2]) > options.max_iou:
            best[1].append(row)
            best[2] = mean(best[1])
        else:
            clusters.append([classes[row], [row], mean([row])])
    found = []
    for number, members, box in clusters:
        fused = [scores[row] for row in members]
        score = max(fused) if options.fused_score == "max" else sum(fused) / len(fused)
        found.append((members[0], *box, score, number))
    return sorted(found, key=lambda f: (-f[5], f[0]))


def iou(a, b):
    return true_overlap(a, b, "iou")


def diou(a, b):
    return true_overlap(a, b, "diou") if iou(a, b) else 0


REFERENCE = {
    "greedy": (true_greedy, iou),
    "diou": (true_greedy, diou),
    "soft_linear": (true_soft, iou),
    "soft_gaussian": (true_soft, iou),
    "fusion": (true_fusion, iou),
}

# Whole pixels and scores in sixteenths: overlaps are exact, and equal scores are frequent.
CASES = st.integers(0, 20).flatmap(
    lambda n: st.tuples(
        arrays(np.int16, (n, 4), elements=st.integers(0, 9)),
        arrays(np.int16, n, elements=st.integers(0, 16)),
        arrays(np.int32, n, elements=st.integers(0, 2)),
    )
)
OPTIONS = st.builds(
    NmsOptions,
    method=st.sampled_from(METHODS),
    max_iou=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    min_score=st.sampled_from([0.0, 0.25]),
    class_scores=st.sampled_from([None, {1: 0.5}, {0: 0.0625, 2: 0.75}]),
    class_agnostic=st.booleans(),
    sigma=st.sampled_from([0.1, 0.5]),
    fused_score=st.sampled_from(["mean", "max"]),
    max_candidates=st.sampled_from([1, 7, 1000]),
    max_boxes=st.sampled_from([3, 300]),
)


@settings(max_examples=400)
@given(CASES, OPTIONS)
def test_boxes_scores_and_rows_are_those_of_plain_python(case, options):
    corners, sixteenths, classes = case
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1) * 1.0
    scores = sixteenths / 16
    reference, overlap = REFERENCE[options.method]
    arguments = [boxes.tolist(), scores.tolist(), classes.tolist()]
    expected = reference(*arguments, options, overlap)[: options.max_boxes]
    kept = nms(boxes, scores, classes, options)
    assert kept.rows.tolist() == [row for row, *_ in expected]
    found = np.column_stack([kept.boxes, kept.scores, kept.classes])
    table = np.reshape([rest for _, *rest in expected], (len(expected), 6))
    np.testing.assert_allclose(found, table, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["greedy", "soft_linear", "soft_gaussian"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_rotated_boxes_are_compared_by_their_rotated_iou(method, agnostic, rng):
    centre, size = rng.uniform(0, 30, (60, 2)), rng.uniform(4, 16, (60, 2))
    boxes = np.column_stack([centre, size, rng.uniform(-4, 4, 60)])
    scores, classes = rng.uniform(0, 1, 60), rng.integers(0, 2, 60)
    options = NmsOptions(method, 0.3, min_score=0.1, class_agnostic=agnostic)
    reference = REFERENCE[method][0]
    expected = reference(boxes.tolist(), scores.tolist(), classes.tolist(), options, true_iou)
    kept = nms(boxes, scores, classes, options)
    found = np.column_stack([kept.rows, kept.boxes, kept.scores, kept.classes])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert len(kept.rows) > 10
    if method == "greedy":
        assert len(kept.rows) < 55


def test_diou_keeps_boxes_side_by_side_that_iou_drops():
    boxes = [(0, 0, 10, 10), (3, 0, 13, 10)]  # IoU 0.54, DIoU 0.51
    assert run(boxes, [0.9, 0.8], max_iou=0.52).rows.tolist() == [0]
    assert run(boxes, [0.9, 0.8], max_iou=0.52, method="diou").rows.tolist() == [0, 1]


def test_soft_linear_lowers_the_score_by_the_overlap():
    kept = run([BOX, NEAR, FAR], [0.9, 0.8, 0.7], method="soft_linear")
    assert kept.rows.tolist() == [0, 2, 1]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.08])


def test_soft_gaussian_lowers_the_score_by_the_square_of_the_overlap():
    kept = run([BOX, NEAR], [0.9, 0.8], method="soft_gaussian", sigma=0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-0.81 / 0.5)])


def test_fusion_gives_the_mean_weighted_with_scores():
    kept = run([(0, 0, 10, 10), (1, 0, 11, 10)], [0.75, 0.25], method="fusion")
    assert (kept.rows.tolist(), kept.scores.tolist()) == ([0], [0.5])
    assert kept.boxes.tolist() == [[0.25, 0, 10.25, 10]]


def test_fusion_of_boxes_of_score_zero_is_their_mean():
    kept = run([(0, 0, 10, 10), (1, 0, 11, 10)], [0, 0], method="fusion")
    assert (kept.boxes.tolist(), kept.scores.tolist()) == ([[0.5, 0, 10.5, 10]], [0])


@pytest.mark.parametrize("method", METHODS)
def test_each_class_has_its_own_least_score(method):
    limits = {"min_score": 0.5, "class_scores": {1: 0.1, 2: 0.9}}
    kept = run([BOX] * 3, [0.7] * 3, [0, 1, 2], method=method, **limits)
    assert kept.classes.tolist() == [0, 1]
    kept = run([BOX] * 3, [0.2] * 3, [0, 1, 2], method=method, **limits)
    assert kept.classes.tolist() == [1]


@pytest.mark.parametrize("method", METHODS)
def test_a_score_equal_to_the_limit_is_kept_as_float32(method):
    # 0.7 as float32 is below 0.7 as float64.
    limits = {"min_score": 0.7, "method": method}
    assert run([BOX], [0.7], **limits).rows.tolist() == [0]
    assert run([BOX], [0.7], class_scores={0: 0.7}, **limits).rows.tolist() == [0]


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_not_finite_are_dropped(method):
    nan, inf = math.nan, math.inf
    boxes = [(nan, 0, 9, 9), (0, 0, inf, 9), BOX, BOX, BOX]
    assert run(boxes, [0.9, 0.9, nan, inf, 0.6], method=method).rows.tolist() == [4]


@pytest.mark.parametrize("method", METHODS)
def test_extreme_and_flat_boxes_are_kept_without_a_warning(method):
    boxes = [(-3e38, -3e38, 3e38, 3e38), (5, 5, 5, 5), (9, 9, 2, 2), (0, 0, 1e-40, 1e-40), FAR]
    kept = run(boxes, [0.9, 0.8, 0.7, 0.6, 0.5], method=method)
    assert kept.rows.tolist() == [0, 1, 2, 3, 4]
    if method in ("greedy", "soft_linear", "soft_gaussian"):
        odd = [(0, 0, 3e38, 3e38, 1e30), (0, 0, 0, 5, 1), (0, 0, -1, 5, 0)]
        assert run(odd, [0.9, 0.8, 0.7], method=method).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_keep_dtypes_and_empty_ones_their_shape(method, dtype):
    for boxes in (np.zeros((0, 4), dtype), np.array([BOX, NEAR], dtype)):
        scores, classes = np.full(len(boxes), 0.5, dtype), np.zeros(len(boxes), np.int32)
        kept = nms(boxes, scores, classes, NmsOptions(method))
        assert kept.boxes.shape == (len(kept.rows), 4)
        assert [part.dtype for part in kept] == [np.intp, dtype, dtype, np.int32]


def test_without_options_suppression_is_greedy_and_per_class():
    boxes = np.array([BOX, NEAR, NEAR], np.float32)
    kept = nms(boxes, np.array([0.5, 0.9, 0.8], np.float32), np.array([0, 0, 1], np.int32))
    assert kept.rows.tolist() == [1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_are_taken_in_the_order_of_rows(method):
    row = [(20 * i, 0, 20 * i + 10, 10) for i in range(100)]
    kept = run(row, [0.5, 0.9] * 50, method=method, max_candidates=70)
    assert kept.rows.tolist() == [*range(1, 100, 2), *range(0, 40, 2)]


@pytest.mark.parametrize("method", ["diou", "fusion"])
def test_methods_for_upright_boxes_refuse_rotated_ones(method):
    with pytest.raises(ValueError, match=rf"{method} takes \(N, 4\) \(found \(1, 5\)\)"):
        run([(0, 0, 1, 1, 0)], [0.5], method=method)


def test_an_unknown_method_or_shape_is_refused():
    with pytest.raises(ValueError, match=r"found 'hard'\); use one of greedy, diou"):
        run([BOX], [0.5], method="hard")
    with pytest.raises(ValueError, match=r"\(N, 4\) or \(N, 5\) \(found \(1, 3\)\)"):
        run([(0, 0, 1)], [0.5])
