"""Runs beside each other: reconstruction error and downstream loss against L0, and what lies between measured points.

Between two runs of a curve a metric is interpolated linearly in log L0 and log metric; outside it is not guessed. All
runs are measured on the same documents, so these are drawn again for all runs together: an interval of a ratio then
leaves out what makes some documents harder than others for every run alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.evaluation.bootstrap import Estimate, estimate, resample
from monosem.evaluation.document_sums import DocumentSums
from monosem.evaluation.downstream import downstream_statistics
from monosem.evaluation.reconstruction import reconstruction_statistics
from monosem.randomness import derive_generator

FORMAT_VERSION = 1
METRICS = ("normalized_mse", "cross_entropy_increase")


class Measured(NamedTuple):
    """A run's numbers on all documents, and then on every sample of them."""

    l0: Float64[Tensor, " all_and_samples"]
    metrics: Mapping[str, Float64[Tensor, " all_and_samples"]]


class Run(NamedTuple):
    """A run to compare."""

    name: str
    curve: str
    """What it shares with the runs that differ from it in sparsity alone."""
    settings: Mapping[str, Any]
    """What a reader wants to see of it in a table."""
    dead_share: float
    measured: Measured


class Between(NamedTuple):
    """A curve's metric at some L0, measured or interpolated."""

    curve: str
    metric: str
    l0: float
    value: Estimate
    ratio: Estimate
    """To the reference curve's."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that stands in comparison.json."""

    subject: str
    hookpoint: str
    runs: tuple[Run, ...]
    """By curve, then L0."""
    reference: str
    """The curve that the others' ratios are to."""
    between: tuple[Between, ...]

    @property
    def curves(self) -> list[str]:
        """In the order of the runs."""
        return list(dict.fromkeys(run.curve for run in self.runs))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format_version": FORMAT_VERSION,
            "subject": self.subject,
            "hookpoint": self.hookpoint,
            "reference": self.reference,
            "runs": [
                {
                    "run": run.name,
                    "curve": run.curve,
                    **run.settings,
                    "dead_share": run.dead_share,
                    "l0": estimate(run.measured.l0)._asdict(),
                    **{name: estimate(values)._asdict() for name, values in run.measured.metrics.items()},
                }
                for run in self.runs
            ],
            "between": [
                {**point._asdict(), "value": point.value._asdict(), "ratio": point.ratio._asdict()}
                for point in self.between
            ],
        }


def measure(sums: DocumentSums, *, samples: int, seed: int) -> Measured:
    """A run's L0 and METRICS, on documents drawn alike for every run that was evaluated on the same."""
    generators = (derive_generator(seed, "comparison", part) for part in DocumentSums._fields)
    of_activations = resample(sums.activations, reconstruction_statistics, samples=samples, generator=next(generators))
    of_next_tokens = resample(sums.next_tokens, downstream_statistics, samples=samples, generator=next(generators))
    return Measured(of_activations["l0"], {name: (of_activations | of_next_tokens)[name] for name in METRICS})


def compare(
    subject: str, hookpoint: str, runs: Sequence[Run], l0: Sequence[float] = (), reference: str | None = None
) -> Comparison:
    """Interpolate every curve's metrics at some L0, and divide them by the reference's.

    Args:
        l0: where; by default the powers of two that two curves reach.
        reference: a curve; by default the first.
    """
    runs = sorted(runs, key=lambda run: (run.curve, float(run.measured.l0[0])))
    curves = {
        name: [run.measured for run in runs if run.curve == name] for name in dict.fromkeys(r.curve for r in runs)
    }
    reference = reference or next(iter(curves))
    at = torch.tensor(list(l0) or shared_powers_of_two(list(curves.values())), dtype=torch.float64)
    between: list[Between] = []
    for metric in METRICS:
        values = {name: _along(measured, metric, at) for name, measured in curves.items()}
        between += [
            Between(name, metric, place, estimate(value), estimate(value / of_reference))
            for name in curves
            for place, value, of_reference in zip(at.tolist(), values[name], values[reference], strict=True)
            if bool(value[0].isfinite())
        ]
    return Comparison(
        subject=subject, hookpoint=hookpoint, runs=tuple(runs), reference=reference, between=tuple(between)
    )


def shared_powers_of_two(curves: Sequence[Sequence[Measured]]) -> list[float]:
    """The powers of two that lie between the least and the greatest L0 of at least two curves (or of the only one)."""
    ranges = [[float(run.l0[0]) for run in curve] for curve in curves]
    powers = [2.0**power for power in range(-3, 21)]
    reached = {power: sum(min(l0) <= power <= max(l0) for l0 in ranges) for power in powers}
    return [power for power, count in reached.items() if count >= min(2, len(curves))]


def _along(curve: Sequence[Measured], metric: str, at: Float64[Tensor, " places"]) -> Float64[Tensor, "places _"]:
    l0 = torch.stack([run.l0 for run in curve])
    return interpolate(l0, torch.stack([run.metrics[metric] for run in curve]), at)


def interpolate(
    l0: Float64[Tensor, "runs samples"], values: Float64[Tensor, "runs samples"], at: Float64[Tensor, " places"]
) -> Float64[Tensor, "places samples"]:
    """Values at some L0, linear in both logarithms between neighbours, sample by sample; NaN where none is measured.

    Outside the measured range there is none, nor where a value that counts there is not positive: at a run's own L0
    only its own does. Runs of equal L0 count as one, at the mean of their logarithms.
    """
    places = torch.full((len(at), l0.shape[1]), torch.nan, dtype=torch.float64)
    for sample in range(l0.shape[1]):
        x, same = l0[:, sample].log().unique(return_inverse=True)
        logs = values[:, sample].where(values[:, sample] > 0, torch.nan).log()
        y = torch.zeros_like(x).index_add_(0, same, logs) / torch.bincount(same)
        target = at.log()
        right = torch.searchsorted(x, target).clamp(1, max(1, len(x) - 1))
        inside = (target >= x[0] - 1e-9) & (target <= x[-1] + 1e-9)
        if len(x) == 1:
            found = y.expand(len(at))
        else:
            share = (target - x[right - 1]) / (x[right] - x[right - 1])
            found = y[right - 1].lerp(y[right], share)
            for at_run in (right - 1, right):
                found = found.where(target != x[at_run], y[at_run])
        places[:, sample] = found.exp().where(inside, torch.nan)
    return places
