"""Ablation sparsity: on how few logits a latent acts (Gao et al. 2024, §4).

At a token where latent i is active its contribution is taken out of what the subject holds there, with preprocessing
undone: norm · z_i · W_dec[i] for ``unit_norm``. The change of the logits at this and the next T − 1 positions, less
each position's median change, is a vector v of V · T numbers; its sparsity is (‖v‖₁ / ‖v‖₂)² / (V · T): 1 / (V · T)
where one logit moves, 2 / π for Gaussian noise, 1 where all move by as much, half of them up and half down. It is small
too where the effect stays at the ablated position, however many of its logits move; so that position's own sparsity,
with T = 1, stands beside it.

Two baselines are ablated at the same tokens: a channel j of the activations, x_raw_j − mean, and a random direction u,
((x_raw − mean) · u) u, where the mean is the token's own over the hookpoint's channels. What is put in place is made of
an unmodified pass, at all of a crosscoder's hookpoints at once, as for the downstream loss.

The subject computes in float32 or wider: see ``ablation_effects.widened``.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from monosem.config import require_positive
from monosem.errors import UserError
from monosem.evaluation.ablation_effects import (
    CHANNELS,
    DIRECTIONS,
    LATENTS,
    Ablations,
    Effects,
    Members,
    ablate_all,
    widened,
)
from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap
from monosem.evaluation.distribution import quantiles
from monosem.evaluation.examples import TopContexts, add_contexts, new_top_contexts
from monosem.evaluation.progress import Report
from monosem.evaluation.sample import Sample, read_rows, take_sample
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.initialise import random_directions
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

KINDS = {LATENTS: "latents", CHANNELS: "channels", DIRECTIONS: "directions"}


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """What is ablated, where, and how far its effect is followed."""

    latents: int = 200
    """How many latents are drawn, of those active where their effect can be followed."""
    only: tuple[int, ...] = ()
    """These latents instead of random ones."""
    positions: int = 4
    """Ablations a latent, each in another block; and a channel or direction, at tokens at which latents are ablated."""
    horizon: int = 16
    """T: positions whose logits are compared, the ablated one among them."""
    channels: int = 100
    """How many random channels are ablated, to compare with."""
    directions: int = 100
    """How many random directions."""
    tokens: int = 50_000
    """Tokens among which the active positions are looked for."""
    bootstrap_samples: int = 1000
    """Samples of latents, of channels and of directions behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, "latents", "positions", "horizon", "tokens", "bootstrap_samples")
        for name in ("channels", "directions"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} is below 0; give 0 for none.")
        if len(set(self.only)) < len(self.only) or min(self.only, default=0) < 0:
            raise UserError(f"only={list(self.only)} are not different latents, counted from 0; name each once.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Ablations of one kind: of latents, of channels or of directions."""

    members: tuple[int, ...]
    """Latents or channels; of directions their numbers."""
    sparsity: Float64[Tensor, " members"]
    """Mean over each one's ablations; NaN where none had any effect."""
    own_sparsity: Float64[Tensor, " members"]
    """The same of the ablated positions' logits alone."""
    ablations: int
    without_effect: int
    """Ablations that moved no logit, or all of a position alike, which have no sparsity."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "sparsity": [None if value != value else value for value in self.sparsity.tolist()],
            "quantiles": quantiles(self.sparsity[~self.sparsity.isnan()]),
            "ablations": self.ablations,
            "without_effect": self.without_effect,
        }


def _mean(values: Float64[Tensor, " members"], samples: int, generator: torch.Generator) -> Estimate:
    """The mean over members that have a value, and its interval: they are drawn again."""
    values = values[~values.isnan()]
    if len(values) == 0:
        return Estimate(None, None, None)

    def mean(sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
        return {"mean": sums["values"] / sums["members"]}

    sums = {"values": values, "members": torch.ones_like(values)}
    return bootstrap(sums, mean, samples=samples, generator=generator)["mean"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AblationResult:
    """The three kinds' sparsities."""

    config: AblationConfig
    seed: int
    tokens: int
    """Searched for active positions."""
    candidates: int
    """Latents active somewhere where their effect can be followed: those drawn from."""
    groups: dict[str, Group]
    """``latents``, ``channels``, ``directions``."""

    def to_dict(self) -> dict[str, Any]:
        """Means with intervals, quantiles, and the value of each."""
        metrics: dict[str, Estimate] = {}
        for name, group in self.groups.items():
            for metric, values in (("sparsity", group.sparsity), ("own_sparsity", group.own_sparsity)):
                generator = derive_generator(self.seed, "evaluation", "ablation", name, "interval")
                metrics[f"ablation_{metric}_{name}"] = _mean(values, self.config.bootstrap_samples, generator)
        return {
            "settings": asdict(self.config),
            "tokens": self.tokens,
            "candidates": self.candidates,
            "metrics": {name: estimate._asdict() for name, estimate in metrics.items()},
            **{name: group.to_dict() for name, group in self.groups.items()},
        }


@torch.no_grad()
def measure_ablation(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: AblationConfig,
    *,
    seed: int,
    report: Report | None = None,
) -> AblationResult:
    """Ablate latents, channels and directions of the sample's activations, and measure how sparse the effects are.

    Of more tokens than ``config.tokens`` some are searched, evenly spread. ``report`` gets the ablations done.

    Raises:
        UserError: a latent of ``config.only`` does not exist, or nothing can be ablated.
    """
    if max(config.only, default=0) >= sae.n_latents:
        raise UserError(f"only={list(config.only)} names a latent of n_latents={sae.n_latents}; name lower ones.")
    sample = take_sample(sample.blocks, sample.documents, sample.blocks.kept, config.tokens)
    with widened(subject):
        return _measure(sae, subject, site, sample, config, seed, report)


def _measure(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: AblationConfig,
    seed: int,
    report: Report | None,
) -> AblationResult:
    contexts = _active_contexts(sae, subject, site, sample, config, derive_generator(seed, "evaluation", "ablation"))
    candidates = (contexts.positions[:, 0] >= 0).nonzero().squeeze(1)
    latents = _draw(candidates, config, seed)
    if len(latents) == 0:
        raise UserError(
            f"No latent that could be ablated is active at a token with horizon={config.horizon} kept positions from "
            "there on in its block; lower horizon, raise tokens, or name other latents."
        )
    generator = derive_generator(seed, "evaluation", "ablation", "baselines")
    members = Members(
        latents,
        torch.randint(sae.d_target, (config.channels,), generator=generator),
        random_directions(config.directions, sae.d_target, generator),
    )
    length = sample.blocks.tokens.shape[1]
    ablations = plan(contexts.positions[latents], length, members, config.positions, generator)
    found = ablate_all(sae, subject, site, sample.blocks.tokens, ablations, members, config.horizon, report)
    names = (latents.tolist(), members.channels.tolist(), list(range(config.directions)))
    groups: dict[str, Group] = {}
    for kind, name in KINDS.items():
        chosen = ablations.kind == kind
        groups[name] = _group(tuple(names[kind]), ablations.member[chosen], Effects(*(each[chosen] for each in found)))
    return AblationResult(config=config, seed=seed, tokens=sample.tokens, candidates=len(candidates), groups=groups)


def _group(members: tuple[int, ...], member: Int64[Tensor, " rows"], effects: Effects) -> Group:
    return Group(
        members=members,
        sparsity=_mean_by_member(len(members), member, effects.sparsity),
        own_sparsity=_mean_by_member(len(members), member, effects.own_sparsity),
        ablations=len(member),
        without_effect=int(effects.sparsity.isnan().sum()),
    )


def _mean_by_member(
    n_members: int, member: Int64[Tensor, " rows"], found: Float64[Tensor, " rows"]
) -> Float64[Tensor, " members"]:
    """Each member's mean over those of its ablations that have a sparsity."""
    has_effect = ~found.isnan()
    sums, counts = (
        torch.zeros(n_members, dtype=torch.float64).index_add_(0, member[has_effect], each[has_effect])
        for each in (found, torch.ones_like(found))
    )
    return sums / counts


def plan(
    positions: Int64[Tensor, "latents positions"],
    length: int,
    members: Members,
    per_member: int,
    generator: torch.Generator,
) -> Ablations:
    """Every latent at its positions, and every channel and direction at some random ones of all these.

    Args:
        positions: among all of the blocks' positions; −1 for none.
        length: of a block.
    """
    tokens = positions[positions >= 0].unique()
    member, _ = (positions >= 0).nonzero(as_tuple=True)
    parts = [(torch.full_like(member, LATENTS), member, positions[positions >= 0])]
    for kind, count in ((CHANNELS, len(members.channels)), (DIRECTIONS, len(members.directions))):
        chosen = torch.rand(count, len(tokens), generator=generator).argsort(dim=1)[:, :per_member]
        member = torch.arange(count).repeat_interleave(chosen.shape[1])
        parts.append((torch.full_like(member, kind), member, tokens[chosen.flatten()]))
    kinds, member, places = (torch.cat(each) for each in zip(*parts, strict=True))
    return Ablations(kinds, member, places // length, places % length)


def _draw(candidates: Int64[Tensor, " candidates"], config: AblationConfig, seed: int) -> Int64[Tensor, " latents"]:
    """The latents to ablate, in rising order; of those that are named the ones that can be ablated."""
    if config.only:
        return candidates[torch.isin(candidates, torch.tensor(config.only))]
    generator = derive_generator(seed, "evaluation", "ablation", "latents")
    return candidates[torch.randperm(len(candidates), generator=generator)[: config.latents]].sort().values


def _active_contexts(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: AblationConfig,
    generator: torch.Generator,
) -> TopContexts:
    """For each latent some random positions where it is active and can be followed, each in another block.

    The contexts of the largest of random numbers are kept; a position is its place among all of the sample's.
    """
    contexts = new_top_contexts(sae.n_latents, config.positions)
    places = torch.arange(sample.blocks.tokens.numel()).view_as(sample.blocks.tokens)
    first = 0
    for inputs, _, _, blocks in read_rows(subject, site, sample):
        kept = blocks.kept
        where = places[first : first + len(kept)][kept]
        is_followed = _followed(kept, config.horizon)[kept]
        codes = sae.encode(inputs)
        rows = codes.rows().cpu()
        is_eligible = (codes.values > 0).cpu() & is_followed[rows]
        latents, positions = codes.indices.cpu()[is_eligible], where[rows[is_eligible]]
        numbers = 1 - torch.rand(len(latents), generator=generator)
        add_contexts(contexts, latents, numbers, positions // kept.shape[1], positions)
        first += len(kept)
    return contexts


def _followed(kept: Bool[Tensor, "blocks length"], horizon: int) -> Bool[Tensor, "blocks length"]:
    """Positions from which on so many are kept and in the block."""
    if horizon > kept.shape[1]:
        return torch.zeros_like(kept)
    windows = kept.unfold(1, horizon, 1).all(dim=2)
    return torch.cat([windows, windows.new_zeros(len(kept), horizon - 1)], dim=1)
