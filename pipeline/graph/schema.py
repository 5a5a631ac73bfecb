"""JSON schema of a settings file, so that editors complete and check it."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

import msgspec

from pipeline.config import Config, StreamSettings
from pipeline.graph.load import Registry, load_class
from pipeline.stage import Source


def schema(registry: Registry) -> dict[str, Any]:
    """JSON schema of a settings file, so that editors complete and check it."""
    kinds = {use: load_class(use, registry, "schema") for use in registry}
    structs: list[type[Any]] = [Config, StreamSettings, *(kind.Settings for kind in kinds.values())]
    schemas, parts = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    for struct, ref in zip(structs, schemas, strict=True):
        part = parts[ref["$ref"].rpartition("/")[2]]
        for name, text in _attribute_docs(struct).items():
            part["properties"][name]["description"] = text

    def part_of(at: int) -> dict[str, Any]:
        return dict(parts[schemas[at]["$ref"].rpartition("/")[2]])

    def properties(at: int) -> dict[str, Any]:
        return dict(part_of(at)["properties"])

    source = next(i for i, kind in enumerate(kinds.values()) if issubclass(kind, Source))
    whole = part_of(0)
    whole["properties"]["streams"]["additionalProperties"] = {
        "type": "object",
        "properties": properties(1) | properties(source + 2),
        "required": ["source"],
        "additionalProperties": False,
    }
    links = {
        "after": {"type": "string", "description": "The stage it follows; else the one above it."},
        "process": {"type": "string", "description": "Stages of one such name share a process."},
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
                    "properties": {"use": {}} | links | properties(i + 2),
                    # What a source needs may stand under each stream.
                    "required": [] if i == source else part_of(i + 2).get("required", []),
                    "additionalProperties": False,
                    "description": inspect.getdoc(kind) or "",
                },
            }
            for i, (use, kind) in enumerate(kinds.items())
        ],
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schemas[0], "$defs": parts}


def _attribute_docs(struct: type[Any]) -> dict[str, str]:
    """The strings below a Struct's fields, its bases' too, which Python itself does not keep."""
    docs: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if not issubclass(kind, msgspec.Struct) or kind is msgspec.Struct:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field_, text in itertools.pairwise(tree.body):
            if (
                isinstance(field_, ast.AnnAssign)
                and isinstance(field_.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                docs[field_.target.id] = " ".join(str(text.value.value).split())
    return docs
