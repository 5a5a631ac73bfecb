"""What is written to a terminal, also to one that is closed meanwhile."""

import os
import pty

from pipeline.commands.terminal import stderr_ignoring_hangup


def test_writing_to_a_terminal_works_also_after_it_was_closed():
    ours, theirs = pty.openpty()
    try:
        file = stderr_ignoring_hangup(theirs)
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
        file = stderr_ignoring_hangup(theirs)
        file.write("x" * (1 << 20) + "\n")
        file.flush()
        assert os.read(ours, 1) == b"x"
        file.close()
    finally:
        os.close(ours)
        os.close(theirs)
