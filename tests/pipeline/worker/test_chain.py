"""Frames on their way through the stages of one worker: branches, failures, batches."""

import itertools
import os
import signal

import numpy as np
import pytest

from pipeline.edge import Kind, Message, encode
from pipeline.errors import RunError
from pipeline.frame import Span, Status
from tests.builders import header
from tests.pipeline.worker.stand import (
    CALLS,
    WHILE_AT_WORK,
    Stand,
    calls,
    chain,
)

# --- the chain ---


def test_stages_of_a_worker_process_a_frame_one_after_the_other():
    stand = Stand(chain("add", "add", "note")).open("a")
    WHILE_AT_WORK.append(lambda frame: CALLS.append(("arrays", sorted(frame), None)))
    stand.take(stand.lend())
    assert calls("process") == [("a", "process", 0), ("b", "process", 0), ("c", "process", 0)]
    assert [call[1] for call in CALLS if call[0] == "arrays"] == [[], ["a"], ["a", "b"]]
    assert stand.sent == []


def test_the_last_stage_returns_the_frame_to_capture_with_its_spans():
    stand = Stand(chain("note", "note")).open("a")
    lent = stand.lend()
    lent.spans = [Span(0, 0, 1, 1, 2)]
    stand.take(lent)
    [(capture, done)] = stand.sockets.returns
    assert capture == 0
    assert (done.slot, done.generation, done.attempt, done.cause) == (0, 1, 0, "")
    assert done.leaves == stand.graph.leaves
    assert [(s.stage, s.worker) for s in done.spans] == [(0, 0), (1, 1), (2, 1)]
    for span in done.spans[1:]:
        assert 0 < span.taken_ns <= span.start_ns <= span.end_ns


def test_a_frame_goes_to_the_next_worker_with_its_arrays():
    stand = Stand({"a": {"use": "add"}, "b": {"use": "note"}}).open("a")
    stand.take(stand.lend())
    [(worker, stage, sent)] = stand.sockets.frames
    assert (worker, stage) == (2, stand.node("a").index)
    assert stand.frame(sent)["a"].tolist() == [0, 0, 0]
    assert stand.given_back == []


def test_all_stages_behind_a_stage_get_the_frame_in_any_process():
    stages = {
        "a": {"use": "add", "process": "x"},
        "b": {"use": "note", "process": "x"},
        "c": {"use": "note", "after": "a"},
        "d": {"use": "note", "after": "a", "process": "y"},
        "e": {"use": "note", "after": "a", "process": "y"},
    }
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0), ("b", "process", 0)]
    assert sorted(worker for worker, _, _ in stand.sockets.frames) == [2, 3]  # y once, for both
    [done] = stand.given_back
    assert done.leaves == 1 << stand.node("b").index


def test_several_last_stages_in_one_worker_return_a_frame_once():
    stages = {
        "a": {"use": "note", "process": "x"},
        "b": {"use": "note", "process": "x", "after": "a", "fail_at": [1]},
        "c": {"use": "note", "process": "x", "after": "a"},
    }
    stand = Stand(stages).open("a")
    for _ in range(2):
        stand.take(stand.lend())
    assert [done.leaves for done in stand.given_back] == [stand.graph.leaves] * 2
    assert [done.cause for done in stand.given_back] == ["", "failed:b"]
    assert [span.stage for span in stand.given_back[0].spans] == [
        stand.node(name).index for name in "abc"
    ]
    assert calls()[-3:] == [("a", "process", 1), ("b", "process", 1), ("c", "process", 1)]


def test_arrays_of_one_branch_are_not_seen_by_the_other():
    stages = {
        "a": {"use": "add", "process": "x"},
        "b": {"use": "add", "process": "x", "after": "a"},
        "c": {"use": "note", "process": "x", "after": "b"},
        "d": {"use": "add", "process": "x", "after": "a"},
        "e": {"use": "note", "process": "x", "after": "d"},
    }
    stand = Stand(stages).open("a")
    seen = {}
    WHILE_AT_WORK.append(lambda frame: seen.setdefault(CALLS[-1][0], sorted(frame)))
    stand.take(stand.lend())
    assert seen == {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["a"], "e": ["a", "d"]}


# --- room in the slot where the graph forks ---


def fork(*uses):
    return {
        f"{'abcdefg'[i]}": {"use": use, "after": "capture", "process": f"p{i}"}
        for i, use in enumerate(uses)
    }


