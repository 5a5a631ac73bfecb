"""Ordered stages: order, saved state, answers to resent frames."""

import pytest

from pipeline.errors import RunError
from pipeline.frame import Status
from tests.builders import header
from tests.pipeline.worker.stand import CALLS, CountSettings, Stand, calls


def counted(stand, of=None):
    """seq -> number that the ordered stage gave, as sent on."""
    return {sent.seq: int(stand.frame(sent)["a"]) for sent in of or stand.sent}


ORDERED = {"a": {"use": "count"}, "b": {"use": "note"}}


def test_an_ordered_stage_gets_frames_in_order():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(5)]
    for i in (3, 0, 4, 1, 2):
        stand.take(headers[i])
    assert [call[2] for call in calls()] == [0, 1, 2, 3, 4]
    assert [sent.seq for sent in stand.sent] == [0, 1, 2, 3, 4]
    assert counted(stand) == {i: i + 1 for i in range(5)}


def test_streams_do_not_wait_for_each_other():
    stand = Stand(ORDERED, streams=["one", "two"]).open("a")
    stand.lend(0)
    late = stand.lend(0)
    stand.take(late)
    stand.take(stand.lend(1))
    assert [(sent.stream, sent.seq) for sent in stand.sent] == [(1, 0)]


def test_failed_frames_keep_their_place_in_the_order():
    stand = Stand(ORDERED).open("a")
    first, second, third = (stand.lend() for _ in range(3))
    second.without_arrays(Status.FAILED, "failed:z")
    stand.take(third)
    stand.take(second)
    assert stand.sent == []
    stand.take(first)
    assert [(sent.seq, sent.cause) for sent in stand.sent] == [(0, ""), (1, "failed:z"), (2, "")]
    assert [call[2] for call in calls()] == [0, 2]


def test_a_resent_frame_is_answered_as_before_without_a_call():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(3)]
    for one in headers:
        stand.take(one)
    before = counted(stand)
    CALLS.clear()
    stand.sockets.frames.clear()
    for slot in (1, 0, 2):
        stand.take(stand.again(slot))
    assert calls() == []
    assert counted(stand) == before
    assert [sent.attempt for sent in stand.sent] == [1, 1, 1]


def test_a_resent_failed_frame_fails_again_without_a_call():
    stages = {"a": {"use": "count", "fail_at": [0]}, "b": {"use": "note"}}
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    CALLS.clear()
    stand.take(stand.again())
    assert calls() == []
    assert [(sent.status, sent.cause) for sent in stand.sent] == [(Status.FAILED, "failed:a")] * 2


def test_after_a_death_an_ordered_stage_goes_on_with_its_state():
    stand = Stand(ORDERED).open("a")
    headers = [stand.lend() for _ in range(4)]
    for one in headers[:2]:
        stand.take(one)
    before = counted(stand)
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")  # its successor: nothing but the arena is left
    assert calls("restore") == [("a", "restore", "demo")]
    CALLS.clear()
    for slot in (3, 2, 1, 0):
        stand.take(stand.again(slot))
    assert [call[2] for call in calls()] == [2, 3]
    assert counted(stand) == before | {2: 3, 3: 4}


def test_a_death_between_work_and_hand_over_counts_no_frame_twice():
    stand = Stand(ORDERED).open("a")
    lent = stand.lend()

    def killed(*args):
        raise SystemExit

    stand.sockets.send_frame = killed
    with pytest.raises(SystemExit):
        stand.take(lent)
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")
    CALLS.clear()
    stand.take(stand.again())
    assert calls() == []
    assert counted(stand) == {0: 1}


def test_a_death_before_the_state_is_saved_repeats_the_work():
    stand = Stand(ORDERED).open("a")
    first, second = stand.lend(), stand.lend()
    stand.take(first)

    def killed(*args):
        raise SystemExit

    stand.arena.states.save = killed
    with pytest.raises(SystemExit):
        stand.take(second)
    del stand.arena.states.save
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")
    stand.take(stand.again(1))
    assert counted(stand) == {1: 2}


def test_after_a_death_between_two_ordered_stages_each_goes_on():
    stages = {
        "a": {"use": "count", "process": "x"},
        "b": {"use": "count", "process": "x", "fail_at": [1], "error": "RunError"},
        "c": {"use": "note"},
    }
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    with pytest.raises(RunError):  # stands for a kill in b
        stand.take(stand.lend())
    stand.worker_table.mark_dead(stand.index)
    stand.graph.nodes[2].settings = CountSettings()
    stand.open("a")
    CALLS.clear()
    stand.take(stand.again(1))
    assert calls() == [("b", "process", 1)]
    [sent] = stand.sent
    assert [int(stand.frame(sent)[name]) for name in "ab"] == [2, 2]


