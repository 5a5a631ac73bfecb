"""The progress of a download is a bar on a terminal, and a line for every tenth elsewhere."""

import io

import pytest

from pipeline.commands.download_progress import show_progress


def lines(steps, total):
    file = io.StringIO()
    with show_progress("m", file) as progress:
        for done in steps:
            progress(done, total)
    return file.getvalue().splitlines()


def test_each_tenth_has_one_line():
    found = lines(range(0, 20_000_001, 50_000), 20_000_000)
    assert found == [f"m: {tenth}0 % of 20.0 MB" for tenth in range(1, 11)]


def test_large_steps_and_a_new_start_do_not_repeat_lines():
    assert lines([5, 35, 36, 100], 100) == ["m: 30 % of 0.0 MB", "m: 100 % of 0.0 MB"]
    assert lines([50, 0, 9, 10], 100) == ["m: 50 % of 0.0 MB", "m: 10 % of 0.0 MB"]


@pytest.mark.parametrize("total", [None, 0])
def test_an_unknown_size_has_a_line_every_ten_megabytes(total):
    assert lines([5_000_000, 12_000_000, 19_000_000, 20_000_000], total) == [
        "m: 12.0 MB",
        "m: 20.0 MB",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    with show_progress("yolo[x]", file) as progress:
        progress(5_000_000, 10_000_000)
        progress(10_000_000, 10_000_000)
    text = file.getvalue()
    assert "yolo[x]" in text
    assert "10.0/10.0 MB" in text
    assert "\x1b[" in text
