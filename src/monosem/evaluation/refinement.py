"""Activation shrinkage: how much further from zero each active value should be (Gao et al. 2024, §5).

The decoder and each token's active latents are held fixed, and the active values refined, to the non-negative ones of
least reconstruction error ‖y − offset − Σ a_j W_dec[j]‖². Refined values above the original ones show shrinkage: an L1
penalty shrinks, TopK does not.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from monosem.config import require_positive
from monosem.evaluation import downstream
from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap
from monosem.evaluation.distribution import histogram, quantiles
from monosem.evaluation.nonnegative import nonnegative_least_squares
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.reconstruction import (
    add_reconstruction,
    new_reconstruction_sums,
    reconstruction_statistics,
)
from monosem.evaluation.sample import Sample, read_rows, take_sample, with_successor
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.codes import Codes
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

LARGEST_RATIO, RATIO_BINS = 4.0, 80
READINGS = ("reconstruction", "refined")
# Gathered decoder rows and Gram matrices of the tokens solved at once stay below 128 MB.
_BYTES = 1 << 27


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """How much is refined. A token's problem costs as much as the cube of its active latents."""

    tokens: int = 20_000
    """Tokens whose values are refined."""
    downstream_tokens: int = 10_000
    """How many of these for cross-entropy and KL, which take three whole forward passes and all positions' codes."""
    bootstrap_samples: int = 1000
    """Samples of documents behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, *(field.name for field in fields(self)))


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinementResult:
    """How the values change, and what comes of it."""

    config: RefinementConfig
    tokens: int
    documents: int
    downstream_tokens: int
    metrics: dict[str, Estimate]
    ratios: Float[Tensor, " active"]
    """Refined over original value of every active entry."""
    kkt_residual: float
    """The largest of all tokens: how far a solution is from exact, relative to ‖W (y − offset)‖∞ over its latents."""

    def to_dict(self) -> dict[str, Any]:
        """Metrics, and the ratios' distribution."""
        return {
            "settings": asdict(self.config),
            "tokens": self.tokens,
            "documents": self.documents,
            "downstream_tokens": self.downstream_tokens,
            "metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()},
            "active_values": len(self.ratios),
            "ratios": {
                "quantiles": quantiles(self.ratios),
                "histogram": histogram(self.ratios, 0.0, LARGEST_RATIO, RATIO_BINS),
            },
            "largest_kkt_residual": self.kkt_residual,
        }


class Refinement(NamedTuple):
    """Refined values of a batch of codes, on the CPU."""

    values: Float64[Tensor, " nnz"]
    """In the place of the codes' values; one that is not active stays as it is."""
    kkt_residual: Float64[Tensor, " batch"]


@torch.no_grad()
def refine(
    sae: Autoencoder,
    inputs: Float[Tensor, "batch d_model"],
    targets: Float[Tensor, "batch d_target"],
    codes: Codes,
) -> Refinement:
    """The non-negative values of least error, token by token, for each token's strictly positive latents.

    Args:
        inputs: raw, what the codes were made of.
        targets: raw, what is to be reconstructed.
    """
    _, y = sae.training_pair(inputs, targets)
    fixed = codes._replace(values=codes.values.clamp_max(0))  # kept below zero by TopK without a ReLU, so not active
    remainder = (y - sae.reconstruct_codes(fixed)).to("cpu", torch.float64)
    values, is_active = codes.values.to("cpu", torch.float64, copy=True), (codes.values > 0).cpu()
    entries = is_active.nonzero().squeeze(1)
    counts = torch.bincount(codes.rows().cpu()[entries], minlength=len(remainder))
    starts = counts.cumsum(0) - counts
    kkt_residual = torch.zeros(len(counts), dtype=torch.float64)
    for tokens in _groups(counts, sae.d_target):
        inside = torch.arange(int(counts[tokens[0]])) < counts[tokens, None]
        places = entries[(starts[tokens, None] + torch.arange(inside.shape[1])).where(inside, 0)]
        latents = codes.indices[places.to(codes.indices.device)]
        rows = sae.W_dec[latents].to("cpu", torch.float64) * inside[:, :, None]
        gram, products = rows @ rows.mT, (rows @ remainder[tokens, :, None]).squeeze(2)
        solved = nonnegative_least_squares(gram, products, values[places].where(inside, 0.0))
        values[places[inside]] = solved.values[inside]
        kkt_residual[tokens] = solved.kkt_residual
    return Refinement(values, kkt_residual)


