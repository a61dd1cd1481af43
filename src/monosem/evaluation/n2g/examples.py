"""Where latents fire in a sample, and examples of it to build explanations from, in bounded memory.

An added BOS is no text: what fires there is neither an example nor counted.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.examples import strongest
from monosem.evaluation.n2g.trie import KINDS
from monosem.evaluation.sample import Sample, read_rows, take_sample
from monosem.randomness import derive_generator, derive_seed
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

# Candidates held before all but the chosen ones are dropped: 40 MB.
_CANDIDATES = 1 << 20


class Firings(NamedTuple):
    """Tokens of a sample at which latents are active, an entry for each token and latent."""

    latents: Int64[Tensor, " firings"]
    blocks: Int64[Tensor, " firings"]
    """Which of the sample's blocks."""
    columns: Int64[Tensor, " firings"]
    """Which token of the block's text, counted from 0 behind an added BOS."""
    activations: Float[Tensor, " firings"]

    def at(self, index: Int64[Tensor, " some"] | Bool[Tensor, " firings"]) -> "Firings":
        return Firings(*(each[index] for each in self))


def joined(parts: list[Firings]) -> Firings:
    """All of them, in order."""
    return Firings(*map(torch.cat, zip(*parts, strict=True)))


def text_of(sample: Sample, subject: SubjectModel) -> Int64[Tensor, "blocks text_length"]:
    """The sample's blocks without the BOS that is put in front of each."""
    return sample.blocks.tokens[:, _text_start(subject) :]


def text_places(
    sample: Sample, subject: SubjectModel
) -> tuple[Bool[Tensor, "blocks text_length"], Int64[Tensor, "blocks text_length"]]:
    """Which tokens of that text are counted, and the document of each that is."""
    start = _text_start(subject)
    return sample.blocks.kept[:, start:], sample.documents[:, start:]


def _text_start(subject: SubjectModel) -> int:
    return 0 if subject.bos_id is None else 1


def read_firings(
    sae: Autoencoder, subject: SubjectModel, site: Site, sample: Sample, advance: Callable[[int], None]
) -> Iterator[tuple[int, Firings]]:
    """Every strictly positive latent at the sample's kept tokens, and how many blocks have been read with them."""
    done = 0
    for rows in read_rows(subject, site, sample):
        codes = sae.encode(rows.inputs)
        block, column = rows.blocks.kept.nonzero(as_tuple=True)
        latents, values, tokens = (each.cpu() for each in (codes.indices, codes.values, codes.rows()))
        column = column - _text_start(subject)
        active = (values > 0) & (column >= 0)[tokens]
        tokens = tokens[active]
        firings = Firings(latents[active], done + block[tokens], column[tokens], values[active].double())
        done += len(rows.blocks.tokens)
        yield done, firings
        advance(len(block))


def split_sample(sample: Sample, subject: SubjectModel, seed: int) -> tuple[Sample, Sample]:
    """The tokens to build explanations from and those to score them on: halves of the documents, drawn at random.

    A block may hold documents of both halves. Its tokens are then context on either side, and count on one.

    Raises:
        UserError: there are fewer than two documents.
    """
    if sample.n_documents < 2:
        raise UserError(
            f"The sample has {sample.n_documents} document, and explanations are built on one half of the documents "
            "and scored on the other; give more text."
        )
    shuffled = torch.randperm(sample.n_documents, generator=derive_generator(seed, "n2g", "halves"))
    is_for_building = shuffled < -(-sample.n_documents // 2)
    kept = sample.blocks.kept.clone()
    kept[:, : _text_start(subject)] = False
    side = is_for_building[sample.documents.clamp(0, sample.n_documents - 1)]
    return _part(sample, kept & side), _part(sample, kept & ~side)


def _part(sample: Sample, kept: Bool[Tensor, "blocks length"]) -> Sample:
    """The blocks in which any position is kept, and these positions alone counted."""
    chosen = kept.any(dim=1)
    blocks = Blocks(sample.blocks.tokens[chosen], kept[chosen], sample.blocks.positions[chosen])
    return take_sample(blocks, sample.documents[chosen], blocks.kept, int(kept.sum()))


def collect_examples(
    firings: Iterator[tuple[int, Firings]], latents: Int64[Tensor, " explained"], n_latents: int, count: int, seed: int
) -> dict[str, Firings]:
    """Of some latents so many of their firings, by kind: ``random`` ones and the strongest, ``top``.

    Latent by latent, and of equally strong ones the earlier first. Which ones are drawn at random depends on the seed,
    the latent and the place alone, not on what other latents are asked for, so that a part can be done again.
    """
    is_explained = torch.zeros(n_latents, dtype=torch.bool).index_fill_(0, latents, True)
    kept: dict[str, list[Firings]] = {kind: [] for kind in KINDS}
    held = 0
    for _, batch in firings:
        found = batch.at(is_explained[batch.latents])
        held += len(found.latents)
        for kind in KINDS:
            kept[kind].append(found)
        if held > _CANDIDATES:
            kept = {kind: [_best(kind, joined(parts), count, seed)] for kind, parts in kept.items()}
            held = 0
    return {kind: _best(kind, joined(parts), count, seed) for kind, parts in kept.items()}


def _best(kind: str, firings: Firings, count: int, seed: int) -> Firings:
    rank = firings.activations if kind == "top" else _random_ranks(firings, seed)
    return firings.at(strongest(firings.latents, rank, count)[0])


def _random_ranks(firings: Firings, seed: int) -> Float[Tensor, " firings"]:
    """Uniform numbers from 0 to 1, a hash of seed, latent and place (SplitMix64: Steele et al. 2014)."""
    state = np.full(len(firings.latents), derive_seed(seed, "n2g", "examples"), dtype=np.uint64)
    for part in (firings.latents, firings.blocks, firings.columns):
        state = (state ^ part.numpy().astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) / 2.0**53)
