"""What the probes read: the preprocessed activations of the tokens that tasks ask about, averaged where they ask about
a whole context.

A latent's pre-activation is affine in the preprocessed activation x, in every architecture. So its average over a
context's tokens is the pre-activation of the averaged x, and one vector an example is enough.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.sample import BATCH_TOKENS
from monosem.evaluation.tasks.task import Contexts, TaskPool
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel


class ProbeInputs(NamedTuple):
    """Preprocessed activations of all that tasks ask about, each once."""

    x: Float[Tensor, "rows d_model"]
    """In float32, on the CPU."""
    rows: tuple[Int64[Tensor, " _"], ...]
    """Of each task, which row of x each example has."""


def count_contexts(pool: TaskPool) -> int:
    """Contexts that any task asks about: those that the subject has to read."""
    return len(torch.cat([task.contexts for task in pool.tasks]).unique())


@torch.no_grad()
def read_inputs(
    sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool, advance: Callable[[int], None]
) -> ProbeInputs:
    """Run the subject on the contexts that are asked about, a batch at a time, as far as the hookpoints.

    Args:
        advance: called with the contexts just read.

    Raises:
        UserError: a context that is asked about as a whole keeps no token; activations are not finite, or not those
            that the autoencoder reads.
    """
    width = pool.contexts.tokens.shape[1] + 1  # one place more, for the context as a whole
    asked, row_of = torch.cat([task.contexts * width + task.positions + 1 for task in pool.tasks]).unique(
        return_inverse=True
    )
    contexts, positions = asked // width, asked % width - 1
    x = torch.empty(len(asked), sae.d_model)
    for batch in contexts.unique().split(max(1, BATCH_TOKENS // (width - 1))):
        here = slice(*torch.searchsorted(contexts, torch.stack([batch[0], batch[-1] + 1])).tolist())
        part = pool.contexts.at(batch)
        inputs = _preprocessed(sae, subject, site, part)
        x[here] = _rows(inputs, part.kept, torch.searchsorted(batch, contexts[here]), positions[here])
        advance(len(batch))
    if not bool(x.isfinite().all()):
        raise UserError(
            f"The probes' activations at {site} are not finite: the activations of {subject.name} overflow "
            f"{str(subject.dtype).removeprefix('torch.')}; try --dtype float32."
        )
    return ProbeInputs(x, row_of.split([len(task.contexts) for task in pool.tasks]))


def _preprocessed(
    sae: Autoencoder, subject: SubjectModel, site: Site, contexts: Contexts
) -> Float[Tensor, "contexts length d_model"]:
    raw = site.read(subject.capture(contexts.tokens, site.inputs))
    if raw.shape[-1] != sae.d_model:
        raise UserError(
            f"The activations at {site} are {raw.shape[-1]} wide and this autoencoder's d_model is {sae.d_model}; "
            "probe it at the hookpoint it was trained on."
        )
    return sae.preprocess(raw.flatten(0, 1)).x.cpu().view(raw.shape)


def _rows(
    inputs: Float[Tensor, "contexts length d_model"],
    kept: Bool[Tensor, "contexts length"],
    contexts: Int64[Tensor, " rows"],
    positions: Int64[Tensor, " rows"],
) -> Float[Tensor, "rows d_model"]:
    """The activation at each position, or, where that is −1, the mean of the context's kept ones, summed in float64."""
    rows = inputs[contexts, positions]
    is_whole = positions < 0
    whole = contexts[is_whole]
    counts = kept[whole].sum(dim=1)
    if not bool(counts.all()):
        raise UserError("A task asks about a context that keeps no token; leave such contexts out of the tasks.")
    sums = inputs[whole].double().masked_fill(~kept[whole, :, None], 0.0).sum(dim=1)
    rows[is_whole] = (sums / counts[:, None]).to(rows)
    return rows
