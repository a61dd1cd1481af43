from pathlib import Path

import pytest

from monosem.evaluation.density import DensityHistogram
from monosem.evaluation.figures import firing_density_figure, training_figure
from monosem.evaluation.suite import Evaluation, evaluate_autoencoder
from monosem.sae.autoencoder import Site

SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.fixture
def evaluation(sae, subject, hookpoint, blocks, documents, config) -> Evaluation:
    return evaluate_autoencoder(sae, subject, Site((hookpoint,)), blocks, documents, config, seed=0)


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_the_density_is_drawn_in_the_format_of_the_suffix(evaluation: Evaluation, tmp_path: Path, suffix: str):
    path = (tmp_path / "density").with_suffix(suffix)
    firing_density_figure(evaluation, path)
    assert path.read_bytes().startswith(SIGNATURES[suffix])


def test_a_dictionary_that_is_all_dead_is_drawn(evaluation: Evaluation, tmp_path: Path):
    import dataclasses

    dead = DensityHistogram(evaluation.density.log10_edges, (0,) * len(evaluation.density.latents), 40)
    firing_density_figure(dataclasses.replace(evaluation, density=dead), tmp_path / "density.png")
    assert (tmp_path / "density.png").stat().st_size > 1000


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_training_is_drawn_in_the_format_of_the_suffix(tmp_path: Path, suffix: str):
    records = [{"tokens": 1000 * i, "normalized_mse": 1 / i, "l0": 32.0, "dead_share": 0.0} for i in range(1, 40)]
    path = (tmp_path / "training").with_suffix(suffix)
    training_figure(records, path)
    assert path.read_bytes().startswith(SIGNATURES[suffix])


@pytest.mark.parametrize("records", [[], [{"tokens": 5, "normalized_mse": 0.4}], [{"tokens": 5, "dead_share": None}]])
def test_a_run_with_hardly_any_records_is_drawn(tmp_path: Path, records: list[dict[str, float]]):
    training_figure(records, tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1000


def test_drawing_leaves_the_settings_of_matplotlib_as_they_were(tmp_path: Path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    training_figure([], tmp_path / "training.png")
    assert dict(matplotlib.rcParams) == before
