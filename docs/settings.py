# ruff: noqa: INP001 (a script, not a package)
"""The page of all settings, from the code that declares them: docs/settings.md.

    .venv/bin/python docs/settings.py

A section's sentence is its class's docstring, a setting's the comment above it.
"""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from jobs.settings import JobSettings
from models.architecture import Architecture
from pipeline.settings import Settings

__all__ = ["TARGET", "page"]

TARGET = Path(__file__).with_name("settings.md")
HEADER = (
    "# Settings\n\nEvery section of a config and every setting in it; `deploy/configs/` has whole "
    "ones, `minimal.toml` the shortest. On a command line `--set section.setting=value` replaces "
    "one. "
    "Made by `python docs/settings.py` from the code that reads them.\n"
)
# How types, and the bounds that pydantic keeps beside them, are written.
NAMES = {"str": "text", "bool": "true, false", "int": "integer", "float": "number"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least"}


def page() -> str:
    """The whole page, Markdown."""
    return HEADER + "".join(_section(*found) for found in _sections(JobSettings, ()))


def _sections(
    kind: type[Settings], path: tuple[str, ...], opened: str = "["
) -> Iterator[tuple[str, type[Settings]]]:
    """Heading and class of each section, those within it after it."""
    if path:
        yield f"{opened}{'.'.join(path)}{']' * len(opened)}", kind
    for name, field in kind.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is None:
            continue
        is_list = get_origin(field.annotation) is tuple
        named = (get_args(field.annotation)[0],) if _is_mapping(field.annotation) else ()
        keys = tuple("STAGE" if get_args(key) else "NAME" for key in named)
        yield from _sections(inner, (*path, name, *keys), "[[" if is_list else "[")


def _section(heading: str, kind: type[Settings]) -> str:
    """A heading, a sentence and a table."""
    rows = [
        f"| `{name}` | {_values(field)} | {_default(field)} | {meaning} |\n"
        for name, field, meaning in _settings(kind)
    ]
    if not rows:
        return ""
    about = inspect.cleandoc(kind.__doc__ or "").replace("\n", " ").replace("|", "\\|")
    head = "| setting | values | default | |\n|---|---|---|---|\n"
    return f"\n## `{heading}`\n\n{about}\n\n{head}{''.join(rows)}"


def _settings(kind: type[Settings]) -> Iterator[tuple[str, FieldInfo, str]]:
    """Name, field and comment of the settings that are no sections."""
    comments = comments_of(kind)
    for name, field in kind.model_fields.items():
        if _settings_in(field.annotation) is None:
            yield name, field, comments.get(name, "").replace("|", "\\|")


def comments_of(kind: type[Settings]) -> dict[str, str]:
    """Setting -> the comment above it, on one line."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines, found = source.splitlines(), dict[str, str]()
    (declared,) = ast.parse(source).body
    assert isinstance(declared, ast.ClassDef)
    for node in declared.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.lstrip().startswith("#"):
                break
            above.insert(0, line.lstrip().removeprefix("#").strip())
        found[node.target.id] = " ".join(above)
    return found


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The section that a setting is, or is a list or a table of."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return None if annotation is Architecture else annotation
    inner = (_settings_in(argument) for argument in get_args(annotation))
    return next((found for found in inner if found), None)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) in (dict, Mapping)


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {value}"
        for each in field.metadata
        for name, sign in BOUNDS.items()
        if (value := getattr(each, name, None)) is not None
    ]
    return " ".join([_kind(field.annotation), ", ".join(bounds)]).strip()


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Architecture:
        return '"L4H64A4"'
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f'"{member.value}"' for member in annotation)
    if origin in _KINDS:
        return _KINDS[origin](arguments)
    name = getattr(annotation, "__name__", str(annotation))
    return NAMES.get(name, name.lower())


def _kind_of_tuple(arguments: Sequence[Any]) -> str:
    if arguments[-1] is Ellipsis:
        return f"list of {_kind(arguments[0])}"
    return f"[{', '.join(map(_kind, arguments))}]"


def _kind_of_union(arguments: Sequence[Any]) -> str:
    return " or ".join(_kind(each) for each in arguments if each is not type(None))


_KINDS: dict[Any, Callable[[Sequence[Any]], str]] = {
    Annotated: lambda arguments: _kind(arguments[0]),
    Literal: lambda arguments: ", ".join(f'"{value}"' for value in arguments),
    Union: _kind_of_union,
    types.UnionType: _kind_of_union,
    dict: lambda arguments: f"table of {_kind(arguments[1])}",
    tuple: _kind_of_tuple,
}


def _default(field: FieldInfo) -> str:
    """A default as TOML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return f'"{value.value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return re.sub(r"e-0", "e-", repr(value))


if __name__ == "__main__":
    TARGET.write_text(page())
