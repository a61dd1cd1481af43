"""How an index is made.

First the codes of the text go to disk, token by token (codes). Then ranges of latents are described, one after the
other, from these (latents, neighbours, logit_effects), and each is written in a transaction while the next one is
described. Then come the texts. An interruption at any place leaves what is done, and the next attempt goes on from it.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from monosem.errors import UserError
from monosem.runlog import ProgressLine
from monosem.subject.blocks import Blocks, EvenBlocks
from monosem.viewer.card import Material, card, write_text
from monosem.viewer.codes import StoredCodes, count_fired, is_sound, read_codes, write_codes
from monosem.viewer.latents import Range, choose, measure, order, plan_ranges, read_firings
from monosem.viewer.logit_effects import SAMPLE_TOKENS, find_direct_path, find_effects, why_no_effects
from monosem.viewer.neighbours import decoder_searcher, encoder_cosines, nearest_by_firing
from monosem.viewer.rows import Described, write_latents
from monosem.viewer.schema import create_indices
from monosem.viewer.unfinished import Unfinished

if TYPE_CHECKING:
    from rich.console import Console

# What describing a latent counts in the report of progress, beside its activations.
LATENT_RECORDS = 600


def say(console: "Console", sentence: str) -> None:
    """Print a sentence as it is."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def build(work: Unfinished, material: Material, console: "Console") -> None:
    """All but the evaluations."""
    if work.get("run") is not None:
        return
    sae, subject, blocks = material.sae, material.subject, material.blocks
    with ProgressLine("Indexing: codes", 0, console, transient=True) as line:
        write_codes(work.directory, sae, subject, blocks, lambda done, total: line.update(done, total=total))
    codes = read_codes(work.directory)
    if not is_sound(codes, sae.n_latents, material.vocabulary, len(blocks) * blocks.context_length):
        shutil.rmtree(work.directory)
        raise UserError(f"{work.directory} was damaged, and is removed; start again with the same command.")
    fired = count_fired(codes, sae.n_latents)
    _write_latents(work, material, codes, fired, console)
    with work.transaction() as connection:
        documents = write_text(connection, subject.tokenizer, material.vocabulary, blocks)
        for key, value in card(material, fired, documents).items():
            work.put(key, value)
        create_indices(connection)


def _write_latents(
    work: Unfinished, material: Material, codes: StoredCodes, fired: Int64[np.ndarray, " n_latents"], console: "Console"
) -> None:
    """Describe the latents that are not described yet, a range in a transaction."""
    n_latents, rows = material.sae.n_latents, len(codes.places)
    done = np.concatenate([np.zeros(1, np.int64), np.cumsum(fired + LATENT_RECORDS)])
    start = work.get("described") or 0
    with ProgressLine(
        "Indexing: latents", int(done[-1]), console, done=int(done[start]), unit="", transient=True
    ) as line:
        if start == n_latents:
            return
        line.update(int(done[start]))
        describe = _describer(material, codes, fired, partial(say, console))
        for described in _one_ahead(describe, plan_ranges(fired, start)):
            with work.transaction() as connection:
                write_latents(connection, described, rows)
                work.put("described", described.where.last)
            line.update(int(done[described.where.last]))


def _one_ahead(describe: Callable[[Range], Described], ranges: Iterable[Range]) -> Iterator[Described]:
    """Describe each range while the one before it is written."""
    from monosem.ops.compiled import use_as_many_threads_as_torch

    with ThreadPoolExecutor(1, initializer=use_as_many_threads_as_torch) as pool:
        ahead = None
        for where in ranges:
            last, ahead = ahead, pool.submit(describe, where)
            if last is not None:
                yield last.result()
        if ahead is not None:
            yield ahead.result()


def _describer(
    material: Material, codes: StoredCodes, fired: Int64[np.ndarray, " n_latents"], say: Callable[[str], None]
) -> Callable[[Range], Described]:
    """A function that measures all that the index says of a range of latents."""
    config, settings, sae, subject, blocks, vocabulary = material
    find_nearest = decoder_searcher(sae, settings.neighbours)
    cosines = encoder_cosines(sae)
    encoder = np.full(sae.n_latents, np.nan) if cosines is None else cosines.numpy()
    path = None
    if (why := why_no_effects(sae, subject)) is None:
        path = find_direct_path(sae, subject, _sampled(blocks))
    else:
        say(f"There are no logit effects: {why}")

    def describe(where: Range) -> Described:
        firings = read_firings(codes, fired, where)
        keys = order(firings)
        return Described(
            where=where,
            fired=firings.counts,
            statistics=measure(firings, keys, codes, vocabulary, settings.tokens_per_latent),
            examples=choose(
                firings,
                keys,
                codes,
                settings,
                length=blocks.context_length,
                n_blocks=len(blocks),
                seed=config.training.seed,
            ),
            encoder_cosines=encoder[where.first : where.last],
            decoder=find_nearest(where),
            firing=nearest_by_firing(firings, codes, fired, settings.neighbours),
            effects=None
            if path is None
            else find_effects(sae.W_dec[where.first : where.last].detach(), path, settings.logit_effects),
        )

    return describe


def _sampled(blocks: EvenBlocks) -> Blocks:
    """A few blocks, evenly spread, of about SAMPLE_TOKENS."""
    count = min(len(blocks), -(-SAMPLE_TOKENS // blocks.context_length))
    return blocks.take((2 * np.arange(count) + 1) * len(blocks) // (2 * count))
