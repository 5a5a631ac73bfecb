"""What Ultralytics writes into a model file as text: names of its classes, size of its input.

The texts are Python literals. They come from an untrusted file, and to parse a literal that is
nested deep enough can end the interpreter, so only flat ones are parsed.
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
"""A table from numbers to names, a list or a tuple."""
_PAIR = re.compile(r"\s*[\[(]\s*(\d{1,9})(?:\.0*)?\s*,\s*(\d{1,9})(?:\.0*)?\s*,?\s*[\])]\s*")


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the labels of a file: "{0: 'person', 1: 'bicycle', ...}"; None: it has none."""
    text = metadata.get("names", "")
    if not _FLAT.fullmatch(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that means nothing
            names = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
    if not isinstance(names, dict):
        return tuple(map(shown, names))
    labels = [names.get(i) for i in range(len(names))]
    return None if None in labels else tuple(map(shown, labels))


def input_size_in(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return width and height of the input, which the file has as "[height, width]"."""
    found = _PAIR.fullmatch(metadata.get("imgsz", ""))
    return None if found is None else (int(found[2]), int(found[1]))
