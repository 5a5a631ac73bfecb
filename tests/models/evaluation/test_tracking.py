"""Figures of tracking equal those of TrackEval, also for ties and for empty frames and clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity

from models.errors import EvaluationError
from models.evaluation.tracking import clip_sums, evaluate_tracks, tracking_figures
from models.evaluation.tracks import ClipBoxes, FrameBoxes, without_ignored
from tests.models.evaluation.builders import boxes

EMPTY = FrameBoxes(np.zeros(0, int), boxes(), np.zeros(0, int), boxes())
A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def frame_of(truth, found):
    """Make a frame of dicts from id to box."""
    return FrameBoxes(
        np.array(list(truth), int),
        boxes(*truth.values()),
        np.array(list(found), int),
        boxes(*found.values()),
    )


def random_clip(rng, name, length, people, grid):
    """Make a clip with misses, false boxes, swaps of ids and, on a coarse grid, equal overlaps."""
    place = rng.integers(0, 60, (people, 2)).astype(float)
    ids = list(rng.permutation(50)[:people])
    frames = []
    for _ in range(length):
        place += rng.normal(0, 2, place.shape)
        corner = np.rint(place / grid) * grid
        whole = np.hstack([corner, corner + 20])
        if people > 1 and rng.random() < 0.15:
            i, j = rng.choice(people, 2, replace=False)
            ids[i], ids[j] = ids[j], ids[i]
        if people and rng.random() < 0.1:
            ids[rng.integers(people)] = 50 + len(frames)
        there, seen = rng.random((2, people)) < rng.choice([0.0, 0.7, 0.9, 1.0])
        moved = whole + np.rint(rng.normal(0, 3, whole.shape) / grid) * grid
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        truth = {100 + k: whole[k] for k in range(people) if there[k]}
        found = {int(ids[k]): moved[k] for k in rng.permutation(people) if seen[k]}
        if rng.random() < 0.3:
            found[999] = np.array([0, 0, 20, 20.0]) + grid * rng.integers(0, 6)
        frames.append(frame_of(truth, found))
    return ClipBoxes(name, frames)


def of_trackeval(clip):
    """Return the results of TrackEval's three metrics for a clip."""
    truth = np.unique(np.concatenate([EMPTY.truth_ids, *(f.truth_ids for f in clip.frames)]))
    found = np.unique(np.concatenate([EMPTY.found_ids, *(f.found_ids for f in clip.frames)]))
    data = {
        "num_timesteps": len(clip.frames),
        "num_gt_ids": len(truth),
        "num_tracker_ids": len(found),
        "num_gt_dets": sum(len(f.truth_ids) for f in clip.frames),
        "num_tracker_dets": sum(len(f.found_ids) for f in clip.frames),
        "gt_ids": [np.searchsorted(truth, f.truth_ids) for f in clip.frames],
        "tracker_ids": [np.searchsorted(found, f.found_ids) for f in clip.frames],
        "similarity_scores": [
            MotChallenge2DBox._calculate_box_ious(
                f.truth_boxes.copy(), f.found_boxes.copy(), box_format="x0y0x1y1"
            )
            for f in clip.frames
        ],
    }
    return [metric.eval_sequence(data) for metric in METRICS]


METRICS = HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})
NAMES = {
    # of HOTA, mean over alpha
    "hota": "HOTA",
    "det_a": "DetA",
    "ass_a": "AssA",
    "loc_a": "LocA",
    "det_re": "DetRe",
    "det_pr": "DetPr",
    "ass_re": "AssRe",
    "ass_pr": "AssPr",
    # of CLEAR
    "mota": "MOTA",
    "motp": "MOTP",
    "recall": "CLR_Re",
    "precision": "CLR_Pr",
    "matched": "CLR_TP",
    "missed": "CLR_FN",
    "false": "CLR_FP",
    "id_switches": "IDSW",
    "mostly_tracked": "MT",
    "partly_tracked": "PT",
    "mostly_lost": "ML",
    "fragments": "Frag",
    # of Identity
    "idf1": "IDF1",
    "idp": "IDP",
    "idr": "IDR",
    "idtp": "IDTP",
    "idfp": "IDFP",
    "idfn": "IDFN",
}
NEED_TRUTH = {"mota", "recall", "det_re", "idr"}
NEED_FOUND = {"precision", "det_pr", "idp"}
NEED_BOTH = {"ass_a", "loc_a", "ass_re", "ass_pr", "motp"}


