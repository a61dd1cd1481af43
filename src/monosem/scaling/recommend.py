"""Fitted laws' answer: how large a dictionary, for how many tokens, at which learning rate, for so much compute?"""

from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.laws.law import Estimate, Prediction
from monosem.sae.config import AutoencoderConfig
from monosem.scaling.budget import dense_equivalent_flops
from monosem.scaling.storage import StoredFits, StoredLaw, load_fits
from monosem.training.schedules import auto_learning_rate

BUILTIN_LAWS = Path(__file__).parent / "builtin_laws"
"""Laws of the builtin subject: docs/results/scaling in the repository says what they were fitted to."""


class Recommendation(NamedTuple):
    """What to train, and what to expect of it; estimates with 95% intervals."""

    budget: float
    """FLOPs, dense-equivalent."""
    k: float
    runs: dict[str, Any]
    """The subject, hookpoint, architecture, d_model and batch size that the laws are of."""
    n_latents: Estimate
    tokens: Estimate
    """The budget over what a token costs, so the fewer the more latents."""
    learning_rate: Estimate | None
    """None where no law of it was fitted: 'auto' then."""
    normalized_mse: Estimate
    cross_entropy_increase: Estimate | None
    tokens_to_convergence: Estimate | None
    """Of so many latents."""
    notes: tuple[str, ...]
    """What to be wary of."""


def recommend(
    budget: float, laws: Path | None = None, *, k: float | None = None, subject: str | None = None
) -> Recommendation:
    """Answer from the laws in a directory: compute, and if they are there learning-rate, tokens and downstream.

    Args:
        budget: FLOPs of training the autoencoder, dense-equivalent (docs/budget.md).
        laws: by default those of the builtin subject.
        k: latents a token; by default the one that there is a law for.
        subject: refuse laws of another subject model.

    Raises:
        UserError: the laws are missing or do not say how the best size grows with compute, or there are none of this k.
    """
    if not 0 < budget < float("inf"):
        raise UserError(f"budget={budget} is not positive; give FLOPs, such as 1e15.")
    laws = laws or BUILTIN_LAWS
    compute = load_fits(laws / "compute.json")
    if subject is not None and subject != compute.runs["subject"]:
        raise UserError(
            f"The laws in {laws} are of subject={compute.runs['subject']}, not {subject}; fit laws to a sweep on it, "
            "and name their directory by --laws."
        )
    k, frontier = _of_k(compute, k)
    if frontier.sizes is None:
        raise UserError(
            f"The law of compute in {laws} does not say how the best size grows with compute, for its frontier has too "
            "few sizes; fit it to more."
        )
    n_latents = _one(frontier.sizes.predict([budget]))
    size = round(_known(n_latents.value))
    tokens = _tokens(budget, n_latents, compute.runs)
    nmse = _one(frontier.law.predict([budget]))
    downstream = _optional(laws / "downstream.json")
    convergence = _optional(laws / "tokens.json")
    return Recommendation(
        budget=budget,
        k=k,
        runs=dict(compute.runs),
        n_latents=n_latents,
        tokens=tokens,
        learning_rate=_learning_rate(laws, compute.runs, size, round(_known(tokens.value))),
        normalized_mse=nmse,
        cross_entropy_increase=None if downstream is None else _through(next(iter(downstream.laws.values())), nmse),
        tokens_to_convergence=_at_k(convergence, k, size),
        notes=tuple(_notes(budget, frontier, convergence, k, size, _known(tokens.value))),
    )


def _of_k(fits: StoredFits, k: float | None) -> tuple[float, StoredLaw]:
    known = {law.points["k"][0]: law for law in fits.laws.values()}
    if k is None and len(known) == 1:
        k = next(iter(known))
    if k is None or k not in known:
        asked = "k is missing" if k is None else f"k={k:g} has no law of compute"
        raise UserError(f"{asked}; choose one of {', '.join(f'{each:g}' for each in known)} by --k.")
    return k, known[k]


def _one(prediction: Prediction) -> Estimate:
    return Estimate(*(float(each[0]) for each in prediction))


def _known(value: float | None) -> float:
    assert value is not None
    return value


def _tokens(budget: float, n_latents: Estimate, runs: Any) -> Estimate:
    """The budget over a token's cost, which grows with n: the interval's ends change places."""
    value, low, high = (budget / _flops_per_token(round(_known(n)), runs) for n in n_latents)
    return Estimate(value, high, low)


def _flops_per_token(n_latents: int, runs: Any) -> float:
    config = AutoencoderConfig(architecture=runs["architecture"], n_latents=n_latents, k=1)
    return dense_equivalent_flops(config, runs["d_model"]).per_token


def _learning_rate(laws: Path, runs: Any, n_latents: int, tokens: int) -> Estimate | None:
    """The fitted rate at n, moved from the swept runs' budget to this one as the automatic rule does it."""
    fits = _optional(laws / "learning-rate.json")
    if fits is None:
        return None
    stored = next(iter(fits.laws.values()))
    swept = int(stored.points["tokens"][0])
    batch = runs["batch_size"]
    moved = auto_learning_rate(n_latents, batch, tokens) / auto_learning_rate(n_latents, batch, swept)
    return Estimate(*(moved * _known(each) for each in _one(stored.law.predict([n_latents]))))


def _through(stored: StoredLaw, x: Estimate) -> Estimate:
    """A rising law of an estimate: the interval holds both uncertainties."""
    value, low, high = (stored.law.predict([_known(each)]) for each in x)
    return Estimate(float(value.value[0]), float(low.low[0]), float(high.high[0]))


def _at_k(fits: StoredFits | None, k: float, n_latents: int) -> Estimate | None:
    laws = [] if fits is None else [each for each in fits.laws.values() if each.points["k"][0] == k]
    return _one(laws[0].law.predict([n_latents])) if laws else None


def _optional(path: Path) -> StoredFits | None:
    return load_fits(path) if path.exists() else None


def _notes(
    budget: float, frontier: StoredLaw, convergence: StoredFits | None, k: float, n_latents: int, tokens: float
) -> list[str]:
    notes: list[str] = []
    low, high = min(frontier.points["x"]), max(frontier.points["x"])
    if not low <= budget <= high:
        factor = budget / high if budget > high else low / budget
        side = "above" if budget > high else "below"
        notes.append(
            f"The budget lies {factor:.3g} times {side} what the law was fitted to ({low:.2g} to {high:.2g} FLOPs)."
        )
    at = _at_k(convergence, k, n_latents)
    if at is not None and at.low is not None and tokens < at.low:
        notes.append(
            f"So many latents converge after about {_known(at.value):.2g} tokens: more training would still help, but "
            "for this budget a larger dictionary helps more."
        )
    return notes
