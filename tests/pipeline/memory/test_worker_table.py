"""The worker table: heartbeats, incarnations, holds and finished work of all workers."""

import pytest

from pipeline.memory.worker_table import FRESH_NS, MAX_HOLDS, Hold, WorkerTable
from tests.builders import header, worker_table


def test_a_frame_in_hand_is_held_until_it_is_released():
    made = worker_table()
    made.hold(1, 0, header(stream=2, slot=5, generation=7))
    assert made.is_held(2, 5)
    assert not made.is_held(2, 4)
    assert not made.is_held(1, 5)
    made.release(1, 0)
    assert not made.is_held(2, 5)


def test_a_slot_is_held_until_its_last_holder_releases_it():
    made = worker_table()
    made.hold(0, 0, header(slot=5, generation=7))
    made.hold(1, 3, header(slot=5, generation=6))
    made.release(0, 0)
    assert made.is_held(0, 5)
    made.release(1, 3)
    assert not made.is_held(0, 5)


@pytest.mark.parametrize(
    ("stream", "slot", "generation"),
    [(0, 0, 1), (0, 256, 1), (4095, 256, 2**40 - 1), (63, 0, 2**40 - 1)],
)
def test_a_hold_of_the_largest_numbers_is_read_back(stream, slot, generation):
    made = worker_table()
    made.hold(2, MAX_HOLDS - 1, header(stream=stream, slot=slot, generation=generation))
    assert made.is_held(stream, slot)
    assert made.mark_dead(2) == [Hold(stream, slot, generation)]


def test_a_dead_worker_holds_nothing_and_its_holds_are_returned():
    made = worker_table()
    held = [header(slot=slot, generation=slot + 1) for slot in range(3)]
    for i, one in enumerate(held):
        made.hold(1, i, one)
    made.hold(2, 0, header(slot=9))
    assert made.mark_dead(1) == [Hold(0, 0, 1), Hold(0, 1, 2), Hold(0, 2, 3)]
    assert not any(made.is_held(0, slot) for slot in range(3))
    assert made.is_held(0, 9)
    assert made.mark_dead(1) == []


def test_a_death_announces_a_successor_that_is_not_ready_yet():
    made = worker_table()
    made.ready(1)
    made.beat(1, 123)
    made.count_done(1, sender=0)
    made.set_sender_waiting(1, waiting=True)
    assert made.is_ready(1)
    assert made.incarnation(1) == 0
    made.mark_dead(1)
    assert made.incarnation(1) == 1
    assert not made.is_ready(1)
    assert made.last_beat_ns(1) == 0
    assert made.done(1, 0) == 0
    assert not made.is_sender_waiting(1)
    assert made.incarnation(0) == made.incarnation(2) == 0


def test_a_death_alone_does_not_raise_the_epoch():
    made = worker_table()
    made.mark_dead(0)
    assert made.epoch == 0
    made.raise_epoch()
    assert made.epoch == 1


def test_finished_frames_are_counted_by_sender():
    made = worker_table(3)
    made.count_done(2, sender=0)
    made.count_done(2, sender=0)
    made.count_done(2, sender=1)
    assert [[made.done(w, s) for s in range(3)] for w in range(3)] == [
        [0, 0, 0],
        [0, 0, 0],
        [2, 1, 0],
    ]


def test_a_request_to_stop_is_visible():
    made = worker_table()
    assert not made.stopping
    made.stop()
    assert made.stopping


def test_workers_are_idle_while_healthy_with_nothing_in_hand():
    made = worker_table(2)
    now_ns = 10 * FRESH_NS
    assert not made.is_idle(now_ns)
    for worker in range(2):
        made.ready(worker)
        made.beat(worker, now_ns)
    assert made.is_idle(now_ns)
    made.hold(1, 4, header())
    assert not made.is_idle(now_ns)
    made.release(1, 4)
    assert not made.is_idle(now_ns + FRESH_NS)
    made.beat(1, now_ns + FRESH_NS)
    assert not made.is_idle(now_ns + FRESH_NS)
    made.beat(0, now_ns + FRESH_NS)
    assert made.is_idle(now_ns + FRESH_NS)
    made.mark_dead(0)
    assert not made.is_idle(now_ns + FRESH_NS)


def test_rows_of_many_workers_do_not_overlap():
    made = worker_table(40)
    for worker in range(40):
        made.beat(worker, 1000 + worker)
        for index in range(MAX_HOLDS):
            made.hold(worker, index, header(stream=worker, slot=index))
        for sender in range(40):
            for _ in range((worker + sender) % 3):
                made.count_done(worker, sender)
    for worker in range(40):
        assert made.last_beat_ns(worker) == 1000 + worker
        assert [made.done(worker, s) for s in range(40)] == [(worker + s) % 3 for s in range(40)]
        assert made.mark_dead(worker) == [Hold(worker, slot, 1) for slot in range(MAX_HOLDS)]
    assert not made.stopping
    assert made.epoch == 0


def test_rows_are_added_released_and_added_again():
    made = WorkerTable(2, spare=2)
    assert [made.add_row(), made.add_row()] == [2, 3]
    with pytest.raises(IndexError):
        made.add_row()
    made.hold(2, 0, header())
    made.ready(2)
    made.release_row(2)
    assert not made.is_ready(2)
    assert made.in_hand(2) == 0
    for worker in (0, 1, 3):
        made.ready(worker)
        made.beat(worker, 100)
    assert made.is_idle(200)
    before = made.incarnation(2)
    assert made.add_row() == 2
    assert made.incarnation(2) == before
    assert not made.is_idle(200)
