"""Blur: what is hidden in the image that goes on, and that nothing shows the captured one."""

import msgspec
import numpy as np
import pytest
from hypothesis import given as provided
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import GraphError, SetupError
from pipeline.frame import Frame
from pipeline.graph.load import load_class
from pipeline.stage import Array
from pipeline.testing import run_stages
from run import main
from stages import LOCATIONS, SINKS
from stages.detections import WantsAllBoxes
from stages.drawing.blur import Blur, BlurSettings
from stages.drawing.recent_boxes import MAX_BOXES
from tests.builders import CLIP, context_of, graph
from tests.stages.drawing.test_obscure import checkerboard

PERSON, CAR = 0, 1
SIZE = 120, 160
BOX, FAR = (20, 30, 60, 90), (100, 30, 140, 90)
NAN, INF = float("nan"), float("inf")


def opened(model=("person", "car"), **settings):
    """The stage behind a model with these labels."""
    made = msgspec.convert(settings, BlurSettings)
    return Blur(made, context_of(model, streams=("yard", "gate")))


def frame(*boxes, seq=0, stream="yard", size=SIZE, ids=None, classes=None, fps=10, **more):
    """A fine checkerboard with boxes; `more` are other arrays."""
    count = len(boxes)
    return Frame.of(
        stream,
        seq,
        seq / fps,
        image=checkerboard(*size),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(count, 0.9, np.float32),
        classes=np.array([PERSON] * count if classes is None else classes, np.int32),
        ids=np.array([-1] * count if ids is None else ids, np.int64),
        **more,
    )


def other(prefix, *found):
    """Arrays of boxes that are no objects; each is (box, class, score)."""
    return {
        f"{prefix}_boxes": np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        f"{prefix}_classes": np.array([number for _, number, _ in found], np.int32),
        f"{prefix}_scores": np.array([score for _, _, score in found], np.float32),
    }


def hidden(given, box):
    """Whether no squares of the checkerboard are left in a box."""
    x1, y1, x2, y2 = box
    part = given["image"][y1:y2, x1:x2]
    deviation = part.std()
    assert deviation < 30 or deviation > 100, "a part of it is hidden"
    return deviation < 30


def hides(stage, *frames):
    """Which of BOX and FAR are hidden in the last of some frames."""
    [*_, last] = run_stages([stage], frames)
    return [hidden(last, box) for box in (BOX, FAR)]


@pytest.mark.parametrize("method", ["pixelate", "gauss", "fill"])
def test_an_object_is_hidden_in_a_new_image(method):
    given = frame(BOX)
    captured, before = given["image"], given["image"].copy()
    place = given.header.arrays["image"]
    assert hides(opened(method=method), given) == [True, False]
    assert given.header.arrays["image"] != place
    assert np.array_equal(captured, before)
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    near = (x >= 20 - 6) & (x < 60 + 6) & (y >= 30 - 8) & (y < 90 + 8)
    assert np.array_equal(given["image"][~near], before[~near])


def test_a_frame_without_objects_is_not_copied():
    given = frame()
    place, used = given.header.arrays["image"], given.header.used
    run_stages([opened(labels=["person"])], [given])
    assert given.header.arrays["image"] == place
    assert given.header.used == used
    assert given["blurred_boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["person"], [True, False]),
        (["car"], [False, True]),
        (["car", "person"], [True, True]),
        (None, [True, True]),
    ],
)
def test_objects_with_the_labels_are_hidden(labels, expected):
    assert hides(opened(labels=labels), frame(BOX, FAR, classes=[PERSON, CAR])) == expected


def test_a_model_without_labels_has_numbers_of_classes():
    assert hides(opened(None, labels=["1"]), frame(BOX, FAR, classes=[PERSON, CAR])) == [
        False,
        True,
    ]


@pytest.mark.parametrize("prefix", ["weak", "unfiltered"])
@pytest.mark.parametrize(
    ("number", "score", "settings", "expected"),
    [
        (PERSON, 0.3, {}, True),
        (PERSON, 0.29, {}, False),
        (PERSON, 0.2, {"min_score": 0.2}, True),
        (CAR, 0.9, {}, False),
        (CAR, 0.9, {"labels": None}, True),
    ],
)
def test_a_box_that_is_no_object_is_hidden_too(prefix, number, score, settings, expected):
    stage = opened(**{"labels": ["person"]} | settings)
    given = frame(BOX, **other(prefix, (FAR, number, score)))
    assert hides(stage, given) == [True, expected]


def test_an_object_is_hidden_however_low_its_score():
    given = frame(BOX)
    given.put("scores", np.array([0.01], np.float32))
    assert hides(opened(min_score=1.0), given) == [True, False]


