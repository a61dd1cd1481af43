"""What the commands print on standard output when they are done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.evaluation.bootstrap import Estimate, estimate
from monosem.evaluation.comparison import METRICS, Comparison
from monosem.evaluation.tables import evaluation_table, format_estimate
from monosem.runs.directory import AUTOENCODER, EVALUATION, FIGURES, REPORT
from monosem.runs.inspect import Context, Inspection, LatentView
from monosem.runs.steering import Steered
from monosem.runs.train import TrainedRun
from monosem.sae.interventions import Intervention

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MARK = "bold black on yellow"
NAME_WIDTH = 24


def standard_output() -> "Console":
    """Results go to standard output, progress to standard error."""
    from rich.console import Console

    return Console()


def show_trained(runs: Sequence[TrainedRun]) -> None:
    """Each run's table, and where its results are."""
    out = standard_output()
    for run in runs:
        out.print(evaluation_table(run.evaluation))
        if run.config.training.target_l0 is not None:
            print_line(_on_target(run.config.training.target_l0, run.evaluation.metrics["l0"].value or 0.0), out)
        show_files(run.directory, out)


def _on_target(target: float, l0: float) -> str:
    """How near the averaged weights, which are evaluated, came to an L0 that training was steered towards."""
    return f"Target L0    {target:g}; the averaged weights' is {l0:.1f} ({l0 / target - 1:+.0%})"


def show_files(directory: Path, out: "Console") -> None:
    """Where a run's results are."""
    print_line(f"Autoencoder  {directory / AUTOENCODER}", out)
    print_line(f"Figures      {directory / FIGURES}", out)
    if (directory / REPORT).exists():
        print_line(f"Report       {directory / REPORT}", out)
    print_line(f"Evaluation   {directory / EVALUATION}\n", out)


