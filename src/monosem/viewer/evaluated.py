"""What a run's evaluations say of single latents: read from outside, so that nothing in it is trusted.

A file that is damaged, or belongs to another autoencoder or text, is left out, and a sentence says so.
"""

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import UserError
from monosem.evaluation.n2g.render import render_pattern, token_reader
from monosem.evaluation.n2g.score import MEASURES
from monosem.evaluation.n2g.trie import KINDS, Explanation
from monosem.evaluation.record import load_evaluation
from monosem.evaluation.words.prompts import LONGEST_SENTENCE
from monosem.runs.directory import EVALUATION, RESULTS
from monosem.runs.stored_results import content_key

N2G, ABLATION, WORDS = "n2g", "ablation", "words"
PARTS = (N2G, ABLATION, WORDS)
# The precisions that a subject may have been evaluated in, on another machine perhaps.
_DTYPES = ("torch.float32", "torch.bfloat16", "torch.float16")

Row = tuple[Any, ...]


class Evaluated(NamedTuple):
    """What the evaluations say."""

    tables: dict[str, list[Row]]
    """Rows by table: patterns, pattern_scores, explanations, ablations."""
    metrics: list[dict[str, Any]]
    """Name, value, low and high of each, in the order of eval.json."""


def evaluation_files(run: Path) -> list[Path]:
    """The files that are read, as far as there are any."""
    files = (run / EVALUATION, *(run / RESULTS / f"{name}.json" for name in PARTS))
    return [path for path in files if path.exists()]


def read_evaluated(
    run: Path,
    content: Mapping[str, Any],
    tokenizer: Any,
    n_latents: int,
    vocabulary: int,
    say: Callable[[str], None],
) -> Evaluated:
    """Read what is there.

    Args:
        content: what the run's evaluations depend on (``runs.evaluate.evaluated_content``).
        vocabulary: how many tokens there are.
        say: called with a sentence for each file that is left out.
    """
    record, metrics = _read_metrics(run, content["text"], n_latents, say)
    materials = _materials(content, record)

    def rows(name: str, read: Callable[[dict[str, Any]], Any], nothing: Any) -> Any:
        path = run / RESULTS / f"{name}.json"
        if not path.exists():
            return nothing
        try:
            stored = _read_json(path)
            if stored["material"] in materials:
                return read(stored["result"])
            why = "belongs to another autoencoder, text or evaluation"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError, RecursionError) as error:
            why = f"is damaged ({error})"
        remedy = f"measure it again with: monosem eval {run} --suite full --only {name}"
        say(f"{path} {why}, and is left out; {remedy}")
        return nothing

    patterns, scores = rows(
        N2G, lambda result: _n2g_rows(result, token_reader(tokenizer), n_latents, vocabulary), ([], [])
    )
    tables = {
        "patterns": patterns,
        "pattern_scores": scores,
        "explanations": rows(WORDS, lambda result: _words_rows(result, n_latents), []),
        "ablations": rows(ABLATION, lambda result: _ablation_rows(result, n_latents), []),
    }
    return Evaluated(tables, metrics)


def _read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    return json.loads(path.read_bytes(), parse_constant=refuse)


def _read_metrics(
    run: Path, text: str, n_latents: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record in eval.json and its metrics; nothing, where it is not there or not this run's."""
    path = run / EVALUATION
    if not path.exists():
        return {}, []
    try:
        evaluation = load_evaluation(path)
        record = dict(evaluation.record)
        if record["n_latents"] != n_latents or record.get("text") != text:
            raise UserError(f"{path} belongs to another autoencoder or text")
        metrics = [
            {"name": str(name), **{key: _number(each) for key, each in estimate._asdict().items()}}
            for name, estimate in evaluation.metrics.items()
        ]
        return record, metrics
    except (UserError, ValueError, TypeError, RecursionError) as error:
        say(f"{error}; its metrics are left out; measure them again with: monosem eval {run}")
        return {}, []


def _materials(content: Mapping[str, Any], record: Mapping[str, Any]) -> set[str]:
    """Keys of what was measured of this content, with the run's settings or those of eval.json, in any precision."""
    evaluations = [content["evaluation"]]
    with contextlib.suppress(KeyError, TypeError):
        evaluations.append({name: record["settings"][name] for name in content["evaluation"]})
    subjects = [[*content["subject"][:2], dtype] for dtype in _DTYPES]
    return {
        content_key({**content, "evaluation": evaluation, "subject": subject}, {}).material
        for evaluation in evaluations
        for subject in subjects
    }


def _number(value: Any, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A finite number in its range, or None.

    Raises:
        ValueError: it is something else.
    """
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]} is no number from {low:g} to {high:g}")
    return float(value)


def _latent(value: Any, n_latents: int, met: set[int]) -> int:
    """The number of a latent that was not met before."""
    if type(value) is not int or not 0 <= value < n_latents or value in met:
        raise ValueError(f"{str(value)[:40]} is no latent of {n_latents:,}, or stands there twice")
    met.add(value)
    return value


def _n2g_rows(
    result: dict[str, Any], show: Callable[[int], str], n_latents: int, vocabulary: int
) -> tuple[list[Row], list[Row]]:
    """Patterns, those that most examples gave first, of these the strongest; and the scores of each kind."""
    patterns: list[Row] = []
    scores: list[Row] = []
    met = set[int]()
    for each in result["latents"]:
        latent = _latent(each["latent"], n_latents, met)
        explanation = Explanation.from_dict({"latent": latent, "patterns": each["patterns"]}, "it")
        for kind in KINDS:
            values = [_number(each[kind][name]["value"], 0.0, 1.0) for name in MEASURES]
            scores.append((latent, kind, *values))
            found = explanation.tries[kind].patterns()
            found.sort(key=lambda match: (match[1].examples, match[1].activation), reverse=True)
            for rank, (pattern, leaf) in enumerate(found):
                if any(token is not None and token >= vocabulary for token in pattern.tokens):
                    raise ValueError("a pattern has a token that the subject does not know")
                text = render_pattern(pattern, show)
                tokens = json.dumps(list(pattern.tokens))
                patterns.append((latent, kind, rank, text, tokens, int(pattern.at_start), leaf.activation))
    return patterns, scores


def _words_rows(result: dict[str, Any], n_latents: int) -> list[Row]:
    rows: list[Row] = []
    met = set[int]()
    for each in result["latents"]:
        latent, sentence = _latent(each["latent"], n_latents, met), each["sentence"]
        if not isinstance(sentence, str) or len(sentence) > LONGEST_SENTENCE or not sentence.isprintable():
            raise ValueError(f"what is said of latent {latent} is no sentence")
        rows.append((latent, sentence, *(_number(each[name], 0.0, 1.0) for name in MEASURES)))
    return rows


def _ablation_rows(result: dict[str, Any], n_latents: int) -> list[Row]:
    """Each latent's sparsity, beside the medians of all that were ablated, and of the baselines."""
    groups = {name: [_number(each, 0.0, 1.0) for each in result[name]["sparsity"]] for name in _GROUPS}
    known = {name: [each for each in values if each is not None] for name, values in groups.items()}
    medians = {name: statistics.median(values) if values else None for name, values in known.items()}
    told = {name: int(result["settings"][name]) for name in ("horizon", "positions")}
    met = set[int]()
    return [
        (_latent(latent, n_latents, met), json.dumps({"sparsity": sparsity, "medians": medians, **told}))
        for latent, sparsity in zip(result["latents"]["members"], groups["latents"], strict=True)
    ]


_GROUPS = ("latents", "channels", "directions")
