"""Configurations are frozen dataclasses; on disk they are TOML, read strictly.

An unknown key, a value of the wrong type and a missing required setting are errors that name the place. A setting that
is None is absent from the file.
"""

import dataclasses
import difflib
import sys
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import tomli_w

from monosem.errors import UserError

Config = TypeVar("Config")

_LARGEST_FLOAT = sys.float_info.max


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested plain values; None is left out."""
    fields = dataclasses.fields(config)
    values = {field.name: getattr(config, field.name) for field in fields}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def to_flat_dict(config: Any) -> dict[str, Any]:
    """A configuration of one level of parts as plain values by dotted names: ``training.tokens``; None is left out."""
    flat: dict[str, Any] = {}
    for part, value in to_dict(config).items():
        flat |= {f"{part}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {part: value}
    return flat


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_dict(cls: type[Config], values: dict[str, Any], where: str) -> Config:
    """Build a configuration from nested plain values.

    Args:
        where: what the values came from, for messages.

    Raises:
        UserError: an unknown key (with a near match), a value of the wrong type, a missing setting, or whatever the
            configuration's own validation finds.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType] (cls is a dataclass)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(fields))}."
            raise UserError(f"{where}: unknown key '{key}'; {hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values and not _allows_none(hints[name]):
            raise UserError(f"{where}: '{name}' is missing; add it.")
    missing_none = {name: None for name in fields if name not in values and _allows_none(hints[name])}
    given = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return cls(**missing_none, **given)


def require_positive(config: Any, *names: str) -> None:
    """Refuse settings that count something and are below 1.

    Raises:
        UserError: names the first.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)} is below 1; give at least one.")


def to_toml(config: Any) -> str:
    """A configuration as TOML text."""
    return tomli_w.dumps(to_dict(config))


def load_toml(cls: type[Config], path: Path) -> Config:
    """Read a configuration from a TOML file, strictly (see from_dict)."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a config.toml, as a run directory holds one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}.") from error
    return from_dict(cls, values, str(path))


def _allows_none(hint: Any) -> bool:
    return hint is None or type(None) in typing.get_args(hint)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """The value as its annotation wants it, or a UserError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(arguments[0], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(typing.cast("type[Any]", hint), typing.cast("dict[str, Any]", value), where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in typing.cast("list[Any]", value))
    if origin is dict and isinstance(value, dict):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_FLOAT:
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where} = {value!r} should be {describe(hint)}.")


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _convert(argument, value, where)
        except UserError:
            continue
    raise UserError(f"{where} = {value!r} should be {' or '.join(map(describe, arguments))}.")


def describe(hint: Any) -> str:
    """A type annotation in a user's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return words.get(hint, "absent" if hint is type(None) else "a table")
