"""Flat literals in the metadata of a model file are parsed, all other text is ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metadata import input_size_in, names_in


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{0: 'person', 1: \"driver's seat\"}", ("person", "driver's seat")),
        ("{1: 'b', 0: 'a',}", ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ("('a',)", ("a",)),
        ("{0: 7, 1: 'b'}", ("7", "b")),
        ("{0: 'it\\'s', 1: 'a, b: {c}'}", ("it's", "a, b: {c}")),
        (" { 0 : 'b\u00e4r' } ", ("b\u00e4r",)),
        (r"{0: 'a\d'}", (r"a\d",)),
        ("{0: '\\x1b[2J'}", ("?[2J",)),
        ("{0: '" + "x" * 999 + "'}", ("x" * 200 + "…" + "x" * 99,)),
        ("{}", ()),
    ],
)
def test_names_in_a_flat_literal_are_read(text, labels):
    assert names_in({"names": text}) == labels


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "person",
            "{0: person}",
            "{0: 'a', 2: 'b'}",
            "{'a'}",
            "{0: ['a']}",
            "{0: 'a' 1: 'b'}",
        ),
        *("-" * 100_000 + "1", "+".join(["1"] * 5000), "[" * 100_000, "{0:" * 5000, "(" * 200),
        *("{0: '" + "\\" * 99_999, "['" * 50_000, "{0: 'a'}; import os", "__import__('os')"),
        *("['a' " * 50_000, "{0: 'a'," * 50_000, "{" + "0:0," * 200_000),
    ],
    ids=lambda text: text[:12],
)
def test_names_in_another_form_are_ignored(text):
    assert names_in({"names": text}) is None


@given(st.dictionaries(st.integers(0, 5), st.text(max_size=9), max_size=5))
def test_names_as_python_writes_them_are_read(names):
    expected = tuple(names.get(i) for i in range(len(names)))
    found = names_in({"names": repr(names)})
    assert (found is None) == (None in expected)


@given(st.text("{}[]()0123456789'\"\\:,- \nabx", max_size=200))
def test_any_text_gives_names_or_none(text):
    assert isinstance(names_in({"names": text}), tuple | None)
    assert isinstance(input_size_in({"imgsz": text}), tuple | None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("[480, 640]", (640, 480)),
        ("(480,640)", (640, 480)),
        ("[480.0, 640.]", (640, 480)),
        ("[1e999, 1e999]", None),
        ("[-1, 5]", None),
        ("[1]", None),
        ("[" + "9" * 50 + ", 1]", None),
        ("-" * 5000 + "1", None),
        ("640", None),
    ],
)
def test_the_size_of_the_input_is_read_or_ignored(text, size):
    assert input_size_in({"imgsz": text}) == size
