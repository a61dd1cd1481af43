"""The laws that a sweep's rows are fitted to (Gao et al. 2024, §3): which rows, which form, what to foretell."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.laws.curves import Curve, Envelope, crossings, envelope
from monosem.laws.extrapolation import Extrapolation, extrapolate, judge
from monosem.laws.fit import fit_law
from monosem.laws.forms import IRREDUCIBLE, JOINT, JOINT_POWER, POWER
from monosem.laws.frontier import fit_frontier
from monosem.laws.law import Form, Law, UndeterminedError
from monosem.laws.optimum import optimum
from monosem.scaling.results import Row
from monosem.scaling.selection import NO_CURVE, Converged, FitConfig, best_of_each, by, curve_of, require_one

Columns = dict[str, list[float]]


class FittedLaw(NamedTuple):
    """A law, and the points that it was fitted to."""

    law: Law
    points: Columns
    """The law's variables and ``y`` at each point; further columns are for the reader."""
    extrapolation: Extrapolation | None = None
    """What the law fitted to all but the largest size says of that."""
    sizes: Law | None = None
    """Of a frontier: the best number of latents against compute."""
    plain: Law | None = None
    """Where what nothing removes is not determined: the law without it."""

    @property
    def determined(self) -> Law:
        """The law to read numbers from."""
        return self.plain or self.law


class Fits(NamedTuple):
    """Laws of one kind, each of runs alike in what it does not speak of."""

    what: str
    laws: Mapping[str, FittedLaw]
    """By what these runs have in common: ``k = 32``."""
    refused: Mapping[str, str]
    """Why there is no law of others."""
    left_out: Mapping[str, str]
    """Why some runs are in no law, by their names."""


def fit_learning_rate(rows: Sequence[Row], config: FitConfig) -> Fits:
    """The best learning rate against n: for each n a parabola through the rates swept, then a line through the best."""
    require_one(rows, "subject", "hookpoint", "architecture")
    left_out: dict[str, str] = {}

    def of_setting(members: Sequence[Row]) -> FittedLaw:
        points: Columns = {name: [] for name in ("x", "y", "loss", *_SWEPT_ALIKE)}
        alike = [members[0][name] for name in _SWEPT_ALIKE]
        for n, swept in by(members, lambda row: row["n_latents"]).items():
            try:
                found = optimum([row["learning_rate"] for row in swept], [row["normalized_mse"] for row in swept])
            except UndeterminedError as error:
                left_out[f"{_sweep_of(members[0])}, n = {n:,}"] = str(error)
                continue
            for name, value in zip(points, (n, found.x, found.loss, *alike), strict=True):
                points[name].append(float(value))
        return _fitted(POWER, points, ("x",), config)

    settings = by(rows, lambda row: tuple(row[name] for name in _SWEPT_ALIKE)).values()
    named = {_sweep_of(members[0]): members for members in settings if _is_swept(members)}
    if not named:
        raise UndeterminedError(
            "No three sizes were swept over three or more learning rates with the same k and tokens; sweep "
            "learning_rate at three or more n_latents."
        )
    return _each("learning-rate", named, of_setting, left_out)


# What runs of one sweep of rates have in common; each of its points tells it too.
_SWEPT_ALIKE = ("k", "tokens", "batch_size")


def _sweep_of(row: Row) -> str:
    return f"k = {row['k']:g}, {row['tokens']:,} tokens in batches of {row['batch_size']:,}"


def _is_swept(rows: Sequence[Row]) -> bool:
    rates = by(rows, lambda row: row["n_latents"]).values()
    return sum(len({row["learning_rate"] for row in members}) >= 3 for members in rates) >= 3


def fit_compute(rows: Sequence[Row], config: FitConfig) -> Fits:
    """L(C): the lower envelope of runs' curves of held-out loss against training compute.

    Of each size and k only the longest runs': when its learning rate has come to its end, a run is better than a longer
    one at the same compute, and so would be a size that has shorter runs too.
    """
    require_one(rows, "subject", "hookpoint", "architecture")
    drawn = [row for row in rows if row["curve_tokens"]]
    longest = {key: max(row["tokens"] for row in members) for key, members in by(drawn, _size_and_k).items()}
    shorter = {
        row["name"]: f"there are longer runs of its size, of {longest[_size_and_k(row)]:,} tokens"
        for row in drawn
        if row["tokens"] < longest[_size_and_k(row)]
    }

    def of_k(members: Sequence[Row]) -> FittedLaw:
        kept = [row for row in members if row["name"] not in shorter]
        curves = [curve for row in kept if (curve := curve_of(row)) is not None]
        drawing: dict[str, Any] = {"samples": config.samples, "seed": config.seed}
        whole = envelope(curves)
        law = fit_frontier(whole, **drawing)
        sizes = [curves[number].size for number in whole.best]
        of_one_k = [float(members[0]["k"])] * len(sizes)
        points = {"x": whole.compute.tolist(), "y": whole.loss.tolist(), "n": sizes, "k": of_one_k}
        plain = _plain(law, points, ("x",), whole.best.tolist(), config)
        beyond = _beyond(curves, whole, (plain or law).form, drawing)
        return FittedLaw(law, points, beyond, _sizes(curves, config), plain)

    return _each("compute", _by_k(rows), of_k, {**_without_curves(rows), **shorter})


