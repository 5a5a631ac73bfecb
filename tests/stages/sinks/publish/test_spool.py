"""The spool and the outbox: nothing lost within the bound, in order, whatever dies or fills up."""

import logging
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.sinks.publish import outbox as module
from stages.sinks.publish.outbox import Outbox
from stages.sinks.publish.spool import Message, Spool, SpoolError, default_path
from tests.builders import ROOT


def message(number, stream="yard", size=0):
    return Message(stream, "topic", b"%d" % number + b"." * size)


def numbered(*numbers, size=0):
    return [(number, message(number, size=size)) for number in numbers]


def opened(path, most_messages=1000, most_bytes=10_000_000):
    spool = Spool(path, most_messages, most_bytes)
    spool.open()
    return spool


def numbers(found):
    return [number for number, _ in found]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "spool.db"


# --- the spool ---


def test_what_goes_in_comes_out_in_order(path):
    spool = opened(path)
    spool.append(numbered(1, 2))
    spool.append(numbered(5))
    assert spool.read(0, 10) == numbered(1, 2, 5)
    assert spool.read(0, 2) == numbered(1, 2)
    assert spool.read(2, 10) == numbered(5)


def test_what_is_removed_does_not_come_again(path):
    spool = opened(path)
    spool.append(numbered(1, 2, 3))
    spool.remove(2)
    assert numbers(spool.read(0, 10)) == [3]
    assert (spool.count, spool.size) == (1, message(3).size)


def test_it_outlives_the_object(path):
    first = opened(path)
    first.append(numbered(1, 2, 3))
    first.remove(1)
    first.close()
    second = opened(path)
    assert second.read(0, 10) == numbered(2, 3)
    assert (second.count, second.size, second.newest) == (2, 2 * message(2).size, 3)


def test_too_many_messages_cost_the_oldest(path):
    spool = opened(path, most_messages=3)
    assert spool.append(numbered(1, 2, 3)) == 0
    assert spool.append(numbered(4, 5)) == 2
    assert numbers(spool.read(0, 10)) == [3, 4, 5]
    assert spool.append(numbered(*range(6, 16))) == 10
    assert numbers(spool.read(0, 10)) == [13, 14, 15]
    assert spool.count == 3


def test_too_many_bytes_cost_the_oldest(path):
    spool = opened(path, most_bytes=10_000)
    for number in range(1, 21):
        spool.append(numbered(number, size=1500))
        assert spool.size <= 10_000
    assert numbers(spool.read(0, 100)) == [15, 16, 17, 18, 19, 20]


def test_a_smaller_bound_holds_from_the_next_message_on(path):
    first = opened(path)
    first.append(numbered(*range(1, 11)))
    first.close()
    second = opened(path, most_messages=2)
    second.append(numbered(11))
    assert numbers(second.read(0, 10)) == [10, 11]


def test_the_file_is_bounded_and_small_again_when_it_is_empty(path):
    def on_disk():
        return sum(file.stat().st_size for file in path.parent.iterdir())

    spool = opened(path, most_messages=10_000, most_bytes=4_000_000)
    largest = 0
    for number in range(0, 4000, 10):
        spool.append(numbered(*range(number + 1, number + 11), size=3000))
        largest = max(largest, on_disk())
    assert spool.size > 3_900_000
    assert largest < 12_000_000
    spool.remove(4000)
    assert spool.count == 0
    assert on_disk() < 100_000


def test_much_is_taken_in_parts_but_one_message_always(path):
    spool = opened(path)
    spool.append(numbered(1, 2, 3, size=700_000))
    assert numbers(spool.read(0, 10)) == [1]
    spool.append([(9, Message("yard", "", b"." * 3_000_000))])
    assert numbers(spool.read(3, 10)) == [9]


