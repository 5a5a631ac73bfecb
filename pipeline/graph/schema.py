"""JSON schema of a settings file, so that editors complete and check it.

The text of a setting is the string below its field. Python does not keep those strings, so they
are read from the source of the class.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from pipeline.config import Config, StreamSettings
from pipeline.graph.load import Registry, load_class
from pipeline.stage import Source


def schema(registry: Registry) -> dict[str, Any]:
    """Return the JSON schema of a settings file.

    Args:
        registry: stages that a settings file can name.
    """
    kinds = {use: load_class(use, registry, "schema") for use in registry}
    structs: list[type[Any]] = [Config, StreamSettings, *(kind.Settings for kind in kinds.values())]
    variants = {use: list(kind.variants.values()) for use, kind in kinds.items()}
    structs += [struct for of_stage in variants.values() for struct in of_stage]
    schemas, parts = _components(structs)
    of_struct = dict(zip(structs, schemas, strict=True))

    def part_of(at: int) -> dict[str, Any]:
        return dict(parts[_name_in(schemas[at])])

    def properties(at: int) -> dict[str, Any]:
        return dict(part_of(at)["properties"])

    def properties_of(use: str, at: int) -> dict[str, Any]:
        """Return the settings of a stage; those of all variants, and their `kind`."""
        found = properties(at)
        for struct in variants[use]:
            found |= parts[_name_in(of_struct[struct])]["properties"]
        names = list(kinds[use].variants)
        if names:
            found["kind"] = {
                "enum": names,
                "default": names[0],
                "description": "Variant of the stage; each has its own settings.",
            }
        return found

    sources = [i for i, kind in enumerate(kinds.values()) if issubclass(kind, Source)]
    of_streams = properties(1)
    for source in sources:
        of_streams |= properties(source + 2)
    whole = part_of(0)
    whole["properties"]["streams"]["additionalProperties"] = {
        "type": "object",
        "properties": of_streams,
        "anyOf": [{"required": part_of(source + 2)["required"]} for source in sources],
        "additionalProperties": False,
    }
    links = {
        "use": {"description": "Kind of the stage."},
        "after": {
            "type": "string",
            "description": "Name of the stage before it; without it, the one above in the file.",
        },
        "process": {
            "type": "string",
            "description": "Name of a process; stages with the same name share it.",
        },
    }
    whole["properties"]["stages"]["additionalProperties"] = {
        "type": "object",
        "required": ["use"],
        "properties": {
            "use": {
                "type": "string",
                "anyOf": [{"enum": list(kinds)}, {"pattern": ":"}],
                "description": f"{', '.join(kinds)}, or my_package.module:Class",
            }
        },
        "allOf": [
            {
                "if": {"properties": {"use": {"const": use}}},
                "then": {
                    "properties": links | properties_of(use, i + 2),
                    # The required settings of a source may be given for each stream instead.
                    "required": [] if i in sources else part_of(i + 2).get("required", []),
                    "additionalProperties": False,
                    "description": inspect.getdoc(kind) or "",
                },
            }
            for i, (use, kind) in enumerate(kinds.items())
        ],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schemas[0], "$defs": parts}


def struct_schema(struct: type[msgspec.Struct], inside: dict[str, type[Any]]) -> dict[str, Any]:
    """Return the JSON schema of a struct, such as a model card.

    Args:
        struct: the struct.
        inside: field with a table of any keys -> the struct that these keys are of.
    """
    schemas, parts = _components([struct, *inside.values()])
    whole = parts[_name_in(schemas[0])]
    for name, reference in zip(inside, schemas[1:], strict=True):
        part = parts[_name_in(reference)]
        part.pop("required", None)
        text = whole["properties"][name]["description"]
        whole["properties"][name] = {**reference, "description": text}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schemas[0], "$defs": parts}


def _components(structs: list[type[Any]]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """Return the schema of each struct, and all parts they refer to, with the texts of fields."""
    nested = [kind for struct in structs for kind in _structs_in(struct)]
    everything = list(dict.fromkeys([*structs, *nested]))
    schemas, parts = msgspec.json.schema_components(everything, ref_template="#/$defs/{name}")
    for struct, part in zip(everything, schemas, strict=True):
        for name, text in _attribute_docs(struct).items():
            parts[_name_in(part)]["properties"][name]["description"] = text
    by_struct = dict(zip(everything, schemas, strict=True))
    return tuple(by_struct[struct] for struct in structs), parts


def _structs_in(kind: Any) -> Iterator[type[Any]]:
    """Yield the structs inside a type: in its fields, its arguments, and theirs."""
    inside: tuple[Any, ...] = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        inside = tuple(field.type for field in msgspec.structs.fields(kind))
    for part in inside:
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            yield part
        yield from _structs_in(part)


def _name_in(reference: dict[str, Any]) -> str:
    """Return the name of the part that a reference leads to."""
    return str(reference["$ref"].rpartition("/")[2])


def _attribute_docs(struct: type[Any]) -> dict[str, str]:
    """Return the strings below the fields of a struct and of its bases."""
    docs: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if not issubclass(kind, msgspec.Struct) or kind is msgspec.Struct:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, text in itertools.pairwise(tree.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs
