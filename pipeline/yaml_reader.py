"""Settings in YAML, with the plain values of YAML 1.2.

PyYAML reads YAML 1.1, in which `12:30` is the number 750, `010000` is 4096 and `no` is false. Here
plain values follow the core schema of YAML 1.2: true and false, decimal, 0o and 0x numbers, null;
all others are text. Shape and size are checked before any value is constructed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from pipeline.messages import name_of

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_VALUES = 10_000
"""Values in one settings file; aliases within aliases could make a small file huge."""
MAX_DEPTH = 50
"""Levels of nested tables and lists."""
MAX_DIGITS = 30
"""Digits of a number; Python refuses, or takes long for, numbers of thousands of digits."""

_PREFIX = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    ("float", rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", tuple("-+.0123456789")),
    ("merge", r"<<", ("<",)),
)
"""Type, pattern and first characters of plain values; the first that matches is taken."""


class YamlError(ValueError):
    """The text is not YAML, or not allowed in settings; the message repeats no value of it."""


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        YamlError: not YAML, a key twice, an invalid value, too deep, too many values.
    """
    try:
        _check_shape(text)
        return yaml.load(text, Loader=_SettingsLoader)
    except yaml.YAMLError as error:
        raise YamlError(_explain(error)) from None
    except UnicodeError:
        raise YamlError("not valid text") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _SettingsLoader(Loader):  # type: ignore[misc]
    """A loader of tables, lists, texts, numbers, true, false and null, without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    yaml_constructors: dict[str | None, Callable[..., Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a table; refuse a duplicate key, of which YAML would silently keep the last."""
        if not isinstance(node, yaml.MappingNode):
            raise _refusal(node, "expected a table")
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_PREFIX}merge":
                continue  # keys that << merges in may be given again
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise _refusal(key_node, "a list or table cannot be a key")
            if key in seen:
                raise _refusal(key_node, f"{name_of(key)} is given twice; names must differ")
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _text(loader: Any, node: Any) -> str:
    text = str(loader.construct_scalar(node))
    if "\0" in text:
        raise _refusal(node, "a NUL character cannot be part of a setting; remove \\0")
    return text


def _null(loader: Any, node: Any) -> None:
    loader.construct_scalar(node)  # refuses tables and lists


def _bool(loader: Any, node: Any) -> bool:
    word = loader.construct_scalar(node).lower()
    if word not in ("true", "false"):
        raise _refusal(node, "expected true or false")
    return bool(word == "true")


def _int(loader: Any, node: Any) -> int:
    digits = str(loader.construct_scalar(node))
    if len(digits) > MAX_DIGITS:
        raise _refusal(node, f"a number of more than {MAX_DIGITS} digits")
    base = 10
    if digits[:2] in ("0o", "0x"):
        digits, base = digits[2:], 8 if digits[1] == "o" else 16
    try:
        return int(digits, base)
    except ValueError:
        raise _refusal(node, "expected an integer") from None


def _float(loader: Any, node: Any) -> float:
    digits = loader.construct_scalar(node).lower()
    if re.fullmatch(r"[-+]?\.inf", digits):
        return float(digits.replace(".", ""))
    if not re.fullmatch(_NUMBER, digits):
        raise _refusal(node, "expected a number")
    if len(digits) > 10 * MAX_DIGITS or abs(float(digits)) == float("inf"):
        raise _refusal(node, "a number that is too large")
    return float(digits)


def _unknown(loader: Any, node: Any) -> Any:
    raise _refusal(node, "a tag (!) cannot be used here; put a text that begins with ! in quotes")


def _refusal(node: Any, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_shape(text: str) -> None:
    """Refuse a text that is too deep, has too many values, or an alias inside its own anchor.

    Raises:
        yaml.YAMLError: it is such a text, or not YAML.
    """
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    values = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_anchors):
                raise _refusal(event, "an alias (*) inside its own anchor (&)")
            values += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if not isinstance(event, yaml.ScalarEvent):
                open_anchors.append((event.anchor, values))
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor:
                sizes[anchor] = values - before + 1
        if len(open_anchors) > MAX_DEPTH:
            raise _refusal(event, f"nested more than {MAX_DEPTH} deep")
        if values > MAX_VALUES:
            raise _refusal(event, f"more than {MAX_VALUES} values, with those of its aliases")


def _explain(error: yaml.YAMLError) -> str:
    """Return place and reason in one line, without the names and values that PyYAML quotes."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    if not isinstance(error, yaml.constructor.ConstructorError):
        problem = re.sub(r"'\S{2,}'|\"\S{2,}\"", "...", problem)
        if "alias" in problem or "tag" in problem:
            problem += "; put a text that begins with *, & or ! in quotes"
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


for _tag, _pattern, _first in _PLAIN:
    _SettingsLoader.add_implicit_resolver(
        _PREFIX + _tag, re.compile(f"(?:{_pattern})$"), list(_first)
    )
for _tag, _make in {
    "null": _null,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _text,
    "merge": _text,  # << where it is no key
    "seq": Loader.construct_yaml_seq,
    "map": Loader.construct_yaml_map,
}.items():
    _SettingsLoader.add_constructor(_PREFIX + _tag, _make)
_SettingsLoader.add_constructor(None, _unknown)
