"""Objects are assigned as the papers say, and as plain Python does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.boxes.anchors import grid_points
from models.boxes.iou import iou_matrix
from models.training.assign import (
    BACKGROUND,
    IGNORED,
    Points,
    hard_negatives,
    ignore_inside,
    match_best,
    match_between,
    sample,
    sim_ota,
)

SHAPES = st.tuples(st.integers(0, 12), st.integers(0, 4))
IOUS = arrays(np.float64, SHAPES, elements=st.sampled_from([0, 0.1, 0.3, 0.45, 0.5, 0.6, 0.7, 0.9]))
MATCHES = arrays(np.intp, st.integers(0, 60), elements=st.sampled_from([IGNORED, -1, -1, 0, 1]))


def test_each_object_has_its_best_anchor_though_another_overlaps_more():
    # Both objects fit anchor 1 best; the second gets its next best, and none below 0.5 is left.
    iou = np.array([(0.1, 0.3), (0.9, 0.6), (0.6, 0.2), (0.0, 0.0), (0.4, 0.2)])
    assert match_best(iou).tolist() == [1, 0, 0, BACKGROUND, BACKGROUND]


@given(IOUS)
def test_best_matches_are_pairs_in_the_order_of_their_overlap(iou):
    matches = match_best(iou, 0.5)
    anchors, objects = iou.shape
    pairs = sorted(np.ndindex(anchors, objects), key=lambda pair: (-iou[pair], pair))
    taken = {}
    for a, g in pairs:
        if iou[a, g] > 0 and a not in taken and g not in taken.values():
            taken[a] = g
    for a in range(anchors):
        best = max(iou[a], default=0)
        row = int(np.argmax(iou[a])) if best >= 0.5 else BACKGROUND
        assert matches[a] == taken.get(a, row)


@given(IOUS, st.booleans())
def test_overlaps_between_two_limits_are_ignored(iou, best_too):
    matches = match_between(iou, 0.3, 0.6, best_too)
    for a, row in enumerate(iou):
        best = max(row, default=0)
        fits = [g for g in range(len(row)) if row[g] > 0 and row[g] == max(iou[:, g])]
        if best_too and fits:
            assert row[matches[a]] == max(row[g] for g in fits)
        elif best < 0.3 or not len(row):
            assert matches[a] == BACKGROUND
        elif best < 0.6:
            assert matches[a] == IGNORED
        else:
            assert row[matches[a]] == best


def test_background_in_a_crowd_is_ignored_and_objects_there_are_kept():
    boxes = np.array([(0, 0, 10, 10), (0, 0, 10, 10), (6, 0, 16, 10), (50, 50, 60, 60)], float)
    matches = np.array([BACKGROUND, 3, BACKGROUND, BACKGROUND])
    crowd = np.array([(0, 0, 10, 40)], float)
    assert ignore_inside(matches, boxes, crowd).tolist() == [IGNORED, 3, BACKGROUND, BACKGROUND]
    assert ignore_inside(matches, boxes, crowd[:0]).tolist() == matches.tolist()
    assert matches[0] == BACKGROUND


@given(MATCHES, st.integers(0, 40), st.sampled_from([0, 0.25, 0.5, 1]), st.integers(0, 9))
def test_a_sample_has_its_parts_and_depends_on_the_seed_alone(matches, count, part, seed):
    chosen = sample(matches, count, part, np.random.default_rng(seed))
    again = sample(matches, count, part, np.random.default_rng(seed))
    assert chosen.tolist() == again.tolist()
    positives, negatives = (matches >= 0).sum(), (matches == BACKGROUND).sum()
    drawn = chosen[matches >= 0].sum()
    assert drawn == min(positives, round(count * part))
    assert chosen[matches == BACKGROUND].sum() == min(negatives, count - drawn)
    assert not chosen[matches == IGNORED].any()


def test_every_box_is_drawn_as_often_as_others_of_its_kind():
    matches = np.repeat([0, BACKGROUND], (40, 200))
    random = np.random.default_rng(5)
    drawn = sum(sample(matches, 64, 0.25, random).astype(int) for _ in range(500))
    # 16 of 40 and 48 of 200, with a standard deviation of 11 and 10.
    assert (abs(drawn[:40] - 200) < 50).all()
    assert (abs(drawn[40:] - 120) < 50).all()


def test_negatives_of_largest_loss_are_three_per_positive():
    matches = np.array([0, *[BACKGROUND] * 6, IGNORED])
    losses = np.array([9.0, 0.1, 0.5, 0.4, 0.5, 0.2, 0.3, 8.0])
    assert hard_negatives(matches, losses).nonzero()[0].tolist() == [0, 2, 3, 4]
    assert hard_negatives(matches, losses, 1).nonzero()[0].tolist() == [0, 2]
    assert hard_negatives(matches, losses, 1, at_least=2).nonzero()[0].tolist() == [0, 2, 4]


@given(MATCHES, st.integers(0, 4), st.integers(0, 5), st.integers(0, 9))
def test_no_chosen_negative_has_less_loss_than_one_left_out(matches, ratio, at_least, seed):
    losses = np.random.default_rng(seed).integers(0, 5, len(matches)) / 4
    chosen = hard_negatives(matches, losses, ratio, at_least)
    assert chosen[matches >= 0].all()
    assert not chosen[matches == IGNORED].any()
    negative = matches == BACKGROUND
    wanted = max(ratio * (matches >= 0).sum(), at_least)
    assert chosen[negative].sum() == min(wanted, negative.sum())
    out = losses[negative & ~chosen]
    assert max(out, default=0) <= min(losses[negative & chosen], default=9)


def random_points(rng):
    """Points of a net for 128 x 128 px, and three objects, two of which overlap."""
    grid = grid_points((128, 128), (8, 16, 32))
    objects = np.array([(10, 12, 50, 90), (30, 20, 70, 80), (90, 90, 100, 104)], float)
    # Boxes are near one of the objects, or anywhere.
    centres, sides = grid.points, rng.uniform(5, 80, (len(grid.points), 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    some = rng.integers(0, len(boxes), 60)
    boxes[some] = objects[rng.integers(0, 3, 60)] + rng.normal(0, 6, (60, 4))
    scores = rng.uniform(0, 1, (len(boxes), 4))
    return Points(centres, grid.strides, boxes, scores), objects, np.array([2, 0, 2])


def plain_sim_ota(points, objects, classes):
    """SimOTA, pair by pair."""
    cost, iou, near = {}, iou_matrix(points.boxes, objects), set()
    for a, g in np.ndindex(iou.shape):
        (x, y), (left, top, right, bottom) = points.centres[a], objects[g]
        reach = 2.5 * points.strides[a]
        in_box = left < x < right and top < y < bottom
        middle = abs(x - (left + right) / 2) < reach and abs(y - (top + bottom) / 2) < reach
        roots = [math.sqrt(score) for score in points.scores[a]]
        entropy = [-math.log(r if c == classes[g] else 1 - r) for c, r in enumerate(roots)]
        cost[a, g] = sum(entropy) - 3 * math.log(iou[a, g] + 1e-8)
        cost[a, g] += 0 if in_box and middle else 1e5
        near |= {(a, g)} if in_box or middle else set()
    rows = sorted({a for a, _ in near})
    wanted = {}
    for g in range(len(objects)):
        count = max(1, int(sum(sorted(iou[rows, g])[-10:])))
        for a in sorted(rows, key=lambda a: cost[a, g])[:count]:
            if (a, g) in near:
                wanted.setdefault(a, []).append(g)
    return {a: min(own, key=lambda g: cost[a, g]) for a, own in wanted.items()}


@pytest.mark.parametrize("seed", range(4))
def test_sim_ota_assigns_as_plain_python(seed):
    points, objects, classes = random_points(np.random.default_rng(seed))
    matches, iou = sim_ota(points, objects, classes)
    expected = plain_sim_ota(points, objects, classes)
    assert {int(a): int(matches[a]) for a in np.flatnonzero(matches >= 0)} == expected
    assert set(expected.values()) == {0, 1, 2}
    own = iou_matrix(points.boxes, objects)
    for a, row in enumerate(matches):
        assert iou[a] == (own[a, row] if row >= 0 else 0)


def test_an_object_takes_points_in_it_even_where_no_box_fits(rng):
    points, objects, classes = random_points(rng)
    matches, _ = sim_ota(points._replace(boxes=points.boxes + 1000), objects, classes)
    assert sorted(matches[matches >= 0]) == [0, 1, 2]
    for a in np.flatnonzero(matches >= 0):
        left, top, right, bottom = objects[matches[a]]
        x, y = points.centres[a]
        assert left < x < right
        assert top < y < bottom


@pytest.mark.parametrize("boxes", [[], [(900, 900, 990, 990)]], ids=["none", "outside"])
def test_a_picture_without_objects_is_background(boxes, rng):
    points, _, _ = random_points(rng)
    objects = np.array(boxes, float).reshape(-1, 4)
    matches, iou = sim_ota(points, objects, np.zeros(len(objects), int))
    assert (matches == BACKGROUND).all()
    assert not iou.any()
    overlaps = iou_matrix(points.boxes, objects)
    for found in (match_best(overlaps), match_between(overlaps, 0.3, 0.7, best_too=True)):
        assert (found == BACKGROUND).all()
