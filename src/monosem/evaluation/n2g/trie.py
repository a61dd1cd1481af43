"""Explanations of a latent as patterns of tokens, in a trie (N2G: Foote et al. 2023; Gao et al. 2024, §4.3).

A pattern reads as ``import · os``: its last entry stands at the token where the latent fires, ``·`` is any token. A
start mark, ``⟨start⟩``, asks that the pattern's first entry be the first token of its block's text (an added BOS stands
before the text and is no part of it). A pattern never reaches across the start of its block.

The trie is keyed from the last token backwards. Of the patterns that end at a token of new text, and match, the most
specific one predicts: that with the most literal tokens; of these one with a start mark; then the longest; then that
whose literal tokens are nearer to its end (the first difference, read backwards, counts). No two patterns that match at
the same token tie in all of these.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from monosem.errors import UserError

WILDCARD = None
MAX_PATTERNS = 1 << 16
MAX_LENGTH = 1 << 16
MAX_ENTRIES = 1 << 18
MAX_TOKEN = (1 << 31) - 1


class Pattern(NamedTuple):
    """What a text must be like for a latent to fire at its last token."""

    tokens: tuple[int | None, ...]
    """In reading order; None is a wildcard, any token."""
    at_start: bool
    """Whether the first of them must be the first token of its block's text."""

    def simplified(self) -> "Pattern":
        """Without the wildcards that it begins with, which only ask that the block's start be further away.

        Behind a start mark they say how far that is, and stay. A pattern of wildcards alone becomes a single one: the
        latent fires at every token.
        """
        if self.at_start:
            return self
        first = next((i for i, token in enumerate(self.tokens) if token is not WILDCARD), len(self.tokens) - 1)
        return Pattern(self.tokens[first:], False)

    @property
    def specificity(self) -> tuple[int, bool, int, tuple[bool, ...]]:
        """Greater for the pattern that predicts, of those that match; see the module."""
        literal = tuple(token is not WILDCARD for token in reversed(self.tokens))
        return sum(literal), self.at_start, len(literal), literal


class Leaf(NamedTuple):
    """What a pattern predicts."""

    activation: float
    """Mean over the examples that gave the pattern of the latent's activation in their full contexts."""
    examples: int
    """How many gave it."""


@dataclass(eq=False)
class _Node:
    branches: dict[int | None, "_Node"] = field(default_factory=dict[int | None, "_Node"])
    leaf: Leaf | None = None
    start_leaf: Leaf | None = None
    """Of the pattern that ends here with a start mark."""


class Trie:
    """The patterns of one latent."""

    def __init__(self) -> None:
        self._root = _Node()

    def insert(self, pattern: Pattern, activation: float, examples: int = 1) -> None:
        """Add a pattern that so many examples gave; where it is there already, take the mean over all of them."""
        assert pattern.tokens and pattern == pattern.simplified() and examples > 0
        node = self._root
        for token in reversed(pattern.tokens):
            node = node.branches.setdefault(token, _Node())
        name = "start_leaf" if pattern.at_start else "leaf"
        old: Leaf | None = getattr(node, name)
        total = examples + (old.examples if old else 0)
        mean = activation if old is None else old.activation + (activation - old.activation) * examples / total
        setattr(node, name, Leaf(mean, total))

    def match(self, text: Sequence[int], position: int) -> tuple[Pattern, Leaf] | None:
        """The most specific pattern that matches at a position of a block's text, and what it predicts.

        Walks backwards from the position, at each node into the literal and into the wildcard branch.
        """
        found: list[tuple[Pattern, Leaf]] = []
        walks: list[tuple[_Node, tuple[int | None, ...]]] = [(self._root, ())]
        while walks:
            node, tokens = walks.pop()
            first = position - len(tokens) + 1
            for leaf, at_start in ((node.leaf, False), (node.start_leaf, True)):
                if leaf is not None and (first == 0 or not at_start):
                    found.append((Pattern(tokens, at_start), leaf))
            if first > 0:
                both = [token for token in (text[first - 1], WILDCARD) if token in node.branches]
                walks += [(node.branches[token], (token, *tokens)) for token in both]
        return max(found, key=lambda match: match[0].specificity, default=None)

    def patterns(self) -> list[tuple[Pattern, Leaf]]:
        """All, the most specific first; of equally specific ones, of which one at most matches, the lower tokens."""
        found: list[tuple[Pattern, Leaf]] = []
        walks: list[tuple[_Node, tuple[int | None, ...]]] = [(self._root, ())]
        while walks:
            node, tokens = walks.pop()
            leaves = ((node.leaf, False), (node.start_leaf, True))
            found += [(Pattern(tokens, at_start), leaf) for leaf, at_start in leaves if leaf is not None]
            walks += [(child, (token, *tokens)) for token, child in node.branches.items()]
        found.sort(key=lambda match: [-1 if token is None else token for token in match[0].tokens])
        return sorted(found, key=lambda match: match[0].specificity, reverse=True)

    def to_list(self) -> list[list[Any]]:
        """Plain JSON values: ``[tokens in reading order, at_start, activation, examples]`` for each pattern."""
        return [[list(pattern.tokens), pattern.at_start, *leaf] for pattern, leaf in self.patterns()]

    @classmethod
    def from_list(cls, entries: object, where: str) -> "Trie":
        """Read what ``to_list`` gave, from outside, so that nothing in it is trusted.

        Args:
            where: what the entries came from, for messages.

        Raises:
            UserError: they are no patterns, too many or too long, or one stands there twice.
        """
        if not isinstance(entries, list) or len(entries) > MAX_PATTERNS:
            raise _damaged(where, f"the patterns are no list of at most {MAX_PATTERNS:,}")
        checked = [_checked(entry, where) for entry in entries]
        if sum(len(pattern.tokens) for pattern, _ in checked) > MAX_ENTRIES:
            raise _damaged(where, f"the patterns have more than {MAX_ENTRIES:,} tokens")
        if len({pattern for pattern, _ in checked}) < len(checked):
            raise _damaged(where, "a pattern stands there twice")
        trie = cls()
        for pattern, leaf in checked:
            trie.insert(pattern, *leaf)
        return trie