def test_a_void_frame_does_not_move_the_order_on():
    stand = Stand(ORDERED).open("a")
    void = stand.lend()
    again = stand.again()
    stand.take(void)
    assert stand.sent == []
    stand.take(again)
    assert [sent.seq for sent in stand.sent] == [0]


def test_the_end_comes_after_all_frames():
    stand = Stand(ORDERED).open("a")
    first = stand.lend()
    end = header(seq=1, slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    assert calls("end") == []
    stand.take(first)
    assert calls("process", "end") == [("a", "process", 0), ("a", "end", "demo")]


def test_a_resent_end_reaches_the_stage_once():
    stand = Stand(ORDERED).open("a")
    end = header(slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    stand.take(stand.again(stand.arena.end_slot))
    assert len(calls("end")) == 1
    assert [sent.status for sent in stand.sent] == [Status.END] * 2


def test_an_unordered_stage_beside_an_ordered_one_gets_its_frames():
    stages = {
        "a": {"use": "note"},
        "b": {"use": "count", "process": "x", "after": "a"},
        "c": {"use": "note", "after": "capture"},
        "d": {"use": "note", "process": "x", "after": "c"},
    }
    stand = Stand(stages).open("b")
    first, second = stand.lend(), stand.lend()
    stand.take(second, after="c")
    stand.take(second, after="a")
    assert calls() == [("d", "process", 1)]
    stand.take(first, after="a")
    assert calls()[1:] == [("b", "process", 0), ("b", "process", 1)]


# --- derived arrays ---

PAINTED = {"a": {"use": "paint"}, "b": {"use": "note"}}


def painted(stand):
    """seq -> the grey of the picture, as sent on."""
    return {sent.seq: int(stand.frame(sent)["picture"][0, 0]) for sent in stand.sent}


def test_a_derived_array_is_made_again_for_a_resent_frame():
    stand = Stand(PAINTED).open("a")
    headers = [stand.lend() for _ in range(3)]
    for one in headers:
        stand.take(one)
    assert painted(stand) == {0: 1, 1: 2, 2: 3}
    stand.worker_table.mark_dead(stand.index)
    stand.open("a")  # its successor
    CALLS.clear()
    for slot in (1, 0, 2):
        stand.take(stand.again(slot))
    assert calls("process", "derive") == [("a", "derive", seq) for seq in (1, 0, 2)]
    assert painted(stand) == {0: 1, 1: 2, 2: 3}
    assert counted(stand) == {0: 1, 1: 2, 2: 3}


def test_a_derived_array_is_not_saved():
    stand = Stand(PAINTED).open("a")
    stand.take(stand.lend())
    saved = stand.arena.states.saved("a")
    assert b"picture" not in saved
    assert len(saved) < 200


@pytest.mark.parametrize("dies", [False, True])
def test_a_frame_without_its_derived_array_fails_and_fails_again(dies):
    stages = {"a": {"use": "paint", "fail_at": [0], "error": "derive"}, "b": {"use": "note"}}
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    if dies:
        stand.worker_table.mark_dead(stand.index)
        stand.open("a")
    CALLS.clear()
    stand.take(stand.again())
    assert calls("process", "derive") == []
    assert {(sent.status, sent.cause) for sent in stand.sent} == {(Status.FAILED, "failed:a")}
    assert all(not sent.arrays for sent in stand.sent)


def test_a_frame_whose_derived_array_cannot_be_made_again_fails(caplog):
    stand = Stand(PAINTED).open("a")
    stand.take(stand.lend())
    again = stand.again()
    again.limit = 100
    stand.take(again)
    assert [(sent.status, sent.cause) for sent in stand.sent] == [
        (Status.LIVE, ""),
        (Status.FAILED, "failed:a"),
    ]
    assert stand.sent[1].arrays == {}
    assert "SlotFullError" in caplog.text


def test_the_end_of_a_stream_has_no_derived_array():
    stand = Stand(PAINTED).open("a")
    stand.arena.lend(stand.arena.end_slot, header(slot=stand.arena.end_slot, status=Status.END))
    for _ in range(2):
        stand.take(stand.again(stand.arena.end_slot))
    assert calls("derive") == []
    assert [sent.status for sent in stand.sent] == [Status.END] * 2
