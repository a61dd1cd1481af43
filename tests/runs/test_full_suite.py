"""The full suite on a run: what it writes, what it measures again and what it does not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.errors import UserError
from monosem.evaluation.ablation import AblationConfig
from monosem.evaluation.n2g.measure import N2GConfig
from monosem.evaluation.progressive import ProgressiveConfig
from monosem.evaluation.record import Evaluation
from monosem.evaluation.refinement import RefinementConfig
from monosem.evaluation.suite import PARTS, SuiteConfig
from monosem.evaluation.tasks.sources import TaskConfig
from monosem.evaluation.words.config import WordsConfig
from monosem.runs import evaluate as evaluate_module
from monosem.runs.config import RunConfig
from monosem.runs.evaluate import evaluate
from monosem.runs.stored_results import Pieces, content_key

Make = Callable[..., RunConfig]
Measure = Callable[..., Evaluation]


@pytest.fixture
def suite(tmp_path: Path, endpoint: Any) -> SuiteConfig:
    """As little as possible of each part; probes on whether a text has a certain word; a stand-in explains in words."""
    rows = [f"w{row % 50} w{row % 7} w{row % 3},{'yes' if row % 3 else 'no'}" for row in range(200)]
    (tmp_path / "word.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    few = {"bootstrap_samples": 10}
    return SuiteConfig(
        tasks=TaskConfig(tasks=(str(tmp_path / "word.csv"),), task_examples=100),
        n2g=N2GConfig(latents=3, examples=2, **few),
        ablation=AblationConfig(latents=3, positions=1, horizon=4, channels=2, directions=2, tokens=300, **few),
        refinement=RefinementConfig(tokens=100, downstream_tokens=50, **few),
        progressive=ProgressiveConfig(tokens=100, max_k=8, **few),
        words=WordsConfig(url=endpoint.url, model="stub", latents=3, examples=2, scored_contexts=4, **few),
    )


@pytest.fixture
def run(tmp_path: Path, make_config: Make, console: Console) -> Path:
    monosem.train(make_config(tmp_path / "run", tokens=640), console=console)
    return tmp_path / "run"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were measured, in order."""
    found: list[str] = []

    def noting(name: str) -> Any:
        part = PARTS[name]

        def measure(*arguments: Any) -> dict[str, Any]:
            found.append(name)
            return part.measure(*arguments)

        return part._replace(measure=measure)

    monkeypatch.setattr(evaluate_module, "PARTS", {name: noting(name) for name in PARTS})
    basics = evaluate_module.measure_basics

    def measure_basics(*arguments: Any, **named: Any) -> Any:
        found.append("basics")
        return basics(*arguments, **named)

    monkeypatch.setattr(evaluate_module, "measure_basics", measure_basics)
    return found


def test_the_full_suite_measures_every_part_once_and_writes_all(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str]
) -> None:
    found = evaluate(run, suite=suite, console=console)
    assert measured == list(PARTS)  # the basics are stored since training
    assert list(found.parts) == list(PARTS)
    assert json.loads((run / "eval.json").read_text()) == found.record
    metrics = ("normalized_mse", "probe_loss", "n2g_recall_top", "ablation_sparsity_latents", "normalized_mse_refined")
    assert all(found.metrics[name].value is not None for name in (*metrics, "twin_share", "normalized_mse_k_4"))
    assert found.metrics["silent_share"].value is not None
    assert found.metrics["words_recall"].value is not None
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert {f"{name}.svg" for name in ("probes", "n2g", "by_position")} <= {p.name for p in (run / "figures").iterdir()}
    before = (run / "eval.json").read_bytes()
    assert evaluate(run, suite=suite, console=console).record == found.record
    assert measured == list(PARTS)
    assert (run / "eval.json").read_bytes() == before


