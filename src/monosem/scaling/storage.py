"""Fitted laws on disk: ``<what>.json``, with all that a figure, a table and a recommendation need."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.laws.forms import law_from_dict
from monosem.laws.law import Law
from monosem.scaling.fits import Fits, FittedLaw
from monosem.scaling.results import Row
from monosem.scaling.selection import FitConfig

FORMAT_VERSION = 1
# What the runs of one set of laws share, and a recommendation must know.
SHARED = ("subject", "hookpoint", "architecture", "d_model", "batch_size")


class StoredLaw(NamedTuple):
    """A law as it was stored."""

    law: Law
    """``FittedLaw.determined``."""
    points: Mapping[str, Sequence[float]]
    sizes: Law | None


class StoredFits(NamedTuple):
    """The laws of one kind as they were stored, by setting."""

    laws: Mapping[str, StoredLaw]
    runs: Mapping[str, Any]
    """What all runs share: ``subject``, ``hookpoint``, ``architecture``, ``d_model``, ``batch_size``; None of what they
    don't."""


def save_fits(fits: Fits, rows: Sequence[Row], config: FitConfig, path: Path) -> None:
    """Write the laws, with the points that they were fitted to."""
    shared = {name: rows[0][name] if len({row[name] for row in rows}) == 1 else None for name in SHARED}
    record = {
        "format_version": FORMAT_VERSION,
        "what": fits.what,
        "runs": shared,
        "gain": config.gain,
        "laws": {name: _law_record(fitted) for name, fitted in fits.laws.items()},
        "refused": dict(fits.refused),
        "left_out": dict(fits.left_out),
    }
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def _law_record(fitted: FittedLaw) -> dict[str, Any]:
    extrapolation = fitted.extrapolation
    foretold = extrapolation and {
        "variables": extrapolation.variables.tolist(),
        "measured": extrapolation.measured.tolist(),
        "predicted": extrapolation.predicted.value.tolist(),
        "low": extrapolation.predicted.low.tolist(),
        "high": extrapolation.predicted.high.tolist(),
    }
    return {
        "law": _compact(fitted.law.to_dict()),
        "points": fitted.points,
        "sizes": fitted.sizes and _compact(fitted.sizes.to_dict()),
        "plain": fitted.plain and _compact(fitted.plain.to_dict()),
        "held_out": foretold,
    }


def _compact(law: dict[str, Any]) -> dict[str, Any]:
    """The samples as one string, or the file would have a line for each number."""
    return {**law, "samples": json.dumps(law["samples"], separators=(",", ":"))}


def load_fits(path: Path) -> StoredFits:
    """Read what ``save_fits`` wrote.

    Raises:
        UserError: it is missing, damaged, or of another format.
    """
    remedy = f"write it with: monosem fit {path.stem} RESULTS --out {path.parent}"
    try:
        record = json.loads(path.read_bytes())
        if record["format_version"] != FORMAT_VERSION:
            raise UserError(f"{path} has format {record['format_version']}, not {FORMAT_VERSION}; {remedy}")
        laws = {
            name: StoredLaw(
                _law(each["plain"] or each["law"]), dict(each["points"]), each["sizes"] and _law(each["sizes"])
            )
            for name, each in record["laws"].items()
        }
        return StoredFits(laws, dict(record["runs"]))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {remedy}") from error


def _law(record: dict[str, Any]) -> Law:
    return law_from_dict({**record, "samples": json.loads(record["samples"])})
