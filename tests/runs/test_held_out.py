"""The held-out curve of a run: where its points lie, what they say, and that it changes nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import monosem
from monosem.errors import UserError
from monosem.runlog import LogConfig, read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.held_out import FIRST_SHARE, curve_is_due
from monosem.runs.train import TrainedRun

Make = Callable[..., RunConfig]


def curve(run: Path) -> dict[int, float]:
    records = read_json_lines(run / "metrics.jsonl")
    return {each["tokens"]: each["held_out_normalized_mse"] for each in records if "held_out_normalized_mse" in each}


def test_its_points_lie_in_equal_ratios_up_to_the_end() -> None:
    config, budget = LogConfig(held_out_points=4), 6_400
    due = [tokens for tokens in range(1, budget + 1) if curve_is_due(config, budget, tokens - 1, tokens)]
    assert due == [100, 400, 1600, 6400] and FIRST_SHARE == 1 / 64


def test_several_points_that_one_record_passed_are_one_measurement() -> None:
    assert curve_is_due(LogConfig(held_out_points=50), 6_400, 1_000, 3_000)
    assert not curve_is_due(LogConfig(held_out_points=0), 6_400, 0, 6_400)


def test_its_last_point_is_what_the_evaluation_finds(tmp_path: Path, make_config: Make, console: Console) -> None:
    config = make_config(tmp_path / "run", held_out_points=5, held_out_tokens=400)
    (trained,) = monosem.train(config, console=console)
    found = curve(trained.directory)
    assert list(found)[-1] == 1920 and 3 <= len(found) <= 5
    assert found[1920] == pytest.approx(trained.evaluation.metrics["normalized_mse"].value, rel=1e-6)
    assert found[1920] < min(list(found.values())[:2])


def test_training_is_the_same_with_and_without_it(tmp_path: Path, make_config: Make, console: Console) -> None:
    for name, points in (("with", 5), ("without", 0)):
        monosem.train(make_config(tmp_path / name, held_out_points=points), console=console)
    assert not curve(tmp_path / "without")
    sums = [json.loads((tmp_path / name / "sae" / "sae.json").read_text()) for name in ("with", "without")]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("architecture", ["topk", pytest.param("batch_topk", marks=pytest.mark.slow), "jumprelu"])
def test_a_cut_run_has_the_same_curve(train_whole_and_cut: Callable[..., TrainedRun], architecture: str) -> None:
    penalised = {"target_l0": 4.0} if architecture == "jumprelu" else {}
    own = {"k": 32} if architecture == "jumprelu" else {}
    trained = train_whole_and_cut(architecture=architecture, held_out_points=6, **penalised, **own)
    assert len(curve(trained.directory)) >= 4


def test_a_transcoder_has_one(tmp_path: Path, make_config: Make, console: Console) -> None:
    changes = {"hookpoint": ("transformer.h.0:in",), "target": "transformer.h.0"}
    config = make_config(tmp_path / "run", held_out_points=3, held_out_tokens=400, **changes)
    (trained,) = monosem.train(config, console=console)
    last = list(curve(trained.directory).values())[-1]
    assert last == pytest.approx(trained.evaluation.metrics["normalized_mse"].value, rel=1e-6)


@pytest.mark.parametrize("settings", [{"held_out_points": -1}, {"held_out_tokens": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        LogConfig(**settings)
