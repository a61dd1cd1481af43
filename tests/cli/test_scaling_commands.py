"""``monosem sweep``, ``fit`` and ``recommend``, from a file to an answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monosem.cli.main import run
from monosem.config import to_flat_dict
from monosem.runs.config import RunConfig
from monosem.scaling.results import TABLE, gather_rows, read_table, write_row

SWEEP = """
out = "sweep"

[subject]
subject = "{subject}"
device = "cpu"
context_length = 16

[text]
text = ["{text}"]

[training]
tokens = 640
batch_size = 32

[evaluation]
eval_tokens = 400
downstream_tokens = 100
bootstrap_samples = 10

[log]
log_every = 64
held_out_points = 4
held_out_tokens = 200

[[grid]]
n_latents = [24, 48]
k = [2]
"""


@pytest.fixture
def sweep_file(tiny_subject: Path, tiny_text: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.format(subject=tiny_subject, text=tiny_text))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A sweep's table of runs whose loss is known: 0.1 + 2 n^−0.4, and an excess that falls with tokens."""
    out = tmp_path / "made"
    for n in (256, 512, 1024, 2048, 4096, 8192):
        for seed in (0, 1):
            tokens = np.geomspace(3e4, 2e7, 40)
            noise = np.exp(0.002 * np.random.default_rng([n, seed]).standard_normal())
            losses = noise * (0.1 + 2 * n**-0.4) * (1 + 0.1 * 1e6 * (n / 256) ** 0.6 / tokens)
            place = out / "runs" / f"n{n}-s{seed}"
            place.mkdir(parents=True)
            told = {"subject": "builtin", "hookpoint": "transformer.h.4", "architecture": "topk", "d_model": 256}
            row = {
                **told,
                "name": place.name,
                "settings": json.dumps(to_flat_dict(RunConfig(out=place)), default=str),
                "subject_parameters": 5_918_720,
                "n_latents": n,
                "k": 32.0,
                "tokens": int(tokens[-1]),
                "batch_size": 2048,
                "learning_rate": 1e-3,
                "seed": seed,
                "flops_per_token": 12.0 * n * 256,
                "normalized_mse": float(losses[-1]),
                "cross_entropy_increase": float(2.5 * losses[-1] ** 1.3),
                "curve_tokens": tokens.tolist(),
                "curve_normalized_mse": losses.tolist(),
            }
            write_row(row, place)
    gather_rows(out)
    return out


def test_a_sweep_runs_says_what_it_found_and_is_not_run_twice(
    sweep_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sweep", "--config", str(sweep_file)]) == 0
    printed, said = capsys.readouterr()
    assert "Group 1 of 1" in said and "2 runs in sweep/results.parquet" in printed
    rows = read_table(tmp_path / "sweep")
    assert all(f"{row['normalized_mse']:.4g}" in printed for row in rows)
    assert run(["sweep", "--config", str(sweep_file), "--part", "1/2"]) == 0
    printed, said = capsys.readouterr()
    assert "Group" not in said and "2 runs in" in printed and read_table(tmp_path / "sweep") == rows


def test_all_laws_are_fitted_and_answer(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", "all", str(results), "--samples", "40"]) == 0
    printed, said = capsys.readouterr()
    assert "No law of learning-rate" in said and "No law of subject" in said
    laws = results / "laws"
    for what in ("compute", "tokens", "latents", "downstream"):
        assert {path.name for path in laws.glob(f"{what}.*")} == {f"{what}.{kind}" for kind in _KINDS}
    assert "Tokens to convergence" in printed
    assert run(["recommend", "--budget", "1e14", "--laws", str(laws)]) == 0
    printed, _ = capsys.readouterr()
    command = next(line for line in printed.splitlines() if line.startswith("monosem train"))
    flags = dict(zip(command.split()[2::2], command.split()[3::2], strict=True))
    assert flags["--k"] == "32" and flags["--hookpoint"] == "transformer.h.4" and "--learning-rate" not in flags
    cost = 12 * 256 * int(flags["--n-latents"]) * int(flags["--tokens"])
    assert cost == pytest.approx(1e14, rel=0.01)


def test_the_builtin_subjects_laws_answer_where_no_others_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recommend", "--budget", "1e14", "--k", "16"]) == 0
    printed, _ = capsys.readouterr()
    assert "builtin · transformer.h.4 · topk, k 16, 1e+14 FLOPs" in printed
    assert "monosem train --subject builtin" in printed


_KINDS = ("json", "png", "svg", "md", "tex")


def test_laws_go_where_they_are_wanted(results: Path, tmp_path: Path) -> None:
    assert run(["fit", "tokens", str(results / TABLE), "--samples", "40", "--out", str(tmp_path / "paper")]) == 0
    assert (tmp_path / "paper" / "tokens.svg").exists() and not (results / "laws").exists()


def test_what_the_commands_cannot_do_is_refused(
    results: Path, sweep_file: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "sweep.tml" in refused("sweep", "--config", "sweep.tml")
    assert "part=3/2 is no part" in refused("sweep", "--config", str(sweep_file), "--part", "3/2")
    assert "processes=0" in refused("sweep", "--config", str(sweep_file), "--processes", "0")
    sweep_file.write_text(sweep_file.read_text().replace("n_latents", "n_latent"))
    assert "did you mean 'n_latents'?" in refused("sweep", "--config", str(sweep_file))
    assert "Unknown law 'width'" in refused("fit", "width", str(results))
    assert "There are no results to fit" in refused("fit", "joint")
    assert "does not exist" in refused("fit", "joint", "nowhere")
    assert "three or more n_latents" in refused("fit", "learning-rate", str(results))
    assert "None of 12 runs is of k=(7,)" in refused("fit", "tokens", str(results), "--k", "7")
    assert "k is missing; choose one of 4, 8, 16" in refused("recommend", "--budget", "1e15")
    assert "are of subject=builtin, not gpt2" in refused("recommend", "--budget", "1e15", "--subject", "gpt2")
    assert "cannot be read" in refused("recommend", "--budget", "1e15", "--laws", str(tmp_path))
