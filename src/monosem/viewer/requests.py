"""What arrives from the network, checked before use: a query string, a JSON body."""

import json
import math
import re
import typing
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from monosem.config import describe, from_dict
from monosem.errors import UserError

Config = TypeVar("Config")

MOST_FIELDS = 20
"""In a query string."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def parse_query(cls: type[Config], query: bytes) -> Config:
    """A dataclass of the fields in a query string; a field without a value counts as left out.

    Raises:
        UserError: it is not UTF-8; a field is unknown, named twice, or of the wrong type; or what the dataclass finds.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except UnicodeDecodeError as error:
        raise UserError("The address holds bytes that are not UTF-8; write the text in UTF-8, by percents.") from error
    except ValueError as error:
        raise UserError(f"The address has more than {MOST_FIELDS} fields; leave some out.") from error
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise UserError(f"{name} is named twice; give it once.")
        if text:
            values[name] = _number(name, text, hints.get(name, str))
    return from_dict(cls, values, "the address")


def _number(name: str, text: str, hint: Any) -> Any:
    """The text as the number that its annotation asks for, or as it is."""
    kinds = [each for each in typing.get_args(hint) or (hint,) if each in (int, float)]
    if not kinds:
        return text
    try:
        if kinds[0] is int:
            return whole_number(text)
        return finite_number(float(text))
    except ValueError:
        raise UserError(f"{name}={text!r} should be {describe(kinds[0])}.") from None


def whole_number(text: str) -> int:
    """A whole number of at most 18 digits.

    Raises:
        ValueError: the text is none.
    """
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("no whole number")
    return int(text)


def finite_number(value: float) -> float:
    """The number.

    Raises:
        ValueError: it is infinite, or none.
    """
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


def parse_body(cls: type[Config], body: bytes) -> Config:
    """A dataclass of a JSON object.

    Raises:
        UserError: it is not UTF-8, not JSON or no object; a number is not finite; a field is unknown, named twice,
            missing, or of the wrong type; or what the dataclass finds.
    """
    try:
        values = json.loads(
            body.decode(), parse_constant=_refuse_constant, parse_float=_finite_text, object_pairs_hook=_object
        )
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"The request is not UTF-8 at byte {error.start}; send JSON in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise UserError("The request is not JSON, or is nested too deeply; send a JSON object.") from error
    if not isinstance(values, dict):
        raise UserError("The request is no JSON object; send one, with the fields by name.")
    return from_dict(cls, typing.cast("dict[str, Any]", values), "the request")


def _refuse_constant(name: str) -> Any:
    raise UserError(f"The request holds {name}, which is no number; send finite ones.")


def _finite_text(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UserError("The request holds a number that is too large; send finite ones.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise UserError("The request names a field twice; give each once.")
    return values
