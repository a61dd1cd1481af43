"""Flags from configurations: flat, and whole numbers may be written as 2e6 or 2_000_000."""

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from monosem.errors import UserError

Config = TypeVar("Config")


def parse(cls: Any, arguments: Sequence[str], command: str, *, default: Any = None) -> Any:
    """Parse a command's flags into a configuration.

    Args:
        default: a configuration whose values stand where no flag is given.
    """
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_whole_number)
    given = {} if default is None else {"default": default}
    return tyro.cli(
        cls,
        args=list(arguments),
        prog=f"monosem {command}",
        registry=registry,
        config=(tyro.conf.OmitArgPrefixes,),
        **given,
    )


def _whole_number(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(word: str) -> int:
    """The whole number that a word writes: 4096, 2e6, 2_000_000.

    Raises:
        ValueError: it writes none.
    """
    try:
        return int(word)
    except ValueError:
        number = float(word)
        if number != int(number):
            raise ValueError(f"{word} is not a whole number") from None
        return int(number)


def take_option(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """The value of ``--name VALUE`` or ``--name=VALUE``, and the other arguments.

    Raises:
        UserError: the value is missing.
    """
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2], arguments[:index] + arguments[index + 1 :]
        if argument == name:
            if index + 1 == len(arguments):
                raise UserError(f"{name} needs a value.")
            return arguments[index + 1], arguments[:index] + arguments[index + 2 :]
    return None, arguments
