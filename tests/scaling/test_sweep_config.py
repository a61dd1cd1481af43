"""What a sweep's grids ask for: which runs, under which names, with which settings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from monosem.config import load_toml, to_toml
from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.sae.config import AutoencoderConfig
from monosem.scaling.config import Grid, SweepConfig
from monosem.training.trainer import TrainingConfig

OUT = Path("out")


def sweep_of(*grids: Grid, **settings: object) -> SweepConfig:
    return SweepConfig(out=OUT, grid=grids, **settings)  # type: ignore[arg-type]


def test_a_grid_is_every_combination_in_its_order() -> None:
    runs = sweep_of(Grid(n_latents=(64, 128), k=(4, 8), learning_rate=("auto", 1e-3))).runs()
    found = [(run.autoencoder.n_latents, run.autoencoder.k, run.training.learning_rate) for run in runs]
    assert found == [(n, k, rate) for n in (64, 128) for k in (4, 8) for rate in ("auto", 1e-3)]


def test_what_no_list_names_is_as_in_any_run() -> None:
    (run,) = sweep_of(Grid(k=(8,)), training=TrainingConfig(tokens=10_000, batch_size=500)).runs()
    assert run == RunConfig(
        out=OUT / "runs" / "builtin-topk-n4096-k8-t10000-lrauto-s0",
        autoencoder=AutoencoderConfig(k=8),
        training=TrainingConfig(tokens=10_000, batch_size=500),
    )


def test_a_run_of_two_grids_is_one_run() -> None:
    runs = sweep_of(Grid(n_latents=(64,), seed=(0, 1)), Grid(n_latents=(32, 64), seed=(0,))).runs()
    assert [(run.autoencoder.n_latents, run.training.seed) for run in runs] == [(64, 0), (64, 1), (32, 0)]


def test_every_run_has_a_name_of_its_own() -> None:
    lists = {"subject": ("a/gpt2", "subjects/32x2"), "layer": (0, 1), "architecture": ("topk", "batch_topk")}
    lists |= {"n_latents": (64, 128), "k": (2, 4), "tokens": (4096, 8192), "learning_rate": ("auto", 0.001, 0.01)}
    runs = sweep_of(Grid(**lists, seed=(0, 1))).runs()  # type: ignore[arg-type]
    assert len({run.out for run in runs}) == len(runs) == 2**7 * 3
    assert {run.subject.subject for run in runs} == {"a/gpt2", "subjects/32x2"}


def test_two_subjects_of_one_short_name_are_refused() -> None:
    with pytest.raises(UserError, match="Two runs would be called gpt2-topk"):
        sweep_of(Grid(subject=("a/gpt2", "b/gpt2")))


def test_k_is_the_target_of_an_architecture_with_a_penalty() -> None:
    relu, topk = sweep_of(Grid(architecture=("relu", "topk"), k=(16,))).runs()
    assert relu.training.target_l0 == 16 and relu.autoencoder.k == AutoencoderConfig().k
    assert topk.training.target_l0 is None and topk.autoencoder.k == 16
    assert relu.training.aux_coefficient == TrainingConfig().aux_coefficient


@pytest.mark.parametrize("settings", [{"target_l0": 12.0}, {}])
def test_without_k_a_penalised_run_is_steered_as_configured_or_to_k(settings: dict[str, float]) -> None:
    (run,) = sweep_of(Grid(architecture=("relu",)), training=TrainingConfig(**settings)).runs()  # type: ignore[arg-type]
    assert run.training.target_l0 == settings.get("target_l0", AutoencoderConfig().k)


def test_a_sweep_survives_its_file(tmp_path: Path) -> None:
    sweep = sweep_of(Grid(n_latents=(64, 128), learning_rate=("auto", 1e-3, 1.0)), Grid(seed=(0, 1)), together=3)
    (tmp_path / "sweep.toml").write_text(to_toml(sweep))
    assert load_toml(SweepConfig, tmp_path / "sweep.toml") == sweep


@pytest.mark.parametrize(
    ("grids", "settings", "message"),
    [
        ((), {}, r"needs a \[\[grid\]\]"),
        ((Grid(),), {"together": 0}, "together=0"),
        ((Grid(n_latents=(64,)),), {"autoencoder": AutoencoderConfig(n_latents=512)}, "n_latents=512 would not be"),
        ((Grid(tokens=(4096,)),), {"training": TrainingConfig(tokens=10_000)}, "tokens=10000 would not be used"),
        ((Grid(k=(4,), architecture=("relu",)),), {"training": TrainingConfig(target_l0=3.0)}, "target_l0=3 would"),
        ((Grid(architecture=("topk",)),), {"autoencoder": AutoencoderConfig(bandwidth=0.1)}, "bandwidth=0.1"),
        ((Grid(n_latents=(16,), k=(32,)),), {}, "k=32 exceeds n_latents=16"),
        ((Grid(learning_rate=(-1.0,)),), {}, "learning_rate=-1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(grids: tuple[Grid, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep_of(*grids, **settings)


def test_a_grid_refuses_twins_and_unknown_architectures() -> None:
    with pytest.raises(UserError, match="names a value twice"):
        Grid(k=(4, 4))
    with pytest.raises(UserError, match="Did you mean 'topk'"):
        Grid(architecture=("topkk",))


def test_a_setting_that_some_grid_does_not_list_has_its_use(make_sweep: Callable[..., SweepConfig]) -> None:
    runs = make_sweep(OUT, Grid(n_latents=(64,)), Grid(k=(4,)), autoencoder=AutoencoderConfig(n_latents=96)).runs()
    assert [run.autoencoder.n_latents for run in runs] == [64, 96]