def test_only_what_changed_is_measured_again(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str], tmp_path: Path
) -> None:
    evaluate(run, suite=suite, only=("progressive", "probes"), console=console)
    assert measured == ["probes", "progressive"]
    more = dataclasses.replace(suite, progressive=dataclasses.replace(suite.progressive, max_k=4))
    assert list(evaluate(run, suite=more, only=("progressive",), console=console).parts) == ["probes", "progressive"]
    assert measured[2:] == ["progressive"]
    text = (tmp_path / "word.csv").read_text()
    (tmp_path / "word.csv").write_text(text.replace("w49 ", "w48 "))
    evaluate(run, suite=more, only=("progressive", "probes"), console=console)
    assert measured[3:] == ["probes"]
    assert list(evaluate(run, console=console).parts) == ["probes", "progressive"]  # a basic one leaves them
    fewer = dataclasses.replace(monosem_evaluation(run), eval_tokens=200)
    assert not evaluate(run, evaluation=fewer, console=console).parts  # they are of other tokens
    assert measured[4:] == ["basics"]


def monosem_evaluation(run: Path) -> Any:
    from monosem.runs.directory import read_run

    return read_run(run).evaluation


def test_an_interrupted_suite_goes_on_with_the_part_it_was_in(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    parts = evaluate_module.PARTS
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate_module, "PARTS", parts | {"ablation": parts["ablation"]._replace(measure=interrupted)})
        evaluate(run, suite=suite, console=console)
    assert measured == ["probes", "n2g"]
    evaluate(run, suite=suite, console=console)
    assert measured[2:] == ["ablation", "refinement", "progressive", "geometry", "words"]


def test_an_interrupted_n2g_goes_on_with_the_latents_that_are_left(
    run: Path, suite: SuiteConfig, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosem.evaluation.n2g.build.GROUP_EXAMPLES", 1)  # a latent a group
    explained: list[int] = []
    keep = Pieces.keep

    def interrupted(self: Pieces, value: Any) -> None:
        keep(self, value)
        explained.append(value["latent"])
        if len(explained) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Pieces, "keep", interrupted)
        evaluate(run, suite=suite, only=["n2g"], console=console)
    left = run / "evaluation" / "n2g.unfinished.jsonl"
    with left.open("a") as file:
        file.write('{"latent": 1, "patt')  # cut short
    monkeypatch.setattr(Pieces, "keep", lambda self, value: explained.append(value["latent"]) or keep(self, value))
    found = evaluate(run, suite=suite, only=["n2g"], console=console)
    assert explained == [each["latent"] for each in found.parts["n2g"]["latents"]]
    assert not left.exists()
    (run / "evaluation" / "n2g.json").unlink()
    assert evaluate(run, suite=suite, only=["n2g"], console=console).record == found.record


def test_interrupted_explanations_in_words_go_on_and_no_answer_is_paid_twice(
    run: Path, suite: SuiteConfig, console: Console, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = endpoint.answer
    endpoint.answer = lambda prompt: 401 if len(endpoint.requests) == 6 else usual(prompt)
    with pytest.raises(UserError, match=r"wants a key, .* is kept: the same command goes on\.$"):
        evaluate(run, suite=suite, only=["words"], console=console)
    left = run / "evaluation" / "words.unfinished.jsonl"
    kept = left.read_text().count("\n") - 1
    assert kept >= 3  # but for those under way at once
    refused = [endpoint.prompts[5]]
    paid = len(endpoint.requests) - 1
    faster = dataclasses.replace(suite, words=dataclasses.replace(suite.words, concurrency=2, timeout=50.0))
    found = evaluate(run, suite=faster, only=["words"], console=console)
    assert not left.exists()
    once = list(endpoint.prompts)
    once.remove(refused[0])
    assert len(set(once)) == len(once)
    assert paid == kept
    asked = len(endpoint.requests)
    assert found.parts["words"]["requests"] == asked - 1
    assert evaluate(run, suite=suite, only=["words"], console=console).record == found.record
    assert len(endpoint.requests) == asked
    (run / "evaluation" / "words.json").unlink()
    again = evaluate(run, suite=faster, only=["words"], console=console).record
    assert again == found.record


def test_without_an_endpoint_nothing_is_explained_in_words_and_what_was_is_left(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str], endpoint: Any
) -> None:
    without = dataclasses.replace(suite, words=WordsConfig())
    with pytest.raises(UserError, match=r"only=words: words needs an endpoint; give words.url and words.model, or le"):
        evaluate(run, suite=without, only=("words",), console=console)
    few = {name: part for name, part in evaluate_module.PARTS.items() if name in ("geometry", "words")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module, "PARTS", few)
        assert list(evaluate(run, suite=without, console=console).parts) == ["geometry"]
        assert endpoint.requests == []
        explained = evaluate(run, suite=suite, console=console)
        assert list(explained.parts) == ["geometry", "words"]
        assert evaluate(run, suite=without, console=console).record == explained.record
    assert measured == ["geometry", "words"]


