"""YAML as settings take it: plain values of YAML 1.2, and what is refused in one line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.yaml_reader import YamlError, parse


def problem_of(text):
    """Why a text is refused; "" if it is not."""
    try:
        parse(text)
    except YamlError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30", "12:30"),
        ("010000", 10000),
        ("0o17", 15),
        ("0x1F", 31),
        ("+1", 1),
        ("-3", -3),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5E-2", -0.015),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("yes", "yes"),
        ("off", "off"),
        ("n", "n"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("{a: }", {"a": None}),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("'yes'", "yes"),
        ("{1: 2}", {1: 2}),
        ("{<<: {a: 1, b: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_a_plain_value_is_read_as_in_yaml_1_2(text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!!int x", "expected an integer"),
        ("!!float x", "expected a number"),
        ("!!bool x", "expected true or false"),
        ("!!map x", "expected a table"),
        ("!!seq x", "expected a sequence node"),
        ("!!int [1]", "expected a scalar node"),
        ("!!binary aGk=", "a tag (!) cannot be used here"),
        ("!!timestamp 2020-01-01", "a tag (!) cannot be used here"),
        ("!!set {a}", "a tag (!) cannot be used here"),
        ("!!python/name:os.system", "a tag (!) cannot be used here"),
        (".nan", "expected a number"),
        ("9" * 5000, "a number of more than 30 digits"),
        ("1e999", "too large"),
        ("1" * 400 + ".5", "too large"),
        ("[" * 900 + "]" * 900, "nested more than 50 deep"),
        ("{a: " * 60, "nested more than 50 deep"),
        ("- " * 900, "nested more than 50 deep"),
        ("[" * 100_000, "nest"),
        ("a: &a [*a]", "an alias (*) inside its own anchor (&)"),
        ("a: &a {<<: *a}", "an alias (*) inside its own anchor (&)"),
        ("a: &a {<<: [{b: *a}]}", "an alias (*) inside its own anchor (&)"),
        ("[" + "x, " * 10_001 + "]", "more than 10000 values"),
        ("? [1]\n: 2", "a list or table cannot be a key"),
        ("{a: 1, a: 2}", "a is given twice"),
        ('a: "x\\0b"', "a NUL character"),
        ('{"x\\0b": 1}', "a NUL character"),
        ('"\\ud800"', "invalid Unicode"),
        ("\x07", "control characters are not allowed"),
        ("\ud800", "not valid text"),
        ("---\na\n---\nb", "found another document"),
        ("a: {<<: 5}", "for merging"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed"),
    ],
)
def test_yaml_that_is_not_allowed_in_settings_is_refused(text, problem):
    with pytest.raises(YamlError) as refused:
        parse(text)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_aliases_that_grow_are_refused_before_construction():
    rows = ["a0: &a0 {<<: [{x: 1}, {y: 1}]}"]
    rows += [f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}" for i in range(30)]
    with pytest.raises(YamlError, match="more than 10000 values"):
        parse("\n".join(rows))


@pytest.mark.parametrize(
    "text",
    [
        "password: !S3CRET",
        "password: *S3CRET",
        "password: &S3CRET",
        "{a: &S3CRET 1, b: &S3CRET 2}",
        "S3CRET@x: 1\nS3CRET@x: 2",
        "password: %S3CRET",
        "password: @S3CRET",
        "password: `S3CRET",
        "password: 'S3CRET",
        "password: [S3CRET",
        "password: S3CRET: x",
        "password: !<S3CRET> x",
    ],
)
def test_a_message_repeats_no_value(text):
    assert "S3CRET" not in problem_of(text)


@given(st.text(st.sampled_from(list("ab:{}[]&*!<>-?|'\"%@`,#\n \t0.1~=\\xe")), max_size=40))
def test_any_text_is_read_or_refused(text):
    assert problem_of(text).isprintable()
