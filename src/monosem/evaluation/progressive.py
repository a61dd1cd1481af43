"""Progressive codes: normalised MSE when a code is read with another k, or another threshold (Gao et al. 2024, §5).

A latent's value is what it would decode with. Where k or a batch's budget sets the sparsity (topk, batch_topk,
matryoshka) every latent has one, its pre-activation through the nonlinearity, so that more of them can be read than
training kept; where a penalty does, only those that the autoencoder keeps have one. Read are

- each token's k' strongest latents, k' = 0, 1, 2, 4, …; or
- all latents above one threshold θ, the same for all tokens. The thresholds are quantiles of the values: those above
  which lie on average as many latents a token, 1, 2, 4, …, so that the two curves can be compared at equal L0.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from monosem.config import require_positive
from monosem.evaluation.bootstrap import Estimate, Sums, bootstrap
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.reconstruction import new_reconstruction_sums, reconstruction_statistics
from monosem.evaluation.sample import BATCH_TOKENS, Sample, read_rows, take_sample
from monosem.ops import sparse
from monosem.ops.reference import Chosen, sparse_decode
from monosem.randomness import derive_generator
from monosem.sae.activations import activate
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

# The dense [rows, n_latents] values of one piece stay below 128 MB in float32.
_DENSE_ELEMENTS = 1 << 25


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig:
    """How far codes are read, and on how much."""

    tokens: int = 50_000
    """Tokens whose codes are read."""
    max_k: int = 256
    """The most latents a token that are read, of a smaller dictionary all; for thresholds on average."""
    bootstrap_samples: int = 1000
    """Samples of documents behind each interval."""

    def __post_init__(self) -> None:
        require_positive(self, *(field.name for field in fields(self)))


class Point(NamedTuple):
    """One way to read the codes, and what comes of it."""

    at: float | None
    """k', or θ."""
    l0: Estimate
    normalized_mse: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgressiveResult:
    """Curves over k' and over θ, and the autoencoder's own reading on the same tokens."""

    config: ProgressiveConfig
    tokens: int
    documents: int
    by_k: tuple[Point, ...]
    """k' rises from 0, where the decoder's bias is all there is (and a transcoder's skip)."""
    by_threshold: tuple[Point, ...]
    """θ falls."""
    own: Point
    """As at inference; ``at`` is the k that an architecture with one was trained with."""

    def to_dict(self) -> dict[str, Any]:
        """The curves as lists of points."""
        metrics = {f"normalized_mse_k_{point.at:g}": point.normalized_mse for point in self.by_k}
        return {
            "settings": asdict(self.config),
            "tokens": self.tokens,
            "documents": self.documents,
            "metrics": {name: estimate._asdict() for name, estimate in metrics.items()},
            "by_k": [_told("k", point) for point in self.by_k],
            "by_threshold": [_told("threshold", point) for point in self.by_threshold],
            "own": _told("k", self.own),
        }


def _told(name: str, point: Point) -> dict[str, Any]:
    at = int(point.at) if name == "k" and point.at is not None else point.at
    return {name: at, "l0": point.l0._asdict(), "normalized_mse": point.normalized_mse._asdict()}


@torch.no_grad()
def measure_progressive(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    sample: Sample,
    config: ProgressiveConfig,
    *,
    seed: int,
    report: Report | None = None,
) -> ProgressiveResult:
    """Read the codes of the sample's kept tokens in every way, with intervals over documents.

    ``report`` gets the tokens read. Of more tokens than ``config.tokens`` some are taken, evenly spread.
    """
    blocks = sample.blocks
    sample = take_sample(blocks, sample.documents, blocks.kept, config.tokens)
    ks = ranks(sae, config.max_k)
    thresholds = choose_thresholds(sae, subject, site, sample, ks)
    sums = _new_sums(sample.n_documents, sae.d_target, len(ks) + len(thresholds) + 1)
    advance = counting(report, sample.tokens)
    for inputs, targets, documents, _ in read_rows(subject, site, sample):
        pieces = (each.split(_piece(sae)) for each in (inputs, targets, documents))
        for some_inputs, some_targets, some_documents in zip(*pieces, strict=True):
            _add_piece(sums, sae, some_inputs, some_targets, some_documents, ks, thresholds)
        advance(len(inputs))

    estimates = _estimates(sums, config, seed)
    own_k = None if sae.has_penalty else float(sae.config.k)
    ats = [*map(float, ks), *thresholds, own_k]
    points = [Point(at, *each) for at, each in zip(ats, estimates, strict=True)]
    return ProgressiveResult(
        config=config,
        tokens=sample.tokens,
        documents=sample.n_documents,
        by_k=tuple(points[: len(ks)]),
        by_threshold=tuple(points[len(ks) : -1]),
        own=points[-1],
    )


def ranks(sae: Autoencoder, max_k: int) -> list[int]:
    """0 and the powers of two up to max_k or n, that limit itself, and the trained k where there is one."""
    limit = min(max_k, sae.n_latents)
    powers = {1 << power for power in range(limit.bit_length())}
    trained = set() if sae.has_penalty else {sae.config.k}
    return sorted(k for k in {0, limit} | powers | trained if k <= limit)


