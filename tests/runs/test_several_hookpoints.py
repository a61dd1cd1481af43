"""One job for several hookpoints: a run for each, the same as alone, all at the same place after an interruption."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from rich.console import Console

import monosem
from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.hookpoint_run import HookpointRun
from monosem.runs.inspect import Reader
from monosem.runs.train import Interrupted
from monosem.training.checkpoint import checkpoints

Make = Callable[..., RunConfig]
Compare = Callable[[Path, Path], None]
AtBatch = Callable[..., AbstractContextManager[None]]

GLOB = ("transformer.h.*.mlp", "transformer.h.1:in")
NAMES = ["transformer.h.0.mlp", "transformer.h.1-in", "transformer.h.1.mlp", "transformer.h.2.mlp"]


def test_each_run_equals_the_run_of_its_hookpoint_alone(
    tmp_path: Path, make_config: Make, console: Console, assert_same_training: Compare
) -> None:
    runs = monosem.train(make_config(tmp_path / "all", hookpoint=GLOB, tokens=960), console=console)
    assert [run.directory.name for run in runs] == NAMES
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["config.toml", "hookpoints.json", *NAMES]
    for name in ("transformer.h.1-in", "transformer.h.2.mlp"):
        hookpoint = name.replace("-in", ":in")
        monosem.train(make_config(tmp_path / name, hookpoint=(hookpoint,), tokens=960), console=console)
        assert_same_training(tmp_path / "all" / name, tmp_path / name)
        assert (tmp_path / "all" / name / "eval.json").read_text() == (tmp_path / name / "eval.json").read_text()
    sae = monosem.load(tmp_path / "all/transformer.h.1-in")
    assert sae.provenance is not None
    assert sae.provenance.hookpoints == ("transformer.h.1:in",)


def test_a_run_among_several_is_a_run_of_its_own(tmp_path: Path, make_config: Make, console: Console) -> None:
    monosem.train(make_config(tmp_path / "all", hookpoint=GLOB, tokens=320), console=console)
    inside = tmp_path / "all/transformer.h.2.mlp"
    before = (inside / "eval.json").read_text()
    monosem.evaluate(inside, console=console)
    assert (inside / "eval.json").read_text() == before
    assert Reader(inside, console=console).config.subject.hookpoint == ("transformer.h.2.mlp",)
    with pytest.raises(UserError, match=r"runs of several hookpoints; name one of: .*all/transformer.h.0.mlp, "):
        monosem.evaluate(tmp_path / "all", console=console)


def test_an_interruption_stops_all_of_them_at_one_step(
    tmp_path: Path, make_config: Make, console: Console, at_batch: AtBatch, assert_same_training: Compare
) -> None:
    monosem.train(make_config(tmp_path / "whole", hookpoint=GLOB, tokens=960), console=console)
    with at_batch(25, signal.SIGINT, run="transformer.h.1.mlp"), pytest.raises(Interrupted):
        monosem.train(make_config(tmp_path / "cut", hookpoint=GLOB, tokens=960), console=console)
    assert {checkpoints(tmp_path / "cut" / name / "checkpoints")[-1].name for name in NAMES} == {"step-25"}
    monosem.resume(tmp_path / "cut", console=console)
    for name in NAMES:
        assert_same_training(tmp_path / "whole" / name, tmp_path / "cut" / name)


@pytest.mark.parametrize("method", [pytest.param("save_checkpoint", marks=pytest.mark.slow), "prune_checkpoints"])
def test_killed_between_their_checkpoints_they_go_on_from_the_last_common_one(
    method: str,
    tmp_path: Path,
    make_config: Make,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_training: Compare,
) -> None:
    changes = {"hookpoint": ("transformer.h.*",), "keep_checkpoints": 1, "tokens": 1280}
    monosem.train(make_config(tmp_path / "whole", **changes), console=console)
    original = getattr(HookpointRun, method)

    def killed(run: HookpointRun) -> None:
        if run.trainer.progress.batches == 32 and str(run.site) == "transformer.h.1":
            raise RuntimeError("killed")
        original(run)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(HookpointRun, method, killed)
        monosem.train(make_config(tmp_path / "cut", **changes), console=console)
    monosem.resume(tmp_path / "cut", console=console)
    for layer in range(3):
        assert_same_training(tmp_path / f"whole/transformer.h.{layer}", tmp_path / f"cut/transformer.h.{layer}")
        names = [path.name for path in (tmp_path / f"cut/transformer.h.{layer}/checkpoints").iterdir()]
        assert names == ["step-40"]


def test_overwriting_several_runs_starts_afresh_and_spares_strangers(
    tmp_path: Path, make_config: Make, console: Console
) -> None:
    monosem.train(make_config(tmp_path / "all", hookpoint=GLOB, tokens=960), console=console)
    (tmp_path / "all/transformer.h.0.mlp/notes.md").write_text("mine")
    monosem.train(make_config(tmp_path / "all/other", tokens=320), console=console)
    monosem.train(
        make_config(tmp_path / "all", hookpoint=GLOB[1:] + GLOB[:1], tokens=320), overwrite=True, console=console
    )
    for name in NAMES:
        assert [path.name for path in (tmp_path / "all" / name / "checkpoints").iterdir()] == ["step-10"]
    monosem.train(make_config(tmp_path / "all", tokens=320), overwrite=True, console=console)
    left = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").glob("*/*")}
    assert "transformer.h.0.mlp/notes.md" in left
    assert "other/config.toml" in left
    assert not [path for path in left if path.startswith("transformer") and "notes" not in path]
    assert not (tmp_path / "all/hookpoints.json").exists()


def test_a_strangers_run_in_a_hookpoints_place_is_refused(tmp_path: Path, make_config: Make, console: Console) -> None:
    monosem.train(make_config(tmp_path / "all/transformer.h.1", tokens=320), console=console)
    with pytest.raises(UserError, match=r"all/transformer.h.1 already holds a run"):
        monosem.train(make_config(tmp_path / "all", hookpoint=("transformer.h.*",)), overwrite=True, console=console)
    assert (tmp_path / "all/transformer.h.1/sae/sae.json").exists()


def test_an_unknown_hookpoint_names_near_matches(tmp_path: Path, make_config: Make, console: Console) -> None:
    with pytest.raises(UserError, match=r"Unknown hookpoint 'h.1.mlp'.* Near matches: transformer.h.1.mlp"):
        monosem.train(make_config(tmp_path / "run", hookpoint=("h.1.mlp",)), console=console)
