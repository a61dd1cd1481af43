"""Real text for the pages' tests: a few files of Python's standard library in the bundled tokenizer's tokens."""

from functools import cache
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from monosem.subject.builtin import MODEL_DIRECTORY, library_root

FILES = ("heapq.py", "textwrap.py", "fractions.py", "bisect.py", "json/decoder.py", "html/parser.py")
CONTEXT = 64
BOS = 0
MOST_TOKENS = 24_000


class Corpus(NamedTuple):
    """One line of tokens, cut into blocks of a BOS and 63 tokens of text."""

    tokens: np.ndarray
    """The line, a whole number of blocks' texts long."""
    documents: list[tuple[int, str]]
    """Where each file begins in the line, and its name."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIRECTORY / "tokenizer.json"))


@cache
def token_text(token: int) -> str:
    """As the records give it; a piece of a character by its number."""
    text = tokenizer().decode([token], skip_special_tokens=False)
    return f"⟨{token}⟩" if "\ufffd" in text else text


@cache
def corpus() -> Corpus:
    line: list[int] = []
    documents = []
    for name in FILES:
        documents.append((len(line), name))
        text = (library_root() / name).read_text(encoding="utf-8")
        line += tokenizer().encode(text, add_special_tokens=False).ids
    whole = min(len(line), MOST_TOKENS) // (CONTEXT - 1) * (CONTEXT - 1)
    return Corpus(np.array(line[:whole]), [each for each in documents if each[0] < whole])


def document_of(position: int) -> str:
    return next(name for start, name in reversed(corpus().documents) if start <= position)
