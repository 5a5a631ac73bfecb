"""Masks, points and angles from the detector through suppression and tracking to a sink."""

import math

import msgspec
import numpy as np
import pytest

from models.boxes.masks import Rle, counts_of, mask_of, rle_area
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.graph.load import settings_of
from pipeline.stage import Context, Settings
from stages.details import ObjectDetails
from stages.detections import keep_rows, objects_of
from stages.inference.detector import Detector, DetectorSettings
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings
from stages.inference.preprocess import Preprocess
from stages.sinks.files.events import event_of
from stages.tracking.tracker import TrackerStage
from tests.models.builders import save

BYTETRACK = settings_of({}, TrackerStage, "tracker")
SIZE = 64
NAMES = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32", "imgsz": "[64, 64]"}
CELLS = 84
"""Rows of the three grids of 64x64."""


def table(rows, width):
    """Rows of columns, filled with others that reach no score."""
    values = np.zeros((1, width, CELLS), np.float32)
    for i, row in enumerate(rows):
        values[0, :, i] = row
    return values


def segmenter(path):
    """A model that finds two cats, one of them twice, and a weak dog; their left half is a mask."""
    maps = np.zeros((1, 8, 16, 16), np.float32)
    maps[0, 0] = 5  # everywhere
    maps[0, 1, :, 8:] = -10  # the right half of the image
    own = [1, 1, 0, 0, 0, 0, 0, 0]
    rows = [
        [32, 16, 40, 20, 0.9, 0, *own],
        [33, 16, 40, 20, 0.8, 0, *own],
        [32, 48, 20, 20, 0.7, 0, 1, *own[1:]],
        [50, 48, 20, 20, 0, 0.15, 1, 0, *own[2:]],
    ]
    outputs = {"output0": table(rows, 14), "output1": maps}
    return save(path, [1, 3, SIZE, SIZE], outputs, metadata=NAMES | {"task": "segment"})


def poser(path):
    def points(x, y):
        return [value for k in range(17) for value in (x + k, y - k, k / 17)]

    rows = [
        [20, 20, 20, 20, 0.9, *points(10, 20)],
        [21, 20, 20, 20, 0.8, *points(11, 20)],
        [50, 50, 10, 10, 0.7, *points(40, 50)],
    ]
    metadata = {"names": "{0: 'person'}", "task": "pose", "kpt_shape": "[17, 3]", "stride": "32"}
    return save(path, [1, 3, SIZE, SIZE], {"output0": table(rows, 56)}, metadata=metadata)


def turner(path):
    # Two thin boxes that cross: their upright hulls are equal, their own IoU is low.
    rows = [
        [32, 32, 40, 6, 0.9, 0, math.pi / 4],
        [32, 32, 40, 6, 0.8, 0, -math.pi / 4],
        [32, 33, 40, 6, 0.7, 0, math.pi / 4],
    ]
    metadata = NAMES | {"task": "obb"}
    return save(path, [1, 3, SIZE, SIZE], {"output0": table(rows, 7)}, metadata=metadata)


