"""What latents are searched for."""

from dataclasses import dataclass
from typing import Literal

from monosem.errors import UserError

SEARCH_CHARACTERS = 200
"""Of a text that is searched for."""
SEARCH_LIMIT = 100
"""Latents in one answer."""
LARGEST_NUMBER = 2**31
"""No latent or offset reaches it."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What latents are searched for; conditions left out do not count, the others must all be met."""

    fires: str = ""
    """Text in a token that it fires on."""
    promotes: str = ""
    """Text in a token that it promotes."""
    suppresses: str = ""
    """Text in a token that it suppresses."""
    pattern: str = ""
    """Text in one of its N2G patterns; of letters only a … z are found in capitals too, as in explanations."""
    explanation: str = ""
    """Text in its explanation."""
    like: int | None = None
    """A latent that it is near to, by the cosine of decoder rows."""
    low: float | None = None
    """Least density."""
    high: float | None = None
    """Largest density."""
    order: Literal["match", "density", "rare", "largest", "number"] = "match"
    """Best match first (a text that is the whole token, that begins it, that is in it; then the strongest; of very
    many matches only the best ones are ranked, and the others follow by number); densest; rarest of those that fire;
    by largest activation; by number."""
    offset: int = 0
    """Latents passed over."""
    limit: int = 50
    """Latents in the answer."""

    def __post_init__(self) -> None:
        for name in ("fires", "promotes", "suppresses", "pattern", "explanation"):
            require_text(name, getattr(self, name))
        for name in ("pattern", "explanation"):
            if "\0" in getattr(self, name):
                raise UserError(f"{name} holds a NUL character, which no {name} does; leave it out.")
        for name in ("low", "high"):
            density = getattr(self, name)
            if density is not None and not 0 <= density <= 1:
                raise UserError(f"{name}={density} is no density; give a number from 0 to 1.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"low={self.low:g} exceeds high={self.high:g}; lower it.")
        require_between("like", 0 if self.like is None else self.like, 0, LARGEST_NUMBER)
        require_between("offset", self.offset, 0, LARGEST_NUMBER)
        require_between("limit", self.limit, 1, SEARCH_LIMIT)


def require_text(name: str, text: str) -> None:
    """Refuse a text that is too long to search for.

    Raises:
        UserError: it is.
    """
    if len(text) > SEARCH_CHARACTERS:
        raise UserError(f"{name} has {len(text):,} characters and may have {SEARCH_CHARACTERS}; shorten it.")


def require_between(name: str, value: float | int, low: float | int, high: float | int) -> None:
    """Refuse a number out of range.

    Raises:
        UserError: it is, or is no number.
    """
    if not low <= value <= high:
        raise UserError(f"{name}={value} is not from {low:,} to {high:,}; give one in that range.")
