"""Text of a file is shown printable, on one line and short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import CardError
from models.text import shown


@given(st.text(max_size=2000), st.integers(10, 300))
def test_any_text_is_printable_and_short(text, limit):
    found = shown(text * 9, limit)
    assert len(found) <= limit
    assert found.isprintable()
    found.encode()


@pytest.mark.parametrize("size", [301, 1200, 1201, 5_000_000])
def test_a_long_text_keeps_its_beginning_and_its_end(size):
    found = shown("where:" + "x" * (size - 8) + "do")
    assert len(found) == 300
    assert found.startswith("where:x")
    assert found.endswith("xdo")
    assert "…" in found


def test_controls_become_question_marks_and_white_space_one_blank():
    assert shown("a\x1b[2J\u202eb\ud800c\n\t\u3000d") == "a?[2J?b?c d"
    assert shown("Bär 猫 🐈") == "Bär 猫 🐈"


def test_errors_about_models_are_one_short_line():
    text = str(CardError("m.yaml: " + "\x1b]0;x\x07\n" * 900 + "; write it again"))
    assert len(text) <= 300
    assert text.isprintable()
    assert text.endswith("; write it again")
