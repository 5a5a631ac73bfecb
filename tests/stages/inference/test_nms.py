"""Non-maximum suppression keeps the best of each overlapping group, class by class."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import zoo
from models.boxes.iou import overlapping_pairs
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import RowLimit
from stages.detections import CANDIDATES, WEAK_DETECTIONS
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings
from stages.thresholds import Suppression
from tests.builders import context_of

BOX = (0, 0, 10, 10)
NEAR = (0, 0, 10, 9)  # IoU with BOX: 0.9
FAR = (50, 50, 60, 60)
POINT = (5, 5, 5, 5)
NAN, INF = float("nan"), float("inf")


def frame(boxes, scores, classes=None):
    return Frame.of(
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        scores=np.asarray(scores, np.float32),
        classes=np.zeros(len(scores), np.int32) if classes is None else np.int32(classes),
    )


END_TO_END = msgspec.structs.replace(zoo.resolve("ssdlite_mobilenet_v2"), end_to_end=True)


def stage(context=None, **settings):
    return NonMaxSuppression(NonMaxSuppressionSettings(**settings), context or context_of())


def suppressed(boxes, scores, numbers=None, context=None, **settings):
    given = frame(boxes, scores, numbers)
    stage(context, **settings).process(given)
    return given


def scores_left(*args, **settings):
    return pytest.approx(suppressed(*args, **settings)["scores"].tolist())


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "left"),
    [
        pytest.param([], [], [], [], id="no boxes"),
        pytest.param([BOX, NEAR], [0.6, 0.9], [0, 0], [0.9], id="the better of two"),
        pytest.param([BOX, NEAR], [0.6, 0.9], [0, 1], [0.9, 0.6], id="two classes"),
        pytest.param([BOX, FAR], [0.6, 0.9], [0, 0], [0.9, 0.6], id="disjoint, best first"),
        pytest.param([BOX, BOX], [0.5, 0.5], [0, 0], [0.5], id="equal scores"),
        pytest.param([BOX, FAR], [0.09, 0.11], [0, 0], [0.11], id="a low score"),
        pytest.param([BOX, FAR], [NAN, 0.6], [0, 0], [0.6], id="a score of NaN"),
        pytest.param([(NAN, 0, 9, 9), BOX], [0.9, 0.6], [0, 0], [0.6], id="a box of NaN"),
        pytest.param([(0, 0, INF, 9), BOX], [0.9, 0.6], [0, 0], [0.6], id="an infinite box"),
        pytest.param([POINT] * 3, [0.3, 0.2, 0.4], [0] * 3, [0.4, 0.3, 0.2], id="points"),
        pytest.param(
            [POINT, BOX, NEAR], [0.7, 0.6, 0.8], [0] * 3, [0.8, 0.7], id="point and boxes"
        ),
    ],
)
def test_scores_that_are_kept(boxes, scores, classes, left):
    assert scores_left(boxes, scores, classes) == left


def test_a_dropped_box_drops_no_other_box():
    # The middle box is dropped for the left one, so it does not drop the right one.
    row = [(0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10)]
    assert scores_left(row, [0.9, 0.8, 0.7]) == [0.9, 0.7]


def test_overlap_equal_to_the_limit_is_kept():
    half = (0, 0, 10, 5)
    assert scores_left([BOX, half], [0.9, 0.8], max_iou=0.5) == [0.9, 0.8]
    assert scores_left([BOX, half], [0.9, 0.8], max_iou=0.49) == [0.9]


def test_class_agnostic_suppression_crosses_classes():
    assert scores_left([BOX, NEAR], [0.6, 0.9], [0, 1], class_agnostic=True) == [0.9]


def test_boxes_outside_the_image_do_not_suppress_another_class():
    # Classes are moved side by side before suppression, which must not make any overlap.
    boxes = [(0, 0, 2000, 1000), (-2000, 0, 0, 1000), (-2001, -2001, -1, -1001)]
    assert scores_left(boxes, [0.9, 0.8, 0.7], [0, 1, 1]) == [0.9, 0.8, 0.7]
    boxes = [BOX, *((left, 0, left + 10, 10) for left in 2 ** np.arange(8.0, 24))]
    classes = [1] + [0] * 16
    assert scores_left(boxes, np.linspace(0.9, 0.2, 17), classes) == np.linspace(0.9, 0.2, 17)


def test_a_huge_box_does_not_change_the_others():
    huge = (-1e30, -1e30, 1e30, 1e30)
    assert scores_left([huge, BOX, NEAR, FAR], [0.9, 0.8, 0.7, 0.6], [0, 1, 1, 1]) == [
        0.9,
        0.8,
        0.6,
    ]


def test_equal_scores_keep_their_order():
    row = [(20 * i, 0, 20 * i + 10, 10) for i in range(64)]
    left = suppressed(row, [0.5, 0.9] * 32)["boxes"][:, 0]
    assert (np.diff(left[:32]) > 0).all()
    assert (np.diff(left[32:]) > 0).all()


def test_at_most_max_boxes_are_handed_on():
    row = [(20 * i, 0, 20 * i + 10, 10) for i in range(8)]
    assert scores_left(row, np.linspace(0.2, 0.9, 8), max_boxes=3) == [0.9, 0.8, 0.7]


def test_only_max_candidates_are_compared():
    boxes, scores = [NEAR, FAR, BOX], [0.8, 0.7, 0.9]
    assert scores_left(boxes, scores, max_candidates=2) == [0.9]


def test_only_the_wanted_classes_are_kept():
    context = context_of(labels=("person", "bicycle", "car", "person"))
    given = suppressed([BOX] * 4, [0.9] * 4, [0, 1, 2, 3], context, classes=["car", "person"])
    assert sorted(given["classes"].tolist()) == [0, 2, 3]


def test_unwanted_classes_do_not_count_as_candidates():
    context = context_of(labels=("person", "car"))
    wanted = {"classes": ["car"], "max_candidates": 1}
    assert scores_left([BOX, FAR], [0.9, 0.6], [0, 1], context=context, **wanted) == [0.6]


def test_an_empty_list_of_classes_keeps_no_box():
    assert scores_left([BOX], [0.9], context=context_of(labels=("person",)), classes=[]) == []


def test_classes_of_a_model_without_labels_are_given_by_number():
    assert scores_left([BOX, FAR], [0.9, 0.6], [0, 7], classes=["7"]) == [0.6]


@pytest.mark.parametrize(
    ("labels", "name", "complaint"),
    [
        (("person", "car"), "persn", "no label 'persn'; did you mean 'person'"),
        (("person", "car"), "zebra", "no label 'zebra'; known: car, person"),
        ((), "9" * 5000, r"the model has no labels \(found a text of 5000"),
        ((), "person", r"no labels \(found 'person'\); use class numbers instead"),
    ],
)
def test_an_unknown_label_is_refused(labels, name, complaint):
    with pytest.raises(SetupError, match=complaint):
        stage(context_of(labels=labels), classes=[name])


def test_boxes_of_an_end_to_end_model_are_only_filtered_and_sorted():
    context = context_of(contract=END_TO_END, labels=("a", "b"))
    boxes, scores, classes = [BOX, NEAR, BOX, FAR], [0.6, 0.9, 0.05, 0.8], [0, 0, 0, 1]
    limits = {"max_boxes": 1, "max_candidates": 1}
    assert scores_left(boxes, scores, classes, context=context, **limits) == [0.9, 0.8, 0.6]
    assert scores_left(boxes, scores, classes, context=context, classes=["a"]) == [0.9, 0.6]


def test_resolve_returns_min_score_and_max_boxes():
    settings = NonMaxSuppressionSettings(min_score=0.25, max_boxes=40)
    assert NonMaxSuppression.resolve(settings).offers == (Suppression(0.25), RowLimit(40))


def test_results_have_the_declared_dtypes():
    given = suppressed([BOX], [0.9])
    for array in (*CANDIDATES, *WEAK_DETECTIONS):
        assert given[array.name].dtype == array.dtype


# Whole numbers of pixels, so that the overlap of two boxes is the same number everywhere.
BOXES = st.integers(0, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.int16, (n, 4), elements=st.integers(-5, 25)),
        arrays(np.int16, n, elements=st.integers(0, 1000)),
        arrays(np.int16, n, elements=st.integers(0, 3)),
    )
)


def rows(given):
    """Return the rows of a frame as tuples."""
    columns = (given["boxes"].tolist(), given["scores"].tolist(), given["classes"].tolist())
    return [(*box, score, number) for box, score, number in zip(*columns, strict=True)]


@given(BOXES, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_kept_boxes_do_not_overlap_and_stay_on_a_second_run(case, max_iou):
    boxes, scores, classes = case
    scores = scores / 1000
    once = suppressed(boxes, scores, classes, max_iou=max_iou)
    left = rows(once)

    assert set(left) <= set(rows(frame(boxes, scores, classes)))
    assert (np.diff(once["scores"]) <= 0).all()

    i, j, iou = overlapping_pairs(once["boxes"], once["boxes"])
    same = (i != j) & (once["classes"][i] == once["classes"][j])
    assert (iou[same] <= max_iou + 1e-9).all()

    again = suppressed(once["boxes"], once["scores"], once["classes"], max_iou=max_iou)
    assert rows(again) == left


@given(BOXES, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_change_the_result(case, random):
    boxes, _, classes = case
    scores = np.linspace(0.2, 0.9, len(boxes))
    order = list(range(len(boxes)))
    random.shuffle(order)
    assert rows(suppressed(boxes, scores, classes)) == rows(
        suppressed(boxes[order], scores[order], classes[order])
    )
