"""What every evaluation measures: reconstruction, firing and downstream loss on held-out text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from monosem.config import require_positive
from monosem.errors import UserError
from monosem.evaluation import density, downstream, examples, reconstruction
from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap
from monosem.evaluation.compute_law import ComputeLaw, compute_equivalent
from monosem.evaluation.density import DensityHistogram, Firing
from monosem.evaluation.document_sums import DocumentSums
from monosem.evaluation.examples import Examples, TopContexts
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.sample import Sample, read_rows, take_sample, with_successor
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

# Tokens that a resample-ablation draws from.
OTHERS = 4096


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is evaluated."""

    eval_tokens: int = 200_000
    """Held-out tokens for normalised MSE, L0, the dead share and the examples."""
    downstream_tokens: int = 50_000
    """How many of these for cross-entropy and KL, which take four whole forward passes."""
    bootstrap_samples: int = 1000
    """Samples of documents behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, *(field.name for field in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Basics:
    """What was measured, on what, and with which settings."""

    config: EvaluationConfig
    seed: int
    subject: str
    hookpoint: str
    """Of a crosscoder ``a + b``, of a transcoder ``a → b``."""
    context_length: int
    """Tokens a block."""
    n_latents: int
    tokens: int
    """Evaluated tokens."""
    documents: int
    """Documents that they are from."""
    downstream_tokens: int
    """Tokens whose successor's prediction was measured."""
    downstream_documents: int
    metrics: Mapping[str, Estimate]
    """By name; cross-entropies and KL in nats a token, shares as fractions."""
    density: DensityHistogram
    by_position: Mapping[str, Sequence[Estimate]]
    """Cross-entropies and KL by place in the block, in bins of equal width."""
    law: ComputeLaw | None
    examples: Examples
    document_sums: DocumentSums

    def to_dict(self) -> dict[str, Any]:
        """Plain values of all but the examples and the documents' sums."""
        told = ("subject", "hookpoint", "context_length", "n_latents", "tokens", "documents")
        return {
            "settings": asdict(self.config) | {"seed": self.seed},
            **{name: getattr(self, name) for name in (*told, "downstream_tokens", "downstream_documents")},
            "metrics": {name: estimate._asdict() for name, estimate in self.metrics.items()},
            "firing_density": {
                "log10_edges": list(self.density.log10_edges),
                "latents": list(self.density.latents),
                "dead": self.density.dead,
            },
            "by_position": {name: [each._asdict() for each in bins] for name, bins in self.by_position.items()},
            "compute_law": None if self.law is None else self.law._asdict(),
        }


@torch.no_grad()
def measure_basics(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    blocks: Blocks,
    documents: Int[Tensor, "blocks length"],
    config: EvaluationConfig,
    *,
    seed: int,
    law: ComputeLaw | None = None,
    report: Report | None = None,
) -> Basics:
    """Measure on the kept positions of held-out blocks.

    Of more blocks than ``config.eval_tokens`` needs, and again of those than ``config.downstream_tokens`` needs, some
    are taken that lie evenly spread over all.

    Args:
        documents: each position's document, by any number that is not negative; −1 at an added BOS.
        law: of the subject's family, on the same text with as long a context; without it there is no compute
            equivalent.
        report: called with the tokens done and in all, where each forward pass over a token counts as one.

    Raises:
        UserError: there is nothing to evaluate, or activations or losses are not finite.
    """
    read_from = take_sample(blocks, documents, blocks.kept, config.eval_tokens)
    kept = read_from.blocks.kept
    predicted = take_sample(read_from.blocks, read_from.documents, with_successor(kept), config.downstream_tokens)
    advance = counting(report, read_from.tokens + downstream.FORWARD_PASSES * predicted.tokens)

    sums, firing, contexts, others = _read(sae, subject, site, read_from, advance)
    generator = derive_generator(seed, "evaluation", "resample")
    functions = downstream.replacements(sae, reconstruction.mean_activation(sums), others, generator)
    losses, by_position = _predict(subject, site, predicted, functions, advance)
    outputs = dict(zip(site.outputs, sae.widths.outputs, strict=True))

    def estimates(part: str, statistics: Callable[[Sums], dict[str, Tensor]], sums: Sums) -> dict[str, Estimate]:
        generator = derive_generator(seed, "evaluation", part)
        return bootstrap(sums, statistics, samples=config.bootstrap_samples, generator=generator)

    return Basics(
        config=config,
        seed=seed,
        subject=subject.name,
        hookpoint=str(site),
        context_length=blocks.tokens.shape[1],
        n_latents=sae.n_latents,
        tokens=read_from.tokens,
        documents=read_from.n_documents,
        downstream_tokens=predicted.tokens,
        downstream_documents=predicted.n_documents,
        metrics=estimates("reconstruction", partial(_reconstruction_statistics, outputs), sums)
        | {"dead_share": density.dead_share(firing)}
        | estimates("downstream", partial(_downstream_statistics, law), losses),
        density=density.density_histogram(firing, read_from.tokens),
        by_position=_by_name(estimates("positions", downstream.position_statistics, by_position)),
        law=law,
        examples=Examples(*contexts, density.density(firing, read_from.tokens).float()),
        document_sums=DocumentSums(sums, losses),
    )


