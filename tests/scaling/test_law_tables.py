"""Tables of laws tell the laws' own numbers, the same in the terminal, in Markdown and in LaTeX."""

import re
from typing import Any

import numpy as np
import pytest
from made_fits import WHATS, example, small, with_laws, without_samples
from matplotlib.mathtext import MathTextParser
from rich.console import Console

from monosem.scaling.fits import Fits
from monosem.scaling.law_description import WRITINGS, describe
from monosem.scaling.law_numbers import Cell, told_estimate, told_percent
from monosem.scaling.law_tables import law_latex, law_markdown, law_table

AWKWARD = "a_b & 50% #1 {x} ~^\\ $5 *b* |c| <d> [e]"
GREEK = {"alpha", "beta", "gamma", "zeta", "eta", "Delta"}
COMMANDS = GREEK | {
    *("infty", "times", "tfrac", "exp", "log", "mathrm", "scriptsize", "begin", "end", "centering", "caption"),
    *("small", "setlength", "tabcolsep", "medskip"),
    *("toprule", "midrule", "bottomrule", "ldots", "textbackslash", "textasciitilde", "textasciicircum"),
}


def shown(fits: Fits) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(law_table(fits))
    return captured.get()


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def named(fits: Fits, name: str) -> Fits:
    return fits._replace(laws={name: next(iter(fits.laws.values())), **dict(list(fits.laws.items())[1:])})


@pytest.mark.parametrize("what", WHATS)
def test_every_parameter_of_every_law_is_in_its_place(what: str) -> None:
    fits, _ = example(what)
    description = describe(fits)
    headings = [label.words or label.symbols[0] for label in description.headings[1:]]
    table = {label.words: cells for label, cells in description.rows}
    if len(fits.laws) == 1:
        names = [label.symbols[0] if label.symbols else label.words for label, _ in description.rows]
        table = {headings[0]: tuple(cell for _, (cell,) in description.rows)}
        headings = names
    assert list(table) == list(fits.laws)
    for setting, fitted in fits.laws.items():
        law, cells = fitted.law, table[setting]
        symbols = WRITINGS[what].symbols
        assert symbols.keys() == law.parameters.keys()
        assert cells[: len(symbols)] == tuple(told_estimate(law.parameters[name]) for name in symbols)
        runs = law.groups if what == "compute" else law.points
        rest = cells[len(symbols) :]
        if any(other.plain for other in fits.laws.values()):
            names = list(WRITINGS[what].plain)
            wanted = [told_estimate(fitted.plain.parameters[name]) if fitted.plain else Cell("–") for name in names]
            assert list(rest[: len(names)]) == wanted and bool(fitted.plain) == bool(law.undetermined)
            rest = rest[len(names) :]
        assert rest[0] == Cell(f"{runs:,}")
        assert rest[1] == Cell(told_percent(law.residual_scale))
        if (found := fitted.extrapolation) is not None:
            greatest = float(max(found.relative_errors, key=abs))
            assert cells[-1].value == told_percent(greatest, signed=True)
            assert cells[-1].detail == f"{sum(found.is_inside)}/{len(found.measured)} inside"


@pytest.mark.parametrize(
    ("what", "size"), [*((what, "some") for what in WHATS), ("compute", "many"), ("latents", "many")]
)
def test_a_terminal_of_80_columns_shows_all_words(what: str, size: str) -> None:
    fits, _ = example(what, size)
    text, description = shown(fits), describe(fits)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    lines = text.splitlines()
    for label, cells in description.rows:
        for word in [word for cell in cells for part in cell for word in part.split()]:
            assert any(word in line for line in lines), (label, word)
    assert all(
        squeezed(note.words) in squeezed(text) for note in (description.legend, *description.notes) if not note.symbols
    )


@pytest.mark.parametrize("what", WHATS)
def test_all_three_tables_tell_the_same(what: str) -> None:
    fits, _ = example(what)
    description, markdown, latex = describe(fits), law_markdown(fits), law_latex(fits)
    rows = [line for line in markdown.splitlines() if line.startswith("|")][2:]
    latex_rows = latex.partition("\\midrule\n")[2].partition("\\bottomrule")[0].strip().split("\n")
    for (_, cells), row, latex_row in zip(description.rows, rows, latex_rows, strict=True):
        told = [" ".join(filter(None, cell)) for cell in cells]
        assert [re.sub(r"\\(.)", r"\1", each) for each in row.strip("| ").split(" | ")[-len(cells) :]] == told
        assert [plain(each) for each in latex_row.removesuffix(r" \\").split(" & ")[1:]] == told


def plain(latex: str) -> str:
    """A cell of LaTeX as it is read."""
    up = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    latex = re.sub(r"\^\{(-?\d+)\}", lambda found: found[1].translate(up), latex.replace("{,}", ","))
    latex = re.sub(r"\{\\scriptsize (.*)\}$", r"\1", latex).replace(r"\%", "%").replace(r"\times ", "×")
    return latex.replace("$", "").replace("-", "−") if latex != "--" else "–"