def _groups(counts: Int64[Tensor, " batch"], width: int) -> Iterator[Int64[Tensor, " some"]]:
    """Tokens with active latents, those with most first, so many at a time as fit in memory."""
    order = counts.sort(descending=True, stable=True).indices[: int((counts > 0).sum())]
    while len(order):
        k = int(counts[order[0]])
        size = max(1, _BYTES // (8 * k * (width + 6 * k)))
        yield order[:size]
        order = order[size:]


def refined_codes(
    sae: Autoencoder,
    inputs: Float[Tensor, "batch d_model"],
    targets: Float[Tensor, "batch d_target"],
    codes: Codes,
) -> Codes:
    """The codes with refined values; one that became zero stays in the code, as a value that a ReLU zeroed does."""
    return _with_values(codes, refine(sae, inputs, targets, codes).values)


def _with_values(codes: Codes, values: Float64[Tensor, " nnz"]) -> Codes:
    """Other values in the codes' place, each token's strongest first again."""
    values, rows = values.to(codes.values), codes.rows()
    order = values.sort(descending=True, stable=True).indices
    order = order[rows[order].sort(stable=True).indices]
    return codes._replace(values=values[order], indices=codes.indices[order])


def refined_reconstruction(sae: Autoencoder) -> downstream.Replacement:
    """The refined codes' reconstruction, for ``downstream.add_downstream``."""

    def reconstruct(read: Tensor, wanted: Tensor) -> Tensor:
        inputs = read.flatten(0, 1)
        codes = refined_codes(sae, inputs, wanted.flatten(0, 1), sae.encode(inputs))
        return sae.decode(codes).reshape(wanted.shape).to(wanted)

    return reconstruct


@torch.no_grad()
def measure_refinement(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: RefinementConfig,
    *,
    seed: int,
    report: Report | None = None,
) -> RefinementResult:
    """Refine the codes of the sample's kept tokens, and splice both reconstructions into the subject.

    Of more tokens than ``config.tokens`` some are taken, evenly spread; of these again ``config.downstream_tokens``.
    ``report`` gets tokens, where each forward pass over one counts.
    """
    sample = take_sample(sample.blocks, sample.documents, sample.blocks.kept, config.tokens)
    predicted = take_sample(
        sample.blocks, sample.documents, with_successor(sample.blocks.kept), config.downstream_tokens
    )
    advance = counting(report, sample.tokens + (1 + len(READINGS)) * predicted.tokens)
    sums, ratios, kkt_residual = _refine_all(sae, subject, site, sample, advance)
    functions = {
        "reconstruction": downstream.reconstruction_by(sae),
        "refined": refined_reconstruction(sae),
    }
    losses = downstream.new_downstream_sums(predicted.n_documents, READINGS)
    for blocks, documents in predicted.batches(downstream.blocks_in_memory(subject, predicted.blocks.tokens)):
        downstream.add_downstream(losses, {}, subject, site, blocks.tokens, blocks.kept, documents, functions)
        advance((1 + len(READINGS)) * int(with_successor(blocks.kept).sum()))

    def estimates(statistics: Callable[[Sums], dict[str, Tensor]], sums: Sums) -> dict[str, Estimate]:
        generator = derive_generator(seed, "evaluation", "refinement", statistics.__name__)
        return bootstrap(sums, statistics, samples=config.bootstrap_samples, generator=generator)

    return RefinementResult(
        config=config,
        tokens=sample.tokens,
        documents=sample.n_documents,
        downstream_tokens=predicted.tokens,
        metrics=estimates(refinement_statistics, sums) | estimates(splicing_statistics, losses),
        ratios=ratios,
        kkt_residual=kkt_residual,
    )


def _refine_all(
    sae: Autoencoder, subject: SubjectModel, site: Site, sample: Sample, advance: Callable[[int], None]
) -> tuple[dict[str, Float64[Tensor, "documents ..."]], Float[Tensor, " active"], float]:
    """Sums over each document, every active value's ratio, and the largest KKT residual."""
    sums = new_reconstruction_sums(sample.n_documents, (sae.d_target,))
    for name in ("refined_squared_error", "ratio", "zeroed", "value", "refined_value"):
        sums[name] = torch.zeros(sample.n_documents, dtype=torch.float64)
    ratios: list[Tensor] = []
    kkt_residual = 0.0
    for inputs, targets, documents, _ in read_rows(subject, site, sample):
        codes = sae.encode(inputs)
        refined = refine(sae, inputs, targets, codes)
        _, y = sae.training_pair(inputs, targets)
        add_reconstruction(sums, y, sae.reconstruct_codes(codes), codes.l0(), documents, (sae.d_target,))
        better = sae.reconstruct_codes(_with_values(codes, refined.values))
        error = (y.to("cpu", torch.float64) - better.to("cpu", torch.float64)).square().sum(dim=1)
        sums["refined_squared_error"].index_add_(0, documents, error)
        ratios.append(_add_ratios(sums, codes, refined.values, documents))
        kkt_residual = max(kkt_residual, float(refined.kkt_residual.max()))
        advance(len(inputs))
    return sums, torch.cat(ratios), kkt_residual


def _add_ratios(
    sums: Sums, codes: Codes, refined: Float64[Tensor, " nnz"], documents: Int[Tensor, " batch"]
) -> Float[Tensor, " active"]:
    """Add to each document's sums of ratios, values and values that became zero, in place; the ratios."""
    values, rows = codes.values.to("cpu", torch.float64), codes.rows().cpu()
    is_active = values > 0
    values, refined, document = values[is_active], refined[is_active], documents[rows[is_active]]
    ratios = refined / values
    for name, each in (("ratio", ratios), ("zeroed", refined == 0), ("value", values), ("refined_value", refined)):
        sums[name].index_add_(0, document, each.double())
    return ratios.float()


def refinement_statistics(sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
    """Normalised MSE before and after, their ratio; the values' mean ratio, and the ratio of their means, and zeros.

    The mean ratio is drawn up by values near zero that are refined to ordinary ones; the ratio of means is not.
    """
    before = reconstruction_statistics(sums)
    after = reconstruction_statistics({**sums, "squared_error": sums["refined_squared_error"]})["normalized_mse"]
    return {
        **before,
        "normalized_mse_refined": after,
        "normalized_mse_ratio": after / before["normalized_mse"],
        "mean_ratio": sums["ratio"] / sums["active"],
        "ratio_of_means": sums["refined_value"] / sums["value"],
        "zeroed_share": sums["zeroed"] / sums["active"],
    }


def splicing_statistics(sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
    """What either reconstruction adds to the cross-entropy, and its KL divergence from the unmodified, in nats."""
    means = {name: each / sums["tokens"] for name, each in sums.items()}
    found = {"cross_entropy": means["cross_entropy"]}
    for name in READINGS:
        found[f"cross_entropy_increase_{name}"] = means[f"cross_entropy_{name}"] - means["cross_entropy"]
        found[f"kl_{name}"] = means[f"kl_{name}"]
    return found
