"""YAML of a card, with the plain values of YAML 1.2.

PyYAML has those of YAML 1.1, where `no` is false, 010 is eight, 12:30 is 750 and 1e-3 is a text.
The settings file is read by the same rules (pipeline/yaml_reader.py); neither package imports the
other.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
"""Tag -> pattern of its plain texts, and their possible first characters (YAML 1.2, 10.3.2)."""


class _Loader(_Base):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _integer(loader: Any, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text if base == 10 else text[2:], base)


def _number(loader: Any, node: Any) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", str(loader.construct_scalar(node)).lower()))


for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def parse(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        yaml.YAMLError: it is not YAML.
        ValueError: it has aliases, a few of which can expand to billions of values.
        Exception: any other, raised for a value that cannot be converted.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader)):
        raise ValueError("aliases (`*name`) are not allowed in a card; write the value itself")
    return yaml.load(text, _Loader)