def _reconstruction_statistics(outputs: Mapping[str, int], sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
    return reconstruction.reconstruction_statistics(sums) | reconstruction.hookpoint_statistics(sums, outputs)


def _downstream_statistics(law: ComputeLaw | None, sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
    found = downstream.downstream_statistics(sums)
    if law is not None:
        with_reconstruction = found["cross_entropy_reconstruction"]
        found["compute_equivalent"] = compute_equivalent(law, found["cross_entropy"], with_reconstruction)
    return found


def _by_name(estimates: Mapping[str, Estimate]) -> dict[str, list[Estimate]]:
    """``name 0``, ``name 1`` … as a list for each name."""
    found: dict[str, list[Estimate]] = {}
    for name, each in estimates.items():
        found.setdefault(name.partition(" ")[0], []).append(each)
    return found


def _read(
    sae: Autoencoder, subject: SubjectModel, site: Site, sample: Sample, advance: Callable[[int], None]
) -> tuple[dict[str, Float64[Tensor, "documents ..."]], Firing, TopContexts, Float[Tensor, "others d_target"]]:
    """Capture the activations once; gather the reconstruction's sums, the firing and the contexts, and some tokens."""
    sums = reconstruction.new_reconstruction_sums(sample.n_documents, sae.widths.outputs)
    others: list[Tensor] = []
    firing = density.new_firing(sae.n_latents, sample.n_documents)
    contexts = examples.new_top_contexts(sae.n_latents)
    for inputs, targets, documents, (_, kept, positions) in read_rows(subject, site, sample):
        codes = sae.encode(inputs)
        active = (codes.values > 0).cpu()
        latents, values, tokens = (each.cpu()[active] for each in (codes.indices, codes.values, codes.rows()))
        _, y = sae.training_pair(inputs, targets)
        x_hat = sae.reconstruct_codes(codes)
        reconstruction.add_reconstruction(sums, y, x_hat, codes.l0(), documents, sae.widths.outputs)
        others.append(y[:: max(1, sample.tokens // OTHERS)])
        density.add_firing(firing, latents, documents[tokens])
        in_line = positions[kept][tokens] >= 0
        where = kept.nonzero()[:, 0][tokens], positions[kept][tokens]
        examples.add_contexts(contexts, latents[in_line], values[in_line], *(each[in_line] for each in where))
        advance(len(codes.mean))
    _require_finite(sums, subject, site)
    return sums, firing, contexts, torch.cat(others)


def _predict(
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    functions: Mapping[str, downstream.Replacement],
    advance: Callable[[int], None],
) -> tuple[dict[str, Float64[Tensor, " documents"]], dict[str, Float64[Tensor, "documents bins"]]]:
    """Run the blocks unmodified and with each replacement, and gather the losses' sums, in all and by position."""
    sums = downstream.new_downstream_sums(sample.n_documents)
    by_position = downstream.new_position_sums(sample.n_documents, sample.blocks.tokens.shape[1])
    for blocks, documents in sample.batches(downstream.blocks_in_memory(subject, sample.blocks.tokens)):
        downstream.add_downstream(sums, by_position, subject, site, blocks.tokens, blocks.kept, documents, functions)
        advance(downstream.FORWARD_PASSES * int(with_successor(blocks.kept).sum()))
    _require_finite(sums, subject, site)
    return sums, by_position


def _require_finite(sums: Sums, subject: SubjectModel, site: Site) -> None:
    for name, each in sums.items():
        if not bool(each.isfinite().all()):
            raise UserError(
                f"The evaluation's {name} at {site} is not finite: the activations of {subject.name} overflow "
                f"{str(subject.dtype).removeprefix('torch.')}, or weights are damaged; try --dtype float32."
            )
