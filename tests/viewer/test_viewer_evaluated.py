"""What evaluations say in the index: taken where it is this run's, left out with a sentence where it is not."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from monosem.evaluation.ablation import AblationConfig
from monosem.evaluation.n2g.measure import N2GConfig
from monosem.evaluation.suite import SuiteConfig
from monosem.evaluation.words.config import WordsConfig
from monosem.runs.directory import read_run
from monosem.runs.evaluate import evaluate, evaluated_content
from monosem.subject.loading import load_subject
from monosem.viewer import index
from monosem.viewer.evaluated import read_evaluated
from monosem.viewer.index import IndexConfig, build_index
from monosem.viewer.schema import open_index

CONFIG = IndexConfig(tokens=900)
TABLES = ("patterns", "pattern_scores", "explanations", "ablations")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves an evaluated run, for the others to copy."""
    return tmp_path_factory.mktemp("evaluated") / "run"


@pytest.fixture
def run(prepared: Path, make_run: Make, console: Console, endpoint: Any, tmp_path: Path) -> Path:
    """A run whose latents are explained by patterns, in words, and ablated."""
    if not prepared.exists():
        made, few = make_run(name="evaluated"), {"bootstrap_samples": 10}
        suite = SuiteConfig(
            n2g=N2GConfig(latents=4, examples=3, **few),
            ablation=AblationConfig(latents=3, positions=1, horizon=4, channels=2, directions=2, tokens=300, **few),
            words=WordsConfig(url=endpoint.url, model="stub", latents=3, examples=2, scored_contexts=4, **few),
        )
        evaluate(made, suite=suite, only=("n2g", "ablation", "words"), console=console)
        made.rename(prepared)
    return shutil.copytree(prepared, tmp_path / "run")


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = open_index(path)
    found = {table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in TABLES}
    (metrics,) = connection.execute("SELECT value FROM meta WHERE key = 'metrics'").fetchone()
    connection.close()
    return found | {"metrics": json.loads(metrics)}


def stored(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / "evaluation" / f"{name}.json").read_text())["result"]


def test_all_that_was_measured_is_there(run: Path, console: Console, shown: Callable[[], str]) -> None:
    found = tables(build_index(run, CONFIG, console=console))
    assert found == read(run)[0]
    n2g, words, ablation = (stored(run, name) for name in ("n2g", "words", "ablation"))
    assert len(n2g["latents"]) == 4 and len(words["latents"]) == 3
    measures = ("precision", "recall", "f1")
    assert found["pattern_scores"] == sorted(
        (each["latent"], kind, *(each[kind][name]["value"] for name in measures))
        for each in n2g["latents"]
        for kind in ("random", "top")
    )
    for each in n2g["latents"]:
        for kind in ("random", "top"):
            rows = [row[2:] for row in found["patterns"] if row[:2] == (each["latent"], kind)]
            assert [row[0] for row in rows] == list(range(len(each["patterns"][kind])))
            assert [row[1] for row in rows][:5] == each[kind]["shown"]
            kept = {(tuple(tokens), int(at_start), value) for tokens, at_start, value, _ in each["patterns"][kind]}
            assert {(tuple(json.loads(tokens)), at_start, value) for _, _, tokens, at_start, value in rows} == kept
    assert found["explanations"] == [
        (each["latent"], each["sentence"], *(each[name] for name in measures)) for each in words["latents"]
    ]
    assert [row[0] for row in found["ablations"]] == ablation["latents"]["members"]
    for (_, record), sparsity in zip(found["ablations"], ablation["latents"]["sparsity"], strict=True):
        told = json.loads(record)
        assert told["sparsity"] == sparsity
        assert (told["horizon"], told["positions"]) == (4, 1)
        assert told["medians"]["channels"] == pytest.approx(ablation["channels"]["quantiles"]["0.5"])
        assert told["medians"]["latents"] == pytest.approx(ablation["latents"]["quantiles"]["0.5"])
    metrics = json.loads((run / "eval.json").read_text())["metrics"]
    assert found["metrics"] == [{"name": name, **values} for name, values in metrics.items()]
    assert "left out" not in shown()


