"""The tokens of the vocabulary: their text, how they are named in a label, and which of them a text is in."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from monosem.evaluation.n2g.render import visible

EXACT, PREFIX, INSIDE = 0, 1, 2
"""How well a token matches a text: it is the text, but for space around it; begins with it; holds it."""

LABEL_TOKEN = 24
"""Characters of a token's text in a label."""

# How a token is written that is no text by itself: by its byte, or by its number.
_NO_TEXT = re.compile(r"⟨(0x[0-9A-Fa-f]{2}|\d+)⟩")


class Found(NamedTuple):
    """A token that a text is in."""

    token: int
    quality: int
    """EXACT, PREFIX or INSIDE."""


class Vocabulary:
    """All tokens and their texts, in memory: to read a token's text, or to look into all of them, takes no query."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts
        self._folded = [(token, text.casefold()) for token, text in texts.items()]

    def text(self, token: int) -> str:
        """The token's text; its number in brackets where the index does not have it."""
        return self._texts.get(token, f"⟨{token}⟩")

    def texts(self, tokens: Iterable[int]) -> list[str]:
        """The text of each."""
        return [self.text(token) for token in tokens]

    def name(self, token: int) -> str:
        """The token's text with everything in it to be seen, and not too long."""
        text = self.text(token)
        name = text if _NO_TEXT.fullmatch(text) else visible(text[: 4 * LABEL_TOKEN])
        if not name:
            return f"⟨{token}⟩"
        return name if len(name) <= LABEL_TOKEN else name[: LABEL_TOKEN - 1] + "…"

    def find(self, text: str) -> list[Found]:
        """The tokens that hold a text, in capitals or not; the best matches first, of these the shortest."""
        wanted = text.casefold()
        held = [(token, folded) for token, folded in self._folded if wanted in folded]
        ranked = sorted((_quality(wanted, folded), len(folded), token) for token, folded in held)
        return [Found(token, quality) for quality, _, token in ranked]


def _quality(wanted: str, folded: str) -> int:
    if folded == wanted or folded.strip() == wanted.strip() != "":
        return EXACT
    return PREFIX if folded.startswith(wanted) or folded.lstrip().startswith(wanted) else INSIDE
