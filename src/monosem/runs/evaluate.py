"""The evaluation of a run: its autoencoder on the held-out text, written into its directory."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.basics import EvaluationConfig, measure_basics
from monosem.evaluation.compute_law import ComputeLaw, builtin_compute_law, load_compute_law
from monosem.evaluation.document_sums import save_document_sums
from monosem.evaluation.examples import load_examples, save_examples
from monosem.evaluation.figures import firing_density_figure, training_figure
from monosem.evaluation.record import FORMAT_VERSION, Evaluation, save_evaluation
from monosem.evaluation.report import write_report
from monosem.evaluation.sample import take_sample
from monosem.evaluation.suite import PARTS, Material, SuiteConfig, Unfinished
from monosem.evaluation.suite_figures import draw_suite
from monosem.files import file_checksum
from monosem.runlog import ProgressLine, read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import (
    AUTOENCODER,
    DOCUMENT_SUMS,
    EVALUATION,
    EXAMPLES,
    FIGURES,
    METRICS,
    REPORT,
    RESULTS,
    read_run,
)
from monosem.runs.inputs import open_held_out, open_text, tell_changed_subject
from monosem.runs.stored_results import Pieces, content_key, store_result, stored_result
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.storage import load_autoencoder
from monosem.subject.blocks import Blocks
from monosem.subject.builtin import BUILTIN
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectModel
from monosem.subject.text import fingerprint
from monosem.subject.tokens import TokenizedText

if TYPE_CHECKING:
    from rich.console import Console

# Raised when what is measured changes, so that stored results are measured anew.
BASICS_VERSION = 1


def evaluate(
    run: str | Path,
    *,
    evaluation: EvaluationConfig | None = None,
    suite: SuiteConfig | None = None,
    only: Sequence[str] = (),
    compute_law: Path | None = None,
    console: "Console | None" = None,
) -> Evaluation:
    """Evaluate a run's autoencoder on the run's held-out text; write eval.json, report, examples and figures into it.

    What was measured before, of the same autoencoder, text and settings, is not measured again; each part's result is
    stored as soon as it is there.

    Args:
        evaluation: how much to evaluate; by default what the run's configuration says.
        suite: measure the parts of the full suite too, as much as this says.
        only: of these, the ones to measure; by default all that the settings suffice for. Others' results, if there
            are any, stay.
        compute_law: a file with a law of the subject's family, for the compute equivalent; without it that of the
            builtin subject, if it is the one.

    Raises:
        UserError: the run, its subject model or its text is not there, or is damaged; or a part is unknown, or lacks a
            setting.
    """
    chosen = _chosen(suite, only)
    law = None if compute_law is None else load_compute_law(compute_law)
    console = console or default_console()
    config = dataclasses.replace(read_run(Path(run)), out=Path(run))
    load_autoencoder(config.out)  # what is missing or damaged is told before the text is read
    subject = load_subject(config.subject)
    text = open_text(config.text, subject, config.text_limit, console)
    if evaluation is not None:  # only now: the held-out text stays the one that the run's examples point into
        config = dataclasses.replace(config, evaluation=evaluation)
    return evaluate_inputs(config, subject, text, console, suite or SuiteConfig(), chosen, law)


def _chosen(suite: SuiteConfig | None, only: Sequence[str]) -> tuple[str, ...]:
    if unknown := sorted(set(only) - PARTS.keys()):
        raise UserError(f"only={','.join(unknown)} is no part of the suite; its parts are: {', '.join(PARTS)}.")
    if suite is None and only:
        raise UserError(f"only={','.join(only)} would not be used without the full suite; leave it out.")
    if suite is None:
        return ()
    lacking = {name: missing for name, part in PARTS.items() if (missing := part.missing(suite)) is not None}
    if refused := [name for name in only if name in lacking]:
        raise UserError(f"only={','.join(only)}: {refused[0]} {lacking[refused[0]]}, or leave it out.")
    return tuple(name for name in PARTS if name not in lacking and (name in only or not only))


def evaluate_inputs(
    config: RunConfig,
    subject: SubjectModel,
    text: TokenizedText,
    console: "Console",
    suite: SuiteConfig = SuiteConfig(),  # noqa: B008 (frozen)
    parts: Sequence[str] = (),
    law: ComputeLaw | None = None,
) -> Evaluation:
    """Evaluate the autoencoder in ``config.out`` with a subject and a text that are open already.

    Args:
        parts: of the full suite, those to measure.
        law: of the subject's family, for the compute equivalent; the builtin subject has one of its own.
    """
    if law is None and subject.name == BUILTIN:
        law = builtin_compute_law(config.subject.context_length)
    sae = load_autoencoder(config.out, device=str(subject.device))
    if sae.provenance is None:
        raise UserError(f"{config.out} does not say which activations its autoencoder was trained on.")
    tell_changed_subject(sae.provenance, subject, console)
    blocks = open_held_out(config.subject, subject, text.held_out, config.evaluation.eval_tokens)
    documents = torch.from_numpy(text.held_out.document_of(blocks.positions))
    content = evaluated_content(config, subject)
    basics = _basics(config, sae, subject, blocks, documents, content, law, console)
    material = functools.cache(functools.partial(_material, config, sae, subject, blocks, documents))
    found = _parts(config, material, suite, parts, content, console)
    evaluation = _joined(basics, content["text"], found)
    write_figures(evaluation, config.out)
    save_evaluation(evaluation, config.out / EVALUATION)
    return evaluation


def _material(
    config: RunConfig, sae: Autoencoder, subject: SubjectModel, blocks: Blocks, documents: Tensor
) -> Material:
    assert sae.provenance is not None
    sample = take_sample(blocks, documents, blocks.kept, config.evaluation.eval_tokens)
    alive = load_examples(config.out / EXAMPLES, n_latents=sae.n_latents).density > 0
    return Material(sae, subject, sae.provenance.site, sample, alive)


def _joined(basics: Mapping[str, Any], text: str, parts: Mapping[str, Mapping[str, Any]]) -> Evaluation:
    """All metrics side by side, the rest of each part by its name."""
    metrics = dict(basics["metrics"])
    for part in parts.values():
        metrics |= part["metrics"]
    others = {name: {key: value for key, value in part.items() if key != "metrics"} for name, part in parts.items()}
    return Evaluation({"format_version": FORMAT_VERSION, **basics, "metrics": metrics, "text": text, "parts": others})


def evaluated_content(config: RunConfig, subject: SubjectModel) -> dict[str, Any]:
    """What every result depends on."""
    return {
        "autoencoder": [file_checksum(path) for path in sorted((config.out / AUTOENCODER).iterdir())],
        "subject": [subject.name, subject.revision, str(subject.dtype)],
        "text": fingerprint(config.text),
        "blocks": [config.subject.context_length, subject.bos_id, config.subject.keep_special],
        "evaluation": dataclasses.asdict(config.evaluation),
        "seed": config.training.seed,
    }


def _parts(
    config: RunConfig,
    material: Callable[[], Material],
    suite: SuiteConfig,
    chosen: Sequence[str],
    content: dict[str, Any],
    console: "Console",
) -> dict[str, dict[str, Any]]:
    """The results of the suite's parts: of those chosen, measured where they are not stored; of others the stored."""
    found: dict[str, dict[str, Any]] = {}
    for name, part in PARTS.items():
        place = config.out / RESULTS / f"{name}.json"
        key = content_key(content, part.depends_on(suite) if name in chosen else {})
        result = stored_result(place, key, any_settings=name not in chosen)
        if result is None and name in chosen:
            with ProgressLine(part.title, 0, console, unit=part.unit, transient=True) as line:
                seed, pieces = config.training.seed, Pieces(place.with_suffix(".unfinished.jsonl"), key)
                unfinished = Unfinished(pieces.found, pieces.keep, str(pieces.path))
                result = part.measure(
                    material(), suite, seed, lambda done, total: line.update(done, total=total), unfinished
                )
            result = store_result(place, key, result)
            pieces.remove()
        if result is not None:
            found[name] = result
    return found


