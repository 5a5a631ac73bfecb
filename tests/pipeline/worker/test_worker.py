"""The loop of every worker: void and stale frames, holds, credit."""

import pytest

from pipeline.edge import Kind, Message, encode
from pipeline.frame import Status
from tests.builders import header
from tests.pipeline.worker.stand import WHILE_AT_WORK, Stand, calls, chain

# --- what is not worked on ---


def test_a_void_frame_is_released_without_work_or_return():
    stand = Stand(chain("note")).open("a")
    void = stand.lend()
    stand.again()
    stand.take(void)
    assert calls() == []
    assert stand.given_back == []
    assert stand.worker_table.mark_dead(1) == []  # nothing in hand


def test_a_void_frame_gives_its_sender_credit():
    stand = Stand(chain("note")).open("a")
    void = stand.lend()
    stand.again()
    stand.take(void)
    assert stand.worker_table.done(1, 0) == 1


def test_a_frame_is_held_during_work_and_hand_over_and_no_longer():
    stand = Stand(chain("add", "note")).open("a")
    held = []
    WHILE_AT_WORK.append(
        lambda frame: held.append(stand.worker_table.is_held(0, frame.header.slot))
    )
    send_return = stand.sockets.send_return
    stand.sockets.send_return = lambda *args: (
        held.append(stand.worker_table.is_held(0, 0)),
        send_return(*args),
    )
    stand.take(stand.lend())
    assert held == [True, True, True]
    assert not stand.worker_table.is_held(0, 0)


@pytest.mark.parametrize(
    ("status", "cause"), [(Status.DROPPED, "stale"), (Status.FAILED, "failed:z")]
)
def test_a_dropped_or_failed_frame_travels_on_untouched(status, cause):
    stand = Stand({"a": {"use": "note"}, "b": {"use": "note"}}).open("a")
    given_up = stand.lend()
    given_up.without_arrays(status, cause)
    stand.take(given_up)
    assert calls() == []
    [sent] = stand.sent
    assert (sent.status, sent.cause, sent.spans) == (status, cause, [])


def test_the_end_of_a_stream_reaches_every_stage_and_travels_on():
    stand = Stand(chain("add", "count", "note")).open("a")
    end = header(slot=stand.arena.end_slot, status=Status.END)
    stand.arena.lend(stand.arena.end_slot, end)
    stand.take(end)
    assert calls("end") == [(name, "end", "demo") for name in "abc"]
    assert calls() == []
    [done] = stand.given_back
    assert (done.slot, done.cause) == (stand.arena.end_slot, "")


def test_a_live_frame_that_is_too_old_is_dropped_before_work():
    stages = {"a": {"use": "note"}, "b": {"use": "note"}}
    stand = Stand(stages, streams={"demo": {"live": True, "max_age_ms": 100}}).open("a")
    stand.take(stand.lend())  # captured at 1 ns
    assert calls() == []
    [sent] = stand.sent
    assert (sent.status, sent.cause) == (Status.DROPPED, "stale")


def test_a_young_frame_is_not_dropped():
    streams = {"demo": {"live": True, "max_age_ms": 1e9}}
    stand = Stand(chain("note"), streams=streams).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0)]


def test_a_frame_of_a_file_is_never_too_old():
    stand = Stand(chain("note"), streams={"demo": {"max_age_ms": 1}}).open("a")
    stand.take(stand.lend())
    assert calls() == [("a", "process", 0)]


# --- credit ---


def test_a_sender_that_waits_is_woken_when_a_frame_is_done():
    stand = Stand(chain("note")).open("a")
    stand.take(stand.lend())
    assert stand.sockets.woken == []
    stand.worker_table.set_sender_waiting(0, waiting=True)
    stand.take(stand.lend())
    assert stand.sockets.woken == [0]
    assert stand.worker_table.done(1, 0) == 2


def test_a_dead_senders_frame_earns_its_successor_no_credit():
    stand = Stand(chain("note")).open("a")
    message = Message(Kind.FRAME, 0, 0, 0, encode(stand.lend()))
    stand.worker_table.mark_dead(0)
    stand.worker_table.set_sender_waiting(0, waiting=True)
    stand.worker._work_on([message])
    assert stand.worker_table.done(1, 0) == 0
    assert stand.sockets.woken == []
    assert calls() == [("a", "process", 0)]
