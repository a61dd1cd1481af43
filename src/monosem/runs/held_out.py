"""The loss on held-out text while training goes on: what repeated epochs cannot lower for nothing."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.evaluation.reconstruction import add_reconstruction, new_reconstruction_sums, reconstruction_statistics
from monosem.evaluation.sample import read_rows, take_sample
from monosem.runlog import LogConfig
from monosem.runs.directory import PlannedRun
from monosem.runs.inputs import Inputs, open_held_out
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectConfig

# The first point lies at this share of the run: before it the averaged weights are hardly trained.
FIRST_SHARE = 1 / 64
# Tokens reconstructed at a time.
BATCH = 4096


class HeldOutRows(NamedTuple):
    """Raw activations of held-out tokens, what an autoencoder reads and what it is to give."""

    inputs: Float[Tensor, "rows d_model"]
    targets: Float[Tensor, "rows d_target"]


def curve_is_due(config: LogConfig, budget: int, before: int, tokens: int) -> bool:
    """Whether a point of the held-out curve lies after ``before`` tokens, at or before ``tokens``.

    The points lie at token counts in equal ratios, the last at the end of the run's ``budget``.
    """
    last = config.held_out_points - 1
    points = (budget * FIRST_SHARE ** (1 - point / max(last, 1)) for point in range(last + 1))
    return any(before < point <= tokens for point in points)


def held_out_reader(inputs: Inputs) -> Callable[[PlannedRun], HeldOutRows | None]:
    """What each run measures its held-out curve on, read once for runs alike; None of a run without such a curve."""

    @functools.cache
    def read(site: Site, subject: SubjectConfig, tokens: int) -> HeldOutRows:
        blocks = open_held_out(subject, inputs.subject, inputs.text.held_out, tokens)
        sample = take_sample(blocks, torch.zeros_like(blocks.tokens), blocks.kept, tokens)
        pieces = [(rows.inputs, rows.targets) for rows in read_rows(inputs.subject, site, sample)]
        return HeldOutRows(*(torch.cat(part) for part in zip(*pieces, strict=True)))

    def of_run(run: PlannedRun) -> HeldOutRows | None:
        log = run.config.log
        return read(run.site, run.config.subject, log.held_out_tokens) if log.held_out_points else None

    return of_run


@torch.no_grad()
def held_out_normalized_mse(sae: Autoencoder, rows: HeldOutRows) -> float:
    """Normalised MSE, with sums in float64, as in an evaluation; of several hookpoints of all together."""
    widths = [sae.d_target]
    sums = new_reconstruction_sums(1, widths)
    for raw, target in zip(rows.inputs.split(BATCH), rows.targets.split(BATCH), strict=True):
        _, y = sae.training_pair(raw, target)
        codes, document = sae.encode(raw), torch.zeros(len(raw), dtype=torch.int64)
        add_reconstruction(sums, y, sae.reconstruct_codes(codes), document, document, widths)
    return float(reconstruction_statistics(sums)["normalized_mse"])