def readable(sae: Autoencoder, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
    """Every latent's value; zero where a penalised architecture keeps none."""
    if not sae.has_penalty:
        return activate(pre_activations, sae.config.nonlinearity)
    kept = sae.keep(pre_activations)
    return torch.zeros_like(pre_activations).index_put_((kept.tokens(), kept.indices), kept.values)


def _piece(sae: Autoencoder) -> int:
    """Tokens whose dense values are held at once."""
    return max(1, _DENSE_ELEMENTS // sae.n_latents)


def choose_thresholds(
    sae: Autoencoder, subject: SubjectModel, site: Site, sample: Sample, ks: list[int]
) -> list[float]:
    """For each k' ≥ 1 the θ above which lie k' latents a token, on a part of the sample; falling, each once.

    It lies midway between two values; or is 0, where there are not so many positive ones.
    """
    tokens = min(BATCH_TOKENS, _piece(sae))
    part = take_sample(sample.blocks, sample.documents, sample.blocks.kept, tokens)
    inputs = torch.cat([rows.inputs for rows in read_rows(subject, site, part)])[:tokens]
    x = sae.preprocess(inputs).x.to(sae.W_enc.dtype)
    values = readable(sae, sae.pre_activations(x)).flatten()
    wanted = [min(k * len(inputs), len(values) - 1) for k in ks if k]
    largest = values.topk(max(wanted) + 1).values
    lowest_above, below = (largest[[count - shift for count in wanted]] for shift in (1, 0))
    thresholds = torch.where(below > 0, (lowest_above + below) / 2, 0)
    return sorted(set(thresholds.tolist()), reverse=True)


def _new_sums(n_documents: int, width: int, points: int) -> dict[str, Float64[Tensor, "documents ..."]]:
    """As of a reconstruction, but with errors and active latents of every point."""
    sums = new_reconstruction_sums(n_documents, (width,))
    for name in ("squared_error", "active"):
        sums[name] = torch.zeros(n_documents, points, dtype=torch.float64)
    return sums


def _add_piece(
    sums: Sums,
    sae: Autoencoder,
    inputs: Float[Tensor, "batch d_model"],
    targets: Float[Tensor, "batch d_target"],
    documents: Int[Tensor, " batch"],
    ks: list[int],
    thresholds: list[float],
) -> None:
    """Read some tokens' codes in every way and add the errors to their documents' sums, in place."""
    x, y = sae.training_pair(inputs, targets)
    pre_activations = sae.pre_activations(x)
    values, kept = readable(sae, pre_activations), sae.keep(pre_activations)
    readings = (
        _between_ranks(values, ks),
        _between_thresholds(values, thresholds),
        [kept],
    )
    remainder = (y - sae.offset(x)).to(torch.promote_types(y.dtype, torch.float32))
    found = [point for parts in readings for point in _progress(remainder, parts, sae.W_dec)]
    y = y.to("cpu", torch.float64)
    sums["tokens"].index_add_(0, documents, torch.ones(len(y), dtype=torch.float64))
    sums["squared_norm"].index_add_(0, documents, y.square().sum(dim=1))
    sums["x"].index_add_(0, documents, y)
    for name, columns in zip(("squared_error", "active"), zip(*found, strict=True), strict=True):
        sums[name].index_add_(0, documents, torch.stack(columns, dim=1).to("cpu", torch.float64))


def _progress(
    residual: Float[Tensor, "batch d_target"], parts: list[Chosen], W_dec: Float[Tensor, "n_latents d_target"]
) -> list[tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]]:
    """Each token's squared error and active latents after each further part of its code; every latent decoded once."""
    found: list[tuple[Tensor, Tensor]] = []
    active = residual.new_zeros(len(residual), dtype=torch.int64)
    for part in parts:
        residual = residual - sparse_decode(part.values, part.indices, W_dec, part.row_offsets)
        active = active.index_add(0, part.tokens(), (part.values > 0).long())
        found.append((residual.square().sum(dim=1), active))
    return found


def _between_ranks(values: Float[Tensor, "batch n_latents"], ks: list[int]) -> list[Chosen]:
    """What each k' reads beyond the k' before it."""
    strongest, indices = sparse.topk(values, ks[-1])
    return [_even(strongest[:, a:b], indices[:, a:b]) for a, b in zip([0, *ks], ks, strict=False)]


def _even(values: Float[Tensor, "batch k"], indices: Int[Tensor, "batch k"]) -> Chosen:
    """k latents for every token, perhaps none."""
    batch, k = values.shape
    return Chosen(values.flatten(), indices.flatten(), k * torch.arange(batch + 1, device=values.device))


def _between_thresholds(values: Float[Tensor, "batch n_latents"], thresholds: list[float]) -> list[Chosen]:
    """What each θ reads below the θ before it; these fall."""
    tokens, indices = (values > thresholds[-1]).nonzero(as_tuple=True)
    found = values[tokens, indices]
    limits = torch.tensor(thresholds, dtype=values.dtype, device=values.device)
    place = torch.searchsorted(-limits, -found, right=True)  # of the first θ that is below
    parts: list[Chosen] = []
    for number in range(len(thresholds)):
        chosen = place == number
        counts = torch.bincount(tokens[chosen], minlength=len(values))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        parts.append(Chosen(found[chosen], indices[chosen], offsets))
    return parts


def _estimates(sums: Sums, config: ProgressiveConfig, seed: int) -> list[tuple[Estimate, Estimate]]:
    """L0 and normalised MSE of every point, as the suite defines them, with intervals over documents."""
    n_points = sums["squared_error"].shape[1]

    def statistics(sums: Sums) -> dict[str, Float64[Tensor, " samples"]]:
        found: dict[str, Tensor] = {}
        for point in range(n_points):
            of_point = {name: sums[name][:, point] for name in ("squared_error", "active")}
            for name, value in reconstruction_statistics({**sums, **of_point}).items():
                found[f"{name} {point}"] = value
        return found

    generator = derive_generator(seed, "evaluation", "progressive")
    found = bootstrap(sums, statistics, samples=config.bootstrap_samples, generator=generator)
    return [(found[f"l0 {point}"], found[f"normalized_mse {point}"]) for point in range(n_points)]