def show_comparison(comparison: Comparison, directory: Path) -> None:
    """Every run's numbers, then the curves at the same L0, and where the figure is."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = standard_output()
    out.print(Text(f"{comparison.subject} · {comparison.hookpoint}\n", style="bold"), soft_wrap=True)
    runs = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    runs.add_column("", overflow="fold")  # where a line is short of room, only the names are folded
    for heading in ("L0", "Normalised MSE", "Cross-entropy increase", "Dead"):
        runs.add_column(heading, no_wrap=True)
    for curve in comparison.curves:
        name = curve
        for run in (run for run in comparison.runs if run.curve == curve):
            metrics = (format_estimate(estimate(run.measured.metrics[metric])) for metric in METRICS)
            runs.add_row(Text(name), f"{float(run.measured.l0[0]):.1f}", *metrics, f"{run.dead_share:.2%}")
            name = ""
    out.print(runs)
    out.print()
    for metric, words in zip(METRICS, ("normalised MSE", "cross-entropy increase"), strict=True):
        _show_between(comparison, metric, words, out)
    print_line(f"Figure       {directory / 'comparison.png'} (and .svg)", out)
    print_line(f"Numbers      {directory / 'comparison.json'}", out)


def _show_between(comparison: Comparison, metric: str, words: str, out: "Console") -> None:
    """A metric of every curve at the same L0, and below each its ratio; as many L0 a table as the width holds."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    points = {(each.curve, each.l0): each for each in comparison.between if each.metric == metric}
    places = sorted({l0 for _, l0 in points})
    if not places:
        return
    is_reference = {curve: curve == comparison.reference for curve in comparison.curves}
    cells = {
        place: f"{each.value.value:.4f}" + ("" if is_reference[each.curve] else f"\n{_ratio(each.ratio)}")
        for place, each in points.items()
    }
    names = min(NAME_WIDTH, max(map(len, comparison.curves)))
    widest = max(len(line) for cell in cells.values() for line in cell.splitlines())
    a_table = max(1, (out.width - names) // (widest + 3))
    out.print(Text(f"{words[0].upper()}{words[1:]} at the same L0\n", style="bold"))
    for start in range(0, len(places), a_table):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("", style="bold", overflow="fold")
        for l0 in places[start : start + a_table]:
            table.add_column(f"L0 {l0:g}", no_wrap=True)
        for curve in comparison.curves:
            table.add_row(Text(curve), *(cells.get((curve, l0), "") for l0 in places[start : start + a_table]))
        out.print(table)
        out.print()
    out.print(Text(f"Interpolated; below each, its ratio to {comparison.reference} with a 95% interval.\n"))


def _ratio(ratio: Estimate) -> str:
    if ratio.value is None:
        return ""
    interval = "" if ratio.low is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"× {ratio.value:.2f}{interval}"


def print_line(line: str, out: "Console") -> None:
    """A line as it is, neither broken nor read as markup, so that it can be copied."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def show_latents(views: Sequence[LatentView]) -> None:
    """Latents with their strongest contexts, the token they fire on marked."""
    out = standard_output()
    for view in views:
        out.print(f"[bold]Latent {view.latent}[/]  fires on {view.density:.3%} of tokens", highlight=False)
        for context in view.contexts:
            out.print(context_line(context, out.width), no_wrap=True, overflow="crop")
        out.print()


def context_line(context: Context, width: int) -> "Text":
    """One line: the activation, the text around the marked token, the document's name at the end."""
    from rich.text import Text

    name = Text(context.document, style="dim")
    if name.cell_len > NAME_WIDTH:
        name = Text("…" + context.document[-(NAME_WIDTH - 1) :], style="dim")
    line = Text(f"  {context.activation:6.3f}  ")
    room = max(20, width - line.cell_len - name.cell_len - 3)
    token = Text(visible(context.token), style=MARK)
    token.truncate(room)
    before, after = Text(visible(context.before)), Text(visible(context.after))
    before = _last_cells(before, room - token.cell_len - min(after.cell_len, room // 4))
    after.truncate(room - before.cell_len - token.cell_len)
    line.append_text(before).append_text(token).append_text(after)
    line.append(" " * max(1, width - line.cell_len - name.cell_len - 1))
    return line.append_text(name)


def _last_cells(text: "Text", cells: int) -> "Text":
    """The end of a text that takes at most so many columns."""
    first = 0
    while text[first:].cell_len > max(0, cells):
        first += 1
    return text[first:]


def visible(text: str) -> str:
    """Text for one line of a terminal: line ends shown as ⏎, other control characters as one space."""
    marked = text.replace("\n", "⏎")
    return "".join(character if character.isprintable() else " " for character in marked)


def show_inspection(inspection: Inspection) -> None:
    """A text token by token with its strongest latents, then where these fire most."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = standard_output()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Token")
    table.add_column("Strongest latents (activation)")
    for view in inspection.tokens:
        latents = "   ".join(f"{latent:>6} {value:.3f}" for latent, value in view.latents)
        table.add_row(Text(visible(view.token), style="bold"), Text(latents or "none active"))
    out.print(table)
    show_latents(inspection.latents)


def show_steered(found: Steered, text: str, latents: Mapping[int, Intervention], tokenizer: Any) -> None:
    """The next token's probabilities before and after, then the continuations of both."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    out = standard_output()
    words = "   ".join(f"latent {latent}: {how} {strength:.3g}" for latent, (how, strength) in latents.items())
    print_line(words.replace("ablate 0", "ablate") + "\n", out)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Next token")
    table.add_column("Before", justify="right")
    table.add_column("After", justify="right")
    for token, before, after in found.next:
        shown = Text(visible(tokenizer.decode([token])).replace(" ", "␣"), style="bold")
        table.add_row(shown, f"{before:.1%}", f"{after:.1%}")
    out.print(table)
    for heading, drawn in (("Before", found.before), ("After", found.after)):
        out.print(f"[bold]{heading}[/]")
        for ids in drawn:
            line = Text(visible(text), style="dim").append(visible(tokenizer.decode(ids)), style="not dim")
            out.print(Padding(line, (0, 0, 0, 2)))
        out.print()
