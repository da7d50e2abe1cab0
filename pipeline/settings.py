"""Strict settings: TOML into frozen pydantic models, dotted overrides, errors with full paths.

Each room declares the settings of its own parts beside them, as children of `Settings`; a
component receives its own settings, never the whole file. `jobs.settings` joins them.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError

__all__ = ["Settings", "load_settings", "settings_digest"]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


S = TypeVar("S", bound=Settings)

# pydantic's words for a value that should have been text.
_WANTS_TEXT = ("string_type", "path_type")


def load_settings(kind: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Read a TOML file into `kind`, after applying overrides of the form `a.b=c`.

    The right side of an override is read as a TOML value, and as plain text where it is none or
    where the setting takes text: neither `data.root=/tmp/x` nor `daily.attempt=12e5` needs quotes.

    Raises:
        ConfigError: no such file, bad TOML, unknown or mistyped setting (with its dotted path).
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a config file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(values, override)
    try:
        return _validated(kind, values)
    except ValidationError as error:
        problems = error.errors()
    # What looked like a number, say, may have been meant as text.
    wanted = {problem["loc"] for problem in problems if problem["type"] in _WANTS_TEXT}
    as_text = [each for each in overrides if tuple(_split(each)[0]) in wanted]
    for override in as_text:
        _apply_override(values, override, is_text=True)
    try:
        return _validated(kind, values)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{path}: " + "; ".join(lines)) from None


def _validated(kind: type[S], values: dict[str, Any]) -> S:
    # Strict as of JSON: text for dates and paths, but no text for numbers, no 1 for true.
    return kind.model_validate_json(json.dumps(values, default=str), strict=True)


def _split(override: str) -> tuple[list[str], str]:
    """The keys and the text of `a.b=text`."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override!r}: expected a.b=value")
    return keys, text


def _apply_override(values: dict[str, Any], override: str, *, is_text: bool = False) -> None:
    keys, text = _split(override)
    try:
        value = text if is_text else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    section: Any = values
    for depth, key in enumerate(keys[:-1], start=1):
        section = _section(section, key)
        if not isinstance(section, dict) and (depth == len(keys) - 1 or section is None):
            raise ConfigError(f"--set {override!r}: {'.'.join(keys[:depth])} is not a section")
    section[keys[-1]] = value


def _section(outer: Any, key: str) -> Any:
    """What is under `key`, a number where `outer` is a list; None if nothing can be."""
    if isinstance(outer, dict):
        inner = cast("dict[str, Any]", outer).setdefault(key, {})
        return inner if isinstance(inner, dict | list) else None
    entries = cast("list[Any]", outer)
    return entries[int(key)] if key.isdigit() and int(key) < len(entries) else None


def _explain(kind: type[Settings], problem: Any) -> str:
    """One sentence for one pydantic problem: dotted path, what is wrong, what is known there."""
    location: tuple[str | int, ...] = problem["loc"]
    path = ".".join(str(part) for part in location) or "the file as a whole"
    if problem["type"] == "extra_forbidden":
        owner = _model_at(kind, location[:-1])
        known = ", ".join(sorted(owner.model_fields)) if owner else "none"
        return f"{path}: unknown setting; known: {known}"
    if problem["type"] == "missing":
        return f"{path}: required setting is missing"
    if problem["type"] == "model_type":
        return f"{path}: is a section of settings, not a value (got {problem['input']!r})"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and re.match(r"[a-z_]+(\.[a-z_]+)+\b", text):
        return text  # it names the setting itself
    got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
    return f"{path}: {text}{got}"


def _model_at(kind: type[Settings], location: Sequence[str | int]) -> type[Settings] | None:
    """The settings class that owns the keys at `location`, through lists and unions."""
    found: type[Settings] | None = kind
    for part in location:
        if isinstance(part, int):
            continue
        field = found.model_fields.get(part) if found else None
        found = _settings_in(field.annotation) if field else None
    return found


def _settings_in(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    inner = (_settings_in(argument) for argument in get_args(annotation))
    return next((found for found in inner if found), None)


def settings_digest(settings: Settings) -> str:
    """Sixteen hex digits that name the resolved settings; equal settings, equal digest."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]