def test_a_key_is_stored_nowhere(
    run: Path, suite: SuiteConfig, console: Console, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    evaluate(run, suite=suite, only=("words",), console=console)
    assert set(endpoint.keys) == {"Bearer sk-very-secret"}
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"eval.json", "report.html", "words.json"} <= {path.name for path in files}
    assert not any(b"sk-very-secret" in path.read_bytes() for path in files)


def test_pieces_are_of_one_key(tmp_path: Path) -> None:
    key, other = (content_key({"a": 1}, {"b": b}) for b in (1, 2))
    Pieces(tmp_path / "evaluation" / "x.jsonl", key).keep({"n": 1})
    again = Pieces(tmp_path / "evaluation" / "x.jsonl", key)
    assert again.found == [{"n": 1}]
    again.keep({"n": 2})
    assert Pieces(again.path, key).found == [{"n": 1}, {"n": 2}]
    changed = Pieces(again.path, other)
    assert changed.found == []
    changed.keep({"n": 3})
    assert Pieces(again.path, key).found == []
    changed.remove()
    assert not again.path.exists()


def test_a_damaged_result_is_measured_again(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str]
) -> None:
    evaluate(run, suite=suite, only=("geometry",), console=console)
    for damage in ("", "{", "[]", '{"material": 3}'):
        (run / "evaluation/geometry.json").write_text(damage)
        evaluate(run, suite=suite, only=("geometry",), console=console)
    assert measured == ["geometry"] * 5
    (run / "examples.safetensors").write_bytes(b"")
    evaluate(run, console=console)
    assert measured[5:] == ["basics"]


def test_another_autoencoder_in_its_place_is_measured_anew(
    run: Path, suite: SuiteConfig, console: Console, measured: list[str]
) -> None:
    evaluate(run, suite=suite, only=("geometry",), console=console)
    sae = monosem.load(run)
    sae.W_dec.data[0] = sae.W_dec.data[1]
    from monosem.sae.storage import save_autoencoder

    save_autoencoder(sae, run / "sae")
    found = evaluate(run, suite=suite, only=("geometry",), console=console)
    assert measured == ["geometry", "basics", "geometry"]
    assert found.metrics["twin_share"].value == pytest.approx(2 / 64)


def test_a_law_of_compute_gives_the_compute_equivalent(
    run: Path, console: Console, measured: list[str], tmp_path: Path
) -> None:
    assert "compute_equivalent" not in evaluate(run, console=console).metrics
    law = {"irreducible": 0.5, "scale": 1e12, "exponent": 0.1}
    (tmp_path / "law.json").write_text(json.dumps(law))
    found = evaluate(run, compute_law=tmp_path / "law.json", console=console)
    assert measured == ["basics"]
    unmodified, modified = (found.metrics[name].value for name in ("cross_entropy", "cross_entropy_reconstruction"))
    assert unmodified is not None
    assert modified is not None
    expected = ((modified - 0.5) / (unmodified - 0.5)) ** -10
    assert found.metrics["compute_equivalent"].value == pytest.approx(expected, rel=1e-9)
    assert found.record["compute_law"]["scale"] == 1e12
    with pytest.raises(UserError, match=r"compute_law=.*nowhere.json cannot be read"):
        evaluate(run, compute_law=tmp_path / "nowhere.json", console=console)


def test_parts_that_are_none_are_refused(run: Path, suite: SuiteConfig, console: Console) -> None:
    with pytest.raises(UserError, match=r"only=probe is no part of the suite; its parts are: probes, n2g, "):
        evaluate(run, suite=suite, only=("probe",), console=console)
    with pytest.raises(UserError, match="only=probes would not be used without the full suite"):
        evaluate(run, only=("probes",), console=console)