def rcnn(path, side):
    """A model that suppresses overlaps itself, and gives small or full masks of the left half."""
    masks = np.zeros((1, 3, side, side), np.float32)
    masks[0, :, :, : side // 2] = 1
    outputs = {
        "boxes": np.float32([[[10, 10, 50, 30], [10, 40, 50, 60], [0, 0, 9, 9]]]),
        "labels": np.float32([[1, 2, 1]]),
        "scores": np.float32([[0.9, 0.8, 0.01]]),
        "masks": masks,
    }
    save(path.with_suffix(".onnx"), [1, 3, SIZE, SIZE], outputs)
    path.write_text(
        f"name: m\nfamily: mask_rcnn\nweights: {{file: {path.stem}.onnx}}\nlabels: [cat, dog]\n"
    )
    return path


@pytest.mark.parametrize(("side", "inside"), [(28, 30), (SIZE, 32)])
def test_masks_over_boxes_and_over_the_input_become_runs(tmp_path, side, inside):
    frame, _ = run(rcnn(tmp_path / "m.yaml", side))
    first, second = objects_of(frame, ("cat", "dog"))
    assert (first.label, second.label) == ("cat", "dog")
    mask = mask_in(first)
    assert mask[10:30, 10:inside].all()
    assert mask.sum() == mask[10:30, 10:inside].sum()
    assert sum(frame[name].nbytes for name in frame if "mask" in name) < 400


MODELS = {"segment": segmenter, "keypoints": poser, "oriented": turner}


def run(path, with_tracker=True, image=None, **settings):
    """The frame of a model behind preprocess, detector, suppression and tracker."""
    settings = DetectorSettings(model=str(path), device="cpu", **settings)
    offers = Detector.resolve(settings).offers
    behind = NonMaxSuppression.resolve(NonMaxSuppressionSettings()).offers
    before = Context(offers=offers)
    around = Context(offers=offers, offers_behind=behind)
    frame = Frame.of(image=np.zeros((SIZE, SIZE, 3), np.uint8) if image is None else image)
    detector = Detector(settings, around)
    detector.open()
    stages = [
        Preprocess(Settings(), Context(offers_behind=offers)),
        detector,
        NonMaxSuppression(NonMaxSuppressionSettings(), before),
    ]
    if with_tracker:
        stages.append(TrackerStage(BYTETRACK, before))
    for stage in stages:
        stage.process(frame)
    detector.close()
    return frame, detector


def mask_in(found):
    return mask_of(Rle(*found.mask.size, counts_of(found.mask.counts)))


def test_masks_are_those_of_the_boxes_that_remain(tmp_path):
    frame, _ = run(segmenter(tmp_path / "m.onnx"))
    first, second = objects_of(frame, ("cat", "dog"))
    assert (first.label, first.box, second.box) == ("cat", (12, 6, 52, 26), (22, 38, 42, 58))
    mask = mask_in(first)
    assert mask.shape == (SIZE, SIZE)
    assert mask[6:26, 12:31].all()
    assert mask.sum() == mask[6:26, 12:52].sum()
    assert not mask[:, 34:].any()
    # No full picture of a mask is in the slot.
    assert frame["masks"].nbytes < 200


def test_masks_of_a_frame_of_another_size_are_in_its_pixels(tmp_path):
    frame, _ = run(segmenter(tmp_path / "m.onnx"), image=np.zeros((256, 512, 3), np.uint8))
    first, *_ = objects_of(frame, ("cat", "dog"))
    assert first.mask.size == (256, 512)
    mask = mask_in(first)
    left, top, right, bottom = (round(side) for side in first.box)
    assert mask.sum() == mask[top:bottom, left:right].sum()
    assert not mask[:, 256 + 16 :].any()
    share = rle_area(Rle(256, 512, counts_of(first.mask.counts))) / (
        (right - left) * (bottom - top)
    )
    assert 0.45 < share < 0.55


def test_points_belong_to_their_boxes(tmp_path):
    frame, _ = run(poser(tmp_path / "m.onnx"))
    first, second = objects_of(frame, ("person",))
    assert first.keypoints[0] == (10, 20, 0)
    assert first.keypoints[16] == (26, 4, pytest.approx(16 / 17, abs=1e-4))
    assert second.keypoints[3] == (43, 47, pytest.approx(3 / 17, abs=1e-4))


def test_rotated_boxes_are_suppressed_by_their_own_overlap(tmp_path):
    frame, _ = run(turner(tmp_path / "m.onnx"))
    first, second = objects_of(frame, ("cat", "dog"))
    assert first.rotated == (32, 32, 40, 6, pytest.approx(math.pi / 4, abs=1e-5))
    assert second.rotated[4] == pytest.approx(-math.pi / 4, abs=1e-5)
    side = 46 / 2 / math.sqrt(2)
    assert first.box == pytest.approx((32 - side, 32 - side, 32 + side, 32 + side), abs=0.01)


@pytest.mark.parametrize("method", ["diou", "fusion"])
def test_methods_for_upright_boxes_refuse_a_model_of_rotated_ones(tmp_path, method):
    settings = DetectorSettings(model=str(turner(tmp_path / "m.onnx")))
    with pytest.raises(SetupError, match=f"method: {method} is for upright boxes"):
        NonMaxSuppression(
            NonMaxSuppressionSettings(method=method),
            Context(offers=Detector.resolve(settings).offers),
        )


@pytest.mark.parametrize("task", MODELS)
def test_a_model_with_more_gives_boxes_alone_where_asked(tmp_path, task):
    path = MODELS[task](tmp_path / "m.onnx")
    frame, detector = run(path, task="detect")
    assert detector._contract.task == "detect"
    assert not {"rows", "masks", "keypoints", "rotated", "raw_prototypes"} & set(frame)
    assert all(set(msgspec.to_builtins(found)) == BOX_KEYS for found in objects_of(frame, ()))


BOX_KEYS = {"id", "label", "class", "score", "box"}


@pytest.mark.parametrize("task", MODELS)
def test_details_are_in_the_line_of_events_as_they_are_named(tmp_path, task):
    frame, _ = run(MODELS[task](tmp_path / "m.onnx"))
    line = msgspec.to_builtins(event_of(frame, ("cat", "dog")))
    key = {"segment": "mask", "keypoints": "keypoints", "oriented": "rotated"}[task]
    assert [set(found) for found in line["objects"]] == [BOX_KEYS | {key}] * 2
    assert set(line) == {"stream", "frame", "time_s", "captured_at", "objects"}


def test_rows_that_are_dropped_take_their_details_with_them(tmp_path):
    frame, _ = run(poser(tmp_path / "m.onnx"))
    whole = objects_of(frame, ("person",))
    keep_rows(frame, np.array([False, True]))
    assert objects_of(frame, ("person",)) == whole[1:]


def test_a_stage_that_drops_boxes_alone_is_reported(tmp_path):
    frame, _ = run(poser(tmp_path / "m.onnx"))
    frame.put("boxes", frame["boxes"][:1])
    with pytest.raises(ValueError, match=r"'rows': expected 1 rows, one per box \(found 2\)"):
        ObjectDetails.of(frame)


def test_a_weak_box_that_continues_a_track_has_its_own_details(tmp_path):
    path = poser(tmp_path / "m.onnx")
    frame, _ = run(path, with_tracker=False)
    tracker = TrackerStage(BYTETRACK, Context())
    for _ in range(2):
        tracker.process(frame)
    before = objects_of(frame, ("person",))
    # The second person is below the confidence now.
    weak, _ = run(path, with_tracker=False)
    strong_rows, weak_rows = [0], [1]
    for name in ("boxes", "scores", "classes", "rows"):
        every = weak[name]
        weak.put(name, every[strong_rows])
        weak.put(f"weak_{name}", every[weak_rows])
    weak.put("weak_scores", np.float32([0.4]))
    tracker.process(weak)
    after = objects_of(weak, ("person",))
    assert [found.keypoints for found in after] == [found.keypoints for found in before]
