"""Edges: messages reach their receiver, work goes to a free replica, order is restored."""

import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.edge import Edge, Kind, Reorder, Sockets, decode_header, decode_return
from pipeline.frame import Span
from tests.builders import header, returned, worker_table

ARRIVES_MS = 10_000
"""Longest wait for a message that must come; none is waited for in vain."""


@pytest.fixture
def run():
    """Makes the sockets of workers of one run, and closes them."""
    made = []
    name = uuid.uuid4().hex

    def sockets(worker, on):
        made.append(Sockets(name, worker, on))
        return made[-1]

    yield sockets
    for one in made:
        one.close()


def test_a_frame_arrives_with_its_sender_and_the_stage_it_comes_from(run):
    shared = worker_table(300)
    receiver, sender = run(0, shared), run(259, shared)
    sent = header(seq=17, arrays={"image": (0, "|u1", (4, 6, 3))})
    Edge(sender, shared, 259, 199, [0], credit=1).send(sent)
    message = receiver.receive(ARRIVES_MS)
    assert (message.kind, message.sender, message.stage) == (Kind.FRAME, 259, 199)
    assert decode_header(message.body) == sent


def test_a_return_arrives_as_it_was_sent(run):
    shared = worker_table()
    capture, sink = run(0, shared), run(2, shared)
    sent = returned(header(slot=1), leaves=0b110, cause="stale", spans=[Span(1, 2, 3, 4, 5)])
    sink.send_return(0, sent)
    message = capture.receive(ARRIVES_MS)
    assert (message.kind, message.sender) == (Kind.RETURN, 2)
    assert decode_return(message.body) == sent


def test_a_wake_up_arrives_from_a_worker_and_from_an_own_thread(run):
    shared = worker_table()
    one, other = run(0, shared), run(1, shared)
    other.wake(0)
    assert one.receive(ARRIVES_MS).kind == Kind.WAKE
    notify = one.own_wake()
    thread = threading.Thread(target=notify)
    thread.start()
    message = one.receive(ARRIVES_MS)
    thread.join()
    assert (message.kind, message.sender) == (Kind.WAKE, 0)
    one.close()


def test_a_message_carries_the_incarnation_of_its_sender(run):
    shared = worker_table()
    receiver, first = run(0, shared), run(1, shared)
    first.send_frame(0, 0, b"")
    shared.mark_dead(1)
    first.send_frame(0, 0, b"")
    run(1, shared).send_frame(0, 0, b"")
    found = sorted(receiver.receive(ARRIVES_MS).incarnation for _ in range(3))
    assert found == [0, 0, 1]


def test_without_a_message_none_is_received(run):
    assert run(0, worker_table()).receive(0) is None
    assert run(1, worker_table()).receive(1) is None


def test_messages_of_one_sender_arrive_in_order(run):
    shared = worker_table()
    receiver, sender = run(0, shared), run(1, shared)
    edge = Edge(sender, shared, 1, 0, [0], credit=1)
    for seq in range(300):
        edge.send(header(seq=seq))
    seqs = [decode_header(receiver.receive(ARRIVES_MS).body).seq for _ in range(300)]
    assert seqs == list(range(300))


def test_a_sender_with_many_waiting_messages_does_not_block_others(run):
    shared = worker_table()
    receiver, many, one = run(0, shared), run(1, shared), run(2, shared)
    for _ in range(90):
        many.send_frame(0, 0, b"")
    senders = [receiver.receive(ARRIVES_MS).sender]
    one.send_frame(0, 0, b"")
    threading.Event().wait(0.3)  # it cannot be seen from here when it has arrived
    senders += [receiver.receive(ARRIVES_MS).sender for _ in range(4)]
    assert 2 in senders


def test_messages_after_a_death_wait_for_the_successor_and_reach_it_alone(run):
    shared = worker_table()
    sender, dead = run(0, shared), run(1, shared)
    edge = Edge(sender, shared, 0, 0, [1], credit=1)
    edge.send(header(seq=1))
    assert decode_header(dead.receive(ARRIVES_MS).body).seq == 1
    shared.mark_dead(1)
    edge.send(header(seq=2))
    edge.send(header(seq=3))
    successor = run(1, shared)
    assert [decode_header(successor.receive(ARRIVES_MS).body).seq for _ in range(2)] == [2, 3]
    assert dead.receive(0) is None
    assert successor.receive(0) is None


