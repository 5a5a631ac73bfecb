"""Detections are stored in a frame and read back; labels become class numbers."""

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from stages.detections import (
    CANDIDATES,
    DETECTIONS,
    NO_TRACK_ID,
    RESULTS,
    WEAK_DETECTIONS,
    Detections,
    check_labels,
    class_numbers,
    label,
    objects_of,
    put_detections,
)

LABELS = ("person", "car", "person")


def frame_with(scores, min_score=None):
    frame = Frame.of()
    n = len(scores)
    boxes, classes = np.zeros((n, 4), np.float32), np.arange(n, dtype=np.int32)
    put_detections(frame, boxes, np.array(scores, np.float32), classes, min_score)
    return frame


def test_detections_without_a_tracker_have_no_track_id():
    found = Detections.of(frame_with([0.5, 0.25]))
    assert found.scores.tolist() == [0.5, 0.25]
    assert found.ids.tolist() == [NO_TRACK_ID] * 2


def test_track_ids_are_read_where_a_tracker_wrote_them():
    frame = frame_with([0.5])
    frame.put("ids", np.array([7]))
    assert Detections.of(frame).ids.tolist() == [7]


@pytest.mark.parametrize(
    ("min_score", "strong", "weak"),
    [(None, [0.5, 0.25, 0.75], []), (0.5, [0.5, 0.75], [0.25]), (1.0, [], [0.5, 0.25, 0.75])],
)
def test_detections_below_the_confidence_are_stored_as_weak(min_score, strong, weak):
    frame = frame_with([0.5, 0.25, 0.75], min_score)
    assert frame["scores"].tolist() == strong
    assert frame["weak_scores"].tolist() == weak


def test_stored_arrays_have_the_declared_names_and_dtypes():
    frame = frame_with([0.5])
    for array in (*CANDIDATES, *WEAK_DETECTIONS):
        assert frame[array.name].dtype == array.dtype
        assert frame[array.name].ndim == len(array.shape)
    assert [array.name for array in DETECTIONS][: len(Detections._fields)] == list(
        Detections._fields
    )
    assert [array.name for array in RESULTS] == [array.name for array in DETECTIONS]


def test_a_frame_without_boxes_has_no_objects():
    frame = Frame.of(image=np.zeros((4, 4, 3), np.uint8))
    for array, declared in zip(Detections.of(frame), CANDIDATES, strict=False):
        assert len(array) == 0
        assert array.dtype == declared.dtype
    assert objects_of(frame, LABELS) == []


def test_a_label_of_several_classes_gives_all_of_them():
    assert class_numbers(["person"], LABELS, "classes").tolist() == [0, 2]
    assert class_numbers(["car", "person"], LABELS, "classes").tolist() == [1, 0, 2]
    assert class_numbers([], LABELS, "classes").tolist() == []


def test_class_numbers_are_accepted_only_where_the_model_has_no_labels():
    assert class_numbers(["3", "0"], (), "classes").tolist() == [3, 0]
    with pytest.raises(SetupError, match=r"^classes: the model has no label '3'; known: car, pers"):
        class_numbers(["3"], LABELS, "classes")


def test_an_unknown_label_is_refused_under_the_name_of_its_setting():
    with pytest.raises(SetupError, match=r"^labels: the model has no label 'cra'; did you .*'car'"):
        check_labels(["cra"], LABELS)
    with pytest.raises(
        SetupError, match=r"^labels: the model has no labels \(found 'car'\); use class numbers"
    ):
        check_labels(["car"], ())


def test_a_class_without_a_label_is_named_by_its_number():
    assert [label(LABELS, number) for number in (1, 3, -1)] == ["car", "3", "-1"]


def test_a_frame_of_pixels_alone_has_no_objects():
    frame = Frame.of(image=np.zeros((4, 6, 3), np.uint8))
    assert len(Detections.of(frame).boxes) == 0
    assert objects_of(frame, ()) == []
