"""Tables of fitted laws, for the terminal, for Markdown and for LaTeX."""

import re
from typing import TYPE_CHECKING

from monosem.scaling.fits import Fits
from monosem.scaling.law_description import Label, describe
from monosem.scaling.law_numbers import Cell

if TYPE_CHECKING:
    from rich.table import Table

# As wide as a terminal is, and of that the first column where there are several settings.
_COLUMNS, _NAMES = 80, 16

_MATHS = {
    "−": "-",
    "×": r"\times ",
    "∞": r"\infty ",
    "½": r"\tfrac{1}{2}",
    "%": r"\%",
    **{
        letter: rf"\{name} "
        for letter, name in zip("αβγζηΔ", ["alpha", "beta", "gamma", "zeta", "eta", "Delta"], strict=True)
    },
}
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: rf"\{sign}" for sign in "#$%&_{}"},
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "…": r"\ldots{}",
    "–": "--",
    "“": "``",
    "”": "''",
    **{sign: f"${maths.strip()}$" for sign, maths in _MATHS.items() if sign != "%"},
}
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def law_table(fits: Fits) -> "Table":
    """For a terminal of 80 columns: intervals stand below values where several settings stand below each other."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    description = describe(fits)
    table = Table(
        title=Text.assemble((description.title, "bold"), f"\n{_plain_maths(description.equation)}"),
        caption=Text("\n".join(map(_plain, (description.legend, *description.notes)))),
        box=box.SIMPLE_HEAD,
        min_width=_COLUMNS - 2,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    is_single = len(description.headings) == 2
    between = " " if is_single else "\n"
    longest = max(len(label.words) for label, _ in description.rows)
    for number, label in enumerate(description.headings):
        # Where there is little room, numbers are broken between their bounds, and the names of settings keep theirs.
        width = min(longest, _NAMES) if number == 0 and not is_single else None
        table.add_column(Text(_plain(label, between)), width=width, overflow="fold")
    for label, cells in description.rows:
        table.add_row(Text(_plain(label)), *(Text(between.join(filter(None, cell))) for cell in cells))
    return table


def _plain(label: Label, between: str = " ") -> str:
    symbols = _listed([_plain_maths(symbol) for symbol in label.symbols])
    return between.join(filter(None, (symbols, label.words)))


def _listed(symbols: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(symbols[:-1]), symbols[-1]))) if symbols else ""


def _plain_maths(maths: str) -> str:
    """Subscripts that are letters of their own need no sign."""
    return maths.replace("_∞", "∞").replace("_1", "₁")


def law_markdown(fits: Fits) -> str:
    """A table with a title above it and notes below."""
    description = describe(fits)
    lines = [
        f"**{_marked(description.title)}**: `{_plain_maths(description.equation)}`",
        "",
        _row([_marked(_plain(label)) for label in description.headings]),
        _row(["---"] * len(description.headings)),
    ]
    for label, cells in description.rows:
        lines.append(_row([_marked(_plain(label)), *(_marked(" ".join(filter(None, cell))) for cell in cells)]))
    notes = [f"- {_marked(_plain(note))}" for note in (description.legend, *description.notes)]
    return "\n".join([*lines, "", *notes, ""])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    """Without signs that Markdown would take for its own."""
    return re.sub(r"([\\`*_<>|\[\]~])", r"\\\1", text)


def law_latex(fits: Fits) -> str:
    """A floating table in booktabs' style; it needs the packages booktabs and amsmath, and nothing else.

    What is not in the table stands in comments, for whoever sets it.
    """
    description = describe(fits)
    title, legend = _latex_text(description.title), _latex_label(description.legend)
    rows = [[_latex_label(label), *map(_latex_cell, cells)] for label, cells in description.rows]
    lines = [
        *(f"% {_latex_label(note)}" for note in description.notes),
        r"\begin{table}[htbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{title}: ${_latex_maths(description.equation)}$. {legend}}}",
        r"\medskip",
        rf"\begin{{tabular}}{{{'l' * len(description.headings)}}}",
        r"\toprule",
        _latex_row([_latex_label(label) for label in description.headings]),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_row(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_label(label: Label) -> str:
    symbols = _listed([f"${_latex_maths(symbol)}$" for symbol in label.symbols])
    return " ".join(filter(None, (symbols, _latex_text(label.words))))


def _latex_cell(cell: Cell) -> str:
    value, detail = map(_latex_number, cell)
    return rf"{value} {{\scriptsize {detail}}}" if detail else value


def _latex_number(text: str) -> str:
    """A number or an interval as a formula; other words as such."""
    is_number = re.fullmatch(r"[-+−\d.,×% ∞⁻⁰¹²³⁴⁵⁶⁷⁸⁹\[\]()]+", text) is not None
    return f"${_latex_maths(text)}$" if is_number else _latex_text(text)


def _latex_maths(maths: str) -> str:
    """A formula: scripts in braces, names of functions upright, and no space after the commas of thousands."""
    maths = re.sub(r"_(\w|∞)", r"_{\1}", maths)
    maths = re.sub(r"\^(−?\w)", r"^{\1}", maths)
    maths = _braced(maths, "^{{{}}}")
    maths = re.sub(r",(?=\d)", "{,}", maths)
    maths = re.sub(r"\b(exp|log)\b", r"\\\1", maths)
    maths = re.sub(r"(CE|MSE)", r"\\mathrm{\1}", maths)
    return "".join(_MATHS.get(sign, sign) for sign in maths)


def _braced(text: str, form: str) -> str:
    """Superscripts in a form of LaTeX."""
    return re.sub("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: form.format(found[0].translate(_SUPERSCRIPTS)), text)


def _latex_text(text: str) -> str:
    escaped = _braced("".join(_ESCAPES.get(sign, sign) for sign in text), "$^{{{}}}$")
    of_neighbours_one_formula = re.sub(r"(?<!\\)\$\$", "", escaped)
    return of_neighbours_one_formula.replace(r"L$\infty$", r"$L_{\infty}$")
