"""Capture: slots lent and taken back, frames resent after a death, memory, trace."""

import numpy as np
import pytest

from pipeline.edge import Kind, Message, encode
from pipeline.errors import RunError
from pipeline.frame import Status
from pipeline.memory import arena as arena_file
from pipeline.telemetry.trace import read_trace
from tests.builders import returned
from tests.pipeline.worker.stand import MISSED, PROBLEM, SCRIPT, Stand, calls, run


def test_a_source_is_read_to_its_end_and_the_end_comes_last():
    SCRIPT[:] = [(4, 6)] * 20
    stand = Stand({"a": {"use": "note"}})
    ledger = run(stand)
    assert (ledger.captured, ledger.delivered, ledger.in_flight) == (20, 20, 0)
    assert [sent.seq for sent in stand.sent] == [*range(20), 20]
    assert [sent.status for sent in stand.sent][-2:] == [Status.LIVE, Status.END]
    assert stand.arena.finished
    assert stand.shared.counters.stream(0).latency.count == 20
    assert stand.shared.counters.row(0, 0).processed == 20


def test_the_image_of_every_frame_lies_in_its_slot():
    SCRIPT[:] = [(4, 6), (2, 3), (5, 5)]
    stand = Stand({"a": {"use": "note"}})
    seen = {}

    def look(of, done):
        if of.status == Status.LIVE:
            seen[of.seq] = (of.width, of.height, stand.frame(of)["image"].copy())
        return True

    run(stand, look)
    for seq, (height, width) in enumerate(SCRIPT):
        assert seen[seq][:2] == (width, height)
        assert (seen[seq][2] == np.full((height, width, 3), seq + 1)).all()


def test_with_all_slots_lent_capture_waits():
    SCRIPT[:] = [(4, 6)] * 10
    stand = Stand({"a": {"use": "note"}}, streams={"demo": {"slots": 2}})
    most = []
    stand.open("capture")
    kept = []

    def receive(timeout_ms):
        """Return a frame only when capture has nothing else to do."""
        most.append(stand.arena.ledger().in_flight)
        if timeout_ms and kept:
            done = returned(kept.pop(0), stand.graph.leaves)
            return Message(Kind.RETURN, 1, 0, 0, encode(done))
        return None

    stand.sockets.on_frame = kept.append
    stand.sockets.receive = receive
    stand.worker.loop()
    assert max(most) == 2
    assert stand.arena.ledger().delivered == 10


def test_images_that_the_source_missed_are_counted():
    SCRIPT[:] = [(4, 6)] * 3
    MISSED[:] = [(2, 0), (0, 3), (1, 1)]
    ledger = run(Stand({"a": {"use": "note"}}, streams={"demo": {"live": True}}))
    assert ledger.captured == 10
    assert (ledger.dropped, ledger.failed) == ({"busy": 3}, {"decode": 4})
    assert ledger.delivered == 3


def test_after_a_death_frames_are_resent_and_each_ends_once():
    SCRIPT[:] = [(4, 6)] * 12
    stand = Stand({"a": {"use": "note"}})

    def die_at_5(of, done):
        if of.seq == 5 and of.attempt == 0:
            stand.worker_table.mark_dead(1)
            stand.worker_table.raise_epoch()
            return False
        return True

    ledger = run(stand, die_at_5)
    assert (ledger.captured, ledger.delivered) == (12, 12)
    assert [(sent.seq, sent.attempt) for sent in stand.sent if sent.attempt] == [(5, 1)]


def test_after_a_death_frames_waiting_for_a_replica_are_sent_once():
    SCRIPT[:] = [(4, 6)] * 4
    stand = Stand({"a": {"use": "twins"}}, streams={"demo": {"slots": 4}})
    stand.open("capture")
    receive = stand.sockets.receive

    def look(timeout_ms):
        """Once all frames wait and no replica is ready, one dies; then both are ready."""
        if timeout_ms and not stand.worker_table.epoch:
            assert stand.arena.ledger().in_flight == 4
            stand.worker_table.mark_dead(2)
            stand.worker_table.raise_epoch()
        elif timeout_ms and stand.worker._in_flight.awaiting_release is False:
            for worker in (1, 2):
                stand.worker_table.ready(worker)
        return receive(timeout_ms)

    stand.sockets.receive = look

    def give_back(of):
        worker = stand.sockets.frames[-1][0]
        stand.worker_table.count_done(worker, 0)
        body = encode(returned(of, stand.graph.leaves))
        stand.sockets.inbox.append(Message(Kind.RETURN, worker, 0, 0, body))

    stand.sockets.on_frame = give_back
    stand.worker.loop()
    assert [(sent.seq, sent.attempt) for sent in stand.sent] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 0),
    ]


def test_the_successor_of_capture_goes_on_behind_the_last_frame():
    SCRIPT[:] = [(4, 6)] * 12
    stand = Stand({"a": {"use": "note"}})

    def die_at_5(of, done):
        if of.seq == 5:
            raise SystemExit
        return True

    with pytest.raises(SystemExit):
        run(stand, die_at_5)
    stand.worker_table.mark_dead(0)
    stand.worker_table.raise_epoch()
    seen = {}

    def look(of, done):
        if of.status == Status.LIVE:
            seen[of.seq] = stand.frame(of)["image"][0, 0, 0]
        return True

    ledger = run(stand, look)
    assert calls("skip") == [("capture", "skip", 6)]
    assert (ledger.captured, ledger.delivered) == (12, 12)
    assert seen == {seq: seq + 1 for seq in sorted(seen)}
    assert max(seen) == 11
    assert 5 in seen