def _size_and_k(row: Row) -> tuple[int, float]:
    return row["n_latents"], row["k"]


# The forms without what nothing removes.
_PLAIN = {IRREDUCIBLE.name: POWER, JOINT.name: JOINT_POWER}


def _plain(
    law: Law, points: Columns, variables: Sequence[str], group: Sequence[Hashable], config: FitConfig
) -> Law | None:
    """The law to read where what nothing removes is not determined."""
    if law.form.name not in _PLAIN or not law.undetermined:
        return None
    columns = [points[name] for name in variables]
    form = _PLAIN[law.form.name]
    return fit_law(form, *columns, y=points["y"], group=group, samples=config.samples, seed=config.seed)


def _sizes(curves: Sequence[Curve], config: FitConfig) -> Law | None:
    """The best size against compute: a power law through where each size takes over from the next smaller one."""
    found = crossings(curves)
    try:
        law = fit_law(
            POWER,
            [each.compute for each in found],
            y=[each.size for each in found],
            samples=config.samples,
            seed=config.seed,
        )
    except UndeterminedError:
        return None
    return None if law.undetermined else law


def _beyond(curves: Sequence[Curve], whole: Envelope, form: Form, drawing: Mapping[str, Any]) -> Extrapolation | None:
    """The frontier of all sizes but the largest, and what it says of the whole one's further end."""
    largest = max(curve.size for curve in curves)
    smaller = [curve for curve in curves if curve.size < largest]
    try:
        reach = envelope(smaller)
        law = fit_frontier(reach, form, **drawing)
    except UndeterminedError:
        return None
    is_beyond = whole.compute > reach.compute.max()
    if not is_beyond.any():
        return None
    return judge(law, whole.compute[is_beyond][None], whole.loss[is_beyond])


def fit_tokens(rows: Sequence[Row], config: FitConfig) -> Fits:
    """Tokens to convergence against n."""
    return _of_converged("tokens", POWER, lambda place: place.tokens, rows, config)


def fit_latents(rows: Sequence[Row], config: FitConfig) -> Fits:
    """L(n): the held-out loss at convergence."""
    return _of_converged("latents", IRREDUCIBLE, lambda place: place.loss, rows, config)


def _of_converged(what: str, form: Form, value: Callable[[Any], float], rows: Sequence[Row], config: FitConfig) -> Fits:
    require_one(rows, "subject", "hookpoint", "architecture")
    converged = Converged(rows, config.gain)

    def of_k(members: Sequence[Row]) -> FittedLaw:
        best = best_of_each(members, converged, lambda row: (row["n_latents"], row["seed"]))
        points = {
            "x": [float(row["n_latents"]) for row in best],
            "y": [value(converged[row["name"]]) for row in best],
            "k": [float(row["k"]) for row in best],
        }
        return _fitted(form, points, ("x",), config, along="x")

    return _each(what, _by_k(rows), of_k, converged.left_out)


def fit_joint(rows: Sequence[Row], config: FitConfig) -> Fits:
    """L(n, k) at convergence: how much a larger dictionary helps, at every sparsity."""
    require_one(rows, "subject", "hookpoint", "architecture")
    converged = Converged(rows, config.gain)

    def of_all(members: Sequence[Row]) -> FittedLaw:
        best = best_of_each(members, converged, lambda row: (row["n_latents"], row["k"], row["seed"]))
        points = {
            "n": [float(row["n_latents"]) for row in best],
            "k": [float(row["k"]) for row in best],
            "y": [converged[row["name"]].loss for row in best],
        }
        return _fitted(JOINT, points, ("n", "k"), config, along="n")

    return _each("joint", {"all k": rows}, of_all, converged.left_out)


def fit_subject(rows: Sequence[Row], config: FitConfig) -> Fits:
    """L_s(n): the loss at convergence against n, for each of several subject models, at every k that several have."""
    require_one(rows, "architecture")
    converged = Converged(rows, config.gain)

    def of_subject(members: Sequence[Row]) -> FittedLaw:
        require_one(members, "hookpoint")
        best = best_of_each(members, converged, lambda row: (row["n_latents"], row["seed"]))
        points = {
            "x": [float(row["n_latents"]) for row in best],
            "y": [converged[row["name"]].loss for row in best],
            "parameters": [float(row["subject_parameters"]) for row in best],
        }
        return _fitted(POWER, points, ("x",), config, along="x")

    shared = {
        k: of_k for k, of_k in by(rows, lambda row: row["k"]).items() if len({row["subject"] for row in of_k}) > 1
    }
    if not shared:
        raise UndeterminedError(
            "L_s(n) needs runs of one k on two or more subject models; name the sweeps of others too."
        )
    named: dict[str, list[Row]] = {}
    for k, of_k in shared.items():
        for (parameters, subject), members in by(of_k, lambda row: (row["subject_parameters"], row["subject"])).items():
            also = f", k = {k:g}" if len(shared) > 1 else ""
            named[f"{subject} ({parameters:,} parameters{also})"] = members
    return _each("subject", named, of_subject, converged.left_out)