@pytest.mark.parametrize("what", WHATS)
def test_latex_needs_nothing_but_booktabs_and_amsmath(what: str) -> None:
    fits = named(example(what)[0], AWKWARD)._replace(
        left_out={f"{AWKWARD} …": "not “so” – ½ × α"}, refused={"β": AWKWARD}
    )
    latex = law_latex(fits)
    *comments, _ = latex.partition("\\begin{table}")[0].split("\n")
    assert [line[:2] for line in comments] == ["% "] * len(describe(fits).notes)
    latex = re.sub("(?m)^% ", "", latex)
    assert latex.isascii(), set(re.findall(r"[^\x00-\x7f]", latex))
    assert set(re.findall(r"\\([A-Za-z]+)", latex)) <= COMMANDS
    bare = re.sub(r"\\[\\#$%&_{}]", "", latex)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "$$" not in bare and "#" not in bare
    depth = np.cumsum([{"{": 1, "}": -1}.get(sign, 0) for sign in bare])
    assert depth.min() == 0 and "~" not in bare and "%" not in bare
    formulas = bare.split("$")[1::2]
    words = "".join(bare.split("$")[::2])
    assert not set("^_") & set(re.sub(r"\\begin\{.*?\}|\[htbp\]", "", words)) and formulas
    body = latex.partition("\\toprule\n")[2].partition("\\bottomrule")[0].split("\\midrule\n")
    for line in "".join(body).strip().split("\n"):
        cells = re.split(r"(?<!\\)&", line)
        assert line.endswith(r" \\") and len(cells) == len(describe(fits).headings)


@pytest.mark.parametrize("what", WHATS)
def test_formulas_are_set(what: str) -> None:
    formulas = re.sub(r"\\[%$]", "", law_latex(example(what)[0])).split("$")[1::2]
    parser = MathTextParser("path")
    for formula in formulas:
        parser.parse(f"${formula.replace('tfrac', 'frac')}$")
    assert formulas


def test_formulas_are_the_papers() -> None:
    latex = {what: law_latex(example(what)[0]) for what in ("joint", "compute", "learning-rate")}
    assert (
        r"$L(n, k) = \exp(\alpha  + \beta _{k} \log k + \beta _{n} \log n + \gamma  \log k \log n)"
        r" + \exp(\zeta  + \eta  \log k)$" in latex["joint"]
    )
    assert r"$L(C) = L_{\infty } + (C / C_{1})^{-b}$" in latex["compute"]
    assert r"$p$ (paper: $-\tfrac{1}{2}$)" in latex["learning-rate"]
    assert "p (paper: −½)" in squeezed(shown(example("learning-rate", "one")[0])).replace("p(paper:", "p (paper: ")


def test_markdown_escapes_what_names_hold() -> None:
    fits = named(example("tokens")[0], AWKWARD)
    rows = [line for line in law_markdown(fits).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(describe(fits).headings) + 1}
    assert r"a\_b & 50% #1 {x} \~^\\ $5 \*b\* \|c\| \<d\> \[e\]" in rows[2]


def test_what_is_not_determined_is_said_with_its_reason_and_its_symbols() -> None:
    fits, _ = example("latents")
    reason = "exponent and scale are not determined: what falls with x is 0.{} at x = 8.1e+03; measure more."
    numbers = iter(range(9))
    unknown = with_laws(fits, undetermined=lambda _: dict.fromkeys(("exponent", "scale"), reason.format(next(numbers))))
    note = describe(unknown).notes[0]
    assert note.symbols == ("b", "n_1")
    assert note.words == (
        "not determined for k = 8, k = 16 and k = 32: (the first) what falls with n is 0.0 at n = 8.1 × 10³; "
        "measure more."
    )
    assert describe(unknown).rows[0][1][1:3] == (Cell("n. d."), Cell("n. d."))
    assert "b and n₁ not determined for k = 8" in shown(unknown)
    assert "$b$ and $n_{1}$ not determined" in law_latex(unknown)


def test_refused_and_left_out_are_counted_and_the_first_are_named() -> None:
    fits, _ = example("tokens", "one")
    left_out = {f"run-{number}": f"not converged after {number},000 tokens" for number in range(1, 8)}
    left_out |= {"bare": "no held-out curve was recorded"}
    refused = {"k = 2": "A power law needs 3 different values of x, not 2; measure more."}
    notes = [note.words for note in describe(fits._replace(left_out=left_out, refused=refused)).notes]
    assert notes == [
        "No law of k = 2: A power law needs 3 different values of n, not 2; measure more.",
        "Left out, 7: run-1, run-2, run-3 and 4 more: (the first) not converged after 1,000 tokens",
        "Left out, 1: bare: no held-out curve was recorded",
    ]


@pytest.mark.parametrize("what", WHATS)
def test_laws_without_samples_have_numbers_without_intervals(what: str) -> None:
    fits = without_samples(example(what)[0])
    description = describe(fits)
    assert not any(cell.detail for _, cells in description.rows for cell in cells)
    assert "interval" not in shown(fits) and "Held out" not in shown(fits)


@pytest.mark.parametrize("what", WHATS)
def test_a_few_runs_have_tables_too(what: str) -> None:
    fits, _ = small(what)
    (law, *_) = fits.laws.values()
    for text in (shown(fits), law_markdown(fits), law_latex(fits)):
        assert "not determined" in text or not law.law.undetermined
        assert "Scatter" in text


def test_a_setting_that_cannot_be_extrapolated_has_a_dash_among_others() -> None:
    fits, _ = example("tokens")
    first = next(iter(fits.laws))
    laws: Any = {**fits.laws, first: fits.laws[first]._replace(extrapolation=None)}
    description = describe(fits._replace(laws=laws))
    assert description.rows[0][1][-1] == Cell("–") and "inside" in description.rows[1][1][-1].detail
    assert law_latex(fits._replace(laws=laws)).count("& -- \\\\") == 1