def check_equal_to_trackeval(clips):
    """Compare all figures with TrackEval's of the clips together; return ours."""
    figures = evaluate_tracks(clips)
    reference = {}
    for metric, results in zip(METRICS, zip(*map(of_trackeval, clips), strict=True), strict=True):
        reference |= metric.combine_sequences(dict(enumerate(results)))
    for name, theirs in NAMES.items():
        ours = getattr(figures, name)
        if ours is not None:
            assert ours == pytest.approx(np.mean(reference[theirs]), abs=1e-9), name
            continue
        truth, found = figures.objects == 0, figures.found == 0
        undefined = {
            name in NEED_TRUTH: truth,
            name in NEED_FOUND: found,
            name in NEED_BOTH: figures.matched == 0,
        }
        assert undefined.get(True, truth and found), name
    for name in ("hota", "det_a", "ass_a", "loc_a"):
        if curve := getattr(figures, f"{name}_curve"):
            np.testing.assert_allclose(curve, reference[NAMES[name]], atol=1e-9)
    return figures


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 25), st.integers(0, 9), st.sampled_from([0.01, 2, 5]))
def test_random_tracks_have_the_figures_of_trackeval(seed, length, people, grid):
    rng = np.random.default_rng(seed)
    check_equal_to_trackeval([random_clip(rng, "a", length, people, grid)])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_several_clips_have_the_combined_figures_of_trackeval(seed, count):
    rng = np.random.default_rng(seed)
    clips = [
        random_clip(rng, str(number), *rng.integers(0, 9, 2), rng.choice([0.01, 5]))
        for number in range(count)
    ]
    check_equal_to_trackeval(clips)


CLIPS = {
    "no frames": [],
    "empty frames": [EMPTY, EMPTY],
    "nothing found": [frame_of({1: A, 2: B}, {}), frame_of({1: A}, {})],
    "nothing true": [frame_of({}, {1: A, 2: B}), EMPTY],
    "no overlap": [frame_of({1: A}, {5: B}), frame_of({1: A}, {5: C})],
    "perfect": [frame_of({1: A, 2: B}, {5: A, 6: B})] * 10,
    "two ids are swapped": [frame_of({1: A, 2: B}, {5: A, 6: B})] * 4
    + [frame_of({1: A, 2: B}, {6: A, 5: B})] * 6,
    "all boxes are at one place": [
        frame_of(dict.fromkeys((1, 2, 3), A), dict.fromkeys(found, A))
        for found in ((7, 8), (8, 7, 9), (9, 8), (), (7, 8, 9), (9,))
    ],
    "a box overlaps two true ones equally": [
        frame_of({1: (0, 0, 10, 10), 2: (4, 0, 14, 10)}, {5: (2, 0, 12, 10)}),
        frame_of({2: (4, 0, 14, 10), 1: (0, 0, 10, 10)}, {6: (2, 0, 12, 10), 5: A}),
    ],
    "an overlap of exactly .5": [frame_of({1: A}, {5: (0, 0, 10, 5)})],
    "a box without area": [frame_of({1: (5, 5, 5, 9), 2: A}, {5: (5, 5, 5, 9), 6: A})],
    "a track is interrupted": [
        frame_of({1: A}, {5: A}),
        frame_of({1: A}, {5: B}),
        frame_of({1: A}, {}),
        EMPTY,
        frame_of({1: A}, {5: A}),
        frame_of({1: A}, {6: A}),
    ],
}


@pytest.mark.parametrize("name", CLIPS)
def test_unusual_clips_have_the_figures_of_trackeval(name):
    clip = ClipBoxes(name, CLIPS[name])
    check_equal_to_trackeval([clip])
    other = ClipBoxes("other", CLIPS["two ids are swapped"])
    check_equal_to_trackeval([clip, other])


def test_undefined_figures_are_none():
    empty = evaluate_tracks([ClipBoxes("a", [EMPTY])])
    assert (empty.hota, empty.ass_a, empty.mota, empty.idf1) == (None,) * 4
    assert (empty.hota_curve, empty.frames) == ((), 1)
    nothing_found = evaluate_tracks([ClipBoxes("a", CLIPS["nothing found"])])
    assert (nothing_found.hota, nothing_found.mota, nothing_found.idf1) == (0, 0, 0)
    assert (nothing_found.precision, nothing_found.motp, nothing_found.loc_a) == (None,) * 3
    nothing_true = evaluate_tracks([ClipBoxes("a", CLIPS["nothing true"])])
    assert (nothing_true.hota, nothing_true.mota, nothing_true.precision) == (0, None, 0)
    assert evaluate_tracks([]).hota is None


