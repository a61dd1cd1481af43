"""Batches that are not finite: named, skipped, counted; after too many in a row training stops, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.data.sources import Rows
from monosem.errors import UserError
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.inputs import LiveActivations
from monosem.subject.tokens import tokenize_text
from monosem.training.checkpoint import checkpoints, load_checkpoint
from monosem.training.trainer import Trainer

Make = Callable[..., RunConfig]
Compare = Callable[[Path, Path], None]


def poison(monkeypatch: pytest.MonkeyPatch, bad: range, hookpoint: str = "transformer.h.2") -> None:
    """Make the activations of these rows NaN at a hookpoint, whenever they are asked for."""
    rows = LiveActivations.rows

    def poisoned(source: LiveActivations, start: int, stop: int) -> Rows:
        found = rows(source, start, stop)
        for row in range(max(start, bad.start), min(stop, bad.stop)):
            found.activations[hookpoint][row - start] = float("nan")
        return found

    monkeypatch.setattr(LiveActivations, "rows", poisoned)


def test_a_bad_batch_is_named_skipped_and_counted(
    tmp_path: Path, make_config: Make, console: Console, shown: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run")
    source_rows: list[Rows] = []
    rows = LiveActivations.rows
    monkeypatch.setattr(LiveActivations, "rows", lambda *given: source_rows.append(rows(*given)) or source_rows[-1])
    poison(monkeypatch, range(700, 701))
    monosem.train(config, console=console)

    position = int(source_rows[1 + 700 // 256].positions[700 % 256])  # the first is the sample to start from
    documents = sorted(Path(config.text.text[0]).glob("*.txt"))
    text = tokenize_text(config.text, monosem.load_subject(config.subject).tokenizer, limit=None).training
    document = int(text.document_of(source_rows[3].positions)[700 % 256])
    name, token = text.document_names[document], position - int(text.document_starts[document])
    assert Path(name) in documents
    (line,) = [line for line in shown().splitlines() if "Skipped" in line]
    step = int(line.split("step ")[1].split(",")[0])
    assert 16 <= step < 24, "row 700 is served in the third chunk of eight batches"
    assert line == (
        f"Skipped a batch (1 so far): step {step}, transformer.h.2: a non-finite activation at {name}, token {token}"
    )
    records = read_json_lines(tmp_path / "run/metrics.jsonl")
    assert [record["skipped_batches"] for record in records if record["tokens"] in (320, 1920)] == [0, 1]
    assert (records[-1]["tokens"], records[-1]["steps"]) == (1920, 59)


def test_after_too_many_in_a_row_training_stops_with_a_checkpoint(
    tmp_path: Path, make_config: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, range(512, 768))
        with pytest.raises(UserError) as stopped:
            monosem.train(make_config(tmp_path / "run", max_bad_batches=3), console=console)
    assert "3 batches in a row were not finite, the last at step 18, transformer.h.2: a non-f" in str(stopped.value)
    assert "--clip-norm" in str(stopped.value)
    newest = checkpoints(tmp_path / "run/checkpoints")[-1]
    assert newest.name == "step-19"
    saved = load_checkpoint(newest)
    assert {name: saved.record[name] for name in ("batches", "steps", "skipped", "bad_in_a_row")} == {
        "batches": 19,
        "steps": 16,
        "skipped": 3,
        "bad_in_a_row": 3,
    }
    assert all(bool(tensor.isfinite().all()) for state in saved.states.values() for tensor in state.values())

    with monkeypatch.context() as patch:  # still bad: it stops again at once, but has moved on
        poison(patch, range(512, 768))
        with pytest.raises(UserError, match="the last at step 19, "):
            monosem.resume(tmp_path / "run", console=console)
    monosem.resume(tmp_path / "run", console=console)
    assert read_json_lines(tmp_path / "run/metrics.jsonl")[-1]["skipped_batches"] == 4


def test_bad_batches_before_and_after_a_resume_count_together(
    tmp_path: Path, make_config: Make, console: Console, monkeypatch: pytest.MonkeyPatch, assert_same_training: Compare
) -> None:
    poison(monkeypatch, range(512, 704))  # 3 to 8 bad batches of the third chunk, never all
    config: dict[str, Any] = {"max_bad_batches": 9}
    monosem.train(make_config(tmp_path / "whole", **config), console=console)
    step = Trainer.step

    def killed(trainer: Trainer, *arguments: Any) -> Any:
        if trainer.progress.batches == 19:
            raise RuntimeError("killed")
        return step(trainer, *arguments)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Trainer, "step", killed)
        monosem.train(make_config(tmp_path / "cut", **config), console=console)
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


def test_one_hookpoints_bad_batch_stops_all_at_a_common_checkpoint(
    tmp_path: Path, make_config: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", hookpoint=("transformer.h.*",), tokens=960, max_bad_batches=2)
    with monkeypatch.context() as patch:
        poison(patch, range(512, 768), "transformer.h.1")
        with pytest.raises(UserError, match=r"2 batches in a row .* the last at step 17, transformer.h.1"):
            monosem.train(config, console=console)
    for layer, steps in enumerate((18, 16, 18)):
        saved = load_checkpoint(checkpoints(tmp_path / f"run/transformer.h.{layer}/checkpoints")[-1])
        assert (saved.record["batches"], saved.record["steps"]) == (18, steps)
    monosem.resume(tmp_path / "run", console=console)


def test_activations_that_are_never_finite_are_refused_at_the_start(
    tmp_path: Path, make_config: Make, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, range(10**6))
    with pytest.raises(UserError, match=r"None of the first 256 activations at transformer.h.2 is finite; .* float32"):
        monosem.train(make_config(tmp_path / "run"), console=console)


def test_a_document_with_brackets_in_its_name_is_shown_as_it_is(
    tmp_path: Path, make_config: Make, console: Console, shown: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "[red]" / "[/]"
    odd.mkdir(parents=True)
    lines = [
        '{"text": "' + " ".join(f"w{(7 * row + 3 * word) % 60}" for word in range(99)) + '"}\n' for row in range(40)
    ]
    (odd / "a.jsonl").write_text("".join(lines))
    poison(monkeypatch, range(700, 701))
    monosem.train(make_config(tmp_path / "[bold]run", text=(str(odd),)), console=console)
    assert f"at {odd}/a.jsonl:" in shown()
