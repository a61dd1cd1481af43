"""What single ablations do to the logits, and how sparse that is; ``ablation`` says what is ablated and why."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from monosem.evaluation.downstream import blocks_in_memory
from monosem.evaluation.progress import Report
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

LATENTS, CHANNELS, DIRECTIONS = range(3)


class Members(NamedTuple):
    """What there is to ablate, of each kind."""

    latents: Int64[Tensor, " latents"]
    channels: Int64[Tensor, " channels"]
    """Of the activations that the autoencoder gives; of a crosscoder of all its hookpoints side by side."""
    directions: Float[Tensor, "directions d_target"]
    """Unit vectors."""


class Ablations(NamedTuple):
    """A row is one ablation: what, and at which token."""

    kind: Int64[Tensor, " rows"]
    """LATENTS, CHANNELS or DIRECTIONS."""
    member: Int64[Tensor, " rows"]
    """Into the kind's members."""
    block: Int64[Tensor, " rows"]
    position: Int64[Tensor, " rows"]
    """In the block."""


class Effects(NamedTuple):
    """How sparse each ablation's effect is; NaN where there is none."""

    sparsity: Float64[Tensor, " rows"]
    """Over all positions that are followed."""
    own_sparsity: Float64[Tensor, " rows"]
    """Over the ablated position's logits alone."""


@contextmanager
def widened(subject: SubjectModel) -> Generator[None]:
    """Within the block a subject in half precision computes in float32, with the same weights.

    An ablation changes most logits by less than bfloat16 resolves, and rounding is not sparse: on the bundled subject
    it makes 0.08 look like 0.23, where float32 and float64 differ by a hundred-thousandth.
    """
    halves = (torch.bfloat16, torch.float16)
    tensors = [each for each in (*subject.model.parameters(), *subject.model.buffers()) if each.dtype in halves]
    originals = [each.data for each in tensors]
    try:
        for each in tensors:
            each.data = each.data.float()
        yield
    finally:
        for each, original in zip(tensors, originals, strict=True):
            each.data = original


def sparsity(change: Float[Tensor, "rows horizon vocabulary"]) -> Float64[Tensor, " rows"]:
    """(‖v‖₁ / ‖v‖₂)² / (V · T) of v, the change less each position's median; NaN where v is zero.

    Of an even number of logits the median is the mean of the two middle ones.
    """
    change = change.contiguous()  # of an expanded tensor torch's median is wrong (2.13)
    lower = change.median(dim=2, keepdim=True).values  # torch's is the lower of the two
    upper = -(-change).median(dim=2, keepdim=True).values
    v = change - (lower + upper) / 2
    # Over the vocabulary in the logits' precision, over positions in float64.
    l1, squared_l2 = (each.sum(dim=2).to("cpu", torch.float64).sum(dim=1) for each in (v.abs(), v.square()))
    return l1.square() / squared_l2 / v[0].numel()


def ablate_all(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    tokens: Int64[Tensor, "blocks length"],
    ablations: Ablations,
    members: Members,
    horizon: int,
    report: Report | None = None,
) -> Effects:
    """The sparsity of every ablation's effect on the logits at its position and the ``horizon`` − 1 after it.

    The subject should compute in float32: see ``widened``.

    The unmodified logits of a block are computed once. As many blocks, and ablations, are run at once as
    ``blocks_in_memory`` allows. ``report`` gets the ablations done.
    """
    found = Effects(*torch.full((2, len(ablations.block)), torch.nan, dtype=torch.float64))
    at_once, done = blocks_in_memory(subject, tokens), 0
    for group in ablations.block.unique().split(at_once):
        captured = subject.capture(tokens[group], site.hookpoints)
        unmodified = subject.logits(tokens[group])
        rows = torch.isin(ablations.block, group).nonzero().squeeze(1)
        rows = rows[ablations.position[rows].sort(stable=True).indices]  # so that passes can end early
        for some in rows.split(at_once):
            part = Ablations(*(each[some] for each in ablations))
            here = torch.searchsorted(group, part.block)
            at_token = {name: each[here, part.position] for name, each in captured.items()}
            removed = _removed(sae, site, at_token, part, members)
            end = int(part.position[-1]) + horizon
            changed = _logits(subject, tokens[group[here], :end], part.position, _less(site, at_token, removed))
            steps = part.position[:, None] + torch.arange(horizon)
            change = _at(changed, torch.arange(len(some)), steps) - _at(unmodified, here, steps)
            # Where nothing was taken away, rounding in another batch would be all the effect.
            has_effect = (removed != 0).any(dim=1).cpu()
            for each, of_positions in zip(found, (change, change[:, :1]), strict=True):
                each[some] = sparsity(of_positions).where(has_effect, torch.nan)
            done += len(some)
            if report is not None:
                report(done, len(ablations.block))
    return found


