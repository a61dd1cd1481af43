"""What a subject model says with some latents at other values, beside what it says without."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.examples import load_examples
from monosem.runs.directory import EXAMPLES, read_run
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.interventions import Intervention
from monosem.sae.storage import load_autoencoder
from monosem.subject.generation import Sampling, continuations, next_token_probabilities
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel


class SteerableRun(NamedTuple):
    """A run's autoencoder with the subject that it belongs to."""

    subject: SubjectModel
    sae: Autoencoder
    largest: Float[Tensor, " n_latents"] | None
    """Each latent's largest activation in the evaluated text; None where the run was not evaluated."""


def open_steerable(run: Path) -> SteerableRun:
    """Load what steering by a run's latents needs.

    Raises:
        UserError: the run or its subject is not there, or is damaged.
    """
    config, sae = read_run(run), load_autoencoder(run)
    examples = load_examples(run / EXAMPLES, n_latents=sae.n_latents) if (run / EXAMPLES).exists() else None
    subject = load_subject(config.subject)
    return SteerableRun(subject, sae.to(subject.device), None if examples is None else examples.values[:, 0])


class NextToken(NamedTuple):
    """A token and its probability after the text, without and with interventions."""

    token: int
    before: float
    after: float


class Steered(NamedTuple):
    """A text's next token and continuations, without and with interventions."""

    next: list[NextToken]
    """The likeliest of both, by the larger of the two probabilities."""
    before: list[list[int]]
    """Continuations, tokens by number."""
    after: list[list[int]]
    """Of the same random numbers."""


def steered(
    subject: SubjectModel,
    sae: Autoencoder,
    ids: Sequence[int],
    latents: Mapping[int, Intervention],
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    *,
    keep_error: bool = True,
    shown: int = 10,
) -> Steered:
    """Continue a text with and without interventions at each of its tokens and each that is added.

    Args:
        ids: tokens of the text alone; the BOS is put before them, where the subject has one, and is never changed.
        shown: of the likeliest next tokens, how many without and how many with interventions.

    Raises:
        UserError: a latent or strength is none, the text is empty or too long, or the autoencoder a crosscoder.
    """
    if not ids:
        raise UserError("The text to continue is empty; give at least one word.")
    assert sae.provenance is not None
    (hookpoint, *others), target = sae.provenance.site
    if others:
        raise UserError(
            f"A crosscoder's latents are known only when {others[-1]} is, and it would change {hookpoint} before that; "
            "steer with an autoencoder of one hookpoint."
        )
    bos = [] if subject.bos_id is None else [subject.bos_id]
    tokens = torch.tensor([*bos, *ids])
    text = slice(len(bos), None)
    steer = subject.steer(hookpoint, sae, latents, target=target, keep_error=keep_error, positions=text)
    probabilities: list[torch.Tensor] = []
    texts: list[list[list[int]]] = []
    for context in (nullcontext(), steer):
        with context:
            probabilities.append(next_token_probabilities(subject, tokens))
            texts.append(continuations(subject, tokens, sampling))
    before, after = probabilities
    chosen = torch.cat([each.topk(min(shown, len(each))).indices for each in probabilities]).unique()
    ranked = sorted(chosen.tolist(), key=lambda token: -max(before[token].item(), after[token].item()))
    return Steered([NextToken(token, before[token].item(), after[token].item()) for token in ranked], *texts)
