"""Labels of a subject's tokens on Python source: what each is, what it lies in, and what comes after it.

A label marks characters; a token has it where its first character that is no white space has it, since tokens of many
vocabularies begin with a space. A token of white space alone counts by its first line break, or else its first
character.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from monosem.evaluation.tasks.code_kinds import KINDS, kind_spans
from monosem.evaluation.tasks.code_regions import REGIONS, region_spans
from monosem.evaluation.tasks.code_source import Span, read_source

_NEXT = {
    "next-line-break": ("line-break", "the next token is a line break"),
    "next-indent": ("indent", "the next token leads to a line that is indented more"),
    "next-dedent": ("dedent", "the next token leads to a line that is indented less"),
    "next-word-inside": ("word-inside", "the next token goes on with this word"),
    "next-opening-bracket": ("opening-bracket", "the next token is an opening bracket"),
    "next-closing-bracket": ("closing-bracket", "the next token is a closing bracket"),
    "next-comma": ("comma", "the next token is a comma"),
    "next-colon": ("colon", "the next token is a colon"),
    "next-dot": ("dot", "the next token is a dot"),
    "next-equals-sign": ("equals-sign", "the next token is the sign ="),
    "next-operator": ("operator", "the next token is an operator"),
    "next-keyword": ("keyword", "the next token is a keyword"),
    "next-plain-name": ("plain-name", "the next token is a name or part of one"),
    "next-self": ("self", "the next token is the name self"),
    "next-number": ("number", "the next token is a number or part of one"),
    "next-string-start": ("string-start", "the next token begins a string"),
    "next-in-comment": ("in-comment", "the next token is in a comment"),
}

LABELS = KINDS | REGIONS | {name: description for name, (_, description) in _NEXT.items()}
"""Labels and what they say of a token."""


def label_tokens(text: str, offsets: Int64[np.ndarray, "tokens 2"]) -> Bool[np.ndarray, "labels tokens"] | None:
    """The labels of a file's tokens, in the order of ``LABELS``; None where the file does not parse.

    Args:
        offsets: the first character that each token stands for and the one behind its last, from a fast tokenizer.
    """
    source = read_source(text)
    if source is None:
        return None
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    for found in (kind_spans(source), region_spans(source)):
        for label, span in found:
            spans[label].append(span)
    places = deciding_characters(text, offsets)
    order = np.argsort(places, kind="stable")
    labels = {label: np.empty(len(places), dtype=np.bool_) for label in KINDS | REGIONS}
    for label, has_it in labels.items():
        has_it[order] = _covered(spans[label], places[order])
    labels["in-string"] &= ~labels["in-docstring"]
    for name, (label, _) in _NEXT.items():
        labels[name] = np.append(labels[label][1:], [False])
    return np.stack([labels[label] for label in LABELS])


def deciding_characters(text: str, offsets: Int64[np.ndarray, "tokens 2"]) -> Int64[np.ndarray, " tokens"]:
    """The character that each token's labels are read at: see the module."""
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    spaces = [code for code in np.unique(characters) if chr(code).isspace()]
    starts, ends = offsets.T
    line_break = _next_true(characters == ord("\n"))[starts]
    not_space = _next_true(~np.isin(characters, spaces))[starts]
    places = np.where(line_break < ends, line_break, np.minimum(starts, len(text) - 1))
    return np.where(not_space < ends, not_space, places)


def _next_true(flags: Bool[np.ndarray, " characters"]) -> Int64[np.ndarray, " characters_and_one"]:
    """At each place the next one that is flagged, the place itself included; the length where there is none."""
    places = np.append(np.where(flags, np.arange(len(flags)), len(flags)), [len(flags)])
    return np.minimum.accumulate(places[::-1])[::-1]


def _covered(spans: Sequence[Span], places: Int64[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
    """Which of the places, which are sorted, lie in any of the spans."""
    bounds = np.searchsorted(places, np.array(spans, dtype=np.int64).reshape(-1, 2))
    entered, left = (np.bincount(each, minlength=len(places) + 1) for each in bounds.T)
    return np.cumsum(entered - left)[:-1] > 0
