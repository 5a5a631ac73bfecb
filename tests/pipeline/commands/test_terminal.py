"""What is written to a terminal, also to one that is closed meanwhile."""

import os
import pty

from pipeline.commands.terminal import lasting


def test_what_is_written_to_a_terminal_comes_there_and_is_no_error_when_it_is_closed():
    ours, theirs = pty.openpty()
    try:
        file = lasting(theirs)
        assert file.isatty()
        file.write("one \u2500\n")
        assert os.read(ours, 100).decode() == "one \u2500\r\n"
    finally:
        os.close(ours)
    for text in ("two\n", "three"):
        file.write(text)
        file.flush()
    file.close()
    os.close(theirs)


def test_a_terminal_that_takes_nothing_now_is_not_waited_for():
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    try:
        file = lasting(theirs)
        file.write("x" * (1 << 20) + "\n")
        file.flush()
        assert os.read(ours, 1) == b"x"
        file.close()
    finally:
        os.close(ours)
        os.close(theirs)