def test_only_the_owner_may_read_it(path):
    opened(path).append(numbered(1))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_two_never_share_a_file(path):
    first = opened(path)
    with pytest.raises(SpoolError, match="another process uses it"):
        opened(path)
    first.append(numbered(1))
    first.close()
    assert numbers(opened(path).read(0, 10)) == [1]


WRITER = """
import sys
from pathlib import Path
from stages.sinks.publish.spool import Message, Spool
spool = Spool(Path(sys.argv[1]), 1_000_000, 100_000_000)
spool.open()
number = spool.newest
while True:
    spool.append([(number + i, Message("yard", "", b"x" * 200)) for i in (1, 2, 3)])
    number += 3
    print(number, flush=True)
"""


@contextmanager
def writer(path):
    """Starts a process that appends three at a time until it is killed, and prints each."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_writer_that_is_killed_loses_nothing_and_leaves_nothing_half(path):
    written = 0
    for appends in (1, 7, 40, 150):
        with writer(path) as process:
            for _ in range(appends):
                written = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            process.wait()
            written = max([written, *map(int, process.stdout.read().split())])
    found = numbers(opened(path).read(0, 1_000_000))
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= written
    assert len(found) % 3 == 0


def test_another_process_has_it_as_long_as_it_lives(path):
    with writer(path) as process:
        process.stdout.readline()
        with pytest.raises(SpoolError, match="another process uses it"):
            opened(path)
    assert opened(path).count


@pytest.mark.parametrize("content", [b"a text of a person\n", b"\0" * 100])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "events.jsonl"
    path.write_bytes(content)
    with pytest.raises(SpoolError, match="another kind"):
        opened(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "their.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE message (theirs)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(SpoolError, match="another program"):
        opened(path)
    assert path.read_bytes() == before


def damage(path, start, length=4096):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(length))


def test_a_damaged_spool_is_put_aside_and_a_new_one_made(path, caplog):
    first = opened(path)
    first.append(numbered(*range(1, 500), size=500))
    first.close()
    damage(path, 16)
    second = opened(path)
    assert (second.count, second.read(0, 10)) == (0, [])
    second.append(numbered(1))
    assert Path(f"{path}.damaged").stat().st_size > 100_000
    assert "was damaged; renamed to" in caplog.text


@contextmanager
def full_disk(limit=0):
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_and_old_messages_can_be_read_and_removed(path):
    spool = opened(path)
    spool.append(numbered(1, 2, 3))
    with full_disk():
        with pytest.raises(SpoolError):
            spool.append(numbered(4, 5, size=10_000))
        assert numbers(spool.read(0, 10)) == [1, 2, 3]
        try:
            spool.remove(2)
        except SpoolError:
            pass  # the disk does not know, but we do
        assert numbers(spool.read(0, 10)) == [3]
    spool.append(numbered(6))
    assert numbers(spool.read(0, 10)) == [3, 6]
    spool.remove(3)
    spool.close()
    assert numbers(opened(path).read(0, 10)) == [6]


def test_a_path_that_cannot_be_written_is_reported():
    with pytest.raises(SpoolError, match=r"No such file|Read-only|Permission"):
        opened(Path("/proc/eyeline/spool.db"))


def test_it_lies_where_systemd_keeps_the_state_of_a_service(monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert default_path("mqtt.db") == Path("runs/spool/mqtt.db")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/eyeline:/var/lib/other")
    assert default_path("mqtt.db") == Path("/var/lib/eyeline/spool/mqtt.db")


# --- the outbox ---


def outbox(path=None, most_messages=100_000, most_bytes=10_000_000):
    spool = None if path is None else Spool(path, most_messages, most_bytes)
    made = Outbox(logging.getLogger(), spool, lambda: None)
    made.open()
    return made


def put(box, *values, stream="yard", size=0):
    for value in values:
        box.put(message(value, stream, size))


def values(found):
    return [int(m.body.rstrip(b".")) for _, m in found]


def drain(box, limit=7):
    """Take and confirm all there is."""
    got = []
    while taken := box.take(limit):
        got += values(taken)
        box.done(taken[-1][0])
    return got


def test_while_all_is_well_the_disk_is_not_written(path):
    box = outbox(path)
    put(box, 1, 2, 3)
    assert drain(box) == [1, 2, 3]
    assert (box.in_memory, box.in_spool, box.spooled) == (0, 0, 0)


def test_what_is_stored_comes_before_what_came_later(path):
    box = outbox(path)
    put(box, 1, 2)
    box.store()
    put(box, 3)
    assert (box.in_spool, box.in_memory) == (2, 1)
    assert drain(box) == [1, 2, 3]


def test_what_was_taken_and_did_not_arrive_is_taken_again(path):
    box = outbox(path)
    put(box, 1, 2, 3, 4)
    first = box.take(3)
    box.done(first[0][0])
    assert values(box.take(3)) == [4]
    box.back()
    assert values(box.take(3)) == [2, 3, 4]


def test_what_is_under_way_may_go_to_the_disk_meanwhile(path):
    box = outbox(path)
    put(box, 1, 2, 3)
    taken = box.take(2)
    box.store()
    assert values(box.take(2)) == [3]
    box.done(taken[1][0])
    assert box.in_spool == 1


def test_a_confirmation_that_comes_when_the_message_had_to_go_does_no_harm(path):
    box = outbox(path, most_messages=2)
    put(box, 1)
    taken = box.take(1)
    put(box, 2, 3)
    box.store()
    assert box.dropped == {"spool full": 1}
    box.done(taken[0][0])
    assert drain(box) == [2, 3]


def test_the_next_run_sends_what_was_left(path):
    first = outbox(path)
    put(first, 1, 2)
    first.store()
    put(first, 3)
    first.take(2)
    first.close()
    second = outbox(path)
    put(second, 4)
    assert drain(second) == [1, 2, 3, 4]


def test_unsaved_messages_are_known_for_each_stream(path):
    box = outbox(path)
    put(box, 1)
    box.store()
    put(box, 2, 4)
    put(box, 3, stream="gate")
    box.take(2)
    assert box.unsaved("yard") == [message(2), message(4)]
    assert box.unsaved("gate") == [message(3, "gate")]
    assert box.unsaved("nowhere") == []
    box.store()
    assert box.unsaved("yard") == []


def test_that_is_bounded_and_the_newest_count(path):
    box = outbox(path)
    put(box, *range(1000))
    assert box.unsaved("yard") == [message(n) for n in range(500, 1000)]
    put(box, 1000, 1001, 1002, size=100_000)
    assert len(box.unsaved("yard")) == 2


def test_memory_is_bounded_and_the_oldest_go_first(caplog):
    box = outbox(None)
    put(box, *range(10_025))
    assert box.in_memory == 10_000
    assert box.dropped == {"memory full": 25}
    assert drain(box, 10_000)[0] == 25
    assert [r.getMessage() for r in caplog.records] == [
        "memory full: the oldest messages were dropped, 1 so far",
        "memory full: the oldest messages were dropped, 10 so far",
    ]


def test_memory_is_bounded_in_bytes_too():
    box = outbox(None)
    put(box, *range(30), size=1_000_000)
    assert box.in_memory == 16
    assert len(box.unsaved("yard")) == 0
    assert drain(box) == list(range(14, 30))


def test_a_message_that_is_too_large_is_dropped_alone(path):
    box = outbox(path)
    put(box, 1)
    put(box, 2, size=2 << 20)
    put(box, 3)
    assert drain(box) == [1, 3]
    assert box.dropped == {"too large": 1}


def test_without_a_usable_disk_messages_stay_in_memory_one_line_is_logged(caplog):
    box = outbox(Path("/proc/eyeline/spool.db"))
    for value in range(50):
        put(box, value)
        box.store()
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "spool '/proc/eyeline/spool.db' cannot be used" in caplog.text
    assert box.trouble
    assert drain(box) == list(range(50))


def test_a_disk_that_is_full_for_a_while_loses_nothing(path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    box = outbox(path)
    put(box, 1, 2)
    box.store()
    with full_disk():
        for value in range(3, 20):
            put(box, value, size=5000)
            box.store()
        assert (box.in_spool, box.in_memory) == (2, 17)
        assert box.trouble
    put(box, 20)
    box.store()
    assert (box.in_memory, box.trouble) == (0, "")
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    box.close()
    assert drain(outbox(path)) == list(range(1, 21))


def test_a_full_disk_is_not_tried_again_at_once(path):
    box = outbox(path)
    with full_disk():
        put(box, 1, size=100_000)
        box.store()
    put(box, 2)
    box.store()
    assert (box.in_spool, box.in_memory) == (0, 2)
    box.close()  # the last chance is taken
    assert drain(outbox(path)) == [1, 2]


def test_a_file_that_another_has_is_taken_once_it_is_free(path, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    other = outbox(path)
    put(other, *range(1, 6))
    other.store()
    box = outbox(path)
    put(box, 6, 7)
    box.store()
    assert "another process" in box.trouble
    taken = box.take(1)
    other.close()
    box.store()  # what is under way has its number from us: not now
    assert box.in_memory == 2
    box.done(taken[0][0])
    put(box, 8)
    box.store()
    assert (box.trouble, box.in_memory) == ("", 0)
    assert drain(box) == [1, 2, 3, 4, 5, 7, 8]


def test_a_spool_that_is_damaged_while_in_use_is_replaced(path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    first = outbox(path)
    put(first, *range(1, 301), size=2000)
    first.close()
    damage(path, 8192, path.stat().st_size - 8192)
    box = outbox(path)
    put(box, *range(1000, 1010))
    drain(box)  # as much of it as can be read
    put(box, *range(1010, 1020))
    box.store()
    assert drain(box) == list(range(1010, 1020))
    assert box.trouble == ""
    assert Path(f"{path}.damaged").exists()


def test_one_thread_puts_while_another_takes(path):
    box = outbox(path)
    count = 5000

    def produce():
        for value in range(count):
            put(box, value)
            box.unsaved("yard")

    producer = threading.Thread(target=produce)
    producer.start()
    got = []
    while len(got) < count:
        taken = box.take(64)
        got += values(taken)
        if len(got) % 3 == 0:
            box.store()
        if taken:
            box.done(taken[-1][0])
        elif not producer.is_alive() and not box.in_memory and not box.in_spool:
            break
    producer.join()
    assert got == list(range(count))


ACTIONS = st.lists(
    st.sampled_from(["put", "put", "put", "take", "done", "back", "store", "next run", "crash"]),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_whatever_happens_all_arrives_in_order(actions):
    """The receiver sees each message, first in order, and what comes again it has had before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spool.db"
        box, made, flying, arrived = outbox(path), 0, [], []

        def confirm_all():
            arrived.extend(values(flying))
            if flying:
                box.done(flying[-1][0])
            flying.clear()

        for action in actions:
            match action:
                case "put":
                    made += 1
                    put(box, made)
                case "take":
                    flying += box.take(2)
                case "done":
                    confirm_all()
                case "back":  # they may have arrived, only their receipts did not
                    arrived += values(flying)
                    flying.clear()
                    box.back()
                case "store":
                    box.store()
                case "next run":
                    flying.clear()
                    box.close()
                    box = outbox(path)
                case "crash":  # the process is gone, its output is not
                    flying.clear()
                    unsaved = box.unsaved("yard")
                    box._spool.close()
                    box = outbox(path)
                    for kept in unsaved:
                        box.put(kept)
        confirm_all()
        arrived += drain(box)
        box.close()
    first_seen = list(dict.fromkeys(arrived))
    assert first_seen == list(range(1, made + 1))
