"""A document, and the text of a record that is to become one."""

from collections.abc import Iterable
from typing import NamedTuple

from monosem.errors import UserError


class Document(NamedTuple):
    """One text with a name that tells a reader where it is from: ``path``, ``path#part``, ``path:line``, ``id:row``."""

    name: str
    text: str


def missing_field(field: str, place: str, names: Iterable[str]) -> UserError:
    return UserError(
        f"{place} has no field '{field}'; it has: {', '.join(sorted(names))}. Choose one with --text-field."
    )


def field_of(record: object, field: str, place: str) -> str:
    """The text in a record; ``place`` says where the record stands."""
    if not isinstance(record, dict):
        raise UserError(f"{place} holds a {type(record).__name__}, where an object with a field '{field}' is needed.")
    if field not in record:
        raise missing_field(field, place, record)
    text = record[field]
    if not isinstance(text, str):
        raise UserError(f"{place}: field '{field}' holds a {type(text).__name__}, not a string; choose another field.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: field '{field}' holds half a surrogate pair at character {error.start}.") from error
    return text
