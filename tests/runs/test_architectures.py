"""Whole jobs with every architecture: trained, interrupted, resumed, spliced into the subject and evaluated."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import monosem
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.train import Interrupted
from monosem.sae.architectures import ARCHITECTURES

Make = Callable[..., RunConfig]
Compare = Callable[[Path, Path], None]
AtBatch = Callable[..., AbstractContextManager[None]]


def settings_of(architecture: str) -> dict[str, Any]:
    known = ARCHITECTURES[architecture]
    sparsity = {"target_l0": 4.0, "k": 32} if known.has_penalty else {"k": 4}
    few_steps = {"initial_threshold": 0.02} if architecture == "jumprelu" else {}
    return {"architecture": architecture, **sparsity, **few_steps}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_run_of_any_architecture_survives_an_interruption_and_is_evaluated(
    architecture: str,
    tmp_path: Path,
    make_config: Make,
    console: Console,
    at_batch: AtBatch,
    assert_same_training: Compare,
) -> None:
    changes = settings_of(architecture)
    (trained,) = monosem.train(make_config(tmp_path / "whole", **changes), console=console)
    with at_batch(24, signal.SIGTERM), pytest.raises(Interrupted):
        monosem.train(make_config(tmp_path / "cut", **changes), console=console)
    monosem.resume(tmp_path / "cut", console=console)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")
    metrics = trained.evaluation.metrics
    assert all(estimate.value is not None for estimate in metrics.values())
    records = read_json_lines(tmp_path / "whole/metrics.jsonl")
    assert records[-1]["normalized_mse"] < min(0.9, records[0]["normalized_mse"])
    assert all(("sparsity_coefficient" in record) == ARCHITECTURES[architecture].has_penalty for record in records)