def _at(
    logits: Float[Tensor, "blocks length vocabulary"],
    blocks: Int64[Tensor, " rows"],
    steps: Int64[Tensor, "rows horizon"],
) -> Float[Tensor, "rows horizon vocabulary"]:
    return logits[blocks[:, None], steps]


def _logits(
    subject: SubjectModel,
    tokens: Int64[Tensor, "rows end"],
    position: Int64[Tensor, " rows"],
    put: dict[str, Float[Tensor, "rows _"]],
) -> Float[Tensor, "rows end vocabulary"]:
    """The subject's logits with other activations at one position of each row, at all of these hookpoints."""
    rows = torch.arange(len(tokens))

    def replaced(value: Tensor, new: Tensor) -> Tensor:
        value[rows, position] = new.to(value)
        return value

    with ExitStack() as stack:
        for hookpoint, new in put.items():
            stack.enter_context(subject.replace(hookpoint, lambda value, new=new: replaced(value, new)))
        return subject.logits(tokens)


def _removed(
    sae: Autoencoder,
    site: Site,
    at_token: dict[str, Float[Tensor, "rows _"]],
    part: Ablations,
    members: Members,
) -> Float[Tensor, "rows d_target"]:
    """What each ablation takes from the raw activations that the autoencoder gives, hookpoints side by side."""
    wanted = [at_token[name] for name in site.outputs]
    centered = torch.cat([each - each.mean(dim=1, keepdim=True) for each in wanted], dim=1)
    removed = torch.zeros_like(centered)
    is_latent, is_channel, is_direction = (part.kind == kind for kind in (LATENTS, CHANNELS, DIRECTIONS))
    latents = members.latents[part.member[is_latent]]
    removed[is_latent] = contributions(sae, site.read(at_token)[is_latent], latents).to(removed)
    channels = members.channels[part.member[is_channel]].to(removed.device)[:, None]
    removed[is_channel] = removed[is_channel].scatter(1, channels, centered[is_channel].gather(1, channels))
    directions = members.directions[part.member[is_direction]].to(removed)
    removed[is_direction] = (centered[is_direction] * directions).sum(dim=1, keepdim=True) * directions
    return removed


def _less(
    site: Site, at_token: dict[str, Float[Tensor, "rows _"]], removed: Float[Tensor, "rows d_target"]
) -> dict[str, Float[Tensor, "rows _"]]:
    """What is left at each hookpoint."""
    parts = removed.split([at_token[name].shape[1] for name in site.outputs], dim=1)
    return {name: at_token[name] - its for name, its in zip(site.outputs, parts, strict=True)}


def contributions(
    sae: Autoencoder, inputs: Float[Tensor, "rows d_model"], latents: Int64[Tensor, " rows"]
) -> Float[Tensor, "rows d_target"]:
    """What one latent of each token adds to its raw reconstruction: z W_dec[latent], with preprocessing undone.

    For ``unit_norm`` that is norm · z · W_dec[latent]. The mean that is restored too is no part of it.
    """
    if len(inputs) == 0:
        return inputs.new_zeros(0, sae.d_target)
    codes = sae.encode(inputs)
    latents = latents.to(codes.indices.device)
    values, indices = codes.padded()
    z = values.where(indices == latents[:, None], 0).sum(dim=1, keepdim=True)
    return sae.undo_preprocess(z * sae.W_dec[latents], torch.zeros_like(codes.mean), codes.norm)