def _checked(entry: object, where: str) -> tuple[Pattern, Leaf]:
    """One of ``to_list``'s entries, if it is one."""
    if not isinstance(entry, list) or len(entry) != 4:
        raise _damaged(where, "a pattern is no list of tokens, start mark, activation and examples")
    tokens, at_start, activation, examples = entry
    if not isinstance(tokens, list) or not 0 < len(tokens) <= MAX_LENGTH:
        raise _damaged(where, f"a pattern does not have between 1 and {MAX_LENGTH:,} tokens")
    if not all(token is None or (type(token) is int and 0 <= token <= MAX_TOKEN) for token in tokens):
        raise _damaged(where, f"a token is neither null nor a whole number up to {MAX_TOKEN:,}")
    if not isinstance(at_start, bool):
        raise _damaged(where, "a start mark is neither true nor false")
    if type(activation) not in (int, float) or not 0 < activation <= sys.float_info.max:
        raise _damaged(where, "an activation is no finite number above 0")
    if type(examples) is not int or not 0 < examples <= MAX_TOKEN:
        raise _damaged(where, f"the examples are no whole number from 1 to {MAX_TOKEN:,}")
    pattern = Pattern(tuple(tokens), at_start)
    if pattern != pattern.simplified():
        raise _damaged(where, "a pattern begins with wildcards that ask for nothing")
    return pattern, Leaf(float(activation), examples)


def _damaged(where: str, why: str) -> UserError:
    return UserError(f"{where} is damaged: {why}; make the explanations again.")


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What makes a latent fire, by the examples that say so."""

    latent: int
    tries: Mapping[str, Trie]
    """By the kind of examples they were built from: ``random`` and ``top``."""

    def examples(self, kind: str) -> int:
        """How many examples of a kind gave a pattern."""
        return sum(leaf.examples for _, leaf in self.tries[kind].patterns())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"latent": self.latent, "patterns": {kind: trie.to_list() for kind, trie in self.tries.items()}}

    @classmethod
    def from_dict(cls, values: object, where: str) -> "Explanation":
        """Read what ``to_dict`` gave, from outside.

        Raises:
            UserError: it is no explanation.
        """
        if not isinstance(values, dict) or values.keys() != {"latent", "patterns"}:
            raise _damaged(where, "an explanation does not hold a latent and its patterns, and nothing else")
        latent, patterns = values["latent"], values["patterns"]
        if type(latent) is not int or latent < 0 or not isinstance(patterns, dict) or patterns.keys() != set(KINDS):
            raise _damaged(where, f"an explanation is not of a latent's number and patterns of {' and '.join(KINDS)}")
        return cls(latent=latent, tries={kind: Trie.from_list(patterns[kind], where) for kind in KINDS})


KINDS = ("random", "top")
