"""What a table of fitted laws tells, whatever it is shown in."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from monosem.laws.extrapolation import Extrapolation
from monosem.scaling.fits import KINDS, Fits, FittedLaw
from monosem.scaling.law_numbers import (
    NOT_DETERMINED,
    NOT_DETERMINED_CELL,
    Cell,
    power_of_ten,
    told_estimate,
    told_percent,
)

# Of all that share a reason, so many are named.
FIRST = 3


class Label(NamedTuple):
    """Symbols as they are written in formulas, and words after them."""

    symbols: tuple[str, ...] = ()
    words: str = ""


class Description(NamedTuple):
    """A table: a row for each setting, or of a single setting a row for each quantity."""

    title: str
    equation: str
    headings: tuple[Label, ...]
    rows: tuple[tuple[Label, tuple[Cell, ...]], ...]
    """A row's label, and its cells below all headings but the first."""
    legend: Label
    """How to read it."""
    notes: tuple[Label, ...]
    """What is not in it, and why."""


class Writing(NamedTuple):
    """How laws of a kind are written: a subscript follows _, an exponent ^."""

    equation: str
    symbols: Mapping[str, Label]
    """Of the parameters, in the order of the table."""
    x: str = "n"
    """What laws of one variable call x."""
    plain: Mapping[str, Label] = {}
    """Of the parameters of the law without what nothing removes."""


def _symbols(words: str = "", **symbols: str) -> dict[str, Label]:
    """Labels of parameters; the words belong to the first."""
    labels = {name: Label((symbol,)) for name, symbol in symbols.items()}
    first = next(iter(labels))
    return {**labels, first: labels[first]._replace(words=words)}


_POWER = _symbols(exponent="p", factor="a")
_WITHOUT_LOSS = _symbols("if L∞ is 0", exponent="−b")
WRITINGS: dict[str, Writing] = {
    "learning-rate": Writing("r(n) = a n^p", _symbols("(paper: −½)", exponent="p", factor="a")),
    "compute": Writing(
        "L(C) = L_∞ + (C / C_1)^−b", _symbols(irreducible="L_∞", exponent="b", scale="C_1"), "C", _WITHOUT_LOSS
    ),
    "tokens": Writing("T(n) = a n^p", _POWER),
    "latents": Writing(
        "L(n) = L_∞ + (n / n_1)^−b", _symbols(irreducible="L_∞", exponent="b", scale="n_1"), plain=_WITHOUT_LOSS
    ),
    "joint": Writing(
        "L(n, k) = exp(α + β_k log k + β_n log n + γ log k log n) + exp(ζ + η log k)",
        _symbols(alpha="α", beta_k="β_k", beta_n="β_n", gamma="γ", zeta="ζ", eta="η"),
        plain=_symbols("if exp(ζ) is 0", alpha="α", beta_k="β_k", beta_n="β_n", gamma="γ"),
    ),
    "subject": Writing("L_s(n) = a n^p", _POWER),
    "downstream": Writing("ΔCE = a MSE^p", _POWER, "MSE"),
}


def describe(fits: Fits) -> Description:
    """Every law's parameters, how many runs it is of, their scatter, and how the smaller n foretell the largest."""
    columns = dict(WRITINGS[fits.what].symbols)
    if any(fitted.plain for fitted in fits.laws.values()):
        columns |= {_PLAIN + name: label for name, label in WRITINGS[fits.what].plain.items()}
    columns |= {"count": Label(words=_counted(fits)), "scatter": Label(words="Scatter")}
    if any(fitted.extrapolation for fitted in fits.laws.values()):
        columns["held_out"] = Label(words="Held out")
    told = {setting: _cells(fits.what, fitted) for setting, fitted in fits.laws.items()}
    labels, names = tuple(columns.values()), tuple(columns)
    rows = tuple((Label(words=setting), tuple(cells[name] for name in names)) for setting, cells in told.items())
    headings = (Label(), *labels)
    if len(rows) == 1:
        ((setting, cells),) = rows
        headings, rows = (Label(), setting), tuple((label, (cell,)) for label, cell in zip(labels, cells, strict=True))
    title = KINDS[fits.what].title.partition(",")[0]
    return Description(title, WRITINGS[fits.what].equation, headings, rows, _legend(fits), tuple(_notes(fits)))


