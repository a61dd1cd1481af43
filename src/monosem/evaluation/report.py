"""An evaluation as one HTML page that needs nothing else: tables, figures, tasks and explanations."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.record import Evaluation
from monosem.evaluation.tables import format_estimate, format_metric, format_score, sections
from monosem.files import write_atomically

_CAPTIONS = {
    "firing_density": "How many latents fire on which share of the held-out tokens.",
    "training": "Normalised MSE and the share of dead latents while training.",
    "by_position": "Cross-entropy by place in the block, with 95% intervals.",
    "probes": "Held-out loss of one-dimensional probes on every task, beside a linear probe on all channels.",
    "n2g": "Precision and recall of each latent's explanation on text that it was not built from.",
    "ablation": "How sparse the effect on the logits is when something is taken out at one token.",
    "refinement": "What refinement multiplies active values by.",
    "progressive": "Normalised MSE when codes are read with another sparsity than they were trained with.",
}
# Characters of a number with its interval; what is longer and begins with a digit is a sentence, and may be folded.
_LONGEST_NUMBER = 40
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5b6472; --line: #d9dde3; --page: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a4adba; --line: #39414d; --page: #14181e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
p, caption, figcaption { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { white-space: nowrap; } code { font-size: 0.9em; white-space: pre-wrap; overflow-wrap: anywhere; }
caption { text-align: left; } table.metrics { table-layout: fixed; max-width: 44rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 2rem; }
figure { margin: 0; } figure img { background: #ffffff; width: 100%; }
"""


def write_report(evaluation: Evaluation, figures: Sequence[Path], path: Path) -> None:
    """Write the page; figures are SVG or PNG files, which become part of it."""
    record = evaluation.record
    title = f"{record['subject']} · {record['hookpoint']}"
    told = (
        f"{record['n_latents']:,} latents; {record['tokens']:,} held-out tokens of {record['documents']:,} documents, "
        f"in blocks of {record['context_length']}. In brackets: 95% intervals over documents."
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{told}</p>",
        *_metric_tables(evaluation),
        "<h2>Figures</h2>",
        '<div class="figures">',
        *(_figure(figure) for figure in figures if figure.exists()),
        "</div>",
        *_parts(evaluation.parts),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"
    write_atomically(path, page.encode())


def _metric_tables(evaluation: Evaluation) -> Iterable[str]:
    metrics = evaluation.metrics
    for (heading, amount, unit), rows in sections(evaluation.record).items():
        cells = [
            (label.strip(), format_metric(name, metrics[name]), note) for label, name, note in rows if name in metrics
        ]
        if cells:
            told = ", ".join(each for each in (amount, unit) if each)
            yield f"<h2>{escape(heading)}</h2>"
            yield _table(told, (), cells)


def _figure(path: Path) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    data = base64.b64encode(path.read_bytes()).decode()
    caption = _CAPTIONS.get(path.stem, path.stem)
    return (
        f'<figure><img alt="{escape(caption, quote=True)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _parts(parts: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    if "probes" in parts:
        tasks = sorted(parts["probes"]["tasks"], key=lambda task: task["losses"]["latent"]["value"])
        yield "<h2>Probe tasks</h2>"
        yield _table(
            "Held-out loss in nats, the best explained first.",
            ("Task", "Question", "Latent", "Its loss", "Channel", "All channels"),
            [
                (
                    task["name"],
                    task["description"],
                    str(task["latent"]),
                    *(_number(task["losses"][name]) for name in ("latent", "channel", "linear")),
                )
                for task in tasks
            ],
        )
    if "n2g" in parts:
        yield "<h2>Explanations</h2>"
        yield _table(
            "Built from random activations; the patterns that most examples gave.",
            ("Latent", "Precision", "Recall", "Patterns"),
            [
                (
                    str(latent["latent"]),
                    _number(latent["random"]["precision"]),
                    _number(latent["random"]["recall"]),
                    tuple(latent["random"]["shown"]),
                )
                for latent in parts["n2g"]["latents"]
            ],
        )
    if "words" in parts:
        yield from _words(parts["words"])


def _words(part: Mapping[str, Any]) -> Iterable[str]:
    """What a model wrote of latents; and of those that it could not explain, why."""
    yield "<h2>Explanations in words</h2>"
    yield _table(
        f"By {part['settings']['model']}; precision and recall with which it predicts by them, on text that it was not "
        "shown for them.",
        ("Latent", "Precision", "Recall", "Explanation"),
        [
            (str(each["latent"]), format_score(each["precision"]), format_score(each["recall"]), each["sentence"])
            for each in part["latents"]
        ],
    )
    if part["unexplained"]:
        rows = [(str(each["latent"]), each["reason"]) for each in part["unexplained"]]
        yield _table("Latents that are not explained, or not scored.", ("Latent", "Why"), rows)


def _number(estimate: Mapping[str, Any]) -> str:
    return format_estimate(Estimate(**estimate))


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str | tuple[str, ...]]]) -> str:
    kind = "listing" if headings else "metrics"
    head = "".join(f"<th>{escape(each)}</th>" for each in headings)
    lines = ["<tr>" + "".join(_cell(each) for each in row) + "</tr>" for row in rows]
    return (
        f'<div class="scroll"><table class="{kind}"><caption>{escape(caption)}</caption>'
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(content: str | tuple[str, ...]) -> str:
    """A word; or several pieces of text, one below the other."""
    if isinstance(content, tuple):
        return "<td>" + "<br>".join(f"<code>{escape(each)}</code>" for each in content) + "</td>"
    is_number = content[:1].isdigit() and len(content) <= _LONGEST_NUMBER
    return f'<td class="number">{escape(content)}</td>' if is_number else f"<td>{escape(content)}</td>"
