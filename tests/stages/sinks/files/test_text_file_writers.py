"""Text files of sinks: one writer per file, pipes, and standard output."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import EndRun, SetupError
from stages.sinks.files import text_file
from stages.sinks.files.mot import Mot, MotSettings
from stages.sinks.files.text_file import ResumableTextFile
from tests.builders import context_of

FOREIGN = b'{"stream":"foreign"}\n'


# --- two writers ---


@pytest.mark.parametrize("how", ["same", "relative", "symbolic link", "hard link"])
def test_a_second_writer_is_refused_and_nothing_is_cut(how, tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "LOCK_TIMEOUT_S", 0)
    path = tmp_path / "out"
    first = ResumableTextFile(str(path))
    first.open()
    first.write(b"one\n")
    other = tmp_path / "other"
    if how == "symbolic link":
        other.symlink_to(path)
    elif how == "hard link":
        other.hardlink_to(path)
    else:
        monkeypatch.chdir(tmp_path)
        other = Path("out") if how == "relative" else path
    second = ResumableTextFile(str(other))
    with pytest.raises(SetupError, match="is being written by another run; choose another path"):
        second.open()
    second.close()
    assert path.read_bytes() == b"one\n"
    first.close()
    second.open()


def test_mot_is_refused_before_the_first_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "LOCK_TIMEOUT_S", 0)
    context = context_of(streams=("a", "b"))
    first = Mot(MotSettings(path=str(tmp_path / "out.txt")), context)
    first.open()
    second = Mot(MotSettings(path=str(tmp_path / "out.txt")), context)
    with pytest.raises(SetupError, match=r"out-a\.txt' is being written by another run"):
        second.open()
    second.close()


def test_a_process_that_is_still_dying_is_waited_for(tmp_path):
    path = tmp_path / "out"
    first = ResumableTextFile(str(path))
    first.open()
    threading.Timer(0.05, first.close).start()
    ResumableTextFile(str(path)).open()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_it_warns_and_goes_on(number, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    file = ResumableTextFile(str(tmp_path / "out"))
    file.open()
    file.write(b"one\n")
    assert "cannot be locked" in caplog.text
    assert (tmp_path / "out").read_bytes() == b"one\n"


def test_the_descriptor_is_not_inherited_by_programs_it_starts(tmp_path):
    file = ResumableTextFile(str(tmp_path / "out"))
    file.open()
    assert not os.get_inheritable(file._descriptor)


# --- pipes and standard output ---


def test_a_pipe_without_a_reader_is_refused_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "READER_TIMEOUT_S", 0.05)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    beats = []
    file = ResumableTextFile(str(path), lambda: beats.append(1))
    with pytest.raises(SetupError, match=r"nothing reads the pipe .*; start its reader first"):
        file.open()
    assert beats


def test_a_pipe_whose_reader_comes_later_is_written(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    readers = []

    def come():
        if not readers:
            readers.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    file = ResumableTextFile(str(path), come)
    file.open()
    file.write(b"one\n")
    assert os.read(readers[0], 100) == b"one\n"
    os.close(readers[0])
    with pytest.raises(EndRun, match="has closed it"):
        file.write(b"two\n")
    file.close()


def test_a_reader_that_pauses_is_waited_for_and_no_byte_is_lost(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    read = bytearray()

    def go_on_reading():
        read.extend(os.read(reader, 10_000))

    file = ResumableTextFile(str(path), go_on_reading)
    file.open()
    lines = [b"%d " % number * 2000 + b"\n" for number in range(40)]
    for line in lines:
        file.write(line)
    file.close()
    assert read  # it had to wait
    while more := os.read(reader, 1 << 20):
        read.extend(more)
    assert bytes(read) == b"".join(lines)
    os.close(reader)


def test_the_run_can_be_stopped_while_a_reader_pauses(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def stop():
        raise EndRun

    file = ResumableTextFile(str(path), stop)
    file.open()
    with pytest.raises(EndRun):
        file.write(b"x" * (1 << 21))
    os.close(reader)


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_standard_output_is_neither_cut_nor_locked(path, capfd):
    os.write(1, b"before\n")
    file = ResumableTextFile(path)
    file.open()
    file.write(b"one\n")
    file.close()
    assert capfd.readouterr().out == "before\none\n"
