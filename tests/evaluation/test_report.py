"""The report and the figures of the full suite, made of a small record."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from monosem.evaluation.record import FORMAT_VERSION, Evaluation, load_evaluation, save_evaluation
from monosem.evaluation.report import write_report
from monosem.evaluation.suite_figures import draw_suite
from monosem.evaluation.tables import sections, sentences_table

HOSTILE = '<script>alert(1)</script> & "quotes" \u202e'


def known(value: float | None, spread: float = 0.1) -> dict[str, float | None]:
    ends = (None, None) if value is None else (value - spread, value + spread)
    return {"value": value, "low": ends[0], "high": ends[1]}


def task(name: str, losses: tuple[float, float, float]) -> dict[str, Any]:
    named = dict(zip(("latent", "channel", "linear"), losses, strict=True))
    return {
        "name": name,
        "description": f"what {HOSTILE} asks",
        "latent": 7,
        "losses": {kind: known(loss) for kind, loss in (named | {"constant": 0.69}).items()},
    }


def explained(latent: int, precision: float | None, recall: float) -> dict[str, Any]:
    of_kind = {"precision": known(precision), "recall": known(recall), "shown": [HOSTILE, "import · os"]}
    return {"latent": latent, "random": of_kind, "top": of_kind}


def in_words(latent: int, precision: float | None, recall: float | None) -> dict[str, Any]:
    return {"latent": latent, "sentence": f"[bold]{HOSTILE} {latent}[/]", "precision": precision, "recall": recall}


@pytest.fixture
def evaluation() -> Evaluation:
    metrics = (
        "normalized_mse",
        "l0",
        "dead_share",
        "cross_entropy",
        "cross_entropy_increase",
        "probe_loss",
        "twin_share",
    )
    points = [{"k": k, "l0": known(float(k)), "normalized_mse": known(1 / (1 + k))} for k in (0, 1, 2, 4)]
    histogram = {"edges": [0.0, 1.0, 2.0], "counts": [3, 5], "below": 0, "above": 2}
    by_position = {name: [known(2.0), known(None), known(1.0)] for name in ("cross_entropy", "cross_entropy_increase")}
    by_position["cross_entropy_reconstruction"] = by_position["cross_entropy"]
    group = {"members": [1, 2, 3], "sparsity": [0.1, None, 0.3]}
    return Evaluation(
        {
            "format_version": FORMAT_VERSION,
            "subject": f"tiny {HOSTILE}",
            "hookpoint": "transformer.h.1",
            "context_length": 3,
            "n_latents": 40,
            "tokens": 1200,
            "documents": 7,
            "downstream_tokens": 300,
            "downstream_documents": 6,
            "metrics": {name: known(0.5) for name in metrics},
            "by_position": by_position,
            "parts": {
                "probes": {"tasks": [task("a-task", (0.3, 0.5, 9.0)), task("b-task", (0.2, 0.6, 0.1))]},
                "n2g": {"latents": [explained(5, 0.9, 0.4), explained(6, None, 0.0)]},
                "ablation": {"settings": {"horizon": 16}, "latents": group, "channels": group, "directions": group},
                "refinement": {"tokens": 100, "active_values": 10, "ratios": {"histogram": histogram}},
                "progressive": {"by_k": points, "by_threshold": points[1:], "own": points[2]},
                "geometry": {"rows": 40},
                "words": {
                    "settings": {"model": f"model {HOSTILE}", "url": "http://localhost/v1"},
                    "latents": [in_words(7, 0.25, None), in_words(8, None, 0.0)],
                    "unexplained": [{"latent": 9, "sentence": None, "reason": f"because {HOSTILE}"}],
                },
            },
        }
    )


class Texts(HTMLParser):
    """What a reader sees, and every tag and address of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_part_is_drawn_as_png_and_svg(evaluation: Evaluation, tmp_path: Path) -> None:
    drawn = draw_suite(evaluation, tmp_path)
    names = ["by_position", "probes", "n2g", "ablation", "refinement", "progressive"]
    assert [path.name for path in drawn] == [f"{name}.svg" for name in names]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    before = {path: path.read_bytes() for path in drawn}
    draw_suite(evaluation, tmp_path)
    assert {path: path.read_bytes() for path in drawn} == before
    assert "1 losses lie beyond" in (tmp_path / "probes.svg").read_text()


def test_the_report_tells_every_metric_and_needs_nothing_from_elsewhere(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, draw_suite(evaluation, tmp_path), tmp_path / "report.html")
    page = Texts()
    page.feed((tmp_path / "report.html").read_text())
    seen = "\n".join(page.texts)
    labels = [row[0].strip() for rows in sections(evaluation.record).values() for row in rows]
    present = [
        row[0].strip() for rows in sections(evaluation.record).values() for row in rows if row[1] in evaluation.metrics
    ]
    assert 0 < len(present) < len(labels)
    assert all(label in page.texts for label in present)
    assert page.texts.index("b-task") < page.texts.index("a-task")  # the best explained first
    assert all(each in seen for each in ("import · os", "not defined", "0.50 [0.40, 0.60]"))
    assert page.tags.count("img") == 6
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"https?://", re.sub(r'src="data:[^"]*"', "", (tmp_path / "report.html").read_text()))


def test_text_from_outside_is_shown_and_never_markup(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, [], tmp_path / "report.html")
    page = Texts()
    page.feed((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.texts.count(HOSTILE) == 2  # the two latents' patterns
    assert f"what {HOSTILE} asks" in page.texts
    assert f"[bold]{HOSTILE} 7[/]" in page.texts
    assert f"because {HOSTILE}" in page.texts
    assert any(text.startswith(f"By model {HOSTILE}; precision and recall") for text in page.texts)


def test_a_terminal_shows_a_few_sentences_as_they_are(evaluation: Evaluation) -> None:
    out = Console(file=io.StringIO(), width=80)
    table = sentences_table(evaluation)
    assert table is not None
    out.print(table)
    lines = out.file.getvalue().splitlines()
    assert lines[1].split() == ["Latent", "Precision", "Recall", "Explanation"]
    assert any(line.split()[:4] == ["7", "0.25", "–", "[bold]<script>alert(1)</script>"] for line in lines)
    assert any(line.split()[:3] == ["8", "–", "0.00"] for line in lines)
    parts = evaluation.record["parts"] | {"words": evaluation.parts["words"] | {"latents": []}}
    assert sentences_table(Evaluation({**evaluation.record, "parts": parts})) is None
    assert sentences_table(Evaluation({**evaluation.record, "parts": {}})) is None


def test_a_record_is_read_as_it_was_written(evaluation: Evaluation, tmp_path: Path) -> None:
    save_evaluation(evaluation, tmp_path / "eval.json")
    assert load_evaluation(tmp_path / "eval.json").record == evaluation.record
