"""What a model is shown of a latent: contexts in which it fires, to explain it by, and blocks to score that on."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.evaluation.n2g.examples import Firings, collect_examples, joined, read_firings, text_of, text_places
from monosem.evaluation.sample import Sample
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

LEVELS = 10
# Tokens shown of a block before the one that an example is chosen for, and behind it.
TOKENS_BEFORE, TOKENS_BEHIND = 48, 8


class Example(NamedTuple):
    """A piece of a block's text around a token at which a latent is active."""

    tokens: tuple[int, ...]
    levels: tuple[int, ...]
    """The latent's activation at each, in tenths of its largest in the building half, rounded up; 0 where not active
    or not counted."""


class ScoredContext(NamedTuple):
    """A block that an explanation is scored on."""

    tokens: tuple[int, ...]
    counted: tuple[bool, ...]
    position: int
    """Of its first token, in the held-out line of tokens."""
    fires: bool
    """Whether the latent is active at a counted token: the stratum it was drawn from."""
    weight: float
    """Blocks in the stratum over blocks drawn of it."""
    active: tuple[int, ...]
    """Counted tokens at which the latent is active, by number from 0."""


def collect_contexts(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    building: Sample,
    latents: Int64[Tensor, " explained"],
    count: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[int, tuple[Example, ...]]:
    """Up to ``count`` examples of each latent, no two from one block; of a latent that never fires, none.

    The first half are of the strongest activations, the others of random ones; where blocks are lacking, further ones
    of the strongest fill up.
    """
    firings = read_firings(sae, subject, site, building, advance)
    found = collect_examples(firings, latents, sae.n_latents, count, seed)
    top, drawn = (_places(found[kind]) for kind in ("top", "random"))
    chosen = {latent: _choose(top.get(latent, []), drawn.get(latent, []), count) for latent in latents.tolist()}
    wanted = {(latent, block) for latent, places in chosen.items() for block in places}
    activity = _activity(sae, subject, site, building, wanted)
    largest = {latent: found["top"].activations[found["top"].latents == latent].max() for latent in top}
    text = text_of(building, subject)
    return {
        latent: tuple(
            _example(text[block].tolist(), column, activity[latent, block], float(largest[latent]))
            for block, column in places.items()
        )
        for latent, places in chosen.items()
    }


def _places(firings: Firings) -> dict[int, list[tuple[int, int]]]:
    """Block and column of each latent's firings, in their order."""
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for latent, block, column in zip(*(each.tolist() for each in firings[:3]), strict=True):
        found[latent].append((block, column))
    return dict(found)


def _choose(top: list[tuple[int, int]], drawn: list[tuple[int, int]], count: int) -> dict[int, int]:
    """Column by block."""
    chosen: dict[int, int] = {}
    for places, limit in ((top, -(-count // 2)), (drawn, count), (top, count)):
        for block, column in places:
            if len(chosen) < limit:
                chosen.setdefault(block, column)
    return chosen


def _activity(
    sae: Autoencoder, subject: SubjectModel, site: Site, building: Sample, wanted: set[tuple[int, int]]
) -> defaultdict[tuple[int, int], dict[int, float]]:
    """Activation by column, for every wanted latent and block; only these blocks run through the subject again."""
    found: defaultdict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    if not wanted:
        return found
    blocks = torch.tensor(sorted({block for _, block in wanted}))
    is_chosen = torch.zeros(sae.n_latents, dtype=torch.bool)
    is_chosen[torch.tensor(sorted({latent for latent, _ in wanted}))] = True
    part = Sample(
        Blocks(*(each[blocks] for each in building.blocks)),
        building.documents[blocks],
        building.n_documents,
        int(building.blocks.kept[blocks].sum()),
    )
    for _, firings in read_firings(sae, subject, site, part, lambda _: None):
        these = firings.at(is_chosen[firings.latents])
        these = these._replace(blocks=blocks[these.blocks])
        for latent, block, column, activation in zip(*(each.tolist() for each in these), strict=True):
            if (latent, block) in wanted:
                found[latent, block][column] = activation
    return found


def _example(text: list[int], column: int, activity: dict[int, float], largest: float) -> Example:
    shown = range(max(0, column - TOKENS_BEFORE), min(len(text), column + TOKENS_BEHIND + 1))
    levels = [min(LEVELS, math.ceil(LEVELS * activity.get(place, 0.0) / largest)) for place in shown]
    return Example(tuple(text[place] for place in shown), tuple(levels))


def draw_contexts(
    firings: Iterator[tuple[int, Firings]],
    scoring: Sample,
    subject: SubjectModel,
    latents: Int64[Tensor, " explained"],
    count: int,
    seed: int,
) -> dict[int, tuple[ScoredContext, ...]]:
    """Blocks of the scoring half for each latent: half of those in which it fires, half of the others.

    Of a stratum that has fewer, all. Which are drawn depends on seed and latent alone. Holds 9 bytes for each latent
    and block of the scoring half, and the firings in the blocks drawn.

    Args:
        firings: of all latents at the counted tokens, as ``read_firings`` gives them.
        latents: in ascending order.
    """
    n_blocks = len(scoring.blocks.tokens)
    rank = torch.stack(
        [
            torch.randperm(n_blocks, generator=derive_generator(seed, "words", "contexts", latent))
            for latent in latents.tolist()
        ]
    )
    fires = torch.zeros(rank.shape, dtype=torch.bool)
    drawn, kept = fires, list[Firings]()
    for _, batch in firings:
        found = batch.at(torch.isin(batch.latents, latents))
        fires[torch.searchsorted(latents, found.latents), found.blocks] = True
        drawn = _lowest(rank, fires, -(-count // 2))
        both = joined([*kept, found])
        kept = [both.at(drawn[torch.searchsorted(latents, both.latents), both.blocks])]
    active: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for latent, block, column in zip(*(each.tolist() for each in joined(kept)[:3]), strict=True):
        active[latent, block].append(column)
    silent = _lowest(rank, ~fires, count // 2)
    return {
        latent: tuple(
            _scored(scoring, subject, block, active[latent, block], int(among[slot].sum()) / int(of[slot].sum()))
            for among, of in ((fires, drawn), (~fires, silent))
            for block in of[slot].nonzero()[:, 0].tolist()
        )
        for slot, latent in enumerate(latents.tolist())
    }


def _lowest(
    rank: Int64[Tensor, "latents blocks"], among: Bool[Tensor, "latents blocks"], count: int
) -> Bool[Tensor, "latents blocks"]:
    """Of each latent's blocks among those, so many with the lowest rank."""
    n_blocks = rank.shape[1]
    lowest = rank.masked_fill(~among, n_blocks).topk(min(count, n_blocks), dim=1, largest=False).indices
    return torch.zeros_like(among).scatter_(1, lowest, True) & among


def _scored(scoring: Sample, subject: SubjectModel, block: int, active: list[int], weight: float) -> ScoredContext:
    tokens, counted = text_of(scoring, subject)[block], text_places(scoring, subject)[0][block]
    first = int(scoring.blocks.positions[block, -len(tokens)])
    fires = bool(active)
    return ScoredContext(tuple(tokens.tolist()), tuple(counted.tolist()), first, fires, weight, tuple(sorted(active)))
