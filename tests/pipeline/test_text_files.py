"""Small text files that a user names: read at once, or refused at once."""

import os
import socket

import pytest

from pipeline.errors import ConfigError
from pipeline.text_files import MAX_BYTES, read_text


def problem(path):
    with pytest.raises(ConfigError) as refused:
        read_text(path)
    return str(refused.value)


def test_a_text_is_read_as_utf_8_with_or_without_a_mark(tmp_path):
    (tmp_path / "a").write_bytes("Straße".encode("utf-8-sig"))
    assert read_text(tmp_path / "a") == "Straße"


def test_a_file_that_is_not_regular_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert problem(tmp_path / "pipe") == "not a regular file"
    assert problem("/dev/zero") == "not a regular file"
    assert problem(tmp_path) == "is a directory"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert problem(tmp_path / "s") == "No such device or address"


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(5 << 30)
    assert problem(tmp_path / "zeros") == f"larger than {MAX_BYTES >> 10} KiB"


def test_an_impossible_path_and_bytes_that_are_not_text_are_refused(tmp_path):
    assert problem("a\0b").startswith("the path contains a character")
    assert problem(tmp_path / "no") == "No such file or directory"
    (tmp_path / "a").write_bytes(b"\xff")
    assert problem(tmp_path / "a") == "not a text file in UTF-8"