def test_a_weight_counts_a_clip_several_times():
    rng = np.random.default_rng(3)
    one, two = (random_clip(rng, name, 9, 5, 2) for name in "ab")
    sums = [clip_sums(one), clip_sums(two)]
    assert tracking_figures(sums, np.array([2.0, 0])) == tracking_figures([sums[0]] * 2)
    assert tracking_figures(sums, np.array([1.0, 1])) == evaluate_tracks([one, two])


def test_an_id_that_occurs_twice_in_a_frame_is_refused():
    frame = FrameBoxes(np.array([4, 4]), boxes(A, B), np.zeros(0, int), boxes())
    with pytest.raises(EvaluationError, match="a: frame 1: truth: id 4 occurs twice"):
        evaluate_tracks([ClipBoxes("a", [EMPTY, frame])])
    with pytest.raises(EvaluationError, match="clips: a occurs twice"):
        evaluate_tracks([ClipBoxes("a", [])] * 2)
    wrong = EMPTY._replace(found_ids=np.array([1.5]), found_boxes=boxes(A))
    with pytest.raises(EvaluationError, match="frame 0: found: ids are float64"):
        evaluate_tracks([ClipBoxes("a", [wrong])])


@pytest.fixture(scope="module")
def mot_challenge(tmp_path_factory):
    """Make TrackEval's data set of MOT17; its files are only looked for, and stay empty."""
    folder = tmp_path_factory.mktemp("trackeval")
    for path in ("a/gt/gt.txt", "tracker/data/a.txt"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).touch()
    return MotChallenge2DBox(
        {
            "GT_FOLDER": str(folder),
            "TRACKERS_FOLDER": str(folder),
            "TRACKERS_TO_EVAL": ["tracker"],
            "SEQ_INFO": {"a": 4},
            "SKIP_SPLIT_FOL": True,
            "PRINT_CONFIG": False,
        }
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.01, 5]))
def test_ignored_objects_are_removed_as_trackeval_does(mot_challenge, seed, grid):
    rng = np.random.default_rng(seed)
    clip = random_clip(rng, "a", 4, 7, grid)
    flags = [rng.random(len(frame.truth_ids)) < 0.4 for frame in clip.frames]
    raw = {
        "seq": "a",
        "num_timesteps": len(clip.frames),
        "gt_ids": [f.truth_ids for f in clip.frames],
        "gt_dets": [f.truth_boxes for f in clip.frames],
        "gt_classes": [np.where(flag, 8, 1) for flag in flags],  # 8: distractor
        "gt_extras": [{"zero_marked": (~flag).astype(int)} for flag in flags],
        "tracker_ids": [f.found_ids for f in clip.frames],
        "tracker_dets": [f.found_boxes for f in clip.frames],
        "tracker_classes": [np.ones(len(f.found_ids), int) for f in clip.frames],
        "tracker_confidences": [np.ones(len(f.found_ids)) for f in clip.frames],
        "similarity_scores": [
            MotChallenge2DBox._calculate_box_ious(
                f.truth_boxes.copy(), f.found_boxes.copy(), box_format="x0y0x1y1"
            )
            for f in clip.frames
        ],
    }
    data = mot_challenge.get_preprocessed_seq_data(raw, "pedestrian")
    kept = [without_ignored(*pair) for pair in zip(clip.frames, flags, strict=True)]
    for number, frame in enumerate(kept):
        np.testing.assert_array_equal(frame.truth_boxes, data["gt_dets"][number])
        np.testing.assert_array_equal(frame.found_boxes, data["tracker_dets"][number])
    ids = sorted({int(i) for frame in kept for i in frame.found_ids})
    for number, frame in enumerate(kept):
        assert [ids.index(i) for i in frame.found_ids] == list(data["tracker_ids"][number])


def test_a_box_that_fits_a_real_object_better_is_kept():
    frame = frame_of({1: A, 2: (0, 0, 10, 9)}, {5: A, 6: (0, 0, 10, 6)})
    kept = without_ignored(frame, np.array([False, True]))
    assert (kept.truth_ids.tolist(), kept.found_ids.tolist()) == ([1], [5])
    assert without_ignored(frame, np.array([False, False])) is frame
    with pytest.raises(EvaluationError, match="ignored is not"):
        without_ignored(frame, np.array([True]))
