"""Frames in flight: none is lost, none counts twice, whatever dies or is lost on the way."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.frame import Span, Status
from pipeline.memory.arena import POISON_BLAMES
from pipeline.worker.in_flight import IDLE_NS, SETTLE_NS, STUCK_NS, InFlight
from tests.builders import arena, header, returned, total, worker_table

LATER_NS = 10 * SETTLE_NS
WORKER = 1


class World:
    """The frames in flight of a stream, and the workers that they go to."""

    def __init__(self, slots=3, leaves=1, too_old_ns=None):
        self.arena, self.worker_table = arena(slots=slots), worker_table(3)
        self.leaves, self.too_old_ns, self.now_ns = leaves, too_old_ns, 10**9
        self.start()

    def start(self):
        """Start the process of capture, also after it was killed: only the arena is left."""
        self.in_flight = InFlight(self.arena, self.worker_table, 0, self.leaves, self.too_old_ns)
        self.in_flight.resume(self.now_ns)

    def lend(self):
        blank = self.in_flight.blank()
        blank.captured_ns = self.now_ns
        blank.width, blank.height, blank.used = 6, 4, 72
        blank.arrays["image"] = (0, "|u1", (4, 6, 3))
        self.in_flight.lend(blank)
        return blank

    def give_back(self, of, leaves=None, **fields):
        done = returned(of, self.leaves if leaves is None else leaves, **fields)
        return self.in_flight.take_back(done, self.now_ns)

    def die(self, worker=WORKER):
        """Record the death of a worker, as the supervisor does."""
        for hold in self.worker_table.mark_dead(worker):
            self.arena.blame(hold.slot, hold.generation)
        self.worker_table.raise_epoch()

    def resent(self):
        """Return the frames that are resent after a death, once holds have settled."""
        assert self.in_flight.watch(self.now_ns) == "death"
        return self.settled()

    def settled(self):
        self.now_ns += LATER_NS
        return self.in_flight.due(self.now_ns)

    @property
    def ledger(self):
        found = self.arena.ledger()
        assert found.captured == total(found)
        return found


def test_frames_are_numbered_without_gaps_and_slots_are_used_again():
    world = World(slots=2)
    first, second = world.lend(), world.lend()
    assert not world.in_flight.has_free_slot
    world.give_back(first)
    third = world.lend()
    assert [h.seq for h in (first, second, third)] == [0, 1, 2]
    assert third.slot == first.slot
    assert third.generation == first.generation + 1
    assert world.in_flight.count == 2


def test_a_slot_that_is_reserved_but_not_lent_does_not_count():
    world = World()
    assert world.in_flight.blank() == world.in_flight.blank()
    assert world.ledger.captured == world.in_flight.count == 0


def test_a_return_ends_the_loan_and_gives_the_spans():
    world = World()
    span = Span(1, 2, 3, 4, 5)
    assert world.give_back(world.lend(), spans=[span]) == ("", [span])
    assert (world.ledger.delivered, world.ledger.in_flight) == (1, 0)


def test_a_frame_is_out_until_all_last_stages_have_returned_it():
    world = World(leaves=0b1010)
    lent = world.lend()
    assert world.give_back(lent, 0b0010) is None
    assert world.give_back(lent, 0b0010) is None
    assert world.ledger.in_flight == 1
    assert world.give_back(lent, 0b1000) == ("", [])
    assert world.ledger.delivered == 1


def test_spans_of_several_branches_are_joined_without_doubles():
    world = World(leaves=0b11)
    lent = world.lend()
    shared, one, other = Span(0, 0, 1, 1, 2), Span(1, 1, 3, 3, 4), Span(2, 2, 3, 3, 5)
    world.give_back(lent, 0b01, spans=[shared, one])
    assert world.give_back(lent, 0b10, spans=[shared, other]) == ("", [shared, one, other])


@pytest.mark.parametrize("first", [0b01, 0b10])
def test_a_frame_that_failed_on_one_branch_has_failed(first):
    world = World(leaves=0b11)
    lent = world.lend()
    world.give_back(lent, first, cause="failed:ids" if first == 0b01 else "")
    world.give_back(lent, 0b11 ^ first, cause="failed:ids" if first == 0b10 else "")
    assert world.ledger.failed == {"failed:ids": 1}
    assert world.ledger.delivered == 0


@pytest.mark.parametrize("wrong", [{"generation": 2}, {"attempt": 1}, {"slot": 1}])
def test_a_return_of_another_slot_loan_or_attempt_counts_for_nothing(wrong):
    world = World()
    lent = world.lend()
    assert world.give_back(lent, **wrong) is None
    assert world.ledger.in_flight == 1


def test_a_return_counts_once():
    world = World()
    lent = world.lend()
    assert world.give_back(lent) is not None
    assert world.give_back(lent) is None
    again = world.lend()
    assert again.slot != lent.slot
    assert (world.ledger.delivered, world.ledger.in_flight) == (1, 1)


# --- deaths ---


def test_after_a_death_every_frame_in_flight_is_resent_in_order():
    world = World()
    lent = [world.lend() for _ in range(3)]
    world.die()
    again = world.resent()
    assert [h.seq for h in again] == [0, 1, 2]
    assert [h.attempt for h in again] == [1, 1, 1]
    for before, after in zip(lent, again, strict=True):
        assert (after.slot, after.generation) == (before.slot, before.generation)
        assert after.arrays == before.arrays
        assert after.status == Status.LIVE
    assert world.in_flight.watch(world.now_ns) is None
    assert world.settled() == []


def test_without_frames_in_flight_a_death_resends_nothing():
    world = World()
    world.give_back(world.lend())
    world.die()
    assert world.resent() == []
    assert not world.in_flight.awaiting_release


def test_a_death_makes_every_copy_in_flight_void():
    world = World()
    lent = world.lend()
    world.die()
    again = world.resent()
    assert not world.arena.is_current(lent)
    assert world.give_back(lent) is None
    assert world.ledger.in_flight == 1
    assert world.give_back(again[0]) == ("", [])


def test_the_return_of_one_branch_before_a_death_is_void():
    world = World(leaves=0b11)
    lent = world.lend()
    world.give_back(lent, 0b01, cause="stale", spans=[Span(0, 0, 1, 1, 2)])
    world.die()
    [again] = world.resent()
    assert world.give_back(again, 0b10) is None
    assert world.give_back(again, 0b01) == ("", [])


def test_a_frame_held_by_a_worker_is_resent_only_after_its_release():
    world = World()
    held, other = world.lend(), world.lend()
    world.worker_table.hold(2, 0, held)
    world.die()
    assert [h.seq for h in world.resent()] == [other.seq]
    assert world.in_flight.awaiting_release
    assert world.settled() == []
    world.worker_table.release(2, 0)
    assert [h.seq for h in world.settled()] == [held.seq]
    assert not world.in_flight.awaiting_release


def test_in_order_no_frame_is_resent_before_an_older_one_that_is_held():
    world = World()
    first, held, last = world.lend(), world.lend(), world.lend()
    world.worker_table.hold(2, 0, held)
    world.die()
    world.in_flight.watch(world.now_ns)
    world.now_ns += SETTLE_NS
    assert [h.seq for h in world.in_flight.due(world.now_ns, in_order=True)] == [first.seq]
    assert world.in_flight.due(world.now_ns, in_order=True) == []
    world.worker_table.release(2, 0)
    both = [h.seq for h in world.in_flight.due(world.now_ns, in_order=True)]
    assert both == [held.seq, last.seq]


def test_the_frames_in_hand_of_a_dead_worker_are_resent():
    world = World()
    world.worker_table.hold(WORKER, 0, world.lend())
    world.die()
    assert [h.seq for h in world.resent()] == [0]


def test_no_frame_is_resent_before_holds_and_attempts_have_settled():
    world = World()
    world.lend()
    world.die()
    world.in_flight.watch(world.now_ns)
    assert world.in_flight.due(world.now_ns + SETTLE_NS - 1) == []
    assert len(world.in_flight.due(world.now_ns + SETTLE_NS)) == 1


def test_a_second_death_meanwhile_voids_once_more():
    world = World()
    lent = world.lend()
    world.worker_table.hold(2, 0, lent)
    world.die()
    assert world.resent() == []
    world.die(2)
    [again] = world.resent()
    assert again.attempt == 2


def test_a_frame_lent_after_the_death_is_not_void():
    world = World()
    world.die()
    world.resent()
    lent = world.lend()
    assert world.give_back(lent) == ("", [])


def test_a_frame_in_hand_at_more_than_three_deaths_is_poison():
    world = World()
    [copy] = [world.lend()]
    for death in range(1, POISON_BLAMES + 2):
        world.worker_table.hold(WORKER, 0, copy)
        world.die()
        [copy] = world.resent()
        if death <= 3:
            assert copy.status == Status.LIVE
            assert "image" in copy.arrays
    assert (copy.status, copy.cause, copy.arrays) == (Status.FAILED, "poison", {})
    assert world.give_back(copy) == ("poison", [])
    assert world.ledger.failed == {"poison": 1}


def test_innocent_frames_are_not_poison_however_many_die():
    world = World()
    world.lend()
    for _ in range(10):
        world.die()
        [again] = world.resent()
    assert again.status == Status.LIVE


def test_a_live_frame_that_is_too_old_is_dropped_and_not_resent():
    world = World(too_old_ns=10**9)
    old = world.lend()
    world.now_ns += 10**9
    young = world.lend()
    world.die()
    world.in_flight.watch(world.now_ns)
    dropped, again = world.settled()
    assert (dropped.seq, dropped.status, dropped.cause) == (old.seq, Status.DROPPED, "restart")
    assert dropped.arrays == {}
    assert (again.seq, again.status) == (young.seq, Status.LIVE)
    world.give_back(dropped)
    assert world.ledger.dropped == {"restart": 1}


def test_a_frame_of_a_file_is_never_too_old():
    world = World(too_old_ns=None)
    world.lend()
    world.now_ns += 3600 * 10**9
    world.die()
    assert world.resent()[0].status == Status.LIVE


# --- the end ---


def test_the_end_of_a_stream_is_lent_and_resent_like_a_frame():
    world = World(leaves=0b11, too_old_ns=1)
    world.give_back(world.lend())
    end = world.in_flight.lend_end(world.now_ns, 0)
    assert (end.status, end.seq) == (Status.END, 1)
    assert world.in_flight.count == 1
    world.worker_table.hold(WORKER, 0, end)
    for _ in range(POISON_BLAMES + 2):  # neither poison nor too old: it must arrive
        world.now_ns += 10**9
        world.die()
        [end] = world.resent()
        assert end.status == Status.END
        world.worker_table.hold(WORKER, 0, end)
    assert world.give_back(end, 0b01) is None
    assert not world.arena.finished
    assert world.give_back(end, 0b10) == ("", [])
    assert world.arena.finished
    assert world.ledger.captured == world.ledger.delivered == 1


# --- capture's own death ---


def test_after_the_death_of_capture_the_frames_in_flight_are_in_the_arena():
    world = World(slots=3)
    first, second = world.lend(), world.lend()
    world.give_back(first)
    world.die(0)
    world.start()
    assert world.in_flight.count == 1
    assert world.give_back(second) is None  # sent by its predecessor: void
    [again] = world.settled()
    assert (again.seq, again.attempt, again.arrays) == (1, 1, second.arrays)
    assert world.lend().seq == 2
    assert world.give_back(again) == ("", [])
    assert world.ledger.captured == 3


def test_the_successor_of_capture_does_not_resend_for_its_own_start():
    world = World()
    world.lend()
    world.die(0)
    world.start()
    assert world.in_flight.watch(world.now_ns) is None
    assert world.settled()[0].attempt == 1


def test_capture_killed_with_the_end_in_flight_resends_the_end():
    world = World()
    world.in_flight.lend_end(world.now_ns, 0)
    world.start()
    assert world.in_flight.count == 1
    [end] = world.settled()
    assert (end.status, end.attempt) == (Status.END, 1)
    world.give_back(end)
    assert world.arena.finished


def test_a_half_written_loan_is_no_frame():
    world = World()
    blank = world.in_flight.blank()
    world.arena._words[world.arena._at(blank.slot) + 1] = 99  # `seq` was stored, `loans` was not
    world.start()
    assert world.in_flight.count == 0
    assert world.lend().seq == 0


# --- messages that get lost ---


def well(world):
    for worker in range(3):
        world.worker_table.ready(worker)
        world.worker_table.beat(worker, world.now_ns)


def pass_time(world, seconds, step_s=0.05):
    """Call `watch` until it finds something, and return that."""
    for _ in range(round(seconds / step_s)):
        world.now_ns += round(step_s * 1e9)
        well(world)
        found = world.in_flight.watch(world.now_ns)
        if found:
            return found
    return None


def test_a_frame_not_held_and_not_returned_is_resent_after_a_timeout():
    world = World()
    well(world)
    lost = world.lend()
    assert pass_time(world, IDLE_NS / 1e9 * 0.9) is None
    assert pass_time(world, 0.5) == "unreturned"
    [again] = world.settled()
    assert (again.seq, again.attempt) == (lost.seq, 1)
    assert world.give_back(again) == ("", [])


def test_while_a_frame_of_the_stream_is_held_no_timeout_expires():
    world = World()
    world.worker_table.hold(2, 0, world.lend())
    assert pass_time(world, 3 * STUCK_NS / 1e9, 0.5) is None
    world.worker_table.release(2, 0)
    assert pass_time(world, 2 * IDLE_NS / 1e9) == "unreturned"
    assert len(world.settled()) == 1


def test_while_other_workers_are_busy_the_timeout_is_longer():
    world = World()
    world.lend()
    world.worker_table.hold(2, 0, header(stream=1))
    assert pass_time(world, STUCK_NS / 1e9 - 1, 0.5) is None
    assert pass_time(world, 2, 0.5) == "unreturned"
    assert len(world.settled()) == 1


def test_while_a_stage_opens_no_timeout_expires():
    world = World()
    well(world)
    world.lend()
    world.worker_table.mark_dead(2)  # its successor opens for longer than any patience
    for _ in range(10):
        world.now_ns += STUCK_NS // 3
        assert world.in_flight.watch(world.now_ns) is None
    assert pass_time(world, IDLE_NS / 1e9 * 0.9) is None
    assert pass_time(world, 0.5) == "unreturned"


def test_the_timeout_doubles_without_returns_and_is_reset_by_one():
    world = World()
    lent = world.lend()
    world.worker_table.hold(2, 0, header(slot=world.arena.slots - 1))
    assert pass_time(world, STUCK_NS / 1e9 + 1, 0.5) == "unreturned"
    [again] = world.settled()
    assert pass_time(world, 2 * STUCK_NS / 1e9 - 1, 0.5) is None
    assert pass_time(world, 2, 0.5) == "unreturned"
    assert again.seq == lent.seq
    [again] = world.settled()
    assert world.give_back(again) is not None
    world.lend()
    assert pass_time(world, STUCK_NS / 1e9 + 1, 0.5) == "unreturned"


def test_while_frames_return_no_timeout_expires():
    world = World(slots=2)
    well(world)
    world.lend()
    for _ in range(30):
        other = world.lend()
        assert pass_time(world, 0.5) is None
        world.give_back(other)


def test_without_frames_in_flight_no_timeout_expires():
    assert pass_time(World(), 100, 1) is None


class Storm(RuleBasedStateMachine):
    """Any interleaving of frames, returns, doubled and lost messages, and deaths of anybody."""

    def __init__(self):
        super().__init__()
        self.world = World(slots=3, leaves=0b11)
        self.messages = []  # (header, leaf), each taken at most once
        self.returns = []  # each may arrive any number of times
        self.hands = {}  # worker -> (header, leaf)
        self.seq_of = {}  # (slot, generation) -> seq
        self.ended = {}
        self.lent = 0

    def launch(self, headers):
        for sent in headers:
            assert not self.world.worker_table.is_held(0, sent.slot)
            assert self.world.arena.is_current(sent)
            self.messages += [(sent, 0b01), (sent, 0b10)]

    @precondition(lambda self: self.world.in_flight.has_free_slot)
    @rule()
    def lend(self):
        blank = self.world.in_flight.blank()
        # A worker that still uses the slot would see it change.
        assert not self.world.worker_table.is_held(0, blank.slot)
        sent = self.world.lend()
        assert sent.seq == self.lent
        self.lent += 1
        self.seq_of[sent.slot, sent.generation] = sent.seq
        self.launch([sent])

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), worker=st.sampled_from([1, 2]))
    def take(self, data, worker):
        if worker in self.hands:
            return
        message = self.messages.pop(data.draw(st.integers(0, len(self.messages) - 1)))
        self.world.worker_table.hold(worker, 0, message[0])
        if self.world.arena.is_current(message[0]):
            self.hands[worker] = message
        else:
            self.world.worker_table.release(worker, 0)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), cause=st.sampled_from(["", "", "failed:ids", "stale"]))
    def hand_back(self, data, cause):
        worker = data.draw(st.sampled_from(sorted(self.hands)))
        sent, leaf = self.hands.pop(worker)
        self.returns.append(returned(sent, leaf, sent.cause or cause))
        self.world.worker_table.release(worker, 0)

    @precondition(lambda self: self.returns)
    @rule(data=st.data())
    def a_return_arrives(self, data):
        self.receive(data.draw(st.sampled_from(self.returns)))

    def receive(self, done):
        taken = self.world.in_flight.take_back(done, self.world.now_ns)
        if taken is not None:
            seq = self.seq_of[done.slot, done.generation]
            assert seq not in self.ended
            self.ended[seq] = taken[0]

    @rule(worker=st.sampled_from([1, 2]))
    def a_worker_dies(self, worker):
        self.hands.pop(worker, None)
        self.world.die(worker)

    @rule()
    def capture_dies(self):
        self.world.die(0)
        self.world.start()

    @precondition(lambda self: self.messages)
    @rule()
    def all_messages_are_lost_and_missed(self):
        self.messages.clear()
        self.world.in_flight.watch(self.world.now_ns)  # a death before comes first
        for worker in list(self.hands):
            self.hands.pop(worker)
            self.world.worker_table.release(worker, 0)
        self.world.now_ns += LATER_NS
        self.launch(self.world.in_flight.due(self.world.now_ns))
        self.messages.clear()
        if self.world.in_flight.count:
            assert pass_time(self.world, 2) == "unreturned"

    @rule(later_ns=st.sampled_from([0, SETTLE_NS // 2, SETTLE_NS, LATER_NS]))
    def time_passes(self, later_ns):
        self.world.now_ns += later_ns
        self.world.in_flight.watch(self.world.now_ns)
        self.launch(self.world.in_flight.due(self.world.now_ns))

    @invariant()
    def the_ledger_holds(self):
        ledger = self.world.ledger
        assert ledger.captured == self.lent
        assert ledger.in_flight == self.world.in_flight.count == self.lent - len(self.ended)
        outcomes = list(self.ended.values())
        assert ledger.delivered == outcomes.count("")
        assert ledger.dropped.get("stale", 0) == outcomes.count("stale")
        assert ledger.failed.get("poison", 0) == outcomes.count("poison")

    def teardown(self):
        """Let all that lives finish: every frame has ended, once."""
        for worker in list(self.hands):
            sent, leaf = self.hands.pop(worker)
            self.returns.append(returned(sent, leaf))
            self.world.worker_table.release(worker, 0)
        for _ in range(2):
            self.world.in_flight.watch(self.world.now_ns)
            self.world.now_ns += LATER_NS
            self.launch(self.world.in_flight.due(self.world.now_ns))
            self.returns += [
                returned(sent, leaf)
                for sent, leaf in self.messages
                if self.world.arena.is_current(sent)
            ]
            for done in self.returns:
                self.receive(done)
        assert sorted(self.ended) == list(range(self.lent))


Storm.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStorm = Storm.TestCase
