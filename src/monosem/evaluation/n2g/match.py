"""Where patterns match in many blocks of text at once, and what they predict there.

Does what ``Trie.match`` does at every token, pattern by pattern. The places of a pattern's rarest token are looked up
in an index of the text, and only those are compared with the rest of the pattern.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64, Integer

from monosem.evaluation.n2g.trie import Leaf, Pattern


class TextIndex:
    """Blocks of text, ``[blocks, length]`` without added BOS, and where in them each token stands."""

    def __init__(self, text: Integer[np.ndarray, "blocks length"]) -> None:
        self.length = text.shape[1]
        self._tokens = np.ascontiguousarray(text, dtype=np.int64).reshape(-1)
        self._columns = np.tile(np.arange(self.length), len(text))
        self._order = np.argsort(self._tokens, kind="stable")
        self._sorted = self._tokens[self._order]

    def __len__(self) -> int:
        return len(self._tokens)

    def matches(self, pattern: Pattern) -> Int64[np.ndarray, " matches"]:
        """The places, counted along the blocks, where the pattern's last token stands when it matches."""
        reach = len(pattern.tokens) - 1
        literals = [(reach - i, token) for i, token in enumerate(pattern.tokens) if token is not None]
        ranges = np.searchsorted(self._sorted, [(token, token + 1) for _, token in literals]).reshape(-1, 2)
        if len(literals) == 0:
            places = np.arange(len(self))
        else:
            rarest = int(np.diff(ranges, axis=1).argmin())
            back, _ = literals.pop(rarest)
            places = self._order[slice(*ranges[rarest])] + back
            # The anchor and the place must lie in one block: the anchor's column says how far that goes.
            places = places[self._columns[places - back] + back < self.length]
        columns = self._columns[places]
        places = places[columns == reach] if pattern.at_start else places[columns >= reach]
        for back, token in literals:
            places = places[self._tokens[places - back] == token]
        return places

    def predict(self, patterns: Sequence[tuple[Pattern, Leaf]]) -> Float64[np.ndarray, " tokens"]:
        """What a trie's patterns, given the most specific first, predict for every token; 0 where none matches."""
        predicted = np.zeros(len(self))
        for pattern, leaf in reversed(patterns):  # so that the most specific writes last
            predicted[self.matches(pattern)] = leaf.activation
        return predicted