# In front of the names of parameters of the law without what nothing removes.
_PLAIN = "plain "


def _counted(fits: Fits) -> str:
    return "Sizes" if fits.what == "learning-rate" else "Runs"


def _cells(what: str, fitted: FittedLaw) -> dict[str, Cell]:
    law = fitted.law
    plain = {} if fitted.plain is None else fitted.plain.parameters
    return {
        **{name: told_estimate(estimate) for name, estimate in law.parameters.items()},
        **{_PLAIN + name: told_estimate(plain[name]) if plain else Cell("–") for name in WRITINGS[what].plain},
        "count": Cell(f"{law.groups if what == 'compute' else law.points:,}"),
        "scatter": Cell(told_percent(law.residual_scale)),
        "held_out": Cell("–") if fitted.extrapolation is None else _held_out(fitted.extrapolation),
    }


def _held_out(found: Extrapolation) -> Cell:
    """The greatest error, and how many measurements lie in their intervals, if there are any."""
    greatest = found.relative_errors[np.abs(found.relative_errors).argmax()]
    inside = f"{found.is_inside.sum()}/{len(found.is_inside)} inside" if len(found.law.samples) else ""
    return Cell(told_percent(float(greatest), signed=True), inside)


def _legend(fits: Fits) -> Label:
    told = "Scatter: the robust standard deviation of what was measured about the law."
    if any(len(fitted.law.samples) for fitted in fits.laws.values()):
        told = f"In brackets: 95% intervals. {told}"
    if any(fitted.extrapolation for fitted in fits.laws.values()):
        told += (
            " Held out: the greatest error of the law of all but the largest n about that one, and how many of its "
            "measurements lie inside their 95% intervals."
        )
    if any(fitted.law.undetermined for fitted in fits.laws.values()):
        told += f" {NOT_DETERMINED_CELL}: not determined by these runs."
    return Label(words=told)


def _notes(fits: Fits) -> list[Label]:
    x = WRITINGS[fits.what].x
    refused = [Label(words=f"No law of {names}: {_written(why, x)}") for names, _, why in _grouped(fits.refused)]
    left_out = [
        Label(words=f"Left out, {count:,}: {names}: {reason}") for names, count, reason in _grouped(fits.left_out)
    ]
    return [*_undetermined(fits), *refused, *left_out]


def _undetermined(fits: Fits) -> list[Label]:
    """What is not determined in which settings, and why in the first of them."""
    reasons: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for setting, fitted in fits.laws.items():
        undetermined = fitted.law.undetermined
        for reason in dict.fromkeys(undetermined.values()):
            names = tuple(name for name, why in undetermined.items() if why == reason)
            reasons[names][setting] = reason.partition(f"{NOT_DETERMINED}: ")[2] or reason
    writing = WRITINGS[fits.what]
    return [
        Label(
            tuple(writing.symbols[name].symbols[0] for name in names),
            f"{NOT_DETERMINED}{f' for {settings}' * (len(fits.laws) > 1)}: {_written(why, writing.x)}",
        )
        for names, of_settings in reasons.items()
        for settings, _, why in _grouped(of_settings)
    ]


def _written(reason: str, x: str) -> str:
    """A law's reason in the words of its kind: for x what it is, and numbers as they are read."""
    reason = re.sub(r"\bx\b", x, reason)
    return re.sub(r"(?<=\d)e\+?(-?\d+)", lambda found: f" × {power_of_ten(int(found[1]))}", reason)


def _grouped(reasons: Mapping[str, str]) -> list[tuple[str, int, str]]:
    """The first few names of each reason, how many there are, and the reason; numbers in it are the first one's."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        groups[re.sub(r"\d[\d.,e+-]*", "0", reason)].append(name)
    return [(_first(names), len(names), _first_reason(names, reasons)) for names in groups.values()]


def _first_reason(names: Sequence[str], reasons: Mapping[str, str]) -> str:
    first = reasons[names[0]]
    return first if all(reasons[name] == first for name in names) else f"(the first) {first}"


def _first(names: Sequence[str]) -> str:
    """``a, b, c and 4 more``; between names that hold commas stand semicolons."""
    shown = list(names) if len(names) <= FIRST + 1 else [*names[:FIRST], f"{len(names) - FIRST:,} more"]
    between = "; " if any("," in name for name in names) else ", "
    return f"{between.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
