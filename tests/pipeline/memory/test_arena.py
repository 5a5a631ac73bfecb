"""The memory of a stream: its account closes at every instant, whatever is killed."""

import os

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.errors import RunError
from pipeline.frame import Frame, Status
from pipeline.memory import arena as arena_file
from pipeline.memory import shared
from pipeline.memory.saved_states import checkpoint_bytes
from pipeline.memory.shared import PAGE, WORD
from tests.builders import MIB, arena, header, lend, total

CAUSES = ("", "stale", "restart", "poison", "failed:capture", "failed:ids")


class Account(RuleBasedStateMachine):
    """Whatever happens to frames, the sum closes after every single step."""

    @initialize(slots=st.integers(1, 4))
    def begin(self, slots):
        self.arena = arena(slots=slots)
        self.lent = set()
        self.outcomes = dict.fromkeys(CAUSES, 0)
        self.busy = self.decode = self.loans = 0

    @precondition(lambda self: len(self.lent) < self.arena.slots)
    @rule(data=st.data())
    def lend(self, data):
        free = [slot for slot in range(self.arena.slots) if slot not in self.lent]
        slot = data.draw(st.sampled_from(free))
        lend(self.arena, slot)
        self.lent.add(slot)
        self.loans += 1

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def end(self, data, cause):
        slot = data.draw(st.sampled_from(sorted(self.lent)))
        self.arena.end_loan(slot, cause)
        self.lent.discard(slot)
        self.outcomes[cause] += 1

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def send_again(self, data):
        slot = data.draw(st.sampled_from(sorted(self.lent)))
        before = self.arena.attempt(slot)
        assert self.arena.raise_attempt(slot) == before + 1

    @rule(frames=st.integers(1, 5))
    def miss(self, frames):
        self.arena.count_busy(frames)
        self.busy += frames

    @rule(frames=st.integers(1, 5))
    def fail_to_decode(self, frames):
        self.arena.count_decode(frames)
        self.decode += frames

    @invariant()
    def the_sum_closes(self):
        ledger = self.arena.ledger()
        assert ledger.captured == total(ledger)
        assert ledger.in_flight == len(self.lent)
        assert ledger.captured == self.loans + self.busy + self.decode == self.arena.position
        assert ledger.delivered == self.outcomes[""]
        found = {**ledger.dropped, **ledger.failed}
        expected = {"busy": self.busy, "decode": self.decode, **self.outcomes}
        del expected[""]
        assert found == {cause: n for cause, n in expected.items() if n}

    @invariant()
    def lent_is_lent(self):
        for slot in range(self.arena.slots):
            assert self.arena.is_lent(slot) == (slot in self.lent)
        assert self.arena.next_seq == self.loans


Account.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAccount = Account.TestCase


class Interrupted(BaseException):
    """Stands for SIGKILL."""


class Words:
    """Shared words whose writer is killed before its n-th store."""

    def __init__(self, words, stores):
        self._words, self._stores = words, stores

    def __getitem__(self, at):
        return self._words[at]

    def __setitem__(self, at, value):
        if not self._stores:
            raise Interrupted
        self._stores -= 1
        self._words[at] = value


@pytest.mark.parametrize("stores", range(15))
def test_killed_between_any_two_stores_the_sum_closes(stores):
    made = arena()
    lend(made, 1)
    whole = made._words
    made._words = Words(whole, stores)
    done = False
    try:
        lend(made, 0)
        made.end_loan(1, "stale")
        done = True
    except Interrupted:
        pass
    made._words = whole
    ledger = made.ledger()
    assert ledger.captured == total(ledger)
    assert ledger.captured - 1 == int(made.is_lent(0))
    assert ledger.in_flight == 1 + made.is_lent(0) - done
    assert done == (stores >= 13)


def test_a_frame_that_returns_while_the_account_is_read_is_still_in_flight():
    made = arena()
    lend(made, 0)

    class Racing(Words):
        def __getitem__(self, at):
            value = self._words[at]
            if at == made._at(0):  # loans: read last
                made.end_loan(0, "")
            return value

    whole = made._words
    made._words = Racing(whole, 10**6)
    ledger = made.ledger()
    assert (ledger.delivered, ledger.in_flight) == (0, 1)


def test_only_the_newest_loan_and_attempt_of_a_slot_are_current():
    made = arena()
    first = lend(made, 0)
    assert made.is_current(first)
    made.raise_attempt(0)
    assert not made.is_current(first)
    assert made.is_current(header(attempt=1))
    made.end_loan(0, "")
    second = lend(made, 0)
    assert made.is_current(second)
    assert second.generation == 2
    assert not made.is_current(first)
    assert not made.is_current(header(attempt=1))


def test_a_header_is_rebuilt_from_the_slot_table():
    made = arena()
    lent = header(
        seq=0,
        slot=2,
        captured_ns=11,
        wall_ns=12,
        source_ns=13,
        width=6,
        height=4,
        arrays={"image": (0, "|u1", (4, 6, 3))},
        used=72,
        limit=made.slot_bytes,
    )
    made.lend(2, lent)
    again = made.header_again(2, stream=0)
    assert again == lent
    made.raise_attempt(2)
    assert made.header_again(2, stream=0).attempt == 1


