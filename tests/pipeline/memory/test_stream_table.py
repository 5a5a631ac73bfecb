"""The roster, and the streams as a worker knows them."""

import os

import pytest

from pipeline.memory.stream_table import MOST_STREAMS, Entry, Roster, Streams
from tests.builders import arena, header

LAYOUT = ("capture", "ids"), ("ids",), 1 << 16


def entry(name="yard", fd=-1, **more):
    return Entry(
        **{
            "name": name,
            "live": True,
            "max_age_ms": None,
            "worker": 3,
            "slots": 3,
            "fd": fd,
            **more,
        }
    )


@pytest.fixture
def roster():
    return Roster()


def streams(roster, arenas=()):
    return Streams(roster, dict(arenas), *LAYOUT, os.getpid())


def test_an_entry_is_read_as_it_was_written(roster):
    first, last = entry("a" * 64, 7, max_age_ms=1.5), entry("z")
    roster.write(0, first)
    roster.write(MOST_STREAMS - 1, last)
    assert roster.read(0) == first
    assert roster.read(MOST_STREAMS - 1) == last
    assert roster.read(1) is None


def test_a_cleared_entry_is_gone(roster):
    roster.write(5, entry())
    roster.clear(5)
    assert roster.read(5) is None


def test_an_arena_that_was_made_later_is_mapped_when_it_is_asked_for(roster):
    seen = streams(roster)
    later = arena()
    assert seen.arena(4) is None
    roster.write(4, entry(fd=later.fd))
    mapped = seen.arena(4)
    assert mapped is not later
    frame = header(slot=1, generation=1, width=5, height=2)
    later.lend(1, frame)
    assert mapped.is_lent(1)
    assert mapped.ledger() == later.ledger()
    assert mapped.size == (5, 2)
    assert seen.arena(4) is mapped
    descriptors = len(os.listdir("/proc/self/fd"))
    assert streams(roster).arena(4) is not None
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_stream_that_is_gone_is_forgotten(roster):
    one = arena()
    roster.write(1, entry(fd=one.fd))
    seen = streams(roster, {1: one})
    assert seen.refresh() == []
    roster.clear(1)
    assert seen.refresh() == [1]
    assert seen.refresh() == []
    assert seen.arena(1) is None
    assert seen.find(1) is None


def test_a_changed_entry_is_read_again(roster):
    roster.write(1, entry())
    seen = streams(roster, {1: arena()})
    roster.write(1, entry(max_age_ms=8.0))
    assert seen.find(1).max_age_ms is None
    seen.refresh()
    assert seen.find(1).max_age_ms == 8.0


def test_an_arena_whose_descriptor_is_closed_already_is_no_arena(roster):
    roster.write(2, entry(fd=999_999))
    assert streams(roster).arena(2) is None