def test_messages_a_dead_worker_had_not_read_do_not_reach_its_successor(run):
    shared = worker_table()
    sender, dead = run(0, shared), run(1, shared)
    edge = Edge(sender, shared, 0, 0, [1], credit=1)
    edge.send(header(seq=1))
    shared.mark_dead(1)
    successor = run(1, shared)
    edge.send(header(seq=2))
    assert decode_header(successor.receive(ARRIVES_MS).body).seq == 2
    assert successor.receive(0) is None
    dead.close()


def test_a_receiver_that_starts_later_gets_earlier_messages(run):
    shared = worker_table()
    sender = run(0, shared)
    sender.send_frame(2, 0, b"early")
    assert run(2, shared).receive(ARRIVES_MS).body == b"early"


def test_workers_of_two_runs_do_not_receive_from_each_other():
    shared = worker_table()
    one, other = Sockets("one" + uuid.uuid4().hex, 0, shared), Sockets(uuid.uuid4().hex, 0, shared)
    one.wake(0)
    assert one.receive(ARRIVES_MS).kind == Kind.WAKE
    assert other.receive(0) is None
    one.close()
    other.close()


# --- balance ---


class Sent:
    """Sockets that only note what goes where."""

    def __init__(self):
        self.to = {}
        self.blocked = set()

    def send_frame(self, worker, stage, body):
        self.to.setdefault(worker, []).append(decode_header(body).seq)


def replicas(credit=1, receivers=(1, 2), ready=(1, 2), shared=None, sent=None):
    shared, sent = shared or worker_table(6), sent or Sent()
    for worker in ready:
        shared.ready(worker)
    return Edge(sent, shared, 0, 0, receivers, credit), sent.to, shared


def send(edge, *seqs):
    for seq in seqs:
        edge.send(header(seq=seq))


def test_a_single_receiver_gets_all_at_once():
    edge, to, _ = replicas(receivers=(1,), ready=())
    send(edge, *range(100))
    assert to == {1: list(range(100))}
    assert edge.waiting == 0


def test_no_replica_gets_more_than_its_credit():
    edge, to, _ = replicas(credit=2)
    send(edge, *range(10))
    assert {worker: len(seqs) for worker, seqs in to.items()} == {1: 2, 2: 2}
    assert edge.waiting == 6


def test_the_replica_that_has_finished_gets_the_next_frame():
    edge, to, shared = replicas()
    send(edge, *range(20))
    assert to == {1: [0], 2: [1]}
    for _ in range(5):
        shared.count_done(2, sender=0)
        edge.flush()
    assert to == {1: [0], 2: [1, 2, 3, 4, 5, 6]}


def test_of_two_replicas_with_credit_the_less_busy_gets_the_frame():
    edge, to, shared = replicas(credit=3)
    send(edge, 0, 1, 2, 3)
    shared.count_done(2, sender=0)
    shared.count_done(2, sender=0)
    send(edge, 4, 5)
    assert to[2][-2:] == [4, 5]


def test_frames_of_other_senders_do_not_count_as_own_credit():
    edge, to, shared = replicas()
    send(edge, 0, 1, 2)
    shared.count_done(1, sender=3)
    edge.flush()
    assert edge.waiting == 1
    assert to == {1: [0], 2: [1]}


def test_a_replica_that_is_not_ready_gets_nothing_until_it_is():
    edge, to, shared = replicas(ready=(1,), credit=2)
    send(edge, *range(4))
    assert to == {1: [0, 1]}
    shared.ready(2)
    edge.flush()
    assert to == {1: [0, 1], 2: [2, 3]}


def test_a_dead_replica_gets_nothing_and_its_successor_full_credit():
    edge, to, shared = replicas()
    send(edge, 0, 1, 2, 3)
    shared.mark_dead(1)
    edge.flush()
    assert to == {1: [0], 2: [1]}
    shared.ready(1)
    edge.flush()
    assert to == {1: [0, 2], 2: [1]}
    edge.flush()
    assert edge.waiting == 1


def test_with_all_replicas_dead_everything_waits():
    edge, to, _ = replicas(ready=())
    send(edge, *range(3))
    assert to == {}
    assert edge.waiting == 3


def test_a_sender_is_marked_waiting_only_while_it_waits():
    edge, _, shared = replicas()
    send(edge, 0, 1)
    assert not shared.is_sender_waiting(0)
    send(edge, 2)
    assert shared.is_sender_waiting(0)
    shared.count_done(1, sender=0)
    edge.flush()
    assert not shared.is_sender_waiting(0)


