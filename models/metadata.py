"""Text that Ultralytics writes into a model file: names of the classes, size of the input.

The texts are Python literals from an untrusted file. Parsing a deeply nested literal can end the
interpreter, so only flat ones are parsed.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping

from models.text import shown

_NUMBER = r"-?\d{1,9}(?:\.\d{0,9})?"
_STRING = r"""(?:'(?:[^'\\\n]|\\.)*+'|"(?:[^"\\\n]|\\.)*+")"""
_NAME = rf"(?:{_STRING}|{_NUMBER})"
_FLAT = re.compile(
    rf"\s*(?:\{{\s*(?:{_NUMBER}\s*:\s*{_NAME}\s*(?:,\s*|(?=\}})))*+\}}"
    rf"|\[\s*(?:{_NAME}\s*(?:,\s*|(?=\])))*+\]"
    rf"|\(\s*(?:{_NAME}\s*(?:,\s*|(?=\))))*+\))\s*"
)
"""A literal that is parsed: a table from numbers to names, a list or a tuple, not nested."""
_PAIR = re.compile(r"\s*[\[(]\s*(\d{1,9})(?:\.0*)?\s*,\s*(\d{1,9})(?:\.0*)?\s*,?\s*[\])]\s*")


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the labels in "{0: 'person', 1: 'bicycle', ...}"; None: the file has none."""
    text = metadata.get("names", "")
    if not _FLAT.fullmatch(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a backslash that escapes no character
            names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
    if isinstance(names, list | tuple):
        return tuple(map(shown, names))
    if not isinstance(names, dict):
        return None  # "(0)" is a number
    labels = [names.get(i) for i in range(len(names))]
    return None if None in labels else tuple(map(shown, labels))


def input_size_in(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return width and height in pixels from "[height, width]"; None: the file has none."""
    found = pair_in(metadata, "imgsz")
    return None if found is None else (found[1], found[0])


def pair_in(metadata: Mapping[str, str], key: str) -> tuple[int, int] | None:
    """Return two whole numbers from "[first, second]"; None: the file has none."""
    found = _PAIR.fullmatch(metadata.get(key, ""))
    return None if found is None else (int(found[1]), int(found[2]))
