"""The stream table, and how a worker reads it."""

import gc
import os

import pytest

from pipeline.memory.stream_table import MAX_STREAMS, StreamEntry, StreamTable, StreamTableReader
from tests.builders import arena, header

LAYOUT = ("capture", "ids"), ("ids",), 1 << 16


def entry(name="yard", fd=-1, **more):
    return StreamEntry(
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
def stream_table():
    return StreamTable()


def streams(stream_table, arenas=()):
    return StreamTableReader(stream_table, dict(arenas), *LAYOUT, os.getpid())


def test_an_entry_is_read_as_it_was_written(stream_table):
    first, last = entry("a" * 64, 7, max_age_ms=1.5), entry("z")
    stream_table.write(0, first)
    stream_table.write(MAX_STREAMS - 1, last)
    assert stream_table.read(0) == first
    assert stream_table.read(MAX_STREAMS - 1) == last
    assert stream_table.read(1) is None


def test_a_cleared_entry_is_gone(stream_table):
    stream_table.write(5, entry())
    stream_table.clear(5)
    assert stream_table.read(5) is None


def test_an_arena_made_after_the_fork_is_mapped_on_demand(stream_table):
    seen = streams(stream_table)
    later = arena()
    assert seen.arena(4) is None
    stream_table.write(4, entry(fd=later.fd))
    mapped = seen.arena(4)
    assert mapped is not later
    frame = header(slot=1, generation=1, width=5, height=2)
    later.lend(1, frame)
    assert mapped.is_lent(1)
    assert mapped.ledger() == later.ledger()
    assert mapped.size == (5, 2)
    assert seen.arena(4) is mapped
    gc.collect()  # else memory of earlier tests may be released between the two counts
    descriptors = len(os.listdir("/proc/self/fd"))
    assert streams(stream_table).arena(4) is not None
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_stream_that_is_gone_is_reported_once_and_not_found(stream_table):
    one = arena()
    stream_table.write(1, entry(fd=one.fd))
    seen = streams(stream_table, {1: one})
    assert seen.refresh() == []
    stream_table.clear(1)
    assert seen.refresh() == [1]
    assert seen.refresh() == []
    assert seen.arena(1) is None
    assert seen.find(1) is None


def test_a_changed_entry_is_read_again(stream_table):
    stream_table.write(1, entry())
    seen = streams(stream_table, {1: arena()})
    stream_table.write(1, entry(max_age_ms=8.0))
    assert seen.find(1).max_age_ms is None
    seen.refresh()
    assert seen.find(1).max_age_ms == 8.0


def test_an_arena_whose_descriptor_is_closed_is_not_mapped(stream_table):
    stream_table.write(2, entry(fd=999_999))
    assert streams(stream_table).arena(2) is None
