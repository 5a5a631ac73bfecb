"""Log lines for the journal and for a terminal: one line per record, without secrets."""

import logging
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.telemetry import logs
from tests.builders import ROOT


def line(message="", level=logging.INFO, fact=None, exc_info=None, args=()):
    record = logging.LogRecord("root", level, __file__, 1, message, args, exc_info)
    if fact is not None:
        record.fact = fact
    return logs.JournalFormatter().format(record)


def test_facts_come_before_the_message():
    fact = {
        "event": "stream",
        "stream": "yard",
        "state": "waiting",
        "kind": "unauthorized",
        "retry_s": 4.0,
        "first": True,
    }
    found = line("yard waits: %s", logging.WARNING, fact, args=("wrong password",))
    assert found == (
        "<4>event=stream stream=yard state=waiting kind=unauthorized retry_s=4 first=true "
        'msg="yard waits: wrong password"'
    )


def test_a_record_without_facts_has_only_its_message():
    assert line("detector.1 started again") == '<6>msg="detector.1 started again"'
    assert line("ready") == "<6>msg=ready"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
        (5, 7),
        (35, 4),
    ],
)
def test_levels_are_the_priorities_of_syslog(level, priority):
    assert line("x", level).startswith(f"<{priority}>")


def test_credentials_are_hidden_in_facts_and_in_the_message():
    fact = {"source": "rtsp://admin:s3cret@cam.local/1", "many": ["http://a:s3cret@b/"]}
    found = line("cannot open rtsp://admin:s3cret@cam.local/1", fact=fact)
    assert "s3cret" not in found
    assert "admin" not in found
    assert found.count("rtsp://cam.local/1") == 2


def test_an_exception_stays_on_the_line():
    try:
        raise ValueError("a\nb")
    except ValueError:
        found = line("failed", exc_info=sys.exc_info())
    assert "\n" not in found
    assert "ValueError: a\\nb" in found


def test_empty_facts_are_left_out_and_odd_keys_are_replaced():
    assert logs.logfmt({"a": None, "b": "", "c": 0, "d e=": "f"}) == "c=0 d_e_=f"


def test_a_long_value_does_not_break_the_line_in_two():
    assert len(line("x" * 100_000).encode()) < 8192


def test_a_cut_shows_no_half_of_an_address():
    start = "x " * (logs.MAX_VALUE // 2 - 8)
    assert "s3cret" not in line(start + "rtsp://a:s3cret-and-more@cam.local/1")


def parsed(text):
    """logfmt read back, strictly."""
    found, rest = {}, text
    while rest:
        match = re.match(r'([A-Za-z0-9_.]+)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)( |$)', rest)
        assert match, rest
        found[match[1]] = match[2]
        rest = rest[match.end() :]
    return found


@given(st.text(max_size=80), st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_any_record_gives_one_line_that_can_be_parsed(message, fact):
    found = line("%s", args=(message,), fact=fact)
    assert found.startswith("<6>")
    assert found.isprintable()
    keys = list(parsed(found.removeprefix("<6>")))
    assert len(keys) <= len(fact) + 1


CODE = """
import logging, sys
from pipeline.commands.terminal import set_up_logging
set_up_logging(logging.INFO, None)
logging.warning("opened rtsp://u:s3cret@cam/1", extra={"fact": {"event": "stream"}})
"""


def logged(stream_of):
    """The stderr of a process, a pipe, with this JOURNAL_STREAM."""
    read, write = os.pipe()
    held = os.fstat(write)
    environment = {**os.environ, "JOURNAL_STREAM": stream_of(held)}
    subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=environment, stderr=write, check=True
    )
    os.close(write)
    with open(read) as file:
        return file.read()


def test_facts_are_written_if_stderr_is_the_journal():
    assert logged(lambda held: f"{held.st_dev}:{held.st_ino}") == (
        '<4>event=stream msg="opened rtsp://cam/1"\n'
    )


@pytest.mark.parametrize("value", ["", "0:0", "nonsense"])
def test_lines_are_plain_if_stderr_is_not_the_journal(value):
    """Also in a process started from a service, whose stderr goes somewhere else."""
    text = logged(lambda held: value)
    assert re.fullmatch(r"[-\d]+ [\d:,]+ WARNING opened rtsp://cam/1\n", text)


def test_a_closed_stderr_is_not_the_journal(monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "0:0")
    assert not logs.is_journal(999)
