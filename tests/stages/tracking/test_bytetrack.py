"""ByteTrack: which detection continues which track, on boxes made by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.detections import Detections
from stages.tracking.association import assign
from stages.tracking.bytetrack import ByteTrack
from stages.tracking.settings import ByteTrackSettings

FPS = 10
SIDE = 40


def found(boxes, scores, classes):
    """Detections without ids."""
    return Detections(boxes, scores, classes, np.full(len(boxes), -1, np.int64))


class Scene:
    """Calls a tracker with squares, one frame every tenth of a second."""

    def __init__(self, **settings):
        self.tracks = ByteTrack(ByteTrackSettings(**settings))
        self.frame = 0

    def __call__(self, *objects, time_s=None):
        """The ids by place: objects are (x, y), (x, y, score) or (x, y, score, class)."""
        full = [(*o, *(0.9, 0)[len(o) - 2 :]) for o in objects]
        boxes = np.array([(x, y, x + SIDE, y + SIDE) for x, y, *_ in full], np.float32)
        scores = np.array([o[2] for o in full], np.float32)
        classes = np.array([o[3] for o in full], np.int32)
        rows, ids = self.tracks.update(
            found(boxes.reshape(-1, 4), scores, classes),
            self.frame / FPS if time_s is None else time_s,
        )
        self.frame += 1
        assert ids.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert len(set(ids.tolist())) == len(ids)
        id_of = [None] * len(full)
        for row, id in zip(rows.tolist(), ids.tolist(), strict=True):
            id_of[row] = id
        return id_of


def test_ids_count_from_1_and_stay():
    scene = Scene()
    for step in range(20):
        assert scene((5 * step, 0), (300 - 5 * step, 200)) == [1, 2]


def test_a_track_of_a_later_frame_is_shown_from_its_second_detection():
    scene = Scene()
    scene()
    assert scene((0, 0)) == [None]
    assert scene((2, 0)) == [1]


@pytest.mark.parametrize("min_hits", [1, 2, 4])
def test_min_hits_is_how_many_frames_in_a_row_confirm_a_track(min_hits):
    scene = Scene(min_hits=min_hits)
    scene()
    shown = [scene((0, 0)) for _ in range(5)]
    assert shown == [[None]] * (min_hits - 1) + [[1]] * (6 - min_hits)


def test_an_unconfirmed_track_ends_with_the_first_frame_without_it():
    scene = Scene(min_hits=2)
    scene()
    scene((0, 0))
    scene()
    assert scene((0, 0)) == [None]


def test_a_false_detection_takes_no_id():
    scene = Scene()
    scene()
    scene((0, 0))
    scene((500, 0))
    assert scene((500, 0)) == [1]


def test_a_weak_detection_begins_no_track():
    scene = Scene(new_track_score=0.65)
    assert [scene((0, 0, 0.64)) for _ in range(3)] == [[None]] * 3
    assert scene((0, 0, 0.66)) == [None]
    assert scene((0, 0, 0.55)) == [1]


def test_a_weak_detection_keeps_a_track_alive():
    scene = Scene(lost_s=0.3)
    scene((0, 0))
    assert [scene((step, 0, 0.35)) for step in range(10)] == [[1]] * 10


def test_a_detection_under_low_score_does_not():
    scene = Scene(lost_s=0.3)
    scene((0, 0))
    assert [scene((0, 0, 0.29)) for _ in range(5)] == [[None]] * 5
    assert len(scene.tracks) == 0


def test_a_strong_detection_finds_a_lost_track_again_a_weak_one_does_not():
    scene = Scene()
    scene((0, 0))
    scene()
    assert scene((0, 0, 0.35)) == [None]
    assert scene((0, 0, 0.55)) == [1]


def test_a_weak_detection_must_overlap_by_weak_match_iou():
    scene = Scene(weak_match_iou=0.5)
    scene((0, 0), (200, 0))
    assert scene((15, 0, 0.4), (210, 0, 0.4)) == [None, 2]  # IoU 0.45 and 0.6


def test_a_strong_detection_goes_first_even_where_a_weak_one_fits_better():
    scene = Scene()
    scene((0, 0))
    assert scene((0, 0, 0.4), (8, 0, 0.9)) == [None, 1]


def test_of_two_boxes_that_fit_the_better_has_the_track():
    scene = Scene()
    scene((0, 0))
    assert scene((0, 0, 0.6), (2, 0, 0.9)) == [None, 1]


@pytest.mark.parametrize(
    ("match_iou", "id"),
    [pytest.param(0.25, 1, id="enough"), pytest.param(0.35, None, id="not enough")],
)
def test_match_iou_is_compared_with_iou_times_score(match_iou, id):
    scene = Scene(match_iou=match_iou)
    scene((0, 0))
    assert scene((20, 0, 0.9)) == [id]  # IoU a third


def test_every_other_frame_is_enough():
    scene = Scene()
    for t in range(0, 60, 2):
        assert scene((12 * t, 0), (800 - 12 * t, 30), time_s=t / FPS) == [1, 2]


def test_two_that_cross_keep_their_ids():
    scene = Scene()
    for step in range(40):
        assert scene((5 * step, 0), (200 - 5 * step, 15)) == [1, 2]


def test_two_that_pass_behind_each_other_keep_their_ids():
    scene = Scene()
    for step in range(40):
        x, other = 5 * step, 200 - 5 * step
        if abs(x - other) < 25:
            scene((x, 0))  # the other is hidden
        else:
            assert scene((x, 0), (other, 5)) == [1, 2]


@pytest.mark.parametrize(
    ("hidden_frames", "id"),
    [pytest.param(9, 1, id="shorter than lost_s"), pytest.param(11, None, id="longer")],
)
def test_occlusion(hidden_frames, id):
    scene = Scene(lost_s=1.0)
    for step in range(10):
        scene((5 * step, 0))
    for _ in range(hidden_frames):
        scene()
    assert scene((5 * (10 + hidden_frames), 0)) == [id]


def test_lost_s_is_time_and_not_frames():
    few, many = Scene(lost_s=1.0), Scene(lost_s=1.0)
    few((0, 0), time_s=0.0)
    many((0, 0), time_s=0.0)
    few(time_s=0.5)
    for frame in range(1, 45):
        many(time_s=frame / 50)
    assert few((0, 0), time_s=0.9) == [1]
    assert many((0, 0), time_s=0.9) == [1]


def test_without_lost_s_a_track_ends_with_the_first_frame_without_it():
    scene = Scene(lost_s=0)
    scene((0, 0))
    scene()
    assert len(scene.tracks) == 0


def test_a_pause_without_frames_ends_no_track():
    scene = Scene(lost_s=1.0)
    scene((0, 0), time_s=0.0)
    assert scene((0, 0), time_s=60.0) == [1]


@pytest.mark.parametrize("fps", [5, 10, 25, 30, 60])
def test_motion_is_per_second_so_the_frame_rate_does_not_matter(fps):
    scene = Scene()
    for frame in range(3 * fps):
        time_s = frame / fps
        assert scene((120 * time_s, 0), (300 - 90 * time_s, 60), time_s=time_s) == [1, 2]


def test_ids_survive_missing_frames():
    """At this speed the box of a frame and that of the frame after next do not overlap."""
    scene = Scene()
    times = [t for t in range(60) if t < 10 or t % 4 == 0 or t % 7 == 0]
    for t in times:
        assert scene((22 * t, 0), (2000 - 22 * t, 200), time_s=t / FPS) == [1, 2]


def test_the_same_without_regard_to_time_would_lose_them():
    """Shows that the test before can fail: frames are missing, and their times do not tell."""
    scene = Scene()
    times = [t for t in range(60) if t < 10 or t % 4 == 0 or t % 7 == 0]
    found = [scene((22 * t, 0), time_s=i / FPS) for i, t in enumerate(times)]
    assert found[-1] != [1]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([0.0] * 8, id="standing still"),
        pytest.param([5.0, 5.1, 5.2, 0.0, 0.1, 0.2, 0.3, 0.4], id="jumping back"),
        pytest.param([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], id="running backwards"),
        pytest.param([0.0, 1e-9, 2e-9, 0.1, 0.1, 1e6, 1e9, 1e9], id="of all sizes"),
    ],
)
def test_strange_times_do_not_break_a_track(times):
    scene = Scene()
    for time_s in times:
        assert scene((0, 0), time_s=time_s) == [1]
    assert np.isfinite(scene.tracks._motion).all()


def test_where_time_stands_still_lost_tracks_still_end():
    scene = Scene(lost_s=1.0)
    scene((0, 0), time_s=3.0)
    for _ in range(40):
        scene(time_s=3.0)
    assert len(scene.tracks) == 0


def test_a_lost_object_neither_grows_nor_shrinks():
    scene = Scene(match_iou=0.6)
    side = np.array([(0, 0, 1, 1)], np.float32)
    one, person = np.ones(1, np.float32), np.zeros(1, np.int32)
    for step in range(10):
        scene.tracks.update(found(side * (40 + 10 * step), one, person), step / FPS)
    for step in range(10, 18):
        scene.tracks.update(found(side[:0], one[:0], person[:0]), step / FPS)
    # It has gone on like its centre, and has the size it had.
    again = np.array([(38, 38, 178, 178)], np.float32)
    assert scene.tracks.update(found(again, one, person), 1.8).ids.tolist() == [1]


def test_ids_are_never_given_again():
    scene = Scene(lost_s=0.1)
    given_out = []
    for _ in range(5):
        scene((0, 0), (200, 0))
        given_out += scene((0, 0), (200, 0))
        for _ in range(3):
            scene()
    assert given_out == list(range(1, 11))


def test_classes_do_not_mix():
    scene = Scene()
    assert scene((0, 0, 0.9, 0), (4, 0, 0.8, 1)) == [1, 2]
    assert scene((4, 0, 0.9, 0), (0, 0, 0.8, 1)) == [1, 2]
    assert scene((4, 0, 0.9, 2)) == [None]


def test_classes_mix_if_asked_to():
    scene = Scene(class_agnostic=True)
    scene((0, 0, 0.9, 2))
    assert scene((2, 0, 0.9, 7)) == [1]
    assert scene((2, 0, 0.9, 2)) == [1]


def test_rows_that_are_not_finite_are_passed_over():
    scene = Scene(min_hits=1)
    nan = float("nan")
    assert scene((nan, 0), (0, 0), (50, 50, nan), (0, float("inf"))) == [None, 1, None, None]
    assert scene((2, 0), (0, 0, nan)) == [1, None]


def test_empty_frames():
    scene = Scene()
    assert [scene() for _ in range(3)] == [[]] * 3


def test_a_thousand_objects():
    scene = Scene()
    places = [(60 * (i % 40), 60 * (i // 40)) for i in range(1000)]
    for step in range(4):
        assert scene(*((x + 3 * step, y) for x, y in places)) == list(range(1, 1001))


def crowd(seed, frames=20):
    """Objects that wander, vanish and come, with uneven times and weak scores."""
    random = np.random.default_rng(seed)
    places = random.uniform(0, 200, (12, 2))
    time_s = 0.0
    for _ in range(frames):
        places += random.normal(0, 6, places.shape)
        time_s += random.choice([0.0, 0.04, 0.1, 0.5])
        seen = random.random(12) < 0.8
        boxes = np.hstack([places, places + random.uniform(30, 50, (12, 2))])[seen]
        scores = random.uniform(0.2, 1, seen.sum())
        classes = (np.arange(12) % 2)[seen]
        detections = boxes.astype(np.float32), scores.astype(np.float32), classes.astype(np.int32)
        yield found(*detections), time_s


@pytest.mark.parametrize("seed", range(3))
def test_restored_at_any_frame_it_goes_on_as_if_nothing_had_happened(seed):
    settings = ByteTrackSettings(lost_s=0.4)
    frames = list(crowd(seed))
    whole, answers, states = ByteTrack(settings), [], []
    for frame in frames:
        states.append(whole.state())
        answers.append([part.tobytes() for part in whole.update(*frame)])
    for cut, state in enumerate(states):
        again = ByteTrack(settings)
        again.restore(state)
        assert again.state() == state
        for frame, answer in zip(frames[cut:], answers[cut:], strict=True):
            assert [part.tobytes() for part in again.update(*frame)] == answer
        assert again.state() == whole.state()


def test_a_saved_state_does_not_change_afterwards():
    frames = list(crowd(0))
    tracks, copy = ByteTrack(ByteTrackSettings()), ByteTrack(ByteTrackSettings())
    for frame in frames[:10]:
        tracks.update(*frame)
    state = tracks.state()
    copy.restore(state)
    tracks.update(*frames[10])
    assert copy.state() == state


@given(
    st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(1, 9), max_size=10)
)
def test_the_pairs_chosen_have_the_largest_sum(gains):
    if not gains:
        return
    i, j = (np.array(side) for side in zip(*gains, strict=True))
    left, right = assign(i, j, np.array(list(gains.values()), np.float64))
    chosen = list(zip(left.tolist(), right.tolist(), strict=True))
    assert len(set(left.tolist())) == len(set(right.tolist())) == len(chosen)
    best = max(
        sum(gains.get(pair, 0) for pair in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    assert sum(gains[pair] for pair in chosen) == best