def part_of(stand, name):
    """The stretch of the slot that a stage behind the fork may fill."""
    found = {}
    WHILE_AT_WORK[:] = [
        lambda frame: found.update({CALLS[-1][0]: (frame.header.used, frame.header.limit)})
    ]
    stand.open(name)
    stand.take(header(used=72, limit=stand.arena.slot_bytes))
    return found[name]


def test_each_branch_that_adds_arrays_gets_its_own_part_of_the_slot():
    stand = Stand(fork("add", "note", "add", "add"))
    stand.lend()
    parts = [part_of(stand, name) for name in "acd"]
    assert parts[0][0] == 72
    for (_, limit), (start, _) in itertools.pairwise(parts):
        assert limit <= start
    sizes = [limit - start for start, limit in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) >= stand.arena.slot_bytes - 72 - 3
    assert parts[-1][1] <= stand.arena.slot_bytes


def test_a_branch_without_arrays_leaves_the_slot_to_the_other():
    stand = Stand(fork("add", "note"))
    stand.lend()
    assert part_of(stand, "a") == (72, stand.arena.slot_bytes)
    assert part_of(stand, "b") == (72, 72)


def test_without_branches_a_stage_gets_the_whole_slot():
    stand = Stand(chain("note", "add"))
    stand.lend()
    assert part_of(stand, "b") == (72, stand.arena.slot_bytes)


def test_a_branch_whose_later_stage_adds_arrays_gets_a_part_too():
    stages = fork("add", "note") | {"c": {"use": "add", "after": "b", "process": "p1"}}
    stand = Stand(stages)
    stand.lend()
    (a_start, a_limit), (b_start, b_limit) = part_of(stand, "a"), part_of(stand, "b")
    assert a_start < a_limit <= b_start < b_limit


def test_branches_in_several_processes_do_not_overwrite_each_other():
    stand = Stand(fork("add", "add"))
    lent = stand.lend()
    views = []
    for name in "ab":
        WHILE_AT_WORK[:] = [lambda frame: views.append(frame)]
        stand.open(name).take(lent)
    assert [view[name].tolist() for view, name in zip(views, "ab", strict=True)] == [[0] * 3] * 2
    views[0].put("more", np.full(64, 1, np.uint8))
    views[1].put("more", np.full(64, 2, np.uint8))
    assert set(views[0]["more"].tolist()) == {1}
    assert set(views[1]["more"].tolist()) == {2}


# --- arrays that a branch hides ---


@pytest.mark.parametrize("processes", [("x", "x"), ("x", "y")])
def test_a_hidden_array_does_not_reach_the_last_stage_of_another_branch(processes):
    stages = {
        "a": {"use": "veil", "process": "x"},
        "b": {"use": "note", "process": "x"},
        "c": {"use": "note", "after": "capture", "process": processes[0]},
        "d": {"use": "note", "after": "capture", "process": processes[1]},
    }
    stand = Stand(stages)
    lent = stand.lend()
    stand.frame(lent).put("image", np.full((2, 2, 3), 9, np.uint8))
    seen = {}
    WHILE_AT_WORK.append(
        lambda frame: seen.setdefault(
            CALLS[-1][0], frame["image"].max() if "image" in frame else None
        )
    )
    for name in dict.fromkeys(processes):
        stand.open("a" if name == "x" else "d").take(lent)
    assert seen == {"a": 9, "b": 0, "c": None, "d": None}


# --- failures ---


def test_a_stage_that_raises_fails_that_frame_and_goes_on(caplog):
    stand = Stand(chain("add", "add", "note", b={"fail_at": [1]})).open("a")
    for _ in range(3):
        stand.take(stand.lend())
    assert [done.cause for done in stand.given_back] == ["", "failed:b", ""]
    assert [call[2] for call in calls() if call[0] == "c"] == [0, 2]
    row = stand.shared.counters.row(1, stand.node("b").index)
    assert (row.processed, row.failed) == (3, 1)
    [record] = caplog.records
    assert record.getMessage() == ("stages.b: ValueError: set to fail at 1 (frame 1 of demo; x1)")


def test_a_repeated_failure_is_logged_at_its_1st_10th_100th_time(caplog):
    stand = Stand(chain("note")).open("a")

    def fail(frame):
        raise ValueError("the same each time")

    WHILE_AT_WORK.append(fail)
    for _ in range(120):
        lent = stand.lend()
        stand.take(lent)
        stand.arena.end_loan(lent.slot, "failed:a")
    assert [r.getMessage().rpartition("; ")[2] for r in caplog.records] == ["x1)", "x10)", "x100)"]