def fit_downstream(rows: Sequence[Row], config: FitConfig) -> Fits:
    """The increase of cross-entropy, with reconstructions in place, against the normalised MSE of these."""
    require_one(rows, "subject", "hookpoint", "architecture")
    harmful = [row for row in rows if row["cross_entropy_increase"] > 0]

    def of_all(members: Sequence[Row]) -> FittedLaw:
        points = {name: [row[column] for row in members] for name, column in _DOWNSTREAM.items()}
        group = [(row["n_latents"], row["k"], row["tokens"], row["learning_rate"]) for row in members]
        law = fit_law(POWER, points["x"], y=points["y"], group=group, samples=config.samples, seed=config.seed)
        return FittedLaw(law, points)

    unharmed = {row["name"]: "the cross-entropy did not rise" for row in rows if row not in harmful}
    return _each("downstream", {"all runs": harmful}, of_all, unharmed)


_DOWNSTREAM = {"x": "normalized_mse", "y": "cross_entropy_increase", "k": "k"}


def _by_k(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {f"k = {k:g}": members for k, members in by(rows, lambda row: row["k"]).items()}


def _without_curves(rows: Sequence[Row]) -> dict[str, str]:
    return {row["name"]: NO_CURVE for row in rows if not row["curve_tokens"]}


def _fitted(
    form: Form, points: Columns, variables: Sequence[str], config: FitConfig, along: str | None = None
) -> FittedLaw:
    """The law of some points; runs of one setting share it. ``along`` one variable the largest is foretold."""
    columns = [points[name] for name in variables]
    group = list(zip(*columns, strict=True))
    drawing: dict[str, Any] = {"group": group, "samples": config.samples, "seed": config.seed}
    law = fit_law(form, *columns, y=points["y"], **drawing)
    fitted = FittedLaw(law, points, plain=_plain(law, points, variables, group, config))
    if along is None:
        return fitted
    try:
        return fitted._replace(extrapolation=extrapolate(form, *columns, y=points["y"], along=along, **drawing))
    except UndeterminedError:  # too few sizes to do without the largest
        return fitted


def _each(
    what: str,
    settings: Mapping[str, Sequence[Row]],
    fit: Callable[[Sequence[Row]], FittedLaw],
    left_out: Mapping[str, str],
) -> Fits:
    """Fit each setting's runs.

    Raises:
        UndeterminedError: there is no law of any.
    """
    laws: dict[str, FittedLaw] = {}
    refused: dict[str, str] = {}
    for name, members in settings.items():
        try:
            laws[name] = fit(members)
        except UndeterminedError as error:
            refused[name] = str(error)
    if not laws:
        told = "; ".join(f"{name}: {why}" for name, why in refused.items())
        runs = f" {len(left_out)} runs were left out, as: {next(iter(left_out.values()))}." if left_out else ""
        raise UndeterminedError(f"There is no law of {what}. {told}{runs}")
    return Fits(what, laws, refused, left_out)


@dataclass(frozen=True)
class Kind:
    """A kind of law that can be asked for."""

    title: str
    fit: Callable[[Sequence[Row], FitConfig], Fits]
    x: str
    """Label of the horizontal axis."""
    y: str


KINDS: dict[str, Kind] = {
    "learning-rate": Kind("Best learning rate", fit_learning_rate, "Latents", "Best learning rate"),
    "compute": Kind("Frontier of compute, L(C)", fit_compute, "Training compute (FLOPs)", "Normalised MSE"),
    "tokens": Kind("Tokens to convergence", fit_tokens, "Latents", "Tokens to convergence"),
    "latents": Kind("Loss at convergence, L(n)", fit_latents, "Latents", "Normalised MSE at convergence"),
    "joint": Kind("Loss at convergence, L(n, k)", fit_joint, "Latents", "Normalised MSE at convergence"),
    "subject": Kind("Loss at convergence by subject, L_s(n)", fit_subject, "Latents", "Normalised MSE at convergence"),
    "downstream": Kind("Downstream loss", fit_downstream, "Normalised MSE", "Increase of cross-entropy (nats)"),
}


def fit(what: str, rows: Sequence[Row], config: FitConfig) -> Fits:
    """Fit the laws of one kind.

    Raises:
        UserError: there is no such kind, or the runs differ in what it does not speak of.
        UndeterminedError: the runs determine no such law.
    """
    if what not in KINDS:
        raise UserError(f"Unknown law '{what}'. Known: {', '.join(KINDS)}.")
    sparse = [row for row in rows if row["k"] is not None]
    if not sparse:
        raise UndeterminedError("No run has a k or a target L0, by which runs are told apart; sweep k.")
    fits = KINDS[what].fit(sparse, config)
    without = {row["name"]: "it has neither a k nor a target L0" for row in rows if row["k"] is None}
    return fits._replace(left_out={**fits.left_out, **without})