def test_a_replica_freed_while_waiting_is_published_is_not_missed():
    edge, to, shared = replicas()
    send(edge, 0, 1)
    set_sender_waiting = shared.set_sender_waiting

    def free_at_that_moment(worker, waiting):
        if waiting:
            shared.count_done(2, sender=0)
        set_sender_waiting(worker, waiting)

    shared.set_sender_waiting = free_at_that_moment
    send(edge, 2)
    assert to[2] == [1, 2]
    assert edge.waiting == 0


def test_waiting_frames_are_dropped_before_a_resend():
    edge, to, shared = replicas()
    send(edge, *range(5))
    edge.forget()
    shared.count_done(1, sender=0)
    edge.flush()
    assert to == {1: [0], 2: [1]}
    assert edge.waiting == 0


def test_a_restarted_sender_has_the_credit_of_one_sender():
    first, _, shared = replicas(credit=2)
    send(first, *range(4))
    shared.mark_dead(0)
    second, again, _ = replicas(credit=2, ready=(), shared=shared)
    send(second, *range(10))
    assert {worker: len(seqs) for worker, seqs in again.items()} == {1: 2, 2: 2}


def test_two_edges_of_a_sender_do_not_clear_each_others_waiting_mark():
    sent = Sent()
    one, to, shared = replicas(receivers=(1, 2), ready=(1, 2), sent=sent)
    other, _, _ = replicas(receivers=(3, 4), ready=(3, 4), shared=shared, sent=sent)
    send(one, 0, 1, 2)
    send(other, 0, 1, 2)
    assert shared.is_sender_waiting(0)
    shared.count_done(3, sender=0)
    other.flush()
    assert (one.waiting, other.waiting) == (1, 0)
    assert shared.is_sender_waiting(0)
    shared.count_done(1, sender=0)
    one.flush()
    assert not shared.is_sender_waiting(0)
    assert to[1] == [0, 2]


def test_a_sender_does_not_wait_after_its_frames_were_dropped():
    edge, _, shared = replicas()
    send(edge, 0, 1, 2)
    assert shared.is_sender_waiting(0)
    edge.forget()
    assert not shared.is_sender_waiting(0)


# --- order ---


def pass_on(reorder):
    """Take what is due, as a worker does."""
    seqs = []
    for due in reorder.due():
        reorder.expected = due.seq + 1
        seqs.append(due.seq)
    return seqs


@given(st.permutations(range(12)), st.integers(0, 100))
def test_frames_in_any_order_come_out_in_order(seqs, first):
    reorder = Reorder(first)
    out = []
    for count, seq in enumerate(seqs, 1):
        reorder.add(header(seq=first + seq))
        out += pass_on(reorder)
        assert len(reorder) == count - len(out)
    assert out == list(range(first, first + 12))


@given(
    st.permutations([(seq, attempt) for seq in range(6) for attempt in range(3)]),
)
def test_of_one_frame_the_newest_attempt_waits(copies):
    reorder = Reorder(0)
    for seq, attempt in copies:
        reorder.add(header(seq=seq, attempt=attempt))
        assert len(reorder) <= 6
    for due in reorder.due():
        assert due.attempt == 2
        reorder.expected += 1
    assert reorder.expected == 6


def test_of_one_frame_in_a_slot_lent_again_the_newest_loan_waits():
    reorder = Reorder(0)
    reorder.add(header(generation=2, attempt=0))
    reorder.add(header(generation=1, attempt=5))
    assert [due.generation for due in reorder.due()] == [2]


def test_a_frame_whose_turn_it_is_not_waits():
    reorder = Reorder(0)
    reorder.add(header(seq=1))
    assert pass_on(reorder) == []
    reorder.add(header(seq=0))
    assert pass_on(reorder) == [0, 1]
    assert len(reorder) == 0


def test_a_frame_that_turns_out_void_is_expected_again():
    reorder = Reorder(0)
    reorder.add(header(seq=0, attempt=0))
    reorder.add(header(seq=1))
    assert [due.seq for due in reorder.due()] == [0]  # not counted: void
    assert pass_on(reorder) == []
    reorder.add(header(seq=0, attempt=1))
    assert pass_on(reorder) == [0, 1]
