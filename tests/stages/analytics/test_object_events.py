"""Changes of objects: when one has appeared, when it has left, and that flicker changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.analytics.changes import ObjectChange
from stages.analytics.presence import Presence
from stages.detections import Object


def seen(label="person", id=1, score=0.9, x=0.0):
    return Object(id, label, 0, score, (x, 0.0, x + 10, 20.0))


def play(presence, pictures, stream="yard", interval_s=0.5, start=0):
    """Feed frames; each as (kind, label, id) per change, by the number of the frame."""
    changes = []
    for number, objects in enumerate(pictures, start):
        time_s = number * interval_s
        for change in presence.update(stream, time_s, round(time_s * 1e9), objects):
            changes.append((number, change.kind, change.object.label, change.object.id))
    return changes


def test_an_object_has_appeared_when_it_was_seen_in_enough_frames_and_once():
    changes = play(Presence((), 3, 2.0), [[seen()]] * 10)
    assert changes == [(2, "appeared", "person", 1)]


def test_an_appearance_has_the_time_of_the_first_frame_and_the_newest_box():
    presence = Presence((), 3, 2.0)
    for number in range(3):
        changes = presence.update("yard", 7 + number / 10, 1000 + number, [seen(x=float(number))])
    assert changes == [ObjectChange("appeared", "yard", seen(x=2.0), 7.0, 1000, 1)]


def test_it_has_left_when_it_was_not_seen_for_longer_than_is_waited():
    changes = play(Presence((), 1, 2.0), [[seen()], [seen()], *[[]] * 8])
    # last seen at 0.5 s; 2.5 s is not longer yet
    assert changes == [(0, "appeared", "person", 1), (6, "left", "person", 1)]


def test_a_left_object_has_its_last_state_and_duration():
    presence = Presence((), 1, 1.0)
    presence.update("yard", 10.0, 100, [seen(x=1.0)])
    presence.update("yard", 12.5, 350, [])
    presence.update("yard", 13.0, 400, [seen(x=5.0)])
    presence.update("yard", 13.75, 475, [seen(x=9.0)])
    (left,) = presence.update("yard", 20.0, 1100, [])
    assert left == ObjectChange("left", "yard", seen(x=9.0), 13.75, 475, 0, 0.75)


def test_an_object_that_is_missed_now_and_then_stays():
    pictures = [[seen()], [], [seen()], [], [], [seen()], [], [], [], [seen()]]
    assert play(Presence((), 2, 2.0), pictures) == [(2, "appeared", "person", 1)]


def test_a_flash_of_an_object_is_not_reported():
    pictures = [[seen()], *[[]] * 6, [seen(id=2)], *[[]] * 6, [seen(id=3)]]
    assert play(Presence((), 2, 1.0), pictures) == []


def test_an_object_that_comes_back_after_it_left_has_appeared_again():
    pictures = [[seen()], [], [], [], [seen()]]
    assert play(Presence((), 1, 1.0), pictures) == [
        (0, "appeared", "person", 1),
        (3, "left", "person", 1),
        (4, "appeared", "person", 1),
    ]


def test_objects_missing_after_a_long_gap_in_the_stream_have_left():
    presence = Presence((), 1, 2.0)
    presence.update("yard", 0.0, 0, [seen(id=1), seen(id=2)])
    changes = presence.update("yard", 600.0, 600, [seen(id=2), seen(id=3)])
    assert changes == [
        ObjectChange("left", "yard", seen(id=1), 0.0, 0, 1, 0.0),
        ObjectChange("appeared", "yard", seen(id=3), 600.0, 600, 2),
    ]


def test_a_stream_of_a_frame_in_ten_seconds_can_be_followed_too():
    pictures = [[seen()]] * 5 + [[]]
    assert play(Presence((), 3, 2.0), pictures, interval_s=10.0) == [
        (2, "appeared", "person", 1),
        (5, "left", "person", 1),
    ]


def test_only_labels_of_interest_are_reported():
    pictures = [[seen("car", 1), seen("person", 2), seen("dog", 3)]] * 2
    assert play(Presence(("person", "dog"), 2, 1.0), pictures) == [
        (1, "appeared", "person", 2),
        (1, "appeared", "dog", 3),
    ]


def test_counts_of_present_objects_change_with_each_reported_event():
    presence = Presence((), 1, 1.0)
    first = presence.update("yard", 0.0, 0, [seen(id=1), seen(id=2), seen("car", 3)])
    assert [changes.count for changes in first] == [1, 2, 1]
    assert presence.counts("yard") == {"person": 2, "car": 1}
    second = presence.update("yard", 1.5, 0, [seen(id=2)])
    assert [(changes.object.id, changes.count) for changes in second] == [(1, 1), (3, 0)]
    assert presence.counts("yard") == {"person": 1}
    assert presence.counts("nowhere") == {}


def test_objects_without_ids_are_reported_by_their_number():
    one, two = [seen(id=None)], [seen(id=None), seen(id=None, x=50.0)]
    pictures = [one, two, two, one, two, one, one, one, [], [], []]
    assert play(Presence((), 2, 1.0), pictures) == [
        (1, "appeared", "person", None),
        (2, "appeared", "person", None),
        (7, "left", "person", None),
        (10, "left", "person", None),
    ]


def test_a_track_that_changes_its_class_leaves_with_its_first_label():
    presence = Presence((), 1, 1.0)
    pictures = [[seen("person")], [seen("dog")], [seen("dog")], [], [], []]
    assert play(presence, pictures) == [(0, "appeared", "person", 1), (5, "left", "person", 1)]


def test_streams_do_not_mix():
    presence = Presence((), 1, 1.0)
    presence.update("yard", 0.0, 0, [seen()])
    presence.update("gate", 0.0, 0, [seen(), seen(id=2)])
    assert presence.counts("yard") == {"person": 1}
    assert presence.update("yard", 5.0, 0, [])
    assert presence.counts("gate") == {"person": 2}


def test_after_a_clock_jumps_back_objects_stay_and_leave_as_before():
    presence = Presence((), 1, 1.0)
    presence.update("yard", 100.0, 0, [seen()])
    assert presence.update("yard", 0.0, 0, []) == []
    assert presence.update("yard", 0.9, 0, []) == []
    (left,) = presence.update("yard", 1.1, 0, [])
    assert (left.time_s, left.seen_s) == (100.0, 0.0)


def test_at_the_end_of_a_stream_all_who_were_there_leave():
    presence = Presence((), 2, 1.0)
    presence.update("yard", 0.0, 0, [seen(id=1), seen(id=2)])
    presence.update("yard", 0.1, 1, [seen(id=1), seen(id=2), seen(id=3)])
    changes = presence.end("yard")
    assert [(left.object.id, left.count) for left in changes] == [(1, 1), (2, 0)]
    assert presence.end("yard") == []
    assert presence.counts("yard") == {}


def test_a_stream_of_the_same_name_begins_without_state():
    presence = Presence((), 2, 1.0)
    presence.update("yard", 0.0, 0, [seen()])
    presence.end("yard")
    assert presence.update("yard", 0.1, 0, [seen()]) == []


PICTURES = st.lists(
    st.lists(
        st.builds(seen, st.sampled_from(["person", "dog"]), st.none() | st.integers(0, 4)),
        max_size=5,
        unique_by=lambda o: (o.label, o.id) if o.id is not None else object(),
    ),
    max_size=40,
)


@given(PICTURES, st.integers(0, 40), st.integers(1, 4))
def test_a_crash_changes_nothing(pictures, crash, min_frames):
    """Restored anywhere, it tells what it would have changes."""
    undisturbed = play(Presence((), min_frames, 1.0), pictures)
    before, after = Presence((), min_frames, 1.0), Presence((), min_frames, 1.0)
    changes = play(before, pictures[:crash])
    after.restore("yard", before.state("yard"))
    assert changes + play(after, pictures[crash:], start=min(crash, len(pictures))) == undisturbed


@given(PICTURES, st.integers(1, 4))
def test_what_appeared_less_what_left_is_what_is_there(pictures, min_frames):
    presence = Presence((), min_frames, 1.0)
    balance: dict[str, int] = {}
    for number, objects in enumerate(pictures):
        for change in presence.update("yard", number / 2, number, objects):
            label = change.object.label
            balance[label] = balance.get(label, 0) + (1 if change.kind == "appeared" else -1)
            assert change.count == balance[label] >= 0
    assert presence.counts("yard") == {k: n for k, n in balance.items() if n}


@pytest.mark.parametrize("stream", ["", "yard"])
def test_nothing_known_is_an_empty_state(stream):
    presence = Presence((), 1, 1.0)
    assert presence.state(stream) == b""
    presence.restore(stream, b"")
    assert presence.counts(stream) == {}
