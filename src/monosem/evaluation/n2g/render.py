"""Patterns as a person reads them: ``⟨start⟩ import · ␣os``.

Tokens stand apart by spaces, so a token's own are shown as ``␣``, and newlines and tabs as ``⏎`` and ``⇥``; from four
on a run is counted (``␣×8``). ``·`` is any token. What cannot be printed is shown by its code, a token that is no text
by itself (part of a character) by its number.
"""

import itertools
from collections.abc import Callable
from typing import Any

from monosem.evaluation.n2g.trie import Pattern
from monosem.subject.token_text import decoded

_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_MARKS = frozenset("·␣⏎⇥⟨⟩")
_LONGEST_RUN = 3


def render_pattern(pattern: Pattern, token_text: Callable[[int], str]) -> str:
    """A pattern in a line of printable characters; ``token_text`` is that of ``token_reader``."""
    entries = ["⟨start⟩"] if pattern.at_start else []
    for token, run in itertools.groupby(pattern.tokens):
        count = len(list(run))
        if token is None:
            entries += [f"·×{count}"] if count > _LONGEST_RUN else ["·"] * count
        else:
            entries += [token_text(token)] * count
    return " ".join(entries)


def token_reader(tokenizer: Any) -> Callable[[int], str]:
    """A function that shows a token by its text; without a tokenizer by its number."""

    def read(token: int) -> str:
        text = None if tokenizer is None else decoded(tokenizer, token)
        return f"⟨{token}⟩" if text is None else visible(text)

    return read


def visible(text: str) -> str:
    """The text with everything in it to be seen."""
    parts: list[str] = []
    for character, run in itertools.groupby(text):
        count = len(list(run))
        if character in _SHOWN:
            mark = _SHOWN[character]
            parts.append(f"{mark}×{count}" if count > _LONGEST_RUN else mark * count)
        elif character.isprintable() and character not in _MARKS:
            parts.append(character * count)
        else:
            parts.append(character.encode("unicode_escape").decode() * count)
    return "".join(parts)
