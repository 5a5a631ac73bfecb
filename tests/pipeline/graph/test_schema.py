"""The JSON schema of the settings: every setting, nested ones too, has a description."""

import functools
import json
from typing import Annotated, Literal

import msgspec

from pipeline.graph.schema import schema
from pipeline.stage import Settings, Stage
from stages import LOCATIONS


@functools.cache
def shipped():
    return json.loads(json.dumps(schema(LOCATIONS)))


def properties_in(part, path=""):
    """Yield place and schema of every property, at any depth; conditions are none."""
    if isinstance(part, list):
        for i, child in enumerate(part):
            yield from properties_in(child, f"{path}[{i}]")
    elif isinstance(part, dict):
        for key, child in part.items():
            if key == "properties":
                yield from ((f"{path}.{name}", value) for name, value in child.items())
            if key not in ("if", "default"):
                yield from properties_in(child, f"{path}.{key}")


def test_every_property_of_the_schema_has_a_description():
    found = dict(properties_in(shipped()))
    assert len(found) > 150
    assert [path for path, value in found.items() if not value.get("description")] == []


def test_settings_of_the_supervisor_have_their_texts():
    supervisor = shipped()["$defs"]["SupervisorSettings"]["properties"]
    assert supervisor.keys() == {"restarts", "window_s", "hang_s", "stop_timeout_s"}
    assert "heartbeat" in supervisor["hang_s"]["description"]


class Innermost(msgspec.Struct):
    depth: int = 3
    """How deep."""


class Inner(msgspec.Struct):
    items: list[Innermost] = []
    """Some more."""


class OuterSettings(Settings, frozen=True):
    inner: Annotated[Inner | None, msgspec.Meta()] = None
    """May be nested."""
    mode: Literal["a", "b"] = "a"
    """A choice."""


class Outer(Stage):
    """Has nested settings."""

    Settings = OuterSettings


def test_structs_in_unions_and_lists_have_their_texts():
    registry = {
        "capture": "stages.capture.capture:Capture",
        "outer": "tests.pipeline.graph.test_schema:Outer",
    }
    parts = schema(registry)["$defs"]
    assert parts["Inner"]["properties"]["items"]["description"] == "Some more."
    assert parts["Innermost"]["properties"]["depth"]["description"] == "How deep."
