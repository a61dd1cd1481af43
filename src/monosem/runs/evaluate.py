"""The evaluation of a run: its autoencoder on the held-out text, written into its directory."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from monosem.errors import UserError
from monosem.evaluation.document_sums import save_document_sums
from monosem.evaluation.examples import save_examples
from monosem.evaluation.figures import firing_density_figure, training_figure
from monosem.evaluation.suite import Evaluation, EvaluationConfig, evaluate_autoencoder
from monosem.files import write_atomically
from monosem.runlog import ProgressLine, read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import DOCUMENT_SUMS, EVALUATION, EXAMPLES, FIGURES, METRICS, read_run
from monosem.runs.inputs import open_held_out, open_text
from monosem.sae.storage import load_autoencoder
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel
from monosem.subject.text import fingerprint
from monosem.subject.tokens import TokenizedText

if TYPE_CHECKING:
    from rich.console import Console


def evaluate(
    run: str | Path, *, evaluation: EvaluationConfig | None = None, console: "Console | None" = None
) -> Evaluation:
    """Evaluate a run's autoencoder on the run's held-out text; write eval.json, examples and figures into it.

    Args:
        evaluation: how much to evaluate; by default what the run's configuration says.

    Raises:
        UserError: the run, its subject model or its text is not there, or is damaged.
    """
    console = console or default_console()
    config = dataclasses.replace(read_run(Path(run)), out=Path(run))
    load_autoencoder(config.out)  # what is missing or damaged is told before the text is read
    subject = load_subject(config.subject)
    text = open_text(config.text, subject, config.text_limit, console)
    if evaluation is not None:  # only now: the held-out text stays the one that the run's examples point into
        config = dataclasses.replace(config, evaluation=evaluation)
    return evaluate_inputs(config, subject, text, console)


def evaluate_inputs(config: RunConfig, subject: SubjectModel, text: TokenizedText, console: "Console") -> Evaluation:
    """Evaluate the autoencoder in ``config.out`` with a subject and a text that are open already."""
    directory = config.out
    sae = load_autoencoder(directory, device=str(subject.device))
    if sae.provenance is None:
        raise UserError(f"{directory} does not say which activations its autoencoder was trained on.")
    if sae.provenance.revision != subject.revision:
        console.print(
            f"[yellow]The subject has changed since training:[/] {subject.name} was at {sae.provenance.revision} "
            f"and is at {subject.revision} now",
            highlight=False,
        )
    blocks = open_held_out(config.subject, subject, text.held_out, config.evaluation.eval_tokens)
    with ProgressLine("Evaluating", 0, console, transient=True) as line:
        evaluation = evaluate_autoencoder(
            sae,
            subject,
            sae.provenance.site,
            blocks,
            torch.from_numpy(text.held_out.document_of(blocks.positions)),
            config.evaluation,
            seed=config.training.seed,
            report=lambda done, total: line.update(done, total=total),
        )
    write_evaluation(evaluation, fingerprint(config.text), directory)
    return evaluation


def write_evaluation(evaluation: Evaluation, text: str, directory: Path) -> None:
    """Write eval.json, the documents' sums, the strongest contexts and the figures.

    ``text`` is the fingerprint of the text. eval.json comes last: where it stands, the others do too.
    """
    save_examples(evaluation.examples, directory / EXAMPLES)
    save_document_sums(evaluation.document_sums, directory / DOCUMENT_SUMS)
    figures = directory / FIGURES
    figures.mkdir(exist_ok=True)
    firing_density_figure(evaluation, figures / "firing_density.png")
    metrics = read_json_lines(directory / METRICS) if (directory / METRICS).exists() else []
    if metrics:
        training_figure(metrics, figures / "training.png")
    record = {**evaluation.to_dict(), "text": text}
    write_atomically(directory / EVALUATION, (json.dumps(record, indent=2) + "\n").encode())
