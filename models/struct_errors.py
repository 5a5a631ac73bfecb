"""Errors of a conversion to a struct, as one line with the key in front and a suggestion."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from models.text import close_match


def explain(error: msgspec.ValidationError, kind: type[Any], prefix: str = "") -> str:
    """Return the text of an error: "input.color: unknown key; did you mean 'colour'?".

    Args:
        error: error of a conversion to `kind`.
        kind: struct.
        prefix: key of the struct in its file; "" for the whole file.
    """
    text, _, path = str(error).partition(" - at ")
    key = re.sub(r"\[\.*\d*\]", "", path.strip("`").removeprefix("$").lstrip("."))
    where = f"{prefix}.{key}".strip(".")
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if unknown:
        name = unknown[1]
        known = [field.encode_name for field in _fields(kind, key)]
        close = close_match(name, known)
        advice = f"did you mean {close!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}.{name}: unknown key; {advice}".lstrip(".")
    missing = re.search(r"missing required field `([^`]*)`", text)
    if missing:
        return f"{where}.{missing[1]}: missing".lstrip(".")
    wrong = re.search(r"[Ii]nvalid enum value (.*)", text)
    if wrong:
        above, _, name = key.rpartition(".")
        field = next((f for f in _fields(kind, above) if f.encode_name == name), None)
        choices = _choices(field.type) if field is not None else []
        text = f"expected one of {', '.join(map(str, choices))} (found {wrong[1]})"
    text = text[:1].lower() + text[1:]
    return f"{where}: {text}" if where else text


def _fields(kind: Any, key: str) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of the struct at a dotted key below another."""
    for part in filter(None, key.split(".")):
        fields = msgspec.structs.fields(kind) if _is_struct(kind) else ()
        kind = next((field.type for field in fields if field.encode_name == part), None)
        kind = next((inner for inner in (kind, *_inside(kind)) if _is_struct(inner)), None)
    return msgspec.structs.fields(kind) if _is_struct(kind) else ()


def _choices(kind: Any) -> list[Any]:
    """Return the values of a Literal, or of those in a union."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in _inside(kind) for choice in _choices(part)]


def _inside(kind: Any) -> tuple[Any, ...]:
    """Return the types inside an Annotated, a union or a container."""
    inner = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return tuple(part for of in inner for part in (of, *_inside(of)))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
