"""Files of annotations, read safely: of a bounded size, and without entities in XML."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, TreeBuilder

import msgspec

from models import yaml_reader
from models.errors import DataError
from models.files import open_file

MAX_JSON_BYTES = 2 * 2**30
MAX_XML_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 256 * 2**20
MAX_YAML_BYTES = 2**20
MAX_XML_DEPTH = 32
HEAD_BYTES = 64 * 2**10

_Decoded = TypeVar("_Decoded")


def read_head(path: Path, from_end: bool = False) -> bytes:
    """Return the first, or last, 64 KiB of a file; nothing of one that cannot be read."""
    try:
        with open_file(path, "file", 2**62, DataError) as file:
            if from_end:
                size = file.seek(0, 2)
                file.seek(max(0, size - HEAD_BYTES))
            return file.read(HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
    except (DataError, OSError):
        return b""


def read_text(path: Path, kind: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file.

    Args:
        path: path of the file.
        kind: its role, for messages: "list of images".
        max_bytes: size limit.

    Raises:
        DataError: it cannot be read, is too large, or is not UTF-8.
    """
    with open_file(path, kind, max_bytes, DataError) as file:
        data = file.read(max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the {kind} is not UTF-8 (found byte {error.start}); save it as UTF-8"
        ) from None


def read_lines(path: Path, kind: str) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not empty."""
    for number, line in enumerate(read_text(path, kind).splitlines(), 1):
        if text := line.strip():
            yield number, text


def read_json(path: Path, kind: type[_Decoded], name: str) -> _Decoded:
    """Decode a JSON file into typed structs; keys that they do not have are passed over.

    Args:
        path: path of the file.
        kind: the type of its value.
        name: name of the format, for messages.

    Raises:
        DataError: it cannot be read, is no JSON, or has a value of a wrong type.
    """
    with open_file(path, "annotation file", MAX_JSON_BYTES, DataError) as file:
        data = file.read(MAX_JSON_BYTES).removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not a file of {name}: {error}") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not JSON, or only a part of it: {error}") from None
    except (RecursionError, UnicodeDecodeError):
        raise DataError(f"{path}: not JSON: nested too deep, or not UTF-8") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file, the value of which is a mapping.

    Raises:
        DataError: it cannot be read, or is no such YAML.
    """
    text = read_text(path, "YAML file", MAX_YAML_BYTES)
    try:
        value = yaml_reader.parse(text)
    except (RecursionError, MemoryError):
        raise DataError(f"{path}: not YAML: its values are nested too deep") from None
    except Exception as error:
        # PyYAML passes on any exception that a value raises.
        raise DataError(f"{path}: not YAML: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: not a mapping of keys to values; write `names:` and `train:`")
    return {str(key): item for key, item in value.items()}


def read_xml(path: Path) -> Element:
    """Read an XML file; one that declares a document type or entities is refused.

    A few nested entities expand to billions of characters, or quote other files; no format of
    annotations needs them.

    Raises:
        DataError: it cannot be read, is no XML, or is refused.
    """
    from xml.parsers import expat

    with open_file(path, "annotation file", MAX_XML_BYTES, DataError) as file:
        data = file.read(MAX_XML_BYTES)
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise DataError(f"{path}: elements are nested too deep (at most {MAX_XML_DEPTH})")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise DataError(
            f"{path}: it declares a document type (found <!DOCTYPE), which is not read; remove it"
        )

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise DataError(f"{path}: not XML, or only a part of it: {error}") from None


def number(text: str | None, where: str) -> float:
    """Convert a text to a number; it may be NaN or infinite.

    Args:
        text: text from a file; None: it is missing.
        where: its place, for the message: "a.xml: xmin".

    Raises:
        DataError: it is no number.
    """
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{where}: not a number (found {text!r})") from None


def whole(text: str | None, where: str) -> int:
    """Convert a text such as "7" or "7.0" to an integer.

    Raises:
        DataError: it is no integer, or larger than 1e15.
    """
    value = number(text, where)
    if not math.isfinite(value) or value != int(value) or abs(value) > 1e15:
        raise DataError(f"{where}: not an integer (found {text!r})")
    return int(value)