def test_the_place_of_an_object_that_is_missed_stays_hidden_for_a_time():
    def after(missed):
        frames = [frame(BOX, seq=0), *(frame(seq=seq) for seq in range(1, missed + 1))]
        return hides(opened(hold_s=0.5), *frames)[0]

    assert [after(missed) for missed in (1, 5, 6)] == [True, True, False]


def test_a_tracked_object_leaves_no_trail_though_it_is_among_all_boxes():
    stage, frames = opened(), []
    for seq in range(4):
        box = (20 + 9 * seq, 30, 60 + 9 * seq, 90)
        frames.append(frame(box, seq=seq, ids=[7], **other("unfiltered", (box, PERSON, 0.9))))
    run_stages([stage], frames)
    assert len(frames[-1]["blurred_boxes"]) == 1


def test_nothing_stays_hidden_in_separate_images_of_other_things():
    first, second = frame(BOX, seq=0), frame(seq=0)
    first.header.still = second.header.still = True
    assert hides(opened(), first, second) == [False, False]


def test_streams_do_not_share_their_places():
    stage = opened()
    one, two = frame(BOX, seq=0), frame(seq=1, stream="gate")
    assert hides(stage, one, two) == [False, False]


def test_a_place_stays_hidden_where_it_is_in_an_image_of_another_size():
    stage = opened()
    given = frame(seq=1, size=(240, 320))
    run_stages([stage], [frame(BOX, seq=0), given])
    assert hidden(given, [2 * side for side in BOX])
    assert not hidden(given, (*BOX[:2], 30, 50))


def test_the_places_of_a_stream_that_ended_are_forgotten():
    stage = opened()
    run_stages([stage], [frame(BOX)])
    assert stage.state("yard") == b""


@pytest.mark.parametrize("at", range(1, 6))
def test_after_a_crash_the_same_is_hidden(at):
    boxes = [[BOX], [], [FAR], [], [BOX, FAR], []]
    calm, struck = opened(hold_s=0.15), opened(hold_s=0.15)
    for seq, found in enumerate(boxes):
        if seq == at:
            state, struck = struck.state("yard"), opened(hold_s=0.15)
            struck.restore("yard", state)
        one, two = frame(*found, seq=seq), frame(*found, seq=seq)
        for stage, of in ((calm, one), (struck, two)):
            stage.process(of)
            stage.derive(of)
        assert np.array_equal(one["image"], two["image"])
        assert calm.state("yard") == struck.state("yard")


SIDES = st.one_of(st.floats(-50, 250, width=32), st.sampled_from([NAN, -INF, INF, 0, 160, 1e30]))
BOXES = arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=SIDES)


@settings(deadline=None)
@provided(BOXES, BOXES)
def test_boxes_of_any_kind_are_hidden_or_left_out(boxes, weak):
    found = other("weak", *[(box, PERSON, 0.5) for box in weak])
    given = frame(*boxes, **found)
    before = given["image"].copy()
    run_stages([opened()], [given])
    covered = np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in given["blurred_boxes"].tolist():
        assert 0 <= x1 < x2 <= SIZE[1]
        assert 0 <= y1 < y2 <= SIZE[0]
        covered[y1:y2, x1:x2] = True
    assert np.array_equal(given["image"][~covered], before[~covered])


@pytest.mark.parametrize("count", [300, MAX_BOXES + 1])
def test_hundreds_of_objects_are_all_hidden(count):
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 1, (count, 2)) * (SIZE[1] - 20, SIZE[0] - 20)
    boxes = np.column_stack([low, low + rng.uniform(8, 20, (count, 2))]).round()
    given = frame(*boxes)
    before = given["image"].copy()
    run_stages([opened()], [given])
    covered = np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        covered[y1:y2, x1:x2] = True
    assert covered.mean() > 0.8
    assert given["image"][covered].std() < 60 < before[covered].std()
    assert len(given["blurred_boxes"]) <= MAX_BOXES


# --- regions ---

LEFT = [[0, 0.2], [0.45, 0.2], [0.45, 0.9], [0, 0.9]]
RIGHT = [[0.6, 0.2], [0.95, 0.2], [0.95, 0.9], [0.6, 0.9]]


def regions(*corners):
    return {"yard": {"regions": list(corners)}}


@pytest.mark.parametrize("labels", [[], ["car"], None])
def test_the_regions_of_a_stream_are_hidden_in_every_frame(labels):
    stage = opened(labels=labels, streams=regions(LEFT))
    assert hides(stage, frame(seq=0), frame(seq=1)) == [True, False]
    assert hides(stage, frame(seq=2, stream="gate")) == [False, False]