def test_the_image_of_a_rebuilt_header_is_the_one_in_the_slot():
    made = arena()
    first = header(slot=1, limit=made.slot_bytes)
    frame = Frame(first, "demo", made.memory(1))
    frame.put("image", np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
    first.width, first.height = 6, 4
    made.lend(1, first)
    again = Frame(made.header_again(1, 0), "demo", made.memory(1))
    assert again["image"].tobytes() == bytes(range(72))
    again.put("boxes", np.zeros((1, 4), np.float32))
    assert again["image"].tobytes() == bytes(range(72))


@pytest.mark.parametrize("still", [False, True])
@pytest.mark.parametrize("name", ["a.jpg", "größe 1.png", "x" * 255, os.fsdecode(b"\xff.png")])
def test_a_rebuilt_header_has_the_name_of_the_file(name, still):
    made = arena()
    first = header(slot=1, limit=made.slot_bytes, still=still)
    frame = Frame(first, "demo", made.memory(1))
    frame.put("image", np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    frame.put_file(name)
    first.width, first.height = 5, 5
    made.lend(1, first)
    again = Frame(made.header_again(1, 0), "demo", made.memory(1))
    assert (again.file, again.still) == (name, still)
    assert again.header == first
    again.put("boxes", np.zeros((40, 4), np.float32))
    assert again.file == name
    assert again["image"].tobytes() == bytes(range(75))


def test_a_frame_after_one_with_a_file_has_no_file():
    made = arena()
    first = header(slot=1, limit=made.slot_bytes, still=True)
    frame = Frame(first, "demo", made.memory(1))
    frame.put("image", np.zeros((5, 5, 3), np.uint8))
    frame.put_file("a.jpg")
    made.lend(1, first)
    made.end_loan(1, "")
    second = lend(made, 1, arrays={"image": (0, "|u1", (5, 5, 3))}, width=5, height=5, used=75)
    again = made.header_again(1, 0)
    assert again == second


def test_slots_do_not_overlap():
    made = arena(slots=3, slot_bytes=PAGE)
    for slot in range(3):
        made.memory(slot)[:] = bytes([slot + 1]) * PAGE
    made.states.save("ids", b"x" * 1000)
    lend(made, 0)
    for slot in range(3):
        assert bytes(made.memory(slot)) == bytes([slot + 1]) * PAGE


def test_the_end_of_the_stream_is_lent_but_not_in_the_ledger():
    made = arena()
    assert not made.finished
    made.lend(made.end_slot, header(slot=made.end_slot, status=Status.END))
    assert made.is_lent(made.end_slot)
    assert not made.finished
    assert made.ledger().captured == made.ledger().in_flight == made.next_seq == 0
    assert made.header_again(made.end_slot, 0).status == Status.END
    made.end_loan(made.end_slot, "")
    assert made.finished
    assert made.ledger().delivered == 0


def test_the_newest_frames_timestamp_is_known_after_a_crash():
    made = arena()
    assert made.last_source_ns == -1
    lend(made, 1, source_ns=100)
    lend(made, 0, source_ns=200)
    assert made.last_source_ns == 200
    made.end_loan(0, "")
    assert made.last_source_ns == 200
    lend(made, 0, source_ns=-1)
    assert made.last_source_ns == -1


def test_the_end_of_the_source_is_recorded():
    made = arena()
    assert not made.ended
    made.ended = True
    assert made.ended
    assert made.ledger().captured == 0


# --- blame ---


def test_blame_counts_deaths_of_one_frame():
    made = arena()
    lend(made, 0)
    for deaths in range(1, 5):
        made.blame(0, 1)
        assert made.blames(0) == deaths
    assert made.blames(1) == 0


def test_the_next_frame_of_a_slot_starts_without_blame():
    made = arena()
    lend(made, 0)
    made.blame(0, 1)
    made.blame(0, 1)
    made.end_loan(0, "")
    lend(made, 0)
    assert made.blames(0) == 0
    made.blame(0, 2)
    assert made.blames(0) == 1


def test_blame_of_an_earlier_frame_is_not_put_on_the_current_one():
    made = arena()
    lend(made, 0)
    made.end_loan(0, "")
    lend(made, 0)
    made.blame(0, 1)  # a worker died that still held the frame before
    assert made.blames(0) == 0


# --- saved states ---


def test_a_state_is_read_back_as_last_saved():
    made = arena()
    assert made.states.saved("ids") is None
    for state in (b"one", b"", b"three, longer", b"4"):
        made.states.save("ids", state)
        assert made.states.saved("ids") == state


def test_each_stage_has_a_state_of_its_own():
    made = arena(ordered=("ids", "events"))
    made.states.save("ids", b"i")
    made.states.save("events", b"e" * 100)
    made.states.save("ids", b"j")
    assert made.states.saved("ids") == b"j"
    assert made.states.saved("events") == b"e" * 100


@pytest.mark.parametrize("before", [None, b"first", b"second"])
@pytest.mark.parametrize("stores", [0, 1])
def test_killed_while_saving_the_state_before_is_whole(before, stores):
    made = arena()
    for state in (b"first", b"second")[: (b"first", b"second").index(before) + 1 if before else 0]:
        made.states.save("ids", state)
    states = made.states
    whole = states._words
    states._words = Words(whole, stores)
    with pytest.raises(Interrupted):
        states.save("ids", b"the half-written one")
    states._words = whole
    assert made.states.saved("ids") == before
    made.states.save("ids", b"after")
    assert made.states.saved("ids") == b"after"


def test_the_largest_state_fits_and_a_larger_one_is_refused():
    made = arena(ordered=("ids", "events"))
    made.states.save("events", b"kept")
    largest = b"x" * (checkpoint_bytes(made.slots) - WORD)
    made.states.save("ids", largest)
    made.states.save("ids", largest)
    with pytest.raises(
        RunError, match=r"stages.ids: the state is too large to be saved \(found \d+ bytes, at most"
    ):
        made.states.save("ids", largest + b"x")
    assert made.states.saved("ids") == largest
    assert made.states.saved("events") == b"kept"


def test_states_of_300_tracked_objects_in_each_of_256_slots_fit():
    made = arena(slots=256, slot_bytes=PAGE)
    objects = 300 * (8 + 4 * 4 + 4 + 4)  # ids, boxes, scores, classes
    made.states.save("ids", bytes(256 * (objects + 256) + 300 * 128))


# --- memory ---


def test_a_large_arena_costs_only_what_is_touched():
    made = arena(slots=8, slot_bytes=64 * MIB)
    assert made.slot_bytes == 64 * MIB
    lend(made, 0)
    assert made.resident_bytes() < MIB
    made.memory(3)[: 2 * MIB] = bytes(2 * MIB)
    assert 2 * MIB <= made.resident_bytes() < 3 * MIB


def test_making_room_touches_pages_of_free_slots_and_keeps_their_content():
    made = arena(slots=3, slot_bytes=4 * MIB)
    made.memory(1)[:3] = b"abc"
    lend(made, 1)
    made.memory(2)[:3] = b"def"
    before = made.resident_bytes()
    made.make_room(MIB, filled=2)
    assert bytes(made.memory(1)[:3]) == b"abc"
    assert bytes(made.memory(2)[:3]) == b"def"
    assert MIB <= made.resident_bytes() - before <= MIB + 16 * PAGE


def test_making_room_is_refused_without_enough_memory(monkeypatch):
    made = arena(slots=3, slot_bytes=4 * MIB)
    monkeypatch.setattr(arena_file, "memory_available", lambda: 3 * 2 * MIB - 1)
    with pytest.raises(
        RunError,
        match=r"stream demo: 3 slots of 2 MiB need 6 MiB of memory \(found 5 MiB available\); "
        "lower `slots` or the size of the images",
    ):
        made.make_room(2 * MIB, filled=0)
    assert made.resident_bytes() < MIB
    monkeypatch.setattr(arena_file, "memory_available", lambda: 3 * 2 * MIB)
    made.make_room(2 * MIB, filled=0)


def test_shrinking_releases_memory_and_keeps_the_image():
    made = arena(slots=2, slot_bytes=8 * MIB)
    made.memory(0)[:] = b"a" * (8 * MIB)
    made.memory(1)[:] = b"b" * (8 * MIB)
    before = made.resident_bytes()
    made.shrink(0, keep_bytes=2 * MIB + 5)
    assert 6 * MIB - PAGE <= before - made.resident_bytes() <= 6 * MIB
    assert bytes(made.memory(0)[: 2 * MIB + 5]) == b"a" * (2 * MIB + 5)
    assert bytes(made.memory(1)) == b"b" * (8 * MIB)


def test_the_smaller_of_machine_and_control_group_counts(tmp_path, monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
        "/sys/fs/cgroup/memory.current": "1000000\n",
    }

    def read_text(path):
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(shared.Path, "read_text", read_text)
    assert shared.memory_available() == 2_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert shared.memory_available() == 4000 * 1024
    files["/sys/fs/cgroup/memory.max"] = "500000\n"
    assert shared.memory_available() == 0


def test_the_memory_leaves_no_name_in_dev_shm():
    before = set(os.listdir("/dev/shm"))
    made = arena()
    assert os.readlink(f"/proc/self/fd/{made._memory.fd}").startswith("/memfd:eyeline:demo")
    assert set(os.listdir("/dev/shm")) == before


def test_released_slots_free_memory_and_keep_ledger_and_states():
    of = arena(slots=3, slot_bytes=1 << 20)
    of.states.save("ids", b"state")
    for slot in range(3):
        lend(of, slot)
        of.memory(slot)[:] = bytes([1]) * (1 << 20)
        of.end_loan(slot, "")
    before = of.resident_bytes()
    of.release_slots()
    assert before - of.resident_bytes() == 3 << 20
    assert of.ledger().delivered == 3
    assert of.states.saved("ids") == b"state"
