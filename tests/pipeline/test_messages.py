"""Text that leaves the program: its length, its characters, and values of settings in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.messages import MAX_MESSAGE, bounded, display_value, lines, name_of, one_line


@given(st.text(max_size=500), st.integers(20, 400))
def test_a_message_is_one_printable_line_of_bounded_length(text, length):
    shown = one_line(text, length)
    assert len(shown) <= length
    assert shown.isprintable()


@pytest.mark.parametrize(
    "c", ["\x00", "\x1b", "\x9b", "\u202e", "\u2066", "\u2028", "\udc80", "\x7f"]
)
def test_a_character_that_a_terminal_obeys_is_replaced(c):
    assert one_line(f"a{c}b").replace(" ", "?") == "a?b"


def test_a_long_message_keeps_its_place_and_its_advice():
    shown = one_line("my.yaml: " + "xyz " * 3000 + "; remove it")
    assert shown.startswith("my.yaml: ")
    assert shown.endswith("; remove it")
    assert len(shown) == MAX_MESSAGE


def test_a_long_text_is_not_cut_within_an_address():
    for n in range(1990, 2001):
        assert "1234" not in bounded("x" * n + " rtsp://u:1234@cam/ " + "y " * 4000)
        assert "1234" not in bounded("y " * 4000 + " rtsp://cam/?p=1234 " + "x" * n)


def test_a_traceback_keeps_its_lines_and_loses_its_secrets():
    assert lines("a\x1b\n  rtsp://u:pw@cam/x\n") == "a?\n  rtsp://cam/x"


@pytest.mark.parametrize(
    ("value", "key", "shown"),
    [
        (None, "", "nothing"),
        (True, "token", "True"),
        (-1, "restarts", "-1"),
        (1234, "stages.sinks.web.web.password", "a number"),
        (10**30, "restarts", "a number"),
        ("apart", "placement", "'apart'"),
        ("", "placement", "an empty text"),
        ("a@b", "placement", "a text of 3 characters"),
        ("pw", "stages.sinks.publish.mqtt.password", "a text of 2 characters"),
        ("pw", "stages.zmq.secret_key", "a text of 2 characters"),
        ("a\nb", "placement", "a text of 3 characters"),
        ("x" * 65, "placement", "a text of 65 characters"),
        (["a"], "", "a list"),
        ({"a": 1}, "", "a table"),
    ],
)
def test_a_wrong_value_is_shown_only_if_it_cannot_be_a_secret(value, key, shown):
    assert display_value(value, key) == shown


def test_a_key_is_shown_only_if_it_looks_like_a_key():
    assert name_of("min_score") == "min_score"
    assert name_of("rtsp://u:pw@cam") == "a text of 15 characters"
    assert name_of(3) == "3"