def _basics(
    config: RunConfig,
    sae: Autoencoder,
    subject: SubjectModel,
    blocks: Blocks,
    documents: Tensor,
    content: dict[str, Any],
    law: ComputeLaw | None,
    console: "Console",
) -> dict[str, Any]:
    """What every evaluation measures, with the examples and the documents' sums in their files."""
    assert sae.provenance is not None
    read = None if law is None else law.points or law  # points are fitted anew, to slightly other last digits perhaps
    key = content_key(content, {"version": BASICS_VERSION, "law": read})
    place, files = config.out / RESULTS / "basics.json", (config.out / EXAMPLES, config.out / DOCUMENT_SUMS)
    if (stored := stored_result(place, key, files)) is not None:
        return stored
    with ProgressLine("Evaluating", 0, console, transient=True) as line:
        basics = measure_basics(
            sae,
            subject,
            sae.provenance.site,
            blocks,
            documents,
            config.evaluation,
            seed=config.training.seed,
            law=law,
            report=lambda done, total: line.update(done, total=total),
        )
    save_examples(basics.examples, config.out / EXAMPLES)
    save_document_sums(basics.document_sums, config.out / DOCUMENT_SUMS)
    return store_result(place, key, basics.to_dict(), files)


def write_figures(evaluation: Evaluation, directory: Path) -> None:
    """Draw the figures of an evaluation and of the training before it; of the full suite write the report too."""
    figures = directory / FIGURES
    figures.mkdir(exist_ok=True)
    firing_density_figure(evaluation, figures / "firing_density.png")
    metrics = read_json_lines(directory / METRICS) if (directory / METRICS).exists() else []
    if metrics:
        training_figure(metrics, figures / "training.png")
    if evaluation.parts:
        drawn = draw_suite(evaluation, figures)
        write_report(evaluation, [figures / "firing_density.png", figures / "training.png", *drawn], directory / REPORT)