def test_the_successor_of_capture_does_not_open_an_ended_source():
    SCRIPT[:] = [(4, 6)] * 2
    stand = Stand({"a": {"use": "note"}})

    def die_at_the_end(of, done):
        if of.status == Status.END:
            raise SystemExit
        return True

    with pytest.raises(SystemExit):
        run(stand, die_at_the_end)
    stand.worker_table.mark_dead(0)
    SCRIPT.append((4, 6))
    ledger = run(stand)
    assert ledger.captured == 2
    assert stand.arena.finished
    assert calls("skip") == []


def test_a_stopped_capture_lends_no_more_and_drains():
    SCRIPT[:] = [(4, 6)] * 50
    stand = Stand({"a": {"use": "note"}})

    def stop_at_5(of, done):
        if of.seq == 5:
            stand.worker_table.stop()
        return True

    ledger = run(stand, stop_at_5)
    assert 6 <= ledger.captured <= 7
    assert ledger.delivered == ledger.captured
    assert stand.arena.finished


def test_an_image_larger_than_a_slot_ends_the_run_with_a_reason():
    SCRIPT[:] = [(4, 6), (400, 600)]
    stand = Stand({"a": {"use": "note"}}, max_frame="320x240")
    with pytest.raises(
        RunError,
        match=r"demo: an image is larger than `max_frame` \(found max_frame 320x240\); set",
    ):
        run(stand)


def test_an_image_that_has_no_room_for_its_copy_ends_the_run():
    SCRIPT[:] = [(4, 6), (120, 120)]  # the slots of these tests have 64 KiB
    stand = Stand({"a": {"use": "veil"}}, max_frame="320x240")
    with pytest.raises(RunError, match="an image is larger than `max_frame`"):
        run(stand)


def test_memory_for_copies_of_the_image_is_part_of_the_check(monkeypatch):
    SCRIPT[:] = [(100, 100)]
    monkeypatch.setattr(arena_file, "memory_available", lambda: 2 * 60_000 - 1)
    with pytest.raises(RunError, match=r"stream demo: 2 slots of 0 MiB need 0 MiB of memory"):
        run(Stand({"a": {"use": "veil"}}, streams={"demo": {"slots": 2}}))
    monkeypatch.setattr(arena_file, "memory_available", lambda: 2 * 60_000)
    assert run(Stand({"a": {"use": "veil"}}, streams={"demo": {"slots": 2}})).delivered == 1


def test_images_that_shrink_release_memory_and_may_grow():
    sizes = [(100, 100)] * 8 + [(10, 10)] * 16 + [(140, 150)] * 8
    SCRIPT[:] = sizes
    stand = Stand({"a": {"use": "note"}}, streams={"demo": {"slots": 2}})
    resident = {}

    def look(of, done):
        resident[of.seq] = stand.arena.resident_bytes()
        return True

    ledger = run(stand, look)
    assert ledger.delivered == len(sizes)
    assert resident[20] < resident[7] - 2 * 20_000
    assert resident[31] > resident[7] + 2 * 30_000


def test_a_source_that_ended_too_early_is_reported_with_its_frames_kept(stand):
    said = stand
    SCRIPT[:] = [(4, 6)] * 3
    PROBLEM.append("the file is truncated")
    ledger = run(Stand({"a": {"use": "note"}}))
    assert ledger.delivered == 3
    assert [(r.kind, r.text) for r in said if r.kind == "broken"] == [
        ("broken", "demo: the file is truncated")
    ]


def test_stages_in_the_process_of_capture_return_without_a_message():
    SCRIPT[:] = [(4, 6)] * 5
    stages = {
        "capture": {"use": "pictures", "process": "x"},
        "a": {"use": "count", "process": "x", "fail_at": [3]},
        "b": {"use": "note", "process": "x"},
    }
    stand = Stand(stages)
    ledger = run(stand)
    assert (ledger.delivered, ledger.failed) == (4, {"failed:a": 1})
    assert calls("process", "end")[-1] == ("b", "end", "demo")
    assert [call[2] for call in calls() if call[0] == "b"] == [0, 1, 2, 4]
    assert stand.sockets.frames == []


@pytest.mark.parametrize(
    ("slots", "others", "most"), [("auto", 0, 3), ("auto", 1, 2), ("auto", 7, 1), (3, 7, 3)]
)
def test_live_streams_share_the_slots_beyond_one_each(slots, others, most):
    SCRIPT[:] = [(4, 6)] * 9
    demo = {"live": True, "slots": slots}
    stand = Stand({"a": {"use": "note"}, "b": {"use": "note"}}, streams={"demo": demo, "other": {}})
    stand.open("capture")
    assert stand.arena.slots == 3
    stand.worker_table.set_in_flight(1, others)  # those of another stream's capture worker
    while stand.worker._read():
        pass
    assert len(stand.sent) == most
    assert stand.worker_table.live_in_flight == others + most
    stand.worker_table.set_in_flight(1, 0)
    while stand.worker._read():
        pass
    assert len(stand.sent) == 3


def test_every_frame_is_in_the_trace(tmp_path):
    SCRIPT[:] = [(4, 6)] * 4
    with (tmp_path / "part").open("w+b") as file:
        stand = Stand({"a": {"use": "note"}}, trace_fds=[file.fileno()])
        run(stand, lambda of, done: setattr(done, "spans", of.spans) is None)
        file.seek(0)
        records = list(read_trace(file))
    assert [(r.seq, r.outcome) for r in records] == [(i, "") for i in range(4)]
    assert [[span.stage for span in r.spans] for r in records] == [[0]] * 4