def test_later_evaluations_change_their_tables_alone(
    run: Path, console: Console, shown: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run / "evaluation/n2g.json"
    late = place.read_bytes()
    place.unlink()
    before = tables(build_index(run, CONFIG, console=console))
    assert before["patterns"] == [] and before["explanations"]
    place.write_bytes(late)
    monkeypatch.setattr(index, "build", lambda *_: pytest.fail("all is made again"))
    after = tables(build_index(run, CONFIG, console=console))
    assert "is of other evaluations; what it holds of them is made again" in shown()
    assert after["patterns"] and {**after, "patterns": [], "pattern_scores": []} == before
    assert not (run / "viewer.unfinished").exists()
    said = shown()
    build_index(run, CONFIG, console=console)
    assert shown() == said


def test_results_of_other_evaluation_settings_count_where_eval_json_has_them(run: Path, console: Console) -> None:
    toml = (run / "config.toml").read_text()
    assert "eval_tokens = 400" in toml
    (run / "config.toml").write_text(toml.replace("eval_tokens = 400", "eval_tokens = 300"))
    assert tables(build_index(run, CONFIG, console=console))["patterns"]


def change(run: Path, name: str, *path: Any, to: Any) -> None:
    place = run / "evaluation" / f"{name}.json"
    record = json.loads(place.read_text())
    inside = record
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = to
    place.write_text(json.dumps(record))


DAMAGES = {
    "foreign": ("n2g", ("material",), "0" * 32, "belongs to another autoencoder, text or evaluation"),
    "no material": ("n2g", ("material",), None, "belongs to another"),
    "no result": ("words", ("result",), None, "is damaged"),
    "latents no list": ("n2g", ("result", "latents"), 7, "is damaged"),
    "latent too high": ("n2g", ("result", "latents", 0, "latent"), 40, "40 is no latent of 40"),
    "latent negative": ("words", ("result", "latents", 0, "latent"), -1, "-1 is no latent"),
    "latent a truth": ("words", ("result", "latents", 0, "latent"), True, "True is no latent"),
    "latent twice": ("ablation", ("result", "latents", "members"), [1, 2, 1], "stands there twice"),
    "precision no number": ("n2g", ("result", "latents", 0, "top", "precision", "value"), "1", "is damaged"),
    "precision over 1": ("words", ("result", "latents", 0, "precision"), 1.5, "1.5 is no number from 0 to 1"),
    "not a number": ("words", ("result", "latents", 0, "recall"), float("nan"), "NaN is no number"),
    "sparsity infinite": ("ablation", ("result", "latents", "sparsity", 0), float("inf"), "Infinity is no number"),
    "too few sparsities": ("ablation", ("result", "latents", "sparsity"), [0.1], "is damaged"),
    "no horizon": ("ablation", ("result", "settings"), {}, "is damaged"),
    "horizon no number": ("ablation", ("result", "settings", "horizon"), "<b>", "is damaged"),
    "unknown token": ("n2g", ("result", "latents", 0, "patterns", "top"), [[[64], False, 1.0, 1]], "does not know"),
    "pattern no pattern": ("n2g", ("result", "latents", 0, "patterns", "top"), [[[None, 5], False, 1.0, 1]], "damaged"),
    "sentence no text": ("words", ("result", "latents", 0, "sentence"), None, "is no sentence"),
    "sentence too long": ("words", ("result", "latents", 0, "sentence"), "x" * 501, "is no sentence"),
    "sentence with a control": ("words", ("result", "latents", 0, "sentence"), "a\u202eb", "is no sentence"),
}


def read(run: Path) -> tuple[dict[str, list[Any]], str]:
    """The tables' rows and the metrics, and all that was said."""
    config, said = dataclasses.replace(read_run(run), out=run), list[str]()
    subject = load_subject(config.subject)
    found = read_evaluated(run, evaluated_content(config, subject), subject.tokenizer, 40, 64, said.append)
    return {**found.tables, "metrics": found.metrics}, "\n".join(said)


@pytest.mark.parametrize(("name", "path", "to", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_or_foreign_is_left_out_with_a_sentence(
    name: str, path: tuple[Any, ...], to: Any, message: str, run: Path
) -> None:
    change(run, name, *path, to=to)
    found, said = read(run)
    assert message in said
    assert said.endswith(f", and is left out; measure it again with: monosem eval {run} --suite full --only {name}")
    own = {"n2g": ("patterns", "pattern_scores"), "words": ("explanations",), "ablation": ("ablations",)}[name]
    assert all((table in own) == (found[table] == []) for table in TABLES)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"material": []}'])
def test_files_that_are_no_results_are_left_out(data: bytes, run: Path) -> None:
    for name in ("n2g", "words", "ablation"):
        (run / "evaluation" / f"{name}.json").write_bytes(data)
    (run / "eval.json").write_bytes(data)
    found, said = read(run)
    assert not any(found.values())
    assert said.count("left out") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_latents": 41}, "belongs to another autoencoder or text"),
        ({"text": "0" * 32}, "belongs to another autoencoder or text"),
        ({"format_version": 99}, "has format 99"),
        ({"metrics": {"dead_share": {"value": 0.5, "low": "<script>", "high": None}}}, "is no number"),
        ({"metrics": {"dead_share": {"value": 0.5, "low": float("inf"), "high": None}}}, "is no number"),
        ({"metrics": [1]}, "damaged"),
    ],
)
def test_metrics_that_are_not_this_runs_are_left_out(change: dict[str, Any], message: str, run: Path) -> None:
    place = run / "eval.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **change}))
    found, said = read(run)
    assert found["metrics"] == []
    assert message in said and f"measure them again with: monosem eval {run}" in said


def test_a_run_that_was_not_evaluated_has_nothing_of_it(
    make_run: Make, console: Console, shown: Callable[[], str]
) -> None:
    assert not any(tables(build_index(make_run(), CONFIG, console=console)).values())
    assert "left out" not in shown()
