"""The class of a stage that a settings file names, and its settings."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from pipeline.config import convert, did_you_mean
from pipeline.errors import ConfigError
from pipeline.messages import display_value
from pipeline.stage import ContractError, InferenceStage, Settings, Source, Stage
from pipeline.stage_errors import call_stage, error_line, place_of

Registry = Mapping[str, str]
"""Name of a stage in settings -> "module:Class"."""

LINKS = ("use", "after", "process")
"""Keys of a stage's table that say where it stands, not how it works."""


def load_class(use: str, registry: Registry, where: str) -> type[Stage]:
    """Return the class of a `use`: a name of the table, or "module:Class".

    Raises:
        ConfigError: no such name, module or class, or not a stage.
    """
    if use not in registry and not re.fullmatch(r"[\w.]+:\w+", use):
        raise ConfigError(
            f"{where}: use: no stage is called {display_value(use)}"
            f"{did_you_mean(use, list(registry))}"
        )
    module_name, _, class_name = registry.get(use, use).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}: use: {use!r}: no module named {error.name!r} in the working directory, nor "
            "installed; correct the name"
        ) from None
    except ContractError as error:
        raise ConfigError(f"{where}: use: {use!r}: {error}") from None
    except Exception as error:  # of any kind: it may be a user's own module
        raise ConfigError(
            f"{where}: use: {use!r}: cannot be imported: {error_line(error)} ({place_of(error)}); "
            "correct the module"
        ) from None
    kind = getattr(module, class_name, None)
    if kind is None:
        raise ConfigError(
            f"{where}: use: {use!r}: module {module_name} ({module.__file__}) has no class "
            f"{class_name!r}; correct the name"
        )
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise ConfigError(
            f"{where}: use: {use!r} is not a Stage; derive it from pipeline.stage.Stage"
        )
    if kind in (Stage, Source, InferenceStage):
        raise ConfigError(
            f"{where}: use: {use!r} is a base class and does nothing; use a class derived from it"
        )
    return kind


def settings_of(table: Mapping[str, Any], kind: type[Stage], at: str) -> Settings:
    """Check the settings of a stage; of a stage with variants, those that its `kind` chooses."""
    if not kind.variants:
        return convert(table, kind.Settings, at, LINKS)
    chosen = table.get("kind", next(iter(kind.variants)))
    if not isinstance(chosen, str) or chosen not in kind.variants:
        raise ConfigError(
            f"{at}: kind: expected one of {', '.join(kind.variants)}, found {display_value(chosen)}"
        )
    settings = call_stage(at, f"kind {chosen}", kind.variants.__getitem__, chosen)
    return convert(table, variant(settings, chosen), at, LINKS)


@functools.cache
def variant(settings: Any, kind: str) -> type[Settings]:
    """Return a class of settings with the key `kind` added, which can only be this one."""
    made: Any = msgspec.defstruct(
        settings.__name__,
        [("kind", Literal[kind], kind)],
        bases=(settings,),
        module=settings.__module__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return made  # type: ignore[no-any-return]