def test_several_regions_and_objects_are_hidden_together():
    stage = opened(streams=regions(LEFT, RIGHT))
    assert hides(stage, frame((70, 30, 90, 90))) == [True, True]
    given = frame((70, 30, 90, 90))
    run_stages([stage], [given])
    assert hidden(given, (70, 30, 90, 90))


def test_a_region_fits_images_of_every_size():
    stage = opened(labels=[], streams=regions(LEFT))
    for seq, size in enumerate([SIZE, (480, 640), (30, 40), SIZE]):
        given = frame(seq=seq, size=size)
        run_stages([stage], [given])
        height, width = size
        left = given["image"][height // 3 : height * 2 // 3, : width // 3]
        assert left.std() < 30
        assert given["image"][:, width // 2 :].std() > 100


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labels": ["persn"]}, "labels: the model has no label 'persn'; did you mean 'person'"),
        (
            {"labels": []},
            r"labels: expected labels, or regions of streams \(found none\)",
        ),
        ({"labels": [], "streams": {"yard": {"regions": []}}}, "labels: expected labels, or reg"),
        ({"streams": regions(LEFT, LEFT[:2])}, r"streams\.yard\.regions\[1\]: expected 3 to 100"),
        ({"streams": regions([[0, 0], [200, 0], [0, 1]])}, r"regions\[0\]: corner 2 is outside"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(SetupError, match=words):
        opened(**settings)


def test_a_stream_that_is_not_there_is_refused():
    stage = opened(streams={"yrad": {"regions": [LEFT]}})
    with pytest.raises(SetupError, match="streams: no stream is named 'yrad'; did you mean 'yard'"):
        stage.effective()


def test_what_is_hidden_is_shown_with_the_graph():
    shown = {"labels": "all", "min_score": 0.3, "method": "pixelate"}
    assert opened().effective() == shown
    assert opened(labels=["car"], streams=regions(LEFT, RIGHT)).effective() == {
        **shown,
        "labels": "car",
        "streams.yard": "(2 regions)",
    }


# --- in a graph ---

BEFORE = {
    "capture": {"use": "capture"},
    "preprocess": {"use": "preprocess"},
    "detector": {"use": "detector"},
    "nms": {"use": "nms", "classes": ["car"]},
    "tracker": {"use": "tracker"},
    "blur": {"use": "blur", "labels": ["person"]},
}
SHOWING = [
    use
    for use in SINKS
    if any(array.name == "image" for array in load_class(use, LOCATIONS, "").takes)
]


def made(use, after):
    settings = {} if use == "null" else dict.fromkeys(filter(None, [SINKS[use]]), "8123")
    stages = {**BEFORE, "last": {"use": use, "after": after, **settings}}
    return graph(stages, {"demo": {"source": str(CLIP)}}, LOCATIONS)


def test_the_sinks_that_show_the_image_are_known():
    assert set(SHOWING) == {"window", "video", "pictures", "rtsp", "web", "clips", "draw"}


@pytest.mark.parametrize("use", SHOWING)
@pytest.mark.parametrize("after", ["tracker", "nms", "capture"])
def test_a_sink_that_would_show_the_captured_image_is_refused(use, after, monkeypatch):
    if after == "capture":  # where it would find no boxes either
        monkeypatch.setattr(load_class(use, LOCATIONS, ""), "takes", (Array("image"),))
    with pytest.raises(GraphError, match=r"stages\.last: takes 'image' .*; set `after: blur`$"):
        made(use, after)


def test_detections_of_all_classes_reach_the_blur_in_a_graph():
    nodes = {node.name: node for node in made("null", "blur").nodes}
    assert nodes["nms"].context.get_behind(WantsAllBoxes) is not None
    assert nodes["last"].withheld == ()
    assert {n.name: n.withheld for n in made("null", "tracker").nodes}["last"] == ("image",)


def test_a_sink_before_the_blur_ends_the_command_with_one_line(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    stages = "".join(f"  {name}: {table}\n" for name, table in BEFORE.items())
    sink = f"  video: {{use: video, after: tracker, path: {tmp_path}/out.mp4}}\n"
    config.write_text(f"streams: {{demo: {{source: {CLIP}}}}}\nstages:\n{stages}{sink}")
    assert main(["check", str(config)]) == 2
    said = capsys.readouterr().err.strip()
    assert "stages.video: takes 'image'" in said
    assert said.endswith("set `after: blur`")
    assert "\n" not in said
    assert not (tmp_path / "out.mp4").exists()
