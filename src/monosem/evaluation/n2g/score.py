"""How well explanations predict where their latents are active: precision, recall and F1 on text that they did not see.

Precision is the share of the tokens that an explanation predicts active that are; recall the share of the active tokens
that it predicts. Both count all tokens of the scored text, so they are expectations over its distribution.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap, estimate, resample
from monosem.evaluation.n2g.examples import Firings, joined
from monosem.evaluation.n2g.match import TextIndex
from monosem.evaluation.n2g.trie import KINDS, Explanation
from monosem.randomness import derive_generator

MEASURES = ("precision", "recall", "f1")

# Tokens matched at once: enough that most of a pattern's time goes to its places; the index takes 2 MB.
_MATCHED_TOKENS = 1 << 16
# Explanations drawn again together: with 1000 samples the sums take 6 MB.
_RESAMPLED = 256


class ScoredText(NamedTuple):
    """Blocks of text, without added BOS, to score explanations on."""

    tokens: Int64[Tensor, "blocks text_length"]
    counted: Bool[Tensor, "blocks text_length"]
    documents: Int64[Tensor, "blocks text_length"]
    """Any number where not counted."""
    n_documents: int


class Counts(NamedTuple):
    """On how many of a document's counted tokens a latent is active, is predicted to be, and both."""

    active: Float64[Tensor, "documents explanations"]
    predicted: Float64[Tensor, "documents explanations"]
    both: Float64[Tensor, "documents explanations"]


def count_predictions(
    explanations: Sequence[Explanation], text: ScoredText, firings: Iterator[tuple[int, Firings]]
) -> dict[str, Counts]:
    """Compare what explanations predict with where their latents fire, by the kind of examples they were built from.

    Holds 40 bytes for each document and explanation, and the firings of about 65,000 tokens.

    Args:
        firings: of all latents at the text's counted tokens, as ``read_firings`` gives them.
    """
    shape = text.n_documents, len(explanations)
    active, *others = (torch.zeros(shape, dtype=torch.float64) for _ in range(1 + 2 * len(KINDS)))
    counts = {kind: Counts(active, *others[2 * i : 2 * i + 2]) for i, kind in enumerate(KINDS)}
    patterns = {kind: [each.tries[kind].patterns() for each in explanations] for kind in KINDS}
    latents = torch.tensor([each.latent for each in explanations], dtype=torch.int64)
    for start, stop, found in _chunks(text, latents, firings):
        index = TextIndex(text.tokens[start:stop].numpy())
        counted, documents = (each[start:stop].flatten() for each in (text.counted, text.documents))
        places = (found.blocks - start) * index.length + found.columns
        ends = torch.searchsorted(found.latents, torch.stack([latents, latents + 1])).tolist()
        for slot, (begin, end) in enumerate(zip(*ends, strict=True)):
            is_active = torch.zeros(len(index), dtype=torch.bool).index_fill_(0, places[begin:end], True)
            _add(active[:, slot], documents[places[begin:end]])
            for kind, each in counts.items():
                predicted = torch.from_numpy(np.flatnonzero(index.predict(patterns[kind][slot])))
                predicted = predicted[counted[predicted]]
                _add(each.predicted[:, slot], documents[predicted])
                _add(each.both[:, slot], documents[predicted[is_active[predicted]]])
    return counts


def _add(sums: Float64[Tensor, " documents"], documents: Int64[Tensor, " tokens"]) -> None:
    sums += torch.bincount(documents, minlength=len(sums))


def _chunks(
    text: ScoredText, latents: Int64[Tensor, " explanations"], firings: Iterator[tuple[int, Firings]]
) -> Iterator[tuple[int, int, Firings]]:
    """Ranges of blocks, and the firings of these latents in them, latent by latent."""
    start = stop = 0
    parts: list[Firings] = []
    for stop, batch in firings:
        parts.append(batch.at(torch.isin(batch.latents, latents)))
        if text.tokens[start:stop].numel() >= _MATCHED_TOKENS:
            yield start, stop, _by_latent(parts)
            start, parts = stop, []
    if parts:
        yield start, stop, _by_latent(parts)


def _by_latent(parts: list[Firings]) -> Firings:
    firings = joined(parts)
    return firings.at(firings.latents.argsort(stable=True))


class Scores(NamedTuple):
    """Precision, recall and F1, each by name."""

    of_latents: list[dict[str, Estimate]]
    """Of each explanation, with 95% intervals over documents; precision is not defined where nothing is predicted,
    recall where nothing is active, F1 where neither."""
    mean: dict[str, Estimate]
    """Over the latents for which each is defined, with 95% intervals over latents."""
    defined: dict[str, int]
    """How many these are."""


def scores(counts: Counts, *, samples: int, seed: int) -> Scores:
    """All scores from the documents' counts; the documents, and for the means the latents, are drawn again."""
    of_latents: list[dict[str, Estimate]] = []
    for start in range(0, counts.active.shape[1], _RESAMPLED):
        sums = {name: each[:, start : start + _RESAMPLED] for name, each in counts._asdict().items()}
        generator = derive_generator(seed, "n2g", "documents")  # the same draws for all
        drawn = resample(sums, _ratios, samples=samples, generator=generator)
        of_latents += [
            {name: estimate(drawn[name][:, slot]) for name in MEASURES} for slot in range(sums["active"].shape[1])
        ]
    values = {name: [each[name].value for each in of_latents] for name in MEASURES}
    return Scores(
        of_latents=of_latents,
        mean={name: mean_over_latents(each, samples=samples, seed=seed) for name, each in values.items()},
        defined={name: sum(value is not None for value in each) for name, each in values.items()},
    )


def _ratios(sums: Sums) -> dict[str, Float64[Tensor, "samples explanations"]]:
    active, predicted, both = (sums[name] for name in Counts._fields)
    return {"precision": both / predicted, "recall": both / active, "f1": 2 * both / (predicted + active)}


def mean_over_latents(values: Sequence[float | None], *, samples: int, seed: int) -> Estimate:
    """The mean of a score over the latents for which it is defined, with a 95% interval over these latents."""
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(None, None, None)
    sums = {"value": torch.tensor(known, dtype=torch.float64), "count": torch.ones(len(known), dtype=torch.float64)}
    generator = derive_generator(seed, "n2g", "latents")
    drawn = bootstrap(sums, lambda sums: {"": sums["value"] / sums["count"]}, samples=samples, generator=generator)
    return drawn[""]
