"""Rows of sweeps that belong together, and what is read from a row's curve."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosem.errors import UserError
from monosem.laws.curves import Convergence, Curve, convergence
from monosem.scaling.results import Row, read_table

# Why a run is left out of laws that are read from curves.
NO_CURVE = "no held-out curve was recorded; set held_out_points in [log]"


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Which rows a law is fitted to, and how."""

    subject: str | None = None
    """Only runs on this subject model."""
    hookpoint: str | None = None
    """Only runs at this hookpoint."""
    architecture: str | None = None
    """Only runs of this architecture."""
    k: tuple[int, ...] = ()
    """Only runs of these k (or target L0)."""
    gain: float = 0.05
    """A run has converged where twice the tokens would lower its held-out loss by less than this share."""
    samples: int = 400
    """Bootstrap samples behind each interval."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not 0 < self.gain < 1:
            raise UserError(f"gain={self.gain} is no share of a loss; give a number between 0 and 1.")
        if self.samples < 20:
            raise UserError(f"samples={self.samples} is too few for an interval; give 20 or more.")


def read_rows(places: Sequence[Path], config: FitConfig) -> list[Row]:
    """The rows of some sweeps that a configuration asks for.

    Raises:
        UserError: there are none, or a table is missing or damaged.
    """
    rows = [row for place in places for row in read_table(place)]
    wanted = {name: getattr(config, name) for name in ("subject", "hookpoint", "architecture")}
    chosen = [
        row
        for row in rows
        if all(value is None or row[name] == value for name, value in wanted.items())
        and (not config.k or row["k"] in config.k)
    ]
    if not chosen:
        asked = ", ".join(f"{name}={value}" for name, value in {**wanted, "k": config.k}.items() if value)
        raise UserError(f"None of {len(rows)} runs is of {asked or 'any kind'}; there are: {_kinds(rows)}.")
    return chosen


def require_one(rows: Sequence[Row], *names: str) -> None:
    """Refuse to fit one law to runs that differ in what the law does not speak of.

    Raises:
        UserError: names it, and its values.
    """
    for name in names:
        if len(found := sorted({row[name] for row in rows})) > 1:
            listed = ", ".join(map(str, found))
            raise UserError(f"The runs differ in their {name}: {listed}; choose one by --{name.replace('_', '-')}.")


def _kinds(rows: Sequence[Row]) -> str:
    kinds = {(row["subject"], row["hookpoint"], row["architecture"]) for row in rows}
    return "; ".join(", ".join(kind) for kind in sorted(kinds)) or "no rows"


def by(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by what they have in common, in rising order of it."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(sorted(found.items()))


def rows_of(rows: Sequence[Row], points: Mapping[str, Sequence[float]]) -> list[Row]:
    """The rows of one law's setting, by what its points tell of that."""
    alike = {name: points[name][0] for name in ("k", "tokens", "batch_size") if name in points}
    return [row for row in rows if all(row[name] == value for name, value in alike.items())]


def curve_of(row: Row) -> Curve | None:
    """Loss against compute as a run went on; None where no held-out curve was recorded."""
    if not row["curve_tokens"]:
        return None
    compute = row["flops_per_token"] * np.array(row["curve_tokens"], dtype=np.float64)
    return Curve(row["n_latents"], compute, np.array(row["curve_normalized_mse"], dtype=np.float64))


class Converged(dict[str, Convergence]):
    """Where each run has converged, by its name; ``left_out`` says why others are not in it."""

    def __init__(self, rows: Sequence[Row], gain: float) -> None:
        super().__init__()
        self.left_out: dict[str, str] = {}
        for row in rows:
            if not row["curve_tokens"]:
                self.left_out[row["name"]] = NO_CURVE
                continue
            tokens, loss = (np.array(row[name], dtype=np.float64) for name in ("curve_tokens", "curve_normalized_mse"))
            found = convergence(tokens, loss, gain=gain)
            if found is None:
                self.left_out[row["name"]] = f"not converged after {row['tokens']:,} tokens"
            else:
                self[row["name"]] = found


def best_of_each(rows: Sequence[Row], converged: Converged, setting: Callable[[Row], Hashable]) -> list[Row]:
    """Of converged runs that differ in learning rate or budget alone, the one of least loss where it converged."""
    best: dict[Hashable, Row] = {}
    for row in rows:
        if row["name"] not in converged:
            continue
        other = best.get(setting(row))
        if other is None or converged[row["name"]].loss < converged[other["name"]].loss:
            best[setting(row)] = row
    return list(best.values())