def test_an_array_that_does_not_fit_fails_the_frame_not_the_run():
    stand = Stand(chain("add")).open("a")
    stand.take(stand.lend(limit=10))
    assert stand.given_back[0].cause == "failed:a"


def test_an_error_that_ends_the_run_passes_through():
    stand = Stand(chain("note", a={"fail_at": [0], "error": "RunError"})).open("a")
    with pytest.raises(RunError, match="set to fail at 0"):
        stand.take(stand.lend())


def test_a_request_to_end_is_reported_and_the_frame_counts(stand):
    said = stand
    at_work = Stand(chain("note", a={"fail_at": [0], "error": "EndRun"})).open("a")
    at_work.take(at_work.lend())
    assert [(r.kind, r.text) for r in said if r.kind == "end"] == [("end", "set to fail at 0")]
    assert at_work.given_back[0].cause == ""


def test_all_stages_are_closed_last_first_even_if_one_fails(caplog):
    at_work = Stand(chain("note", "note", "note", b={"error": "close"})).open("a")
    at_work.worker.close()
    assert [call[0] for call in calls("close")] == ["c", "b", "a"]
    assert "stages.b: closing failed: ValueError: set to fail" in caplog.text


# --- batches ---


def batch_of(stand, count):
    headers = [stand.lend() for _ in range(count)]
    stand.take(*headers)
    return headers


def test_a_batch_is_processed_at_once():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    batch_of(stand, 3)
    assert calls("batch") == [("a", "batch", [0, 1, 2])]
    assert [done.cause for done in stand.given_back] == ["", "", ""]
    assert stand.shared.counters.row(1, 1).processed == 3


def test_in_a_batch_only_the_frame_at_fault_fails(caplog):
    stand = Stand({"a": {"use": "batch", "batch": 4, "fail_at": [2]}}).open("a")
    batch_of(stand, 4)
    assert [done.cause for done in stand.given_back] == ["", "", "failed:a", ""]
    assert [span.stage for done in stand.given_back for span in done.spans] == [1, 1, 1, 1]
    assert len(caplog.records) == 1
    assert stand.shared.counters.row(1, 1).failed == 1


def test_in_a_batch_void_and_dropped_frames_are_left_out():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    headers = [stand.lend() for _ in range(4)]
    stand.arena.raise_attempt(headers[1].slot)
    headers[2].without_arrays(Status.FAILED, "failed:z")
    stand.take(*headers)
    assert calls("batch") == [("a", "batch", [0, 3])]
    assert [(done.slot, done.cause) for done in stand.given_back] == [
        (0, ""),
        (2, "failed:z"),
        (3, ""),
    ]


def test_a_batch_is_in_hand_as_a_whole():
    stand = Stand({"a": {"use": "batch", "batch": 4}}).open("a")
    held = []
    WHILE_AT_WORK.append(
        lambda f: held.append([stand.worker_table.is_held(0, s) for s in range(3)])
    )
    batch_of(stand, 3)
    assert held == [[True] * 3] * 3
    assert stand.worker_table.mark_dead(1) == []


def test_a_batch_mixes_streams():
    stand = Stand({"a": {"use": "batch", "batch": 4}}, streams=["one", "two"]).open("a")
    stand.take(stand.lend(0), stand.lend(1), stand.lend(1))
    assert calls("batch") == [("a", "batch", [0, 0, 1])]
    assert [worker for worker, _ in stand.sockets.returns] == [0, 1, 1]


def test_a_worker_gathers_waiting_frames_up_to_its_batch():
    stand = Stand({"a": {"use": "batch", "batch": 3}}).open("a")
    messages = [Message(Kind.FRAME, 0, 0, 0, encode(stand.lend())) for _ in range(5)]
    stand.sockets.inbox = [messages[0], Message(Kind.WAKE, 0, 0, 0, b""), *messages[1:]]
    receive = stand.sockets.receive

    def receive_until_empty(timeout_ms):
        message = receive(timeout_ms)
        if message is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return message

    stand.sockets.receive = receive_until_empty
    stand.worker.loop()
    assert calls("batch") == [("a", "batch", [0, 1, 2]), ("a", "batch", [3, 4])]
